"""What of an encoder a run goes on training: all of it, a part beside a frozen trunk, or adapters of low rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from eo_ssl.errors import UserError, expect
from eo_ssl.models import TARGETS, Backbone, insert_lora, seed_weights


class Adaptation(ABC):
    """A frozen dataclass chosen by its class name: what of an encoder is trained."""

    @abstractmethod
    def apply(self, backbone: Backbone, *, seed: int) -> None:
        """Leave trainable what is to be trained, in place.

        Args:
            backbone: of the encoder that training goes on from.
            seed: of new weights.

        Raises:
            UserError: a network that cannot be adapted so.
        """


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Whole(Adaptation):
    """All weights of the encoder are trained."""

    def apply(self, backbone: Backbone, *, seed: int) -> None:
        """Change nothing."""


@dataclass(frozen=True)
class PartlyFrozen(Adaptation):
    """A trunk of which named parts alone are trained."""

    blocks: int = 0
    """Last blocks that are trained whole."""
    norms: bool = False
    """Whether all layer norms are trained."""
    patches: bool = False
    """Whether the projection of the patches is trained, as bands want that the weights have not seen."""

    def __post_init__(self) -> None:
        """Check the range."""
        expect(self.blocks >= 0, expected="blocks of at least 0", got=self.blocks, remedy="give the number of blocks")

    def _unfreeze(self, network: nn.Module) -> None:
        """Train the named parts of a frozen network again."""
        if self.blocks:
            for block in _list_blocks(network)[-self.blocks :]:
                block.requires_grad_(True)
        for module in network.modules():
            if self.norms and isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)
        if self.patches:
            network.get_submodule("patch_embed").requires_grad_(True)

    def _check(self, network: nn.Module) -> None:
        """Refuse networks without transformer blocks, or with fewer than are to be trained."""
        found = len(_list_blocks(network))
        if not found or any(isinstance(module, _BatchNorm) for module in network.modules()):
            raise UserError(
                f"expected a transformer for adapt {type(self).__name__}, got {type(network).__name__}, whose batch"
                " statistics would change under frozen weights; use --adapt Whole"
            )
        expect(
            self.blocks <= found, expected=f"at most {found} blocks to train", got=self.blocks, remedy="lower blocks"
        )


@dataclass(frozen=True)
class Frozen(PartlyFrozen):
    """The trunk stays as it is but for its last blocks and its norms; heads of the objective are trained."""

    blocks: int = 1
    norms: bool = True

    def __post_init__(self) -> None:
        """Refuse to train nothing of the encoder."""
        super().__post_init__()
        expect(
            self.blocks or self.norms or self.patches,
            expected="blocks, norms or patches of the encoder to train with adapt Frozen",
            got="none",
            remedy="train some, else the encoder stays what it is",
        )

    def apply(self, backbone: Backbone, *, seed: int) -> None:
        """Freeze all but the named parts."""
        self._check(backbone.network)
        backbone.requires_grad_(False)
        self._unfreeze(backbone.network)


@dataclass(frozen=True)
class Lora(PartlyFrozen):
    """The trunk stays as it is, with a change of low rank beside its matrices (Hu et al. 2022, arXiv 2106.09685).

    With `blocks` 1, `norms` and the targets q and v it is ExPLoRA (Khanna et al., arXiv 2406.10973), extended
    pretraining under a shift of domain. The encoder is saved with the changes added to its matrices.
    """

    rank: int = 8
    """Of the change (Hu et al. 2022, table 9)."""
    alpha: float = 8.0
    """The change is scaled by alpha / rank (Hu et al. 2022, table 9)."""
    targets: tuple[str, ...] = TARGETS
    """Matrices that change: q, k, v and proj of attention, fc1 and fc2 of the MLP; all of them by default (ours)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        object.__setattr__(self, "targets", tuple(self.targets))
        expect(
            self.rank >= 1 and self.alpha > 0 and self.targets,
            expected="rank of at least 1, alpha above 0 and a target for adapt Lora",
            got=f"{self.rank}, {self.alpha} and {', '.join(self.targets) or 'none'}",
            remedy="correct them",
        )

    def apply(self, backbone: Backbone, *, seed: int) -> None:
        """Freeze all, put factors beside the targets outside the blocks that are trained whole."""
        self._check(backbone.network)
        backbone.requires_grad_(False)
        blocks = _list_blocks(backbone.network)
        with seed_weights(seed):
            for block in blocks[: len(blocks) - self.blocks]:
                insert_lora(block, rank=self.rank, alpha=self.alpha, targets=self.targets)
        self._unfreeze(backbone.network)


def _list_blocks(network: nn.Module) -> list[nn.Module]:
    """Blocks of a transformer of timm, in order; none of another network."""
    blocks = getattr(network, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) else []


def count_trained(backbone: Backbone) -> int:
    """How many numbers of the backbone are trained."""
    return sum(part.numel() for part in backbone.parameters() if part.requires_grad)

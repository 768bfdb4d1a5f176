"""Mixed Barlow Twins (Bandara, De Melo and Patel 2023, arXiv 2312.02151): a mixture of tiles has mixed features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from lightly.utils.dist import rank
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, View
from eo_ssl.objectives.barlow_twins import BarlowTwins, BarlowTwinsObjective
from eo_ssl.objectives.parts import gather
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class MixedBarlowTwins(BarlowTwins):
    """Mixed Barlow Twins: the features of a mixture of two tiles are that mixture of their features."""

    mixture: float = 4.0
    """Weight of the mixtures, times that of the redundancy (mixup_loss_scale of the authors' script for CIFAR-10 and
    main.py; their main_imagenet.py halves it)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        expect(self.mixture >= 0, expected="mixture of at least 0", got=self.mixture, remedy="try 4")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> MixedBarlowTwinsObjective:
        """The encoder and its projector; refuses several streams, whose bands cannot be mixed."""
        return MixedBarlowTwinsObjective(encoders, self, seed=seed)


class MixedBarlowTwinsObjective(BarlowTwinsObjective):
    """Barlow Twins with a third pass, over mixtures of tiles of the first view and other tiles of the second.

    Tiles are mixed after normalisation, so that each band is in units of its own spread; a pixel of a mixture is valid
    where it is in both.
    """

    told = ()  # a mixture of two tiles has no scale

    def __init__(self, encoders: Mapping[str, Backbone], method: MixedBarlowTwins, *, seed: int = 0) -> None:
        """Build the projector, its weights drawn from `seed`, behind the encoder."""
        super().__init__(encoders, method, seed=seed)
        expect(
            len(encoders) == 1,
            expected="items of one stream for MixedBarlowTwins, which mixes the bands of two tiles",
            got=sorted(encoders),
            remedy="choose BarlowTwins for pairs of sensors",
        )
        self.weight = method.redundancy * method.mixture

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Barlow Twins and the mixtures together, `loss`, and each by itself."""
        first, second = self.take_views(batch)
        share, order = self.draw_mixtures(len(first), batch.step.generator())
        share, order = share.to(first.image), order.to(first.image.device)
        pixels = torch.lerp(second.pixels[order], first.pixels, share[:, None, None, None])
        mixed = View(
            pixels,
            first.valid & second.valid[order],
            first.bands,
            first.stream,
            seed=first.seed,
            bands_seed=first.bands_seed,
        )
        z_first, z_second, z_mixed = (self.projector(x) for x in self.encode([first, second, mixed]))  # [B, d]
        twins = use_float32(self.correlate)(z_first, z_second)
        with torch.no_grad():
            share, order = gather(share), gather(order + rank() * len(order))
        standard = [standardise(z) for z in (z_mixed, z_first, z_second)]
        mixtures = self.weight * compute_mixing_loss(*standard, share=share, order=order)
        return {"loss": twins + mixtures, "twins": twins.detach(), "mixtures": mixtures.detach()}

    def draw_mixtures(self, batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Share of the first view [B], one draw of Beta(1, 1) for all, and the items of the second, int64 [B]."""
        return torch.rand(1, generator=rng).expand(batch), torch.randperm(batch, generator=rng)


@use_float32
def standardise(z: Tensor) -> Tensor:
    """Each channel with mean 0 and variance 1 over the batch: [B, d]."""
    return nn.functional.batch_norm(z, None, None, training=True)


@use_float32
def compute_mixing_loss(mixed: Tensor, first: Tensor, second: Tensor, *, share: Tensor, order: Tensor) -> Tensor:
    """How far the cross-correlation of mixtures with each view is from that of mixed features: a scalar.

    Bandara et al. 2023, equations 5 to 8; 0 where features mix as pixels do.

    Args:
        mixed: [B, d], features of share * first + (1 - share) * second[order].
        first: [B, d], of the first view.
        second: [B, d], of the second view.
        share: [B].
        order: int64 [B].
    """
    wanted = torch.lerp(second[order], first, share[:, None].to(first))  # [B, d]
    differences = [(mixed - wanted).T @ view / len(view) for view in (first, second)]  # [d, d]
    return torch.stack(differences).pow(2).sum()

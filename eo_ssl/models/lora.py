"""LoRA: a trained change of low rank beside frozen matrices (Hu et al. 2022, arXiv 2106.09685).

timm fuses query, key and value into one matrix. Each gets factors of its own, as in the paper; the ready-made layers of
the `peft` library would adapt the fused matrix as a whole, with one A for all three.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.models.fusion import CrossAlibiAttention

_FUSED = ("q", "k", "v")  # parts of timm's fused projection, in its order
TARGETS = (*_FUSED, "proj", "fc1", "fc2")
"""Matrices of a transformer's block that can be adapted: three of attention, its output, and the two of the MLP."""
_Network = TypeVar("_Network", bound=nn.Module)


class LoraLinear(nn.Module):
    """A frozen linear map with a trained change of some of its parts: W + alpha / r * B A in each of them."""

    def __init__(
        self, base: nn.Linear, *, rank: int, alpha: float, parts: int = 1, adapted: Sequence[int] = (0,)
    ) -> None:
        """Hold `base`, whose outputs are `parts` maps side by side, of which those at `adapted` change."""
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale, self.parts, self.adapted = alpha / rank, parts, tuple(adapted)
        self.a = nn.Parameter(base.weight.new_empty(len(adapted), rank, base.in_features))
        # 0: no change at the start
        self.b = nn.Parameter(base.weight.new_zeros(len(adapted), base.out_features // parts, rank))
        for one in self.a:
            nn.init.kaiming_uniform_(one, a=math.sqrt(5))  # as nn.Linear, and as the authors' code

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., parts * O]."""
        outputs: list[Tensor] = list(self.base(x).chunk(self.parts, dim=-1))
        for part, a, b in zip(self.adapted, self.a, self.b, strict=True):
            outputs[part] = outputs[part] + self.scale * (x @ a.T @ b.T)
        return torch.cat(outputs, dim=-1) if self.parts > 1 else outputs[0]

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One plain linear map that does the same."""
        whole = copy.deepcopy(self.base)
        rows = whole.weight.chunk(self.parts)
        for part, a, b in zip(self.adapted, self.a, self.b, strict=True):
            rows[part].add_(self.scale * (b @ a))
        return whole


def insert_lora(
    network: nn.Module, *, rank: int, alpha: float, targets: Sequence[str] = ("q", "v")
) -> list[nn.Parameter]:
    """Freeze `network`, put a `LoraLinear` in the place of every target, and return what is trained.

    Args:
        network: a transformer of timm; changed in place.
        rank: of the change.
        alpha: the change is scaled by alpha / rank.
        targets: out of `TARGETS`.

    Raises:
        UserError: an unknown target, a network without fused query-key-value projections, or a rank that is no
            reduction.
    """
    for target in targets:
        expect(
            target in TARGETS,
            expected=f"targets of LoRA out of {', '.join(TARGETS)}",
            got=f"{target!r}{suggest_nearest(target, TARGETS)}",
            remedy="leave it out or correct it",
        )
    network.requires_grad_(False)
    if not any(_is_fused(module) for module in network.modules()):
        raise UserError(
            f"expected a transformer with fused query, key and value for LoRA, got {type(network).__name__};"
            " train it whole"
        )
    trained: list[nn.Parameter] = []
    parts = [_FUSED.index(target) for target in targets if target in _FUSED]
    for holder in list(network.modules()):
        names = {name: (1, [0]) for name in targets if name not in _FUSED}
        if parts and _is_fused(holder):
            names["qkv"] = (3, sorted(parts))
        if isinstance(holder, CrossAlibiAttention):
            crossed = {"q": (1, [0] if 0 in parts else []), "kv": (2, sorted(part - 1 for part in parts if part))}
            names |= {name: found for name, found in crossed.items() if found[1]}
        for name, (count, adapted) in names.items():
            base = getattr(holder, name, None)
            if isinstance(base, nn.Linear):
                layer = _adapt(base, rank=rank, alpha=alpha, parts=count, adapted=adapted)
                setattr(holder, name, layer)
                trained += [layer.a, layer.b]
    return trained


def _adapt(base: nn.Linear, *, rank: int, alpha: float, parts: int, adapted: Sequence[int]) -> LoraLinear:
    """`base` with a change of `rank`, which must be below its sides."""
    width = min(base.in_features, base.out_features // parts)
    if rank >= width:
        raise UserError(f"expected a rank of LoRA below the width {width} of the transformer, got {rank}; try 8")
    return LoraLinear(base, rank=rank, alpha=alpha, parts=parts, adapted=adapted)


def merge_lora(network: nn.Module) -> None:
    """Put plain linear maps that do the same in the place of every `LoraLinear` of `network`."""
    for holder in list(network.modules()):
        for name, layer in list(holder.named_children()):
            if isinstance(layer, LoraLinear):
                setattr(holder, name, layer.merged())


def copy_merged(network: _Network) -> _Network:
    """`network` itself where nothing in it is adapted, else a copy of it whose weights are plain."""
    if not any(isinstance(module, LoraLinear) for module in network.modules()):
        return network
    plain = copy.deepcopy(network)
    merge_lora(plain)
    return plain


def _is_fused(holder: nn.Module) -> bool:
    """Whether attention calls one layer for query, key and value; BEiT's takes its weights and never calls it."""
    layer = getattr(holder, "qkv", None)
    called = getattr(holder, "q_bias", None) is None
    return called and isinstance(layer, nn.Linear) and layer.out_features == 3 * layer.in_features

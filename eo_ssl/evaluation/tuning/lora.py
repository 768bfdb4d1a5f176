"""LoRA: a change of low rank beside frozen query and value projections (Hu et al. 2022, arXiv 2106.09685).

timm fuses query, key and value into one matrix. Query and value get factors of their own, as in the paper; the
ready-made layers of the `peft` library would adapt the fused matrix as a whole, with one A for all three.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eo_ssl.errors import UserError


class FusedLora(nn.Module):
    """A fused projection D -> 3 D with frozen weights and a trained change of query and value: W + alpha / r * B A."""

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__()
        width = base.in_features
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.a = nn.Parameter(base.weight.new_empty(2, rank, width))  # query and value
        self.b = nn.Parameter(base.weight.new_zeros(2, base.out_features // 3, rank))  # 0: no change at the start
        for one in self.a:
            nn.init.kaiming_uniform_(one, a=math.sqrt(5))  # as nn.Linear, and as the authors' code

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, 3 D]."""
        q, k, v = self.base(x).chunk(3, dim=-1)
        dq, dv = (self.scale * (x @ a.T @ b.T) for a, b in zip(self.a, self.b, strict=True))
        return torch.cat([q + dq, k, v + dv], dim=-1)

    def merged(self) -> nn.Linear:
        """Return one projection that does the same."""
        base = self.base
        whole = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device=base.weight.device)
        whole.requires_grad_(False)
        dq, dv = self.scale * (self.b @ self.a)  # [D, D] each
        whole.weight.copy_(base.weight + torch.cat([dq, torch.zeros_like(dq), dv]).detach())
        if base.bias is not None:
            whole.bias.copy_(base.bias)
        return whole


def insert(model: nn.Module, *, rank: int, alpha: float) -> list[nn.Parameter]:
    """Freeze ``model``, put a `FusedLora` in the place of every fused projection, and return what is trained.

    Raises:
        UserError: a network without fused query-key-value projections, or a rank that is no reduction.
    """
    model.requires_grad_(False)
    holders = [module for module in model.modules() if _fused(module)]
    if not holders:
        raise UserError(
            f"expected a transformer with fused query, key and value for LoRA, got {type(model).__name__}; use finetune"
        )
    trained: list[nn.Parameter] = []
    for holder in holders:
        base: nn.Linear = holder.qkv  # type: ignore[assignment]
        if rank >= base.in_features:
            raise UserError(
                f"expected lora_rank below the width {base.in_features} of the transformer, got {rank}; choose 4 ... 16"
            )
        adapted = FusedLora(base, rank=rank, alpha=alpha)
        holder.qkv = adapted
        trained += [adapted.a, adapted.b]
    return trained


def merge(model: nn.Module) -> None:
    """Put plain projections that do the same in the place of every `FusedLora` of ``model``."""
    for holder in [module for module in model.modules() if isinstance(getattr(module, "qkv", None), FusedLora)]:
        adapted: FusedLora = holder.qkv  # type: ignore[assignment]
        holder.qkv = adapted.merged()


def _fused(holder: nn.Module) -> bool:
    """Whether attention calls one layer for query, key and value; BEiT's takes its weights and never calls it."""
    layer = getattr(holder, "qkv", None)
    called = getattr(holder, "q_bias", None) is None
    return called and isinstance(layer, nn.Linear) and layer.out_features == 3 * layer.in_features

"""Targets of data2vec: the mean over a teacher's blocks of what each makes of a patch, brought to one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import MaskableBackbone

VARIANCE_FLOOR = 1e-5  # squared feature units; that of torch's norms, which the authors use


@torch.no_grad()
def average_layers(layers: Sequence[Tensor], seen: Tensor, *, norm: Literal["layer", "instance"]) -> Tensor:
    """Mean of the layers, each normalised by itself, then normalised over the channels of each patch.

    Args:
        layers: [B, N, D] each.
        seen: [B, N] bool, patches with a valid pixel.
        norm: `layer` over the channels of each patch (Baevski et al. 2022, arXiv 2202.03555, section 3.3), `instance`
            over the seen patches of each image and channel (released configuration of data2vec 2.0).

    Returns:
        [B, N, D], float32 or of the layers' higher precision.
    """
    total = torch.zeros_like(layers[0], dtype=torch.promote_types(layers[0].dtype, torch.float32))
    weight = seen[..., None].to(total.dtype)  # [B, N, 1]
    count = weight.sum(dim=1, keepdim=True).clamp(min=1)  # [B, 1, 1]
    for values in layers:
        values = values.to(total.dtype)
        if norm == "layer":
            total += nn.functional.layer_norm(values, values.shape[-1:], eps=VARIANCE_FLOOR)
        else:
            centred = values - (values * weight).sum(dim=1, keepdim=True) / count  # [B, N, D]
            variance = (centred.square() * weight).sum(dim=1, keepdim=True) / count  # [B, 1, D]
            total += centred / (variance + VARIANCE_FLOOR).sqrt()
    mean = total / len(layers)
    return nn.functional.layer_norm(mean, mean.shape[-1:], eps=VARIANCE_FLOOR)


def measure_spread(features: Tensor) -> Tensor:
    """Standard deviation over rows [n, D], mean over the channels: near 0 all are alike, a sign of collapse."""
    spread: Tensor = features.detach().float().std(dim=0, unbiased=False).mean()
    return spread


def check_layers(encoder: MaskableBackbone, layers: int) -> None:
    """Refuse targets of more blocks than there are.

    Raises:
        UserError: naming layers.
    """
    expect(
        1 <= layers <= encoder.depth,
        expected=f"layers between 1 and the {encoder.depth} blocks of the network",
        got=layers,
        remedy="lower it or choose a deeper network",
    )

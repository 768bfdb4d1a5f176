"""AdamW with a rate for each layer, a schedule for all of them, and blocks that are skipped by chance."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers import DropPath  # type: ignore[attr-defined]
from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]
from torch import nn

Group = dict[str, Any]
_BETAS = (0.9, 0.999)  # He et al. 2022, table 9
_CLIP = 1.0
"""Norm of the gradient above which it is shortened: one bad batch of a small set must not undo a pretraining (ours;
MAE needs none at batches of 1,024)."""


def group_head(head: nn.Module, *, weight_decay: float) -> list[Group]:
    """Return the groups of everything in ``head`` that is trained, at the whole rate."""
    groups: list[Group] = param_groups_weight_decay(head, weight_decay)
    return [{**group, "lr_scale": 1.0} for group in groups]


def group_layers(model: nn.Module, *, weight_decay: float, layer_decay: float) -> list[Group]:
    """Return groups of a timm model's trained parameters with ``lr_scale`` = layer_decay^(distance from the head).

    The layers are timm's, as if its own classifier were on top (which has the whole rate): the last block, together
    with a transformer's last norm, has one factor less, the patch projection and positions one factor less than the
    first block (after Bao et al. 2022, BEiT).
    """
    unregularised = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # type: ignore[operator]
    groups: list[Group] = param_groups_layer_decay(
        model, weight_decay=weight_decay, no_weight_decay_list=unregularised, layer_decay=layer_decay
    )
    top = [parameter for group in groups if group["lr_scale"] == 1 for parameter in group["params"]]
    # Without its classifier the topmost layer is the last block, except where a norm belongs to it (ConvNeXt).
    below = 1.0 if all(parameter.ndim <= 1 for parameter in top) else layer_decay
    return [{**group, "lr_scale": group["lr_scale"] * below} for group in groups]


class LayerwiseAdamW:
    """AdamW whose rates follow one schedule."""

    def __init__(self, groups: list[Group], *, rate: float, steps: int, warmup: float) -> None:
        self._optimiser = torch.optim.AdamW(groups, lr=rate, betas=_BETAS)
        self._rate, self._steps, self._warmup = rate, steps, warmup
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._step = 0

    def step(self, loss: torch.Tensor) -> None:
        """Move every parameter by the gradient of ``loss``."""
        part = scale_rate(self._step, steps=self._steps, warmup=self._warmup)
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * group["lr_scale"] * part
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, _CLIP)
        self._optimiser.step()
        self._step += 1


def scale_rate(step: int, *, steps: int, warmup: float) -> float:
    """Return the share of the rate at ``step`` (0 ... steps - 1): linear warm-up, then half a cosine to 0."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1, steps - rising))


def add_stochastic_depth(model: nn.Module, *, rate: float) -> None:
    """Let blocks of a transformer be skipped by chance, 0 in the first, ``rate`` in the last (Huang et al. 2016).

    Other networks are left as they are: a residual network of few blocks per stage is not trained so by its authors.
    """
    blocks = list(getattr(model, "blocks", ()))
    if not all(hasattr(block, "drop_path1") for block in blocks):
        return
    for number, block in enumerate(blocks):
        chance = rate * number / max(1, len(blocks) - 1)
        for name in ("drop_path1", "drop_path2"):
            if hasattr(block, name):
                setattr(block, name, DropPath(chance) if chance > 0 else nn.Identity())

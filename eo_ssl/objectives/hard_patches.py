"""Masks that hide what is predicted to be hard (Hard Patches Mining, Wang et al. 2023, arXiv 2304.05919)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.objectives.base import check_ramp
from eo_ssl.objectives.parts import mean_of_valid
from eo_ssl.objectives.precision import use_float32


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class HardPatches:
    """How many of the hidden patches are those of which a slow teacher expects the largest error.

    A second decoder learns to rank the errors of the first; its teacher ranks the patches of the whole tile.
    """

    share: float = 0.0
    """Of the hidden patches at the end of the run, grown from 0 in a straight line; 0 for random masks throughout and
    no second decoder. 0.5 as published (`generate_mask` of the authors' code)."""
    momentum: tuple[float, float] = (0.999, 0.9999)
    """Share of itself that the teacher keeps at the beginning and from the end of the ramp on (their engine)."""
    momentum_ramp: float = 0.125
    """Share of the run over which it grows in a straight line: 100 of 800 epochs (their engine and script)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "momentum", tuple(self.momentum))
        check_ramp(self.momentum, ramp=self.momentum_ramp)
        expect(0 <= self.share <= 1, expected="hard.share between 0 and 1", got=self.share, remedy="try 0.5")


def move_hard_last(order: Tensor, scores: Tensor, *, hard: int) -> Tensor:
    """The patches in the same order, but for those of the highest scores, which come last, in the same order too.

    Args:
        order: [B, N] int64, raster indices, each once.
        scores: [B, N] by raster index.
        hard: number of patches that come last.

    Returns:
        [B, N] int64.
    """
    if hard < 1:
        return order
    chosen = torch.zeros_like(order, dtype=torch.bool).scatter_(1, scores.topk(hard, dim=1).indices, True)
    return order.gather(1, chosen.gather(1, order).long().argsort(dim=1, stable=True))


@use_float32
def compute_ranking_loss(scores: Tensor, errors: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of which of two patches of a tile has the larger error, mean over the pairs of all tiles.

    As `forward_learning_loss(relative=True)` of the authors' code, without the 1e-6 in its logarithms.

    Args:
        scores: [B, M], of which the difference is the logit.
        errors: [B, M], compared; no gradient.
        counts: [B, M] bool, patches that take part.

    Returns:
        Scalar; zero where no two patches differ.
    """
    larger = (errors[:, :, None] > errors[:, None, :]) & counts[:, :, None] & counts[:, None, :]  # [B, M, M]
    apart = scores[:, :, None] - scores[:, None, :]
    return mean_of_valid(nn.functional.softplus(-apart), larger.to(scores.dtype))

"""How far a number can be believed: bootstrap over shot draws and test items together, and paired comparisons.

What an item adds to a metric is known for each training draw (`metrics`). Draws differ by the training samples they happened to take,
items by the scene they come from, so both are resampled; the items of one block (a scene) are taken or left together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm as normal
from scipy.stats import t as student

from eo_ssl.errors import UserError
from eo_ssl.evaluation.metrics import Floats, Ints, Measured

LEVEL = 0.95
REPLICATES = 2000
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the bounds of its interval; the bounds are None where the data allow none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference a - b on the same draws and items."""

    difference: float
    low: float | None
    high: float | None
    p: float | None
    "probability of a difference at least as large between equals (two-sided, Student's t); None with a single block"


class Bootstrap:
    """Resampled draws and blocks of one test, shared by all encoders so that comparisons are paired.

    Of D draws and G blocks, D - 1 and G - 1 are drawn with replacement: the variance of a mean of n - 1 out of n equals its unbiased
    estimate s^2 / n (Rao and Wu 1988, doi:10.1080/01621459.1988.10478591), which matters for 5 draws or 3 scenes. A replicate is
    linear in the terms of the items (`metrics`): one that misses the scene with all snow in it has no accuracy on snow, and averaging
    the classes that are left would shift it.
    """

    def __init__(self, blocks: Ints, *, draws: int, seed: int, replicates: int = REPLICATES) -> None:
        """Draw the replicates.

        Args:
            blocks: [n] int64, block of each test item.
            draws: number of training draws.
            seed: of the resampling.
            replicates: number of bootstrap replicates.

        Raises:
            UserError: nothing to resample.
        """
        if not len(blocks) or draws < 1:
            raise UserError(
                f"expected at least one draw and one test item with a block, got {draws} draws and {len(blocks)} items; check the task"
            )
        self.draws = draws
        self._blocks = np.unique(blocks, return_inverse=True)[1].astype(np.int64)
        self.n_blocks = int(self._blocks.max()) + 1
        rng = np.random.default_rng(seed)
        self._draw_weights = _multiplicities(rng, draws, replicates)  # [R, D]
        self._block_weights = _multiplicities(rng, self.n_blocks, replicates)  # [R, G]

    def interval(self, measured: Measured) -> Interval:
        """Return the metric and its 95 % percentile interval.

        Where every answer is right, or every one wrong, resampling finds no spread, which is no proof that there is none: the bounds
        are then the exact binomial ones (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404) of as many answers as there are blocks.
        """
        value, (low, high) = measured.value, self._bounds(measured.value, measured.terms)
        if low is None or high is None:
            return Interval(value, None, None)
        if value in (0.0, 1.0) and not measured.terms.any():
            share = ((1 - LEVEL) / 2) ** (1 / self._answers(measured.strata))
            return Interval(value, share, 1.0) if value else Interval(value, 0.0, 1 - share)
        return Interval(value, max(measured.least, low), min(1.0, high))

    def compare(self, a: Measured, b: Measured) -> Comparison:
        """Return a - b on the same draws and items."""
        difference, terms = a.value - b.value, self._checked(a.terms) - self._checked(b.terms)
        low, high = self._bounds(difference, terms)
        return Comparison(difference, low, high, self._chance(difference, terms))

    def _answers(self, strata: Ints) -> int:
        """Independent answers: blocks, but of no class more than of the rarest, since classes weigh alike."""
        classes = int(strata.max()) + 1
        met = np.unique(strata * self.n_blocks + self._blocks) // self.n_blocks  # a class once per block that has it
        return min(self.n_blocks, classes * int(np.bincount(met).min()))

    def _bounds(self, value: float, terms: Floats) -> tuple[float | None, float | None]:
        if self.n_blocks < 2:
            return None, None
        sums = self._sums(terms)
        low, high = np.quantile(self._both(sums), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        tail = (1 + LEVEL) / 2  # few draws or few scenes say little about their own spread
        wide = float(student.ppf(tail, self._freedom(sums)) / normal.ppf(tail))
        return value + wide * float(low), value + wide * float(high)

    def _chance(self, difference: float, terms: Floats) -> float | None:
        if self.n_blocks < 2:
            return None
        sums = self._sums(terms)
        spread = float(self._both(sums).std())
        if spread < _ROUNDING:
            return 1.0 if abs(difference) < _ROUNDING else 0.0
        return float(2 * student.sf(abs(difference) / spread, self._freedom(sums)))

    def _sums(self, terms: Floats) -> Floats:
        """Terms per draw and block, [D, G]."""
        rows = [np.bincount(self._blocks, weights=row) for row in self._checked(terms)]
        return np.stack(rows).astype(np.float64)

    def _both(self, sums: Floats) -> Floats:
        """Deviation of each replicate, [R]."""
        return _replicates(sums, self._draw_weights, self._block_weights)

    def _freedom(self, sums: Floats) -> float:
        """Degrees of freedom of a sum of two variances (Satterthwaite 1946, doi:10.2307/3002019)."""
        once = np.ones((1, self.draws)), np.ones((1, self.n_blocks))
        by_draw = float(_replicates(sums, self._draw_weights, once[1]).var())
        by_block = float(_replicates(sums, once[0], self._block_weights).var())
        known = [(v, n) for v, n in ((by_draw, self.draws - 1), (by_block, self.n_blocks - 1)) if v > 0 and n > 0]
        total = sum(variance for variance, _ in known)
        if total < _ROUNDING**2:
            return float("inf")
        return float(total**2 / sum(variance**2 / free for variance, free in known))

    def _checked(self, terms: Floats) -> Floats:
        if terms.shape != (self.draws, len(self._blocks)):
            raise UserError(
                f"expected answers [{self.draws}, {len(self._blocks)}] on the same draws and items, got {list(terms.shape)}; evaluate both alike"
            )
        return terms


def _replicates(sums: Floats, draw_weights: Floats, block_weights: Floats) -> Floats:
    """Deviation from the value under each pair of weights [R, D], [R, G] (or one row for all), from terms per block [D, G]: [R]."""
    draws = draw_weights / draw_weights.sum(axis=1, keepdims=True)
    blocks = block_weights * (sums.shape[1] / block_weights.sum(axis=1, keepdims=True))
    moved: Floats = ((blocks @ sums.T) * draws).sum(axis=1)
    return moved


def _multiplicities(rng: np.random.Generator, count: int, replicates: int) -> Floats:
    """How often each of ``count`` units is drawn in each replicate: [R, count]; a single unit is always taken once."""
    taken = max(1, count - 1)
    picks = rng.integers(0, count, size=(replicates, taken)) + np.arange(replicates)[:, None] * count
    counts: Floats = (
        np.bincount(picks.ravel(), minlength=replicates * count).reshape(replicates, count).astype(np.float64)
    )
    return counts


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Return the probabilities of a family of comparisons, corrected for their number (Holm 1979, Scand. J. Statist. 6:65).

    Of all comparisons that are named separable at 5 %, none is so by chance with a probability of 95 %. None stays None and does not count.
    """
    order = sorted((p, i) for i, p in enumerate(chances) if p is not None)
    corrected: list[float | None] = [None] * len(chances)
    greatest = 0.0
    for rank, (p, i) in enumerate(order):
        greatest = max(greatest, min(1.0, p * (len(order) - rank)))
        corrected[i] = greatest
    return corrected


def verdict(comparison: Comparison, chance: float | None) -> Literal["a", "b", "not separable"]:
    """Return the better side where the corrected ``chance`` of a tie is below 5 %."""
    if chance is None or chance >= 1 - LEVEL:
        return "not separable"
    return "a" if comparison.difference > 0 else "b"

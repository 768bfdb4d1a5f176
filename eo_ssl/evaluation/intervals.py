"""How far a number can be believed: bootstrap over shot draws and test items together, and paired comparisons.

A score is a matrix [draws, items]: what one training draw got on one test item. Draws differ by the training samples they happened to
take, items by the scene they come from, so both are resampled; the items of one block (a scene) are taken or left together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import norm as normal
from scipy.stats import t as student

from eo_ssl.errors import UserError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Metric = Literal["accuracy", "balanced_accuracy"]

LEVEL = 0.95
REPLICATES = 2000


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
    verdict: Literal["a", "b", "not separable"]


class Bootstrap:
    """Resampled draws and blocks of one test, shared by all encoders so that comparisons are paired.

    Of D draws and G blocks, D - 1 and G - 1 are drawn with replacement: the variance of a mean of n - 1 out of n equals its unbiased
    estimate s^2 / n (Rao and Wu 1988, doi:10.1080/01621459.1988.10478591), which matters for 5 draws or 3 scenes.
    """

    def __init__(
        self, blocks: Ints, *, draws: int, labels: Ints, metric: Metric, seed: int, replicates: int = REPLICATES
    ) -> None:
        """Draw the replicates.

        Args:
            blocks: [n] int64, block of each test item.
            draws: number of training draws.
            labels: [n] int64, class of each test item.
            metric: `accuracy` weighs items equally, `balanced_accuracy` classes.
            seed: of the resampling.
            replicates: number of bootstrap replicates.

        Raises:
            UserError: nothing to resample.
        """
        if not len(blocks) or draws < 1 or len(labels) != len(blocks):
            raise UserError(
                f"expected at least one draw and one test item with a block each, got {draws} draws and {len(blocks)} items; check the task"
            )
        self.metric: Metric = metric
        self.draws = draws
        self._blocks = np.unique(blocks, return_inverse=True)[1].astype(np.int64)
        self.n_blocks = int(self._blocks.max()) + 1
        strata = np.zeros(len(labels), dtype=np.int64) if metric == "accuracy" else labels
        self._strata = np.unique(strata, return_inverse=True)[1].astype(np.int64)
        self._classes = int(self._strata.max()) + 1
        self._sizes = self._by_block(np.ones(len(blocks)))  # [G, K]
        rng = np.random.default_rng(seed)
        self._draw_weights = _multiplicities(rng, draws, replicates)  # [R, D]
        self._block_weights = _multiplicities(rng, self.n_blocks, replicates)  # [R, G]

    def value(self, scores: npt.NDArray[np.bool_] | Floats) -> float:
        """Return the metric of ``scores`` [draws, items]."""
        sums = self._by_block(self._checked(scores).mean(axis=0)).sum(axis=0)  # [K]
        return float((sums / self._sizes.sum(axis=0)).mean())

    def interval(self, scores: npt.NDArray[np.bool_] | Floats) -> Interval:
        """Return the metric of ``scores`` [draws, items] (1 = right) and its 95 % percentile interval.

        Where every answer is right, or every one wrong, resampling finds no spread, which is no proof that there is none: the bounds
        are then the exact binomial ones (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404) of as many answers as there are blocks.
        """
        value, (low, high) = self.value(scores), self._bounds(scores)
        if low is None or high is None:
            return Interval(value, None, None)
        if value in (0.0, 1.0):
            share = ((1 - LEVEL) / 2) ** (1 / self._answers())
            return Interval(value, share, 1.0) if value else Interval(value, 0.0, 1 - share)
        return Interval(value, max(0.0, low), min(1.0, high))

    def _answers(self) -> int:
        """Independent answers: blocks, but of no class more than of the rarest, since classes weigh alike."""
        return min(self.n_blocks, self._classes * int((self._sizes > 0).sum(axis=0).min()))

    def compare(self, a: npt.NDArray[np.bool_] | Floats, b: npt.NDArray[np.bool_] | Floats) -> Comparison:
        """Return a - b on the same draws and items; a side wins when the 95 % interval of the difference excludes 0."""
        difference = self._checked(a) - self._checked(b)
        low, high = self._bounds(difference)
        verdict: Literal["a", "b", "not separable"] = "not separable"
        if low is not None and high is not None and (low > 0 or high < 0):
            verdict = "a" if low > 0 else "b"
        return Comparison(self.value(difference), low, high, verdict)

    def _bounds(self, scores: npt.NDArray[np.bool_] | Floats) -> tuple[float | None, float | None]:
        if self.n_blocks < 2:
            return None, None
        sums = np.stack([self._by_block(row) for row in self._checked(scores)])  # [D, G, K]
        once = np.ones((1, self.draws)), np.ones((1, self.n_blocks))
        both = self._replicates(sums, self._draw_weights, self._block_weights)
        by_draw = float(self._replicates(sums, self._draw_weights, once[1]).var())
        by_block = float(self._replicates(sums, once[0], self._block_weights).var())
        low, high = np.quantile(both, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        centre = float(self._replicates(sums, *once)[0])
        wide = _widening((by_draw, self.draws - 1), (by_block, self.n_blocks - 1))
        return centre - wide * (centre - float(low)), centre + wide * (float(high) - centre)

    def _replicates(self, sums: Floats, draw_weights: Floats, block_weights: Floats) -> Floats:
        """Metric under each pair of weights [R, D], [R, G] (or one row for all): [R], linearised in the class totals.

        A replicate that misses the scene with all snow in it has no accuracy on snow; averaging the classes that are left would
        shift it. To first order a class mean moves by (right - mean x count) / expected count, which is 0 for an absent class
        (Taylor linearisation of a ratio; Woodruff 1971, JASA 66:411).
        """
        totals = (block_weights @ self._sizes) * draw_weights.sum(axis=1, keepdims=True)  # [R, K]
        got = np.zeros_like(totals)
        for weight, one in zip(draw_weights.T, sums, strict=True):
            got += weight[:, None] * (block_weights @ one)
        expected = self._sizes.mean(axis=0) * block_weights.sum(axis=1, keepdims=True)
        expected = expected * draw_weights.sum(axis=1, keepdims=True)  # [R, K]
        mean = sums.mean(axis=0).sum(axis=0) / self._sizes.sum(axis=0)  # [K]
        moved: Floats = mean.mean() + ((got - mean * totals) / expected).mean(axis=1)
        return moved

    def _checked(self, scores: npt.NDArray[np.bool_] | Floats) -> Floats:
        if scores.shape != (self.draws, len(self._blocks)):
            raise UserError(
                f"expected scores [{self.draws}, {len(self._blocks)}] on the same draws and items, got {list(scores.shape)}; evaluate both alike"
            )
        return scores.astype(np.float64)

    def _by_block(self, row: Floats) -> Floats:
        """Sums of [n] item values per block and stratum, [G, K]."""
        cell = self._blocks * self._classes + self._strata
        sums: Floats = np.bincount(
            cell, weights=row.astype(np.float64), minlength=self.n_blocks * self._classes
        ).astype(np.float64)
        return sums.reshape(self.n_blocks, self._classes)


def _multiplicities(rng: np.random.Generator, count: int, replicates: int) -> Floats:
    """How often each of ``count`` units is drawn in each replicate: [R, count]; a single unit is always taken once."""
    taken = max(1, count - 1)
    picks = rng.integers(0, count, size=(replicates, taken)) + np.arange(replicates)[:, None] * count
    counts: Floats = (
        np.bincount(picks.ravel(), minlength=replicates * count).reshape(replicates, count).astype(np.float64)
    )
    return counts


def _widening(*parts: tuple[float, int]) -> float:
    """Quantile of Student's t over that of the normal law, for a sum of variances with their degrees of freedom.

    Few draws or few scenes say little about their own spread: degrees of freedom after Satterthwaite (1946, doi:10.2307/3002019).
    """
    known = [(variance, free) for variance, free in parts if variance > 0 and free > 0]
    total = sum(variance for variance, _ in known)
    if not known or total < 1e-18:
        return 1.0
    freedom = total**2 / sum(variance**2 / free for variance, free in known)
    tail = (1 + LEVEL) / 2
    return float(student.ppf(tail, freedom) / normal.ppf(tail))

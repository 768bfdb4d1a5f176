"""Confidence intervals: bootstrap over pretraining seeds, draws and test items together; paired comparisons.

What an item adds to a metric is known for each run and training draw (`metrics`). Runs differ by their seed, draws by
the training samples they happened to take, items by the scene they come from, so all are resampled; the items of one
block (a scene) are taken or left together.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm as normal
from scipy.stats import t as student

from eo_ssl.errors import UserError
from eo_ssl.evaluation.task_metrics import Floats, Ints, Measured

LEVEL = 0.95
REPLICATES = 2000
_ROUNDING = 1e-9
_SHARE_PRIOR = (2.0, 2.0)
"Answers added to each class: right and wrong ones, which are 1 and 0."
_DIFFERENCE_PRIOR = (1.0, 1.0)
"Pairs added to each class: those that only the first, or only the second, answered rightly, which are 1 and -1."


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
    """Resampled draws and blocks of a test, shared by all encoders so that comparisons are paired, and own runs.

    Of D draws and G blocks (and S runs), D - 1 and G - 1 (and S - 1) are drawn with replacement: the variance of a mean
    of n - 1 out of n equals its unbiased estimate s^2 / n (Rao and Wu 1988, doi:10.1080/01621459.1988.10478591), which
    matters for 5 draws or 3 scenes. A replicate is linear in the terms of the items (`metrics`): one that misses the
    scene with all snow in it has no accuracy on snow, and averaging the classes that are left would shift it.
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
                f"expected at least one draw and one test item with a block, got {draws} draws and {len(blocks)} "
                "items; check the task"
            )
        self.draws, self._seed = draws, seed
        self._blocks = np.unique(blocks, return_inverse=True)[1].astype(np.int64)
        self.n_blocks = int(self._blocks.max()) + 1
        rng = np.random.default_rng(seed)
        self._draw_weights = _multiplicities(rng, draws, replicates)  # [R, D]
        self._block_weights = _multiplicities(rng, self.n_blocks, replicates)  # [R, G]

    def interval(self, measured: Measured) -> Interval:
        """Return the metric and its 95 % percentile interval.

        Where every answer is right, or every one wrong, resampling finds no spread, which is no proof that there is
        none: the bounds are then the exact binomial ones (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404) of as
            many answers as there are blocks.
        There are none of a metric that is no share of answers.
        """
        value = measured.value
        if self.n_blocks < 2:
            return Interval(value, None, None)
        low, high = _bounds(value, *self._moved([measured]))
        if value in (0.0, 1.0) and not measured.terms.any():
            if measured.shares is None:
                return Interval(value, None, None)
            share = ((1 - LEVEL) / 2) ** (1 / self._answers(measured.strata))
            return Interval(value, share, 1.0) if value else Interval(value, 0.0, 1 - share)
        return Interval(value, max(measured.least, low), min(1.0, high))

    def compare(self, a: Measured, b: Measured) -> Comparison:
        """Return a - b on the same draws and items, and on the same runs where both are of the same."""
        difference = a.value - b.value
        if self.n_blocks < 2:
            return Comparison(difference, None, None, None)
        moved, freedom = self._moved([a, b])
        low, high = _bounds(difference, moved, freedom)
        spread = float(moved.std())
        if spread < _ROUNDING:
            return Comparison(difference, low, high, 1.0 if abs(difference) < _ROUNDING else 0.0)
        return Comparison(difference, low, high, float(2 * student.sf(abs(difference) / spread, freedom)))

    def _answers(self, strata: Ints) -> int:
        """Independent answers: blocks, but of no class more than of the rarest, since classes weigh alike."""
        classes = int(strata.max()) + 1
        met = np.unique(strata * self.n_blocks + self._blocks) // self.n_blocks  # a class once per block that has it
        return min(self.n_blocks, classes * int(np.bincount(met).min()))

    def _moved(self, sides: Sequence[Measured]) -> tuple[Floats, float]:
        """Deviation of each replicate [R] of one side, or of the first minus the second, and its degrees of freedom.

        Freedom of a sum of variances: Satterthwaite 1946, doi:10.2307/3002019.
        """
        split = [self._by_run(side) for side in sides]  # [S, D, n]
        mean = [one.mean(axis=0) for one in split]
        common = mean[0] if len(mean) == 1 else mean[0] - mean[1]  # [D, n]
        shared = self._sums(common)  # [D, G]
        moved = _replicates(shared, self._draw_weights, self._block_weights)
        once = np.ones((1, self.draws)), np.ones((1, self.n_blocks))
        by_draw = _replicates(shared, self._draw_weights, once[1])
        by_block = _replicates(shared, once[0], self._block_weights)
        known = [(by_draw, self.draws - 1), (by_block, estimate_degrees_of_freedom(shared.mean(axis=0)))]
        for name, terms in _own(sides, split).items():
            sums = [self._sums(one) for one in terms]
            away = self._run_weights(name, len(sums)) - 1 / len(sums)  # [R, S], from the mean over the runs
            by_run = [_replicates(one, self._draw_weights, self._block_weights) for one in sums]
            moved = moved + (away * np.stack(by_run, axis=1)).sum(axis=1)
            known.append((away @ np.stack([one.sum() / self.draws for one in sums]), len(sums) - 1))
        variances = [(float(one.var()), free) for one, free in known]
        variances.append(self._small_class_variance(sides, common.mean(axis=0)))
        moved = _widened(moved, variances[-1][0])
        variances = [(variance, free) for variance, free in variances if variance > 0 and free > 0]
        total = sum(variance for variance, _ in variances)
        if total < _ROUNDING**2:
            return moved, float("inf")
        return moved, float(total**2 / sum(variance**2 / free for variance, free in variances))

    def _small_class_variance(self, sides: Sequence[Measured], terms: Floats) -> tuple[float, float]:
        """Variance that few items of a class do not show, and its freedom; none where both sides answered alike."""
        shares = [side.shares for side in sides if side.shares is not None]
        if len(shares) < len(sides):
            return 0.0, 1.0
        paired, share = len(shares) == 2, shares[0] - shares[1] if len(shares) == 2 else shares[0]
        if paired and not share.any() and not terms.any():
            return 0.0, 1.0
        return estimate_small_class_variance(sides[0].strata, self._blocks, terms, share, paired=paired)

    def _run_weights(self, name: str, count: int) -> Floats:
        """Share of each run of recipe ``name`` in each replicate, [R, S]: the same for all its numbers."""
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        weights = _multiplicities(rng, count, len(self._draw_weights))
        shares: Floats = weights / weights.sum(axis=1, keepdims=True)
        return shares

    def _sums(self, terms: Floats) -> Floats:
        """Terms per draw and block, [D, G]."""
        return np.stack([np.bincount(self._blocks, weights=row) for row in terms]).astype(np.float64)

    def _by_run(self, side: Measured) -> Floats:
        """Terms [S, D, n]."""
        runs, rows = side.runs.count, side.runs.count * self.draws
        if side.terms.shape != (rows, len(self._blocks)):
            raise UserError(
                f"expected answers [{rows}, {len(self._blocks)}] on the same draws and items, got "
                f"{list(side.terms.shape)}; evaluate both alike"
            )
        return side.terms.reshape(runs, self.draws, -1)


def _widened(moved: Floats, variance: float) -> Floats:
    """Replicates [R] with ``variance`` more, their shape kept; of a normal distribution where they have none."""
    if not variance:
        return moved
    own = float(moved.var())
    if own > _ROUNDING**2:
        wider: Floats = moved * np.sqrt(1 + variance / own)
        return wider
    spread: Floats = np.sqrt(variance) * normal.ppf((np.arange(len(moved)) + 0.5) / len(moved))
    return spread


def _bounds(value: float, moved: Floats, freedom: float) -> tuple[float, float]:
    """Percentile bounds, wider by Student's t: few runs, draws or scenes say little about their own spread."""
    tail = (1 + LEVEL) / 2
    low, high = np.quantile(moved, [1 - tail, tail])
    wide = float(student.ppf(tail, freedom) / normal.ppf(tail))
    return value + wide * float(low), value + wide * float(high)


def _own(sides: Sequence[Measured], split: Sequence[Floats]) -> dict[str, Floats]:
    """Terms [S, D, n] of each recipe of several runs, signed; the difference where both sides are of one recipe."""
    own: dict[str, Floats] = {}
    for sign, side, terms in zip((1, -1), sides, split, strict=False):
        if side.runs.count > 1:
            own[side.runs.name] = sign * terms + own.get(side.runs.name, 0.0)
    return own


def _replicates(sums: Floats, draw_weights: Floats, block_weights: Floats) -> Floats:
    """Deviation from the value under each pair of weights [R, D], [R, G], from terms per block [D, G]: [R]."""
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


def correct_by_holm(chances: Sequence[float | None]) -> list[float | None]:
    """Return the p-values of a family of comparisons, corrected for their number (Holm 1979, Scand. J. Statist. 6:65).

    Of all comparisons that are named separable at 5 %, none is so by chance with a probability of 95 %. None stays None
    and does not count.
    """
    order = sorted((p, i) for i, p in enumerate(chances) if p is not None)
    corrected: list[float | None] = [None] * len(chances)
    greatest = 0.0
    for rank, (p, i) in enumerate(order):
        greatest = max(greatest, min(1.0, p * (len(order) - rank)))
        corrected[i] = greatest
    return corrected


def decide_verdict(comparison: Comparison, chance: float | None) -> Literal["a", "b", "not separable"]:
    """Return the better side where the corrected ``chance`` of a tie is below 5 %."""
    if chance is None or chance >= 1 - LEVEL:
        return "not separable"
    return "a" if comparison.difference > 0 else "b"


def estimate_small_class_variance(
    strata: Ints, blocks: Ints, terms: Floats, shares: Floats, *, paired: bool
) -> tuple[float, float]:
    """Return the variance that the terms of the few items of small classes lack, and its degrees of freedom.

    Classes that weigh alike make every item of a rare class count much. A class of one item has no spread at all, and
    one of eight that are all answered alike has none either, though another eight might differ. Adding a few answers
    that were not given is the usual remedy for a share (Agresti and Coull 1998, doi:10.1080/00031305.1998.10480550) and
    for a paired difference of shares (Bonett and Price 2012, J. Educ. Behav. Stat. 37:479).

    Args:
        strata: [n] class of each item.
        blocks: [n] block of each item.
        terms: [n] of the items, or of their difference.
        shares: [K] share of right answers in each class, or the difference of the shares.
        paired: whether they are differences.
    """
    kinds, up, down = len(shares), *(_DIFFERENCE_PRIOR if paired else _SHARE_PRIOR)
    items = np.bincount(strata, minlength=kinds).astype(np.float64)
    answers = terms * kinds * items[strata] + shares[strata]
    count, low = items + up + down, -1.0 if paired else 0.0
    mean = (np.bincount(strata, weights=answers, minlength=kinds) + up + low * down) / count
    square = (np.bincount(strata, weights=answers**2, minlength=kinds) + up + low**2 * down) / count
    cells, of = np.unique(strata * (blocks.max() + 1) + blocks, return_inverse=True)  # pairs of class and block
    owner = cells // (blocks.max() + 1)
    met = np.bincount(owner, minlength=kinds)
    sums = np.bincount(of, weights=terms) * kinds
    seen = np.bincount(owner, weights=sums**2, minlength=kinds) * met / np.maximum(met - 1, 1)
    lacking = np.maximum((square - mean**2) / count - seen, 0.0) / kinds**2
    if not lacking.any():
        return 0.0, 1.0
    return float(lacking.sum()), float(lacking.sum() ** 2 / (lacking**2 / items).sum())


def estimate_degrees_of_freedom(sums: Floats) -> float:
    """Return the degrees of freedom of the variance estimated from ``sums`` [G] of the blocks, at most G - 1.

    Where few blocks carry most of the spread, as those with a rare class do, the estimate is worth fewer (O'Neill 2014,
    doi:10.1080/00031305.2014.966589).
    """
    count = len(sums)
    away = sums - sums.mean()
    square = float((away**2).sum())
    if count < 3 or not square:
        return float(count - 1)
    kurtosis = count * float((away**4).sum()) / square**2
    return min(count - 1.0, 2 / (kurtosis / count - (count - 3) / (count * (count - 1))))

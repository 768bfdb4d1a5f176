"""Weights of rows: steepened to an effective number of rows, capped, and drawn by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

from eo_ssl.curation.embeddings import Floats, Rows
from eo_ssl.errors import expect

CAP = 20.0
"largest weight, in times the mean: no row comes up more often than that"
_LEAST = float(np.finfo(np.float32).tiny)
"smallest weight: no row is lost to underflow"
_STEEPEST = 1e6
"exponent at which only the highest of scores that can be told apart count"

Doubles = NDArray[np.float64]


def count_effective_rows(weights: NDArray[np.floating], sizes: Rows | None = None) -> float:
    """Return (sum w)^2 / sum w^2, Kish's effective sample size: n when all weights are equal, 1 when one row counts.

    Args:
        weights: [k], of rows or of the rows of k groups.
        sizes: rows of each group, int64 [k]; None for one each.
    """
    wide, many = np.asarray(weights, dtype=np.float64), 1 if sizes is None else sizes
    return float((wide * many).sum() ** 2 / (np.square(wide) * many).sum())


def check_weights(weights: NDArray[np.floating]) -> Floats:
    """Return ``weights`` [m] scaled to mean 1, float32.

    Raises:
        UserError: a weight is not finite or not above 0, or there is none.
    """
    wide = np.asarray(weights, dtype=np.float64)
    sound = np.isfinite(wide) & (wide > 0)
    expect(
        len(wide) and sound.all(),
        expected="a finite weight above 0 for every row drawn from",
        got=f"{int((~sound).sum())} others of {len(wide)}",
        remedy="leave rows out that are not to be drawn, and weigh at least one",
    )
    return np.asarray(wide / wide.mean(), dtype=np.float32)


def temper(scores: NDArray[np.floating], effective: float, *, cap: float = CAP) -> Doubles:
    """Return weights exp(beta z) of standardised ``scores`` [n], beta such that ``effective`` rows are effective: [n].

    See `weigh_to_effective`; scores that differ by no more than rounding weigh the same.
    """
    wide = np.asarray(scores, dtype=np.float64)
    deviation = wide.std()
    rounding = 1e-12 * max(1.0, float(np.abs(wide).max()))
    z = np.zeros(len(wide)) if deviation <= rounding else (wide - wide.mean()) / deviation
    return weigh_to_effective(lambda beta: beta * z, effective, steepest=_STEEPEST, cap=cap)


def flatten_sizes(sizes: Rows, effective: float, *, cap: float = CAP) -> Doubles:
    """Return the weight of a row of each group, n^(alpha - 1) for one of n rows: float64 [k] of mean 1 over the rows.

    alpha = 1 leaves the shares of the groups as they are, 0 makes them equal; it is found so that ``effective`` rows
    are effective (see `weigh_to_effective`).

    Args:
        sizes: rows of each group, int64 [k], at least 1.
        effective: rows wanted.
        cap: largest weight.
    """
    return weigh_to_effective(lambda less: -less * np.log(sizes), effective, steepest=1.0, cap=cap, sizes=sizes)


def weigh_to_effective(
    log_weigh: Callable[[float], Doubles],
    effective: float,
    *,
    steepest: float,
    cap: float = CAP,
    sizes: Rows | None = None,
) -> Doubles:
    """Return capped weights of mean 1 of which ``effective`` rows are effective, float64 [k].

    Their steepness is doubled from 1 until it is too much, then found by Brent's method.

    Args:
        log_weigh: logarithms of the weights, float64 [k], by their steepness: all equal at 0, ever fewer effective
            rows up to ``steepest``. Where that still leaves more of them than wanted, its weights come back.
        effective: rows wanted, by `count_effective_rows`.
        steepest: largest steepness.
        cap: largest weight; what capped rows lose the others share in proportion.
        sizes: rows of each of k groups, int64 [k], at least 1; None for one each.

    Raises:
        UserError: a cap that leaves no way to so few effective rows.
    """

    def weigh(steepness: float) -> Doubles:
        return cap_weights(log_weigh(steepness), cap, sizes)

    n = len(log_weigh(0.0)) if sizes is None else int(sizes.sum())
    expect(
        cap >= 1 and effective * cap >= n,
        expected=f"at least {-(-n // max(cap, 1)):.0f} effective rows of {n} under a cap of {cap:g} times the mean",
        got=f"{effective:g}",
        remedy="keep more, or raise the cap",
    )

    def exceed(steepness: float) -> float:
        return count_effective_rows(weigh(steepness), sizes) - effective

    if exceed(0.0) <= 0:
        return weigh(0.0)
    low, high = 0.0, min(1.0, steepest)
    while exceed(high) >= 0:
        if high == steepest:
            return weigh(steepest)
        low, high = high, min(2 * high, steepest)
    return weigh(float(brentq(exceed, low, high, xtol=1e-12, rtol=1e-14)))


def cap_weights(log_weights: Doubles, cap: float, sizes: Rows | None = None) -> Doubles:
    """Return the weights with logarithms ``log_weights`` [k], scaled to mean 1 and none above ``cap``: float64 [k].

    With s such that the mean of min(s w, cap) is 1; exact, from the first number of capped groups that fits. Sums are
    taken in logarithms, so that no steepness is too much for them.
    """
    many = np.ones(len(log_weights), dtype=np.int64) if sizes is None else sizes
    n = int(many.sum())
    most = min(len(many), int(n / cap) + 1)  # no more can be capped, nor need to stand in order
    head = np.argpartition(-log_weights, most - 1)[:most]
    head = head[np.argsort(-log_weights[head], kind="stable")]
    outside = np.ones(len(many), dtype=bool)
    outside[head] = False
    log_mass = log_weights + np.log(many)
    tail = logsumexp(log_mass[outside]) if most < len(many) else -np.inf
    log_rest = np.logaddexp.accumulate(np.append(tail, log_mass[head][::-1]))[:0:-1]  # of the groups from here on
    before = np.cumsum(many[head]) - many[head]
    with np.errstate(divide="ignore"):
        log_scale = np.log(np.maximum(n - cap * before, 0.0)) - log_rest
    capped = int(np.argmax(log_scale + log_weights[head] <= np.log(cap) + 1e-12))
    weights: Doubles = np.exp(np.clip(log_weights + log_scale[capped], np.log(_LEAST), np.log(cap)))
    weights[head[:capped]] = cap
    return weights


def draw_without_replacement(weights: NDArray[np.floating], count: int, rng: np.random.Generator) -> Rows:
    """Draw ``count`` different rows, each next one in proportion to ``weights`` [n] above 0: sorted, int64 [count].

    The top of log weight plus Gumbel noise, which is Efraimidis & Spirakis (2006) in logarithms.
    """
    key = np.log(np.asarray(weights, dtype=np.float64)) + rng.gumbel(size=len(weights))
    return np.sort(np.argpartition(-key, count - 1)[:count]).astype(np.int64)


def draw_systematically(weights: NDArray[np.floating], count: int, rng: np.random.Generator) -> Rows:
    """Return how often each row comes up in ``count`` draws: int64 [n], each within one of its expected number.

    Systematic resampling: one uniform number, then every count-th part of the sum of ``weights`` [n] in their order
    (Carpenter et al. 1999); give them in random order lest neighbours exclude each other.
    """
    reached = np.cumsum(np.asarray(weights, dtype=np.float64))
    marks = np.floor(reached / reached[-1] * count + rng.random()).astype(np.int64)
    marks[-1] = count  # whatever rounding made of it
    counts: Rows = np.diff(marks, prepend=0)
    return counts

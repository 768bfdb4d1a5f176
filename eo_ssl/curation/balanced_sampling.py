"""Balanced sampling over a tree of clusters: shares by water-filling (exact), rows drawn without replacement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_ssl.curation.embeddings import Floats, Labels, Rows
from eo_ssl.curation.hierarchy import Hierarchy, take_per_cluster
from eo_ssl.curation.weights import Doubles
from eo_ssl.errors import expect


def allocate_evenly(sizes: Rows, target: int, *, rng: np.random.Generator) -> Rows:
    """Share ``target`` among children as evenly as their ``sizes`` int64 [m] allow; return the shares, int64 [m].

    With the largest integer x such that sum(min(x, s_j)) <= target every child gets min(x, s_j), and the remainder goes
    one by one to random children with s_j > x (Vo et al. 2024, balanced sampling). Shares never exceed sizes and add up
    to min(target, sum(sizes)).

    Raises:
        UserError: a negative size or target.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    expect(
        target >= 0 and sizes.min(initial=0) >= 0,
        expected="sizes and target of at least 0",
        got=f"a smallest size of {sizes.min(initial=0)} and a target of {target}",
        remedy="count again",
    )
    if target >= sizes.sum():
        return sizes.copy()
    ordered = np.sort(sizes)
    below = np.concatenate([[0], np.cumsum(ordered)[:-1]])
    left = len(sizes) - np.arange(len(sizes))
    # Level of the water at the rim of the j-th smallest child; the first rim above the target bounds the cut.
    j = int(np.searchsorted(below + ordered * left, target, side="right"))
    cut = (target - int(below[j])) // int(left[j])
    shares = np.minimum(sizes, cut)
    lucky = rng.choice(np.flatnonzero(sizes > cut), target - int(shares.sum()), replace=False)
    shares[lucky] += 1
    return shares


def fill_evenly(sizes: Doubles, target: float) -> Doubles:
    """Return what `allocate_evenly` shares without rounding: min(x, s_j) with x such that they add up to ``target``.

    ``sizes`` float64 [m] of at least 0; a ``target`` above their sum gives them all.
    """
    ordered = np.sort(sizes)
    before = np.cumsum(ordered) - ordered
    level = (target - before) / (len(sizes) - np.arange(len(sizes)))
    rim = int(np.argmax(level <= ordered)) if (level <= ordered).any() else len(sizes) - 1
    shares: Doubles = np.minimum(sizes, level[rim])
    return shares


Share = Callable[[NDArray[Any], Any], NDArray[Any]]
"""Shares a target among children of given sizes"""


def allocate(hierarchy: Hierarchy, sizes: NDArray[Any], target: float, *, share: Share) -> NDArray[Any]:
    """Return what each level-1 cluster gets, [k_1]: ``target`` shared down the tree over raw points.

    ``sizes`` [k_1] are the points of every level-1 cluster; a coarser cluster weighs what its leaves hold. ``share``
    is `allocate_evenly` for numbers of rows, or `fill_evenly` for parts of them.
    """
    held = [sizes]
    for parent, k in zip(hierarchy.parents, hierarchy.levels[1:], strict=True):
        up = np.zeros(k, dtype=sizes.dtype)
        np.add.at(up, parent, held[-1])
        held.append(up)
    shares = share(held[-1], target)
    for parent, below in zip(reversed(hierarchy.parents), reversed(held[:-1]), strict=True):
        down = np.zeros(len(below), dtype=sizes.dtype)
        order = np.argsort(parent, kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(parent, minlength=len(shares)))[:-1])
        for children, part in zip(groups, shares, strict=True):
            if part:
                down[children] = share(below[children], part)
        shares = down
    return shares


def standardise_distance(labels: Labels, distance: Floats, k: int) -> NDArray[np.float64]:
    """Return z-scores of ``distance`` to the own centroid within each cluster, float64 [n]; 0 where none deviates."""
    counts = np.maximum(np.bincount(labels, minlength=k), 1)
    wide = distance.astype(np.float64)
    mean = np.bincount(labels, wide, minlength=k) / counts
    centred = wide - mean[labels]
    deviation = np.sqrt(np.bincount(labels, centred**2, minlength=k) / counts)[labels]
    # Equal distances leave a deviation of rounding size; it must not be blown up to a difference.
    return np.divide(
        centred, deviation, out=np.zeros_like(centred), where=deviation > 1e-6 * np.maximum(mean[labels], 1e-30)
    )


def draw(labels: Labels, distance: Floats, counts: Rows, *, eta: float, rng: np.random.Generator) -> Rows:
    """Draw ``counts[c]`` rows of every cluster c without replacement; return them sorted, int64 [sum(counts)].

    z is the within-cluster standardized distance. eta = 0 draws uniformly (the reference's "r"), eta < 0 prefers
    prototypes, eta > 0 the unusual; -inf and +inf take the closest ("c") and the farthest, equals at random. Weighted
    draws without replacement are the top ``counts[c]`` of eta * z plus Gumbel noise, which is Efraimidis & Spirakis
    (2006) in logarithms: no weight can overflow.
    """
    if np.isinf(eta):
        tie = rng.permutation(len(labels))
        ranked = np.lexsort((tie, -np.sign(eta) * distance.astype(np.float64)))
        order = np.empty(len(labels), dtype=np.int64)
        order[ranked] = np.arange(len(labels))
        return take_per_cluster(labels, order, counts)
    key = eta * standardise_distance(labels, distance, len(counts)) + rng.gumbel(size=len(labels))
    return take_per_cluster(labels, -key, counts)

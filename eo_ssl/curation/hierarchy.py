"""Hierarchical k-means with resampling: clusters that follow the support, not the density.

Vo et al. 2024, arXiv 2405.15613, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from eo_ssl.curation.embeddings import Floats, Labels, Rows, find_distinct_rows
from eo_ssl.curation.kmeans import ITERATIONS, assign, find_nearest_centroid, fit_centroids
from eo_ssl.curation.mapped_rows import gather_rows

Resample = Literal["closest", "random"]


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A tree of clusters: level 1 over points, level l + 1 over the centroids of level l."""

    centroids: tuple[Floats, ...]
    "per level, finest first: float32 [k_l, d]"
    parents: tuple[Labels, ...]
    "per level but the last: int32 [k_l], the cluster one level up"

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of clusters per level, finest first."""
        return tuple(len(level) for level in self.centroids)

    def paths(self) -> Labels:
        """Return the ancestors of every level-1 cluster, itself first: int32 [k_1, L]."""
        columns = [np.arange(len(self.centroids[0]), dtype=np.int32)]
        for parent in self.parents:
            columns.append(parent[columns[-1]])
        return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True)
class Clusters:
    """The place of every row in the tree of clusters."""

    hierarchy: Hierarchy
    labels: Labels
    "level-1 cluster per row: int32 [n]"
    distance: Floats
    "Euclidean distance to its centroid: float32 [n]"

    @property
    def sizes(self) -> Rows:
        """Rows per level-1 cluster: int64 [k_1]."""
        return np.bincount(self.labels, minlength=self.hierarchy.levels[0]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Resampling:
    """Resampling that flattens density on each level: k-means is repeated on equally many points of every cluster."""

    rounds: int = 10
    "repetitions per level (reference: 10); 0 switches it off"
    sizes: tuple[int, ...] | None = None
    """points taken of each cluster, per level; None: half the mean cluster size, rounded up, as the reference's
    guidance says"""
    mode: Resample = "closest"
    "the points nearest to the centroid, or random ones"

    def size(self, level: int, points: int, k: int) -> int:
        """Return how many of all ``points`` each of ``k`` clusters gives on ``level`` (0 is the finest)."""
        return self.sizes[min(level, len(self.sizes) - 1)] if self.sizes else -(-points // (2 * k))


def plan_levels(levels: tuple[int, ...] | None, distinct: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the clusters per level that ``distinct`` different points allow, and a sentence for every change made.

    None asks for about 20 points per finest cluster (at least 4 in small sets), at most 1000 clusters, and five
    children per parent down to ten clusters: a choice of ours between the reference's ratios (1.4 to 10 children, 20 to
    30 points). Too few points for the finest level give ``distinct // 4`` clusters; coarser levels that are then no
    longer coarser are quartered or left out.
    """
    if levels is None:
        planned = [max(1, min(distinct // 4, 10), min(distinct // 20, 1000))]
        while planned[-1] // 5 >= 10:
            planned.append(planned[-1] // 5)
        return tuple(planned), ()
    if levels[0] <= distinct:
        return levels, ()
    planned = [max(1, distinct // 4)]
    for wanted in levels[1:]:
        k = wanted if wanted < planned[-1] else planned[-1] // 4
        if k >= 2:
            planned.append(k)
    return tuple(planned), (
        f"clusters per level reduced from {list(levels)} to {planned}: only {distinct} different rows to fit on",
    )


def fit_clusters(
    points: Floats,
    levels: tuple[int, ...] | None,
    *,
    fit_rows: int | None,
    rng: np.random.Generator,
    resampling: Resampling | None = None,
    iterations: int = ITERATIONS,
    spherical: bool = False,
) -> tuple[Clusters, tuple[str, ...]]:
    """Fit the tree to ``points`` float32 [n, d] or a sample of them, place all, and say what had to be changed.

    Args:
        points: any; identical ones are fitted on once.
        levels: clusters per level, finest first; see `plan_levels`.
        fit_rows: rows that are fitted on at most, drawn uniformly and held in memory; None: all.
        rng: of the sample, the seeds and the resampling.
        resampling: none when absent.
        iterations: of Lloyd.
        spherical: keep centroids on the unit sphere, for points that lie there.
    """
    sampled = None
    if fit_rows is not None and fit_rows < len(points):
        sampled = np.sort(rng.choice(len(points), fit_rows, replace=False))
    sample = gather_rows(points, sampled)
    sample = sample[find_distinct_rows(sample)]  # identical rows would give coinciding centroids
    planned, notes = plan_levels(levels, len(sample))
    hierarchy = fit_hierarchy(
        sample, planned, resampling=resampling or Resampling(0), rng=rng, iterations=iterations, spherical=spherical
    )
    return Clusters(hierarchy, *find_nearest_centroid(points, hierarchy.centroids[0])), notes


def fit_hierarchy(
    points: Floats,
    levels: tuple[int, ...],
    *,
    resampling: Resampling,
    rng: np.random.Generator,
    iterations: int = ITERATIONS,
    spherical: bool = False,
) -> Hierarchy:
    """Fit the tree to ``points`` float32 [n, d], which should all differ: identical points make centroids coincide.

    ``levels`` are clusters per level, finest first, the first at most n (see ``plan_levels``).
    """
    fit = partial(fit_centroids, rng=rng, iterations=iterations, spherical=spherical)
    below = points
    centroids: list[Floats] = []
    parents: list[Labels] = []
    for level, k in enumerate(levels):
        size = resampling.size(level, len(below), k)
        fitted = _fit_level(below, k, size, resampling=resampling, rng=rng, fit=fit)
        if level:
            parents.append(assign(below, fitted))
        centroids.append(fitted)
        below = fitted
    return Hierarchy(tuple(centroids), tuple(parents))


def _fit_level(
    points: Floats,
    k: int,
    size: int,
    *,
    resampling: Resampling,
    rng: np.random.Generator,
    fit: Callable[[Floats, int], Floats],
) -> Floats:
    centroids = fit(points, k)
    for _ in range(resampling.rounds):
        labels, distance = find_nearest_centroid(points, centroids)
        order = distance if resampling.mode == "closest" else rng.random(len(points))
        chosen = take_per_cluster(labels, np.asarray(order), np.full(k, size, dtype=np.int64))
        if len(chosen) < k:  # empty clusters and tiny samples: fill up at random, so that k stays k
            rest = np.setdiff1d(np.arange(len(points)), chosen)
            chosen = np.concatenate([chosen, rng.choice(rest, k - len(chosen), replace=False)])
        centroids = fit(points[chosen], k)
    return centroids


def take_per_cluster(labels: Labels, order: np.ndarray, counts: Rows) -> Rows:
    """Return, sorted, the ``counts[c]`` rows with the smallest ``order`` of every cluster c, or all it has: int64 [m].

    ``labels`` int32 [n], ``order`` any sortable [n], ``counts`` int64 [k].
    """
    by_cluster = np.lexsort((order, labels))
    sizes = np.bincount(labels, minlength=len(counts))
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(by_cluster[rank < counts[labels[by_cluster]]]).astype(np.int64)

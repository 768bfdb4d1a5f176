"""Hierarchical k-means with resampling and balanced sampling, as plainly as its formulae stand (Vo et al. 2024, arXiv 2405.15613, section 3).

A yardstick for `curate/hierarchy-vs-reference`: NumPy for one cluster or one distance matrix at a time, Python loops for the rest, and no
library that clusters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
ITERATIONS = 50


def pick_plainly(
    points: Array, levels: tuple[int, ...], target: int, *, rounds: int, rng: np.random.Generator
) -> Array:
    """Return ``target`` rows of ``points`` [n, d], spread evenly over a tree with ``levels`` clusters, finest first."""
    members: list[list[list[int]]] = []  # of every cluster of every level, what it holds of the level below
    below = points
    for k in levels:
        centroids, labels = _cluster_level(below, k, rounds, rng)
        members.append([np.flatnonzero(labels == cluster).tolist() for cluster in range(k)])
        below = centroids
    return np.sort(np.asarray(_share(members, len(levels), list(range(levels[-1])), target, rng)))


def _cluster_level(points: Array, k: int, rounds: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """K-means of all points, then of equally many near the centroid of every cluster, again and again."""
    centroids = _fit(points, k, rng)
    size = -(-len(points) // (2 * k))
    for _ in range(rounds):
        squared = _measure(points, centroids)
        labels = squared.argmin(axis=1)
        chosen: list[int] = []
        for cluster in range(k):
            own = np.flatnonzero(labels == cluster)
            chosen += own[np.argsort(squared[own, cluster])[:size]].tolist()
        if len(chosen) < k:
            rest = sorted(set(range(len(points))) - set(chosen))
            chosen += rng.choice(rest, k - len(chosen), replace=False).tolist()
        centroids = _fit(points[chosen], k, rng)
    return centroids, _measure(points, centroids).argmin(axis=1)


def _fit(points: Array, k: int, rng: np.random.Generator) -> Array:
    """Lloyd's iterations from greedy k-means++ seeds (Arthur & Vassilvitskii 2007): of 2 + ln k candidates the best is taken."""
    seeds = [int(rng.integers(len(points)))]
    nearest = ((points - points[seeds[0]]) ** 2).sum(axis=1)
    for _ in range(k - 1):
        best, left = -1, nearest
        for candidate in rng.choice(len(points), 2 + int(np.log(k)), p=nearest / nearest.sum()):
            closer = np.minimum(nearest, ((points - points[candidate]) ** 2).sum(axis=1))
            if best < 0 or closer.sum() < left.sum():
                best, left = int(candidate), closer
        seeds.append(best)
        nearest = left
    centroids = points[seeds].copy()
    labels = np.full(len(points), -1)
    for _ in range(ITERATIONS):
        new = _measure(points, centroids).argmin(axis=1)
        if (new == labels).all():
            break
        labels = new
        for cluster in range(k):
            own = points[labels == cluster]
            if len(own):
                centroids[cluster] = own.mean(axis=0)
    return centroids


def _measure(points: Array, centroids: Array) -> Array:
    """Squared distances [n, k], one centroid at a time."""
    return np.stack([((points - centroid) ** 2).sum(axis=1) for centroid in centroids], axis=1)


def _hold(members: list[list[list[int]]], level: int, cluster: int) -> int:
    """Number of points below a cluster of ``level``; level 0 are the points."""
    return 1 if level == 0 else sum(_hold(members, level - 1, child) for child in members[level - 1][cluster])


def _share(
    members: list[list[list[int]]], level: int, clusters: list[int], target: int, rng: np.random.Generator
) -> list[int]:
    """Draw ``target`` points of ``clusters``: the largest x such that min(x, size) of each are not too many, found by counting up."""
    if level == 0:
        return rng.choice(clusters, target, replace=False).tolist() if target else []
    sizes = [_hold(members, level, cluster) for cluster in clusters]
    target = min(target, sum(sizes))
    x = 0
    while x < max(sizes) and sum(min(x + 1, size) for size in sizes) <= target:
        x += 1
    shares = [min(x, size) for size in sizes]
    larger = [place for place, size in enumerate(sizes) if size > x]
    for place in rng.choice(larger, target - sum(shares), replace=False) if larger else []:
        shares[place] += 1
    drawn: list[int] = []
    for cluster, share in zip(clusters, shares, strict=True):
        drawn += _share(members, level - 1, members[level - 1][cluster], share, rng)
    return drawn

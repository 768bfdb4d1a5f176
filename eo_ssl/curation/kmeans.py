"""K-means in exact Euclidean distance: faiss searches, seeding and update are ours.

faiss' own training loop moves empty clusters onto split ones and averages in single precision; Vo et al. (arXiv
2405.15613) keep the old centroid and add in double precision, and so do we. scikit-learn's seeding turns all points to
double precision for every seed, which takes most of the time of a fit with many clusters.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from scipy import sparse

from eo_ssl.curation.embeddings import Floats, Labels, Rows, rescale
from eo_ssl.curation.mapped_rows import read_parts
from eo_ssl.errors import expect

ITERATIONS = 50
"Lloyd iterations of the reference (Vo et al.); the loop ends earlier once no label changes"
_FEWEST_QUERIES = 20
"rows from which a search by products pays: the threshold of faiss before 1.15"
_ADDED = 1 << 10
"rows added up at a time: their double-precision copies stay in the cache"


@contextmanager
def use_faiss_threads() -> Iterator[None]:
    """Let faiss use the cores of this process (``OMP_NUM_THREADS`` if set), and put its setting back afterwards."""
    before = faiss.omp_get_max_threads()
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    faiss.omp_set_num_threads(int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def _prefer_products() -> Iterator[None]:
    """Let faiss search by matrix products also where d times the centroids are few: in the plane ten times as fast."""
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = _FEWEST_QUERIES
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def assign(points: Floats, centroids: Floats) -> Labels:
    """Return the nearest of ``centroids`` float32 [k, d] for each of ``points`` [n, d]: int32 [n]."""
    labels = np.empty(len(points), dtype=np.int32)
    for part, values in read_parts(points):
        with use_faiss_threads(), _prefer_products():
            labels[part] = faiss.knn(values, centroids, 1)[1][:, 0]
    return labels


def find_nearest_centroid(points: Floats, centroids: Floats) -> tuple[Labels, Floats]:
    """Return ``assign`` and the Euclidean distance to the centroid found, float32 [n].

    The search expands |x - c|^2, which rounds badly where it is small; the distances are therefore taken anew.
    """
    labels, distance = np.empty(len(points), dtype=np.int32), np.empty(len(points), dtype=np.float32)
    for part, values in read_parts(points):
        labels[part] = assign(values, centroids)
        distance[part] = np.linalg.norm(values - centroids[labels[part]], axis=1)
    return labels, distance


def fit_centroids(
    points: Floats, k: int, *, rng: np.random.Generator, iterations: int = ITERATIONS, spherical: bool = False
) -> Floats:
    """Fit ``k`` centroids, float32 [k, d], to ``points`` [n, d]: greedy k-means++ seeds, then Lloyd.

    A cluster that loses all its points keeps its centroid. The result depends on the generator's state alone.
    ``spherical`` puts every centroid on the unit sphere after each step (Dhillon & Modha 2001): with points of unit
    length the nearest one is that of the highest cosine.

    Raises:
        UserError: there are fewer points than clusters.
    """
    expect(
        1 <= k <= len(points),
        expected=f"between 1 and {len(points)} clusters for {len(points)} points",
        got=k,
        remedy="ask for fewer clusters",
    )
    centroids = points[seed_centroids(points, k, rng)]
    labels = np.full(len(points), -1, dtype=np.int32)
    for _ in range(iterations):
        new = assign(points, centroids)
        if np.array_equal(new, labels):
            break
        labels = new
        centroids = average_clusters(points, labels, centroids)
        centroids = rescale(centroids, "l2") if spherical else centroids
    return centroids


def seed_centroids(points: Floats, k: int, rng: np.random.Generator) -> Rows:
    """Return ``k`` different rows of ``points`` float32 [n, d] to begin from, by greedy k-means++: int64 [k].

    Of 2 + ln k candidates, each drawn in proportion to its squared distance to the seeds before, the one that leaves
    the smallest sum of these becomes the next seed (Arthur & Vassilvitskii 2007, section 5.2). The single candidate of
    faiss is faster but leaves clusters less even.
    """
    norms = np.einsum("ij,ij->i", points, points)
    rows = np.empty(k, dtype=np.int64)
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    for number in range(k):
        candidates = _draw_candidates(nearest, rows[:number], 2 + int(np.log(k)), rng)
        squared = points[candidates] @ points.T
        squared *= -2
        squared += norms
        squared += norms[candidates, None]
        np.clip(squared, 0, nearest, out=squared)
        best = int(squared.sum(axis=1).argmin())
        rows[number], nearest = candidates[best], squared[best]
        nearest[candidates[best]] = 0
    return rows


def _draw_candidates(nearest: Floats, seeds: Rows, count: int, rng: np.random.Generator) -> Rows:
    """Rows to try as the next seed, by their squared distances to the ``seeds`` so far; the first one is any."""
    if not len(seeds):
        return rng.integers(len(nearest), size=1)
    reached = np.cumsum(nearest, dtype=np.float64)
    if reached[-1] > 0:
        marks = rng.random(count) * reached[-1]
        drawn: Rows = np.minimum(np.searchsorted(reached, marks, side="right"), len(nearest) - 1)
        return drawn
    # All others lie on a seed, as far as single precision tells.
    return rng.choice(np.setdiff1d(np.arange(len(nearest)), seeds), 1)


def average_clusters(points: Floats, labels: Labels, old: Floats) -> Floats:
    """Return the mean of every cluster's points, added in double precision; ``old`` where a cluster is empty.

    Args:
        points: float32 [n, d].
        labels: int32 [n], of k clusters.
        old: float32 [k, d].
    """
    sums = np.zeros(old.shape, dtype=np.float64)
    order = np.argsort(labels, kind="stable")
    for start in range(0, len(points), _ADDED):
        some = order[start : start + _ADDED]
        of = labels[some]  # ascending: a part holds a few clusters
        first, last = int(of[0]), int(of[-1]) + 1
        shape = (last - first, len(some))
        membership = sparse.csr_matrix((np.ones(len(some)), (of - first, np.arange(len(some)))), shape=shape)
        sums[first:last] += membership @ points[some].astype(np.float64)
    counts = np.bincount(labels, minlength=len(old))[:, None]
    return np.divide(sums, counts, out=old.astype(np.float64), where=counts > 0).astype(np.float32)

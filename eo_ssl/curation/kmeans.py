"""K-means in exact Euclidean distance: scikit-learn seeds, faiss searches, the update is ours.

faiss' own training loop moves empty clusters onto split ones and averages in single precision; Vo et al. (arXiv
2405.15613) keep the old centroid and add in double precision, and so do we.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from scipy import sparse
from sklearn.cluster import kmeans_plusplus

from eo_ssl.curation.embeddings import Floats, Labels, rescale
from eo_ssl.curation.mapped_rows import read_parts
from eo_ssl.errors import expect

ITERATIONS = 50
"Lloyd iterations of the reference (Vo et al.); the loop ends earlier once no label changes"
_CHUNK = 1 << 16
"rows added up at a time: bounds the double-precision copy of the points"


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


def assign(points: Floats, centroids: Floats) -> Labels:
    """Return the nearest of ``centroids`` float32 [k, d] for each of ``points`` [n, d]: int32 [n]."""
    labels = np.empty(len(points), dtype=np.int32)
    for part, values in read_parts(points):
        with use_faiss_threads():
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
    # Greedy seeding (Arthur & Vassilvitskii 2007) tries 2 + ln k candidates per seed; the single-candidate seeding of
    # faiss is faster but leaves clusters less even.
    centroids = np.asarray(kmeans_plusplus(points, k, random_state=int(rng.integers(2**31 - 1)))[0], dtype=np.float32)
    labels = np.full(len(points), -1, dtype=np.int32)
    for _ in range(iterations):
        new = assign(points, centroids)
        if np.array_equal(new, labels):
            break
        labels = new
        centroids = _average_clusters(points, labels, centroids)
        centroids = rescale(centroids, "l2") if spherical else centroids
    return centroids


def _average_clusters(points: Floats, labels: Labels, old: Floats) -> Floats:
    """Return the mean of every cluster's points, added in double precision; ``old`` where a cluster is empty."""
    k = len(old)
    sums = np.zeros(old.shape, dtype=np.float64)
    for start in range(0, len(points), _CHUNK):
        part = labels[start : start + _CHUNK]
        membership = sparse.csr_matrix((np.ones(len(part)), (part, np.arange(len(part)))), shape=(k, len(part)))
        sums += membership @ points[start : start + _CHUNK].astype(np.float64)
    counts = np.bincount(labels, minlength=k)[:, None]
    return np.divide(sums, counts, out=old.astype(np.float64), where=counts > 0).astype(np.float32)

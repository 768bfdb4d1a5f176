"""Rows like those of a target set: for every cluster of the target the most similar row left, round by round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from eo_ssl.curation.embeddings import Floats, Rows, Scaling, find_distinct_rows, rescale
from eo_ssl.curation.kmeans import fit_centroids, use_faiss_threads
from eo_ssl.curation.selectors import Candidates, Selector, SelectorResult
from eo_ssl.errors import expect

_CHUNK = 1 << 14
"rows compared with all centroids at a time"
_LEAST = 64
"rows that are looked up for each centroid at least before the candidates are read again"
_STOP = 0.95
"of the mean similarity of the first round: the paper stops there, and the notes say when it was reached"


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class SimCore(Selector):
    """Rows most like a target set, from all parts of it (Kim et al., CVPR 2023, arXiv 2303.11101).

    The target set becomes k-means centroids; in each round every centroid in turn takes its most similar row (cosine)
    that none has taken, until as many rows as wanted are there. So every part of the target set has about as many
    look-alikes, however large it is. The paper also stops where a round is less than 0.95 times as similar as the
    first; here the number of rows decides and a note says when that was.
    """

    name: ClassVar[str] = "simcore"
    needs_target: ClassVar[bool] = True

    clusters: int = 100
    "centroids of the target set (the paper's number); fewer where it has fewer different rows"
    scaling: Scaling = "auto"
    """scale of the embeddings before cosines are taken, of both sets by this one's mean: auto (what suits the encoder),
    l2, zscore, zscore_l2 or none"""

    def __post_init__(self) -> None:
        expect(
            self.clusters >= 1,
            expected="at least 1 cluster of the target set",
            got=self.clusters,
            remedy="the paper has 100",
        )

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick ``target`` rows."""
        assert candidates.towards is not None  # as asked for by `needs_target`
        goal = rescale(candidates.towards, "l2")
        goal = goal[find_distinct_rows(goal)]
        centroids = fit_centroids(goal, min(self.clusters, len(goal)), rng=rng, spherical=True)
        points = rescale(candidates.points, "l2")
        rows, cosine = take_most_similar(points, centroids, target)
        taken = np.zeros(len(points), dtype=bool)
        taken[rows] = True
        value = float(find_most_similar(points, centroids, taken, 1)[1].sum(dtype=np.float64))
        notes = (describe_rounds(cosine, len(centroids)), f"facility location {value:.6g} of at most {len(centroids)}")
        return SelectorResult(np.sort(rows), notes=notes)


def take_most_similar(points: Floats, centroids: Floats, count: int) -> tuple[Rows, Floats]:
    """Return ``count`` rows in the order taken: the centroids in turn, each the most similar row that is left.

    Args:
        points: float32 [n, d] of unit length, n at least ``count``.
        centroids: float32 [k, d] of unit length.
        count: rows wanted.

    Returns:
        int64 [count], the i-th taken by centroid i modulo k, and float32 [count], their cosines.
    """
    k = len(centroids)
    rows, cosine = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.float32)
    left, number = np.ones(len(points), dtype=bool), 0
    while number < count:
        # Twice what a centroid will take, since others take of the same; where that is used up all are looked up anew.
        most = max(_LEAST, 2 * -(-(count - number) // k))
        found, similarity = find_most_similar(points, centroids, left, most)
        place = np.zeros(k, dtype=np.int64)
        while number < count:
            centroid = number % k
            queue = found[centroid]
            while place[centroid] < len(queue) and not left[queue[place[centroid]]]:
                place[centroid] += 1
            if place[centroid] == len(queue):
                break
            rows[number] = queue[place[centroid]]
            cosine[number] = similarity[centroid, place[centroid]]
            left[rows[number]] = False
            number += 1
    return rows, cosine


def find_most_similar(points: Floats, centroids: Floats, among: NDArray[np.bool_], most: int) -> tuple[Rows, Floats]:
    """Return the ``most`` rows with the highest cosine to each centroid, or all there are, the highest first.

    Args:
        points: float32 [n, d] of unit length.
        centroids: float32 [k, d] of unit length.
        among: bool [n], the rows that are looked at, one or more.
        most: rows for each.

    Returns:
        int64 [k, m] and float32 [k, m].
    """
    rows = np.flatnonzero(among)
    heap = faiss.ResultHeap(len(centroids), min(most, len(rows)), keep_max=True)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        with use_faiss_threads():
            cosine, found = faiss.knn(
                centroids, points[part], min(heap.k, len(part)), metric=faiss.METRIC_INNER_PRODUCT
            )
        heap.add_result(cosine, part[found])
    heap.finalize()
    return heap.I, heap.D


def describe_rounds(cosine: Floats, k: int) -> str:
    """Return a sentence on how similar the rows are that ``k`` centroids took in turn: float32 [count]."""
    rounds = len(cosine) // k
    first, last = float(cosine[:k].mean()), float(cosine[-k:].mean())
    sentence = f"{k} centroids of the target set took rows of mean cosine {first:.3f} first and {last:.3f} last"
    means = cosine[: rounds * k].reshape(rounds, k).mean(axis=1)
    below = np.flatnonzero(means < _STOP * first)
    if first > 0 and len(below):
        sentence += f"; the paper stops at {below[0] * k} rows, where it falls below {_STOP} of the first"
    return sentence

"""Nearest neighbours of every row, or of some, among all rows or a sample of them, by parts."""

from __future__ import annotations

import faiss
import numpy as np

from eo_ssl.curation.embeddings import Floats, Rows, rescale
from eo_ssl.curation.kmeans import use_faiss_threads
from eo_ssl.curation.mapped_rows import Values, gather_rows, read_parts
from eo_ssl.errors import expect

_DIFFERENCES = 1 << 8
"rows whose differences from their neighbours are held at a time: they stay in the cache"


def find_nearest_others(points: Values, k: int, *, reference: Rows) -> tuple[Floats, Rows]:
    """Return the k nearest rows of ``reference`` other than itself of every row, and their Euclidean distances.

    Args:
        points: [n, d].
        k: neighbours of each.
        reference: int64 [m], the rows that are searched; they are held in memory.

    Returns:
        float32 [n, k], ascending, and int64 [n, k], rows of ``points``.

    Raises:
        UserError: there are not so many other rows.
    """
    expect(
        1 <= k < len(reference),
        expected=f"between 1 and {len(reference) - 1} neighbours of {len(reference)} rows",
        got=k,
        remedy="ask for fewer neighbours",
    )
    distance, found = np.empty((len(points), k), np.float32), np.empty((len(points), k), np.int64)
    searched = gather_rows(points, reference)
    for part, values in read_parts(points):
        with use_faiss_threads():
            places = faiss.knn(values, searched, k + 1)[1]
        own = reference[places] == np.arange(part.start, part.stop)[:, None]
        own[:, -1] |= ~own.any(axis=1)  # not in the reference, or behind its copies: the farthest is one too many
        places = places[~own].reshape(-1, k)
        found[part] = reference[places]
        # The search expands |x - y|^2, which rounds badly where it is small; the distances are therefore taken anew.
        for start in range(0, len(values), _DIFFERENCES):
            some = slice(start, start + _DIFFERENCES)
            apart = values[some, None] - searched[places[some]]
            distance[part][some] = np.linalg.norm(apart, axis=2)
    return distance, found


def find_nearest(
    queries: Floats, points: Values, k: int, *, rows: Rows | None = None, cosine: bool = False
) -> tuple[Floats, Rows]:
    """Return the k nearest of ``rows`` of ``points`` to each of ``queries``, best first.

    Args:
        queries: float32 [q, d].
        points: [n, d], of which no more than a part is held in memory.
        k: at most as many as ``rows``.
        rows: int64 [m], the rows that are searched; None: all.
        cosine: by the cosine, of ``queries`` of unit length, in place of the Euclidean distance.

    Returns:
        float32 [q, k], squared distances or cosines; int64 [q, k], places in ``rows``.
    """
    metric, sign = (faiss.METRIC_INNER_PRODUCT, -1) if cosine else (faiss.METRIC_L2, 1)
    best, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for part, values in read_parts(points, rows):
        with use_faiss_threads():
            unit = rescale(values, "l2") if cosine else values
            measured, places = faiss.knn(queries, unit, min(k, len(values)), metric)
        best, found = np.hstack([best, measured]), np.hstack([found, places + part.start])
        order = np.argsort(sign * best, axis=1, kind="stable")[:, :k]
        best, found = np.take_along_axis(best, order, axis=1), np.take_along_axis(found, order, axis=1)
    return best, found

"""Nearest neighbours of every row among all rows or a sample of them, by chunks."""

from __future__ import annotations

import faiss
import numpy as np

from eo_ssl.curation.embeddings import Floats, Rows
from eo_ssl.curation.kmeans import use_faiss_threads
from eo_ssl.errors import expect

_CHUNK = 1 << 14
"rows searched for at a time: bounds what the search holds"


def find_nearest_others(points: Floats, k: int, *, reference: Rows) -> tuple[Floats, Rows]:
    """Return the k nearest rows of ``reference`` other than itself of every row, and their Euclidean distances.

    Args:
        points: float32 [n, d].
        k: neighbours of each.
        reference: int64 [m], the rows that are searched.

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
    searched = np.ascontiguousarray(points[reference])
    for start in range(0, len(points), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(points)))
        with use_faiss_threads():
            hits = reference[faiss.knn(points[part], searched, k + 1)[1]]
        own = hits == np.arange(part.start, part.stop)[:, None]
        own[:, -1] |= ~own.any(axis=1)  # not in the reference, or behind its copies: the farthest is one too many
        found[part] = hits[~own].reshape(-1, k)
        # The search expands |x - y|^2, which rounds badly where it is small; the distances are therefore taken anew.
        distance[part] = np.linalg.norm(points[part, None] - points[found[part]], axis=2)
    return distance, found

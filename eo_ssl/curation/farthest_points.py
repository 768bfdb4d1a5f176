"""Farthest points: rows spread so that every other row is near to one of them (k-center)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eo_ssl.curation.embeddings import Floats, Rows, Scaling
from eo_ssl.curation.mapped_rows import read_parts
from eo_ssl.curation.selectors import Candidates, Selector, SelectorResult
from eo_ssl.errors import expect

_CHUNK_BYTES = 1 << 18
"of the differences held at a time, so that they stay in the cache"


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class KCenter(Selector):
    """Greedy k-center: the row farthest from all picked so far, again and again (Gonzalez 1985).

    From one random row the largest distance of any row to the nearest picked one, the radius, is at most twice the
    least that any choice of as many rows has; Sener and Savarese 2018 (arXiv 1708.00489) choose training sets so. Takes
    outliers first, and rows x picked rows distances in all.
    """

    name: ClassVar[str] = "k_center"

    start: int = 1
    "rows drawn uniformly that are picked before the farthest are looked for; more than 1 leave out what is proven"
    scaling: Scaling = "auto"
    "scale of the embeddings: auto (what suits the encoder), l2, zscore, zscore_l2 or none"

    def __post_init__(self) -> None:
        expect(self.start >= 1, expected="start of at least 1 row", got=self.start, remedy="1 is usual")

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick ``target`` rows; of equally far ones the lower."""
        first = rng.choice(len(candidates), min(self.start, target), replace=False).astype(np.int64)
        rows, radius = pick_farthest(candidates.points, first, target)
        return SelectorResult(np.sort(rows), notes=(f"no row is farther than {radius:.6g} from one that is kept",))


def pick_farthest(points: Floats, first: Rows, count: int) -> tuple[Rows, float]:
    """Return ``count`` rows of ``points`` float32 [n, d] in the order picked, those in ``first`` before others.

    Every further row is the one farthest (Euclidean) from all before it, of equally far ones the lower.

    Returns:
        int64 [count], and the distance of the farthest of all rows from them.
    """
    rows = np.empty(count, dtype=np.int64)
    squared = np.full(len(points), np.inf, dtype=np.float32)
    chunk = max(1, _CHUNK_BYTES // (4 * points.shape[1]))
    taken = np.zeros(len(points), dtype=bool)
    for number in range(count):
        # Among copies of picked rows all are equally far, 0: none may be picked twice.
        row = int(first[number]) if number < len(first) else int(np.where(taken, -1, squared).argmax())
        rows[number], taken[row] = row, True
        picked = np.array(points[row])
        for part, values in read_parts(points, size=chunk):
            apart = values - picked
            np.minimum(squared[part], np.einsum("ij,ij->i", apart, apart), out=squared[part])
    return rows, float(np.sqrt(squared.max()))

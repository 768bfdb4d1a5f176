"""Near-duplicates: rows that are almost the same as another one of their cluster go first (SemDeDup)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eo_ssl.curation.embeddings import Floats, Rows, Scaling, rescale
from eo_ssl.curation.hierarchy import Clusters, fit_clusters
from eo_ssl.curation.mapped_rows import gather_rows
from eo_ssl.curation.selectors import Candidates, Selector, SelectorResult
from eo_ssl.errors import expect

_BLOCK = 2048
"rows compared at a time: 2048 x 2048 similarities in single precision are 16 MB"
_DIGITS = 6
"of a similarity; single precision tells no more, and copies of one row must not differ by rounding"
_CLUSTER_ROWS = 1000
"rows of a cluster where no number of clusters is given: each row is then compared with about 1000 (ours)"


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class SemDedup(Selector):
    """Near-duplicates removed until as many rows as wanted stay (SemDeDup, Abbas et al. 2023, arXiv 2303.09540).

    In every spherical k-means cluster rows stand in order from the farthest from the centroid to the nearest; a row
    goes if its cosine similarity to an earlier one, kept or not, is above 1 - eps. Every eps is a cut through one
    number per row, the highest of these similarities, so that the eps that leaves exactly as many rows is read off in
    place of a search. Balances nothing else.
    """

    name: ClassVar[str] = "semdedup"

    clusters: int | None = None
    """number of clusters, within which rows are compared; None one per 1000 rows. The fewer, the more pairs are seen
    and the longer it takes"""
    fit_rows: int | None = 100_000
    "rows the clusters are fitted on at most, drawn uniformly; None: all"
    scaling: Scaling = "auto"
    "scale of the embeddings before cosines are taken: auto (what suits the encoder), l2, zscore, zscore_l2 or none"

    def __post_init__(self) -> None:
        expect(
            self.clusters is None or self.clusters >= 1,
            expected="at least 1 cluster",
            got=self.clusters,
            remedy="leave clusters out for one per 1000 rows",
        )

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick the ``target`` rows that repeat an earlier row of their cluster least; of equals the earlier ones."""
        points = rescale(candidates.points, "l2")
        levels = (self.clusters or max(1, len(points) // _CLUSTER_ROWS),)
        clusters, notes = fit_clusters(points, levels, fit_rows=self.fit_rows, rng=rng, spherical=True)
        similarity, place = measure_repetition(points, clusters)
        order = np.lexsort((place, similarity))
        limit = float(similarity[order[target - 1]])
        if np.isneginf(limit):
            notes = (*notes, f"{target} rows are fewer than the {int((place == 0).sum())} clusters, one of each")
        else:
            notes = (*notes, f"eps {1 - limit:.6f}: no row kept is more than {limit:.6f} similar to an earlier one")
        return SelectorResult(np.sort(order[:target]).astype(np.int64), None, clusters, notes)


def measure_repetition(points: Floats, clusters: Clusters) -> tuple[Floats, Rows]:
    """Return each row's highest cosine to an earlier row of its cluster, and its place among them.

    The row farthest from the centroid is the first; of equally far ones the lower row.

    Args:
        points: float32 [n, d] of unit length.
        clusters: of these rows.

    Returns:
        float32 [n], rounded to six digits, -inf for the first row of a cluster; and int64 [n] from 0.
    """
    order = np.lexsort((-clusters.distance, clusters.labels))
    sizes = clusters.sizes
    starts = np.cumsum(sizes) - sizes
    similarity, place = np.empty(len(points), np.float32), np.empty(len(points), np.int64)
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        members = order[start : start + size]
        place[members] = np.arange(size)
        for first in range(0, size, _BLOCK):
            own = gather_rows(points, members[first : first + _BLOCK])
            highest = np.full(len(own), -np.inf, dtype=np.float32)
            for before in range(0, first + 1, _BLOCK):
                cosine = own @ gather_rows(points, members[before : before + _BLOCK]).T
                if before == first:
                    cosine[~np.tri(len(own), k=-1, dtype=bool)] = -np.inf  # only rows that stand earlier
                highest = np.maximum(highest, cosine.max(axis=1))
            similarity[members[first : first + _BLOCK]] = np.round(highest, _DIGITS)
    return similarity, place

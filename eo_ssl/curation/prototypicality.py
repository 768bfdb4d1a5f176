"""Rows by how typical they are of their cluster: the hardest or the easiest, also after near-duplicates have left."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from eo_ssl.curation.embeddings import Scaling, rescale
from eo_ssl.curation.hierarchy import Clusters, fit_clusters
from eo_ssl.curation.kmeans import find_nearest_centroid
from eo_ssl.curation.near_duplicates import SemDedup
from eo_ssl.curation.selectors import Candidates, Form, Selector, SelectorResult
from eo_ssl.curation.weights import CAP
from eo_ssl.errors import expect


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Prototypes(Selector):
    """Rows by their cosine distance to the nearest k-means centroid (Sorscher et al. 2022, arXiv 2206.14486).

    The farther, the harder. The paper keeps the hard ones where data abound and the easy ones where they are scarce;
    it also guards the balance of known classes, which is left out here.
    """

    name: ClassVar[str] = "prototypes"

    clusters: int | None = None
    "number of clusters; None the square root of the number of rows"
    prefer: Literal["hard", "easy"] = "hard"
    "rows far from the nearest centroid, or near to it"
    form: Form = "rows"
    "the hardest (easiest) rows, or weights exp(beta z) of all rows by their standardised distance"
    cap: float = CAP
    "largest weight, in times the mean"
    fit_rows: int | None = 100_000
    "rows the clusters are fitted on at most, drawn uniformly; None: all"
    scaling: Scaling = "auto"
    "scale of the embeddings before cosines are taken: auto (what suits the encoder), l2, zscore, zscore_l2 or none"

    def __post_init__(self) -> None:
        expect(
            self.clusters is None or self.clusters >= 1,
            expected="at least 1 cluster",
            got=self.clusters,
            remedy="leave clusters out for the square root of the number of rows",
        )

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick the ``target`` hardest or easiest rows, of equals at random, or weigh all of them."""
        points = rescale(candidates.points, "l2")
        levels = (self.clusters or math.isqrt(len(points)),)
        clusters, notes = fit_clusters(points, levels, fit_rows=self.fit_rows, rng=rng, spherical=True)
        difficulty = np.square(clusters.distance, dtype=np.float64) / 2  # of unit vectors: 1 - cosine
        scores = difficulty if self.prefer == "hard" else -difficulty
        return SelectorResult.of_scores(scores, target, self.form, rng, cap=self.cap, notes=notes, clusters=clusters)


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class D4(Selector):
    """Near-duplicates removed, the rest clustered anew and its most prototypical rows removed (Tirumala et al. 2023).

    arXiv 2308.12284: `SemDedup` to a share of the rows, then `Prototypes` of those that are left, the hard ones kept.
    """

    name: ClassVar[str] = "d4"

    unrepeated: float = 0.75
    "share of the rows that stays after near-duplicates are gone (the paper's R_dedup)"
    duplicate_clusters: int | None = None
    "number of clusters within which rows are compared; None one per 1000 rows"
    clusters: int | None = None
    "number of clusters of the rest; None the square root of its number of rows"
    form: Form = "rows"
    "the hardest rows of the rest, or weights of all of the rest by their standardised distance"
    cap: float = CAP
    "largest weight, in times the mean"
    fit_rows: int | None = 100_000
    "rows clusters are fitted on at most, drawn uniformly; None: all"
    scaling: Scaling = "auto"
    "scale of the embeddings before cosines are taken: auto (what suits the encoder), l2, zscore, zscore_l2 or none"

    def __post_init__(self) -> None:
        expect(
            0 < self.unrepeated <= 1,
            expected="unrepeated to be a share in (0, 1]",
            got=self.unrepeated,
            remedy="0.75 is the paper's",
        )

    @property
    def steps(self) -> tuple[SemDedup, Prototypes]:
        """The two selectors that it runs, one after the other."""
        dedup = SemDedup(self.duplicate_clusters, self.fit_rows, self.scaling)
        return dedup, Prototypes(self.clusters, "hard", self.form, self.cap, self.fit_rows, self.scaling)

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick ``target`` rows, or weigh the rest so that as many are effective; its clusters hold all rows."""
        dedup, prototypes = self.steps
        rest = dedup.pick(candidates, max(target, round(self.unrepeated * len(candidates))), rng)
        found = prototypes.pick(candidates.take(rest.rows), target, rng)
        assert found.clusters is not None  # of the rest alone
        hierarchy = found.clusters.hierarchy
        places = find_nearest_centroid(rescale(candidates.points, "l2"), hierarchy.centroids[0])
        notes = (*rest.notes, f"{len(rest.rows)} of {len(candidates)} rows are left without near-duplicates")
        return replace(
            found, rows=rest.rows[found.rows], clusters=Clusters(hierarchy, *places), notes=(*notes, *found.notes)
        )

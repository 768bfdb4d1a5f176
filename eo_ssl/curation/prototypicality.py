"""Rows by how typical they are of their cluster: the hardest or the easiest, and those after near-duplicates are gone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from eo_ssl.curation.embeddings import Scaling, rescale
from eo_ssl.curation.hierarchy import fit_clusters
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
    scaling: Scaling = "l2"
    "scale of the embeddings before cosines are taken: l2, zscore or none"

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

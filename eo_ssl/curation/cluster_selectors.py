"""Selectors that balance clusters: hierarchical k-means with water-filling, and tempered cluster sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eo_ssl.curation.balanced_sampling import allocate, allocate_evenly, draw, fill_evenly
from eo_ssl.curation.embeddings import Floats, Scaling
from eo_ssl.curation.hierarchy import Clusters, Resample, Resampling, fit_clusters
from eo_ssl.curation.kmeans import ITERATIONS
from eo_ssl.curation.selectors import Candidates, Form, Selector, SelectorResult
from eo_ssl.curation.weights import CAP, Doubles, flatten_sizes, weigh_to_effective
from eo_ssl.errors import UserError, expect

_SMALLEST_SHARE = 40.0
"logarithm of how many times fewer than all points are shared where the tree is fully balanced"


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Hierarchical(Selector):
    """Hierarchical k-means with resampling, then balanced sampling down the tree (Vo et al. 2024, arXiv 2405.15613).

    With one level and no resampling it is flat k-means with balanced sampling.
    """

    name: ClassVar[str] = "hierarchical"

    levels: tuple[int, ...] | None = None
    "clusters per level, finest first, strictly decreasing; None plans them from the number of rows"
    n_resample: int = 10
    "resampling rounds per level (reference: 10)"
    sample_sizes: tuple[int, ...] | None = None
    "rows per cluster in a resampling round, per level; None: half the mean cluster size"
    resample: Resample = "closest"
    "which rows a resampling round takes of a cluster"
    eta: float = 0.0
    "rows drawn within a cluster: 0 uniform, below 0 prototypes, above 0 the unusual, -inf closest, inf farthest"
    form: Form = "rows"
    "rows picked, or weights of all rows: the share of the clusters without leaving any row out (eta does not count)"
    cap: float = CAP
    "largest weight, in times the mean"
    fit_rows: int | None = 100_000
    """rows the clusters are fitted on at most, drawn uniformly, to bound the cost; None: all. Every row is placed and
    may be drawn. Those fitted on are held in memory"""
    scaling: Scaling = "auto"
    "scale of the embeddings: auto (what suits the encoder), l2, zscore, zscore_l2 or none"
    iterations: int = ITERATIONS
    "Lloyd iterations"

    def __post_init__(self) -> None:
        if self.levels is not None and (
            not self.levels
            or self.levels[-1] < 1
            or any(a <= b for a, b in zip(self.levels, self.levels[1:], strict=False))
        ):
            raise UserError(
                f"expected strictly decreasing levels of at least 1, such as 200,20, got {list(self.levels)}; give "
                "the finest level first"
            )
        if self.sample_sizes is not None and (not self.sample_sizes or min(self.sample_sizes) < 1):
            raise UserError(
                f"expected sample_sizes of at least 1, got {list(self.sample_sizes)}; leave them out for half the "
                "mean cluster size"
            )
        expect(
            self.n_resample >= 0 and self.iterations >= 1,
            expected="n_resample >= 0 and iterations >= 1",
            got=f"{self.n_resample} and {self.iterations}",
            remedy="0 switches resampling off",
        )
        if self.fit_rows is not None and self.fit_rows < 1:
            raise UserError(f"expected fit_rows >= 1, got {self.fit_rows}; leave it out to fit on all rows")
        expect(
            not math.isnan(self.eta),
            expected="a number for eta",
            got="NaN",
            remedy="0 draws uniformly within a cluster",
        )

    def cluster(self, points: Floats, rng: np.random.Generator) -> tuple[Clusters, tuple[str, ...]]:
        """Fit the tree on (a sample of) ``points`` float32 [n, d], place all, and say what had to be changed."""
        return fit_clusters(
            points,
            self.levels,
            fit_rows=self.fit_rows,
            resampling=Resampling(self.n_resample, self.sample_sizes, self.resample),
            rng=rng,
            iterations=self.iterations,
        )

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick ``target`` rows spread evenly over the tree, or weigh the rows of each cluster by its even share."""
        clusters, notes = self.cluster(candidates.points, rng)
        if self.form == "rows":
            share = partial(allocate_evenly, rng=rng)
            counts = allocate(clusters.hierarchy, clusters.sizes, target, share=share)
            rows = draw(clusters.labels, clusters.distance, counts, eta=self.eta, rng=rng)
            return SelectorResult(rows, None, clusters, notes)
        held = np.flatnonzero(clusters.sizes)
        sizes = clusters.sizes.astype(np.float64)

        def log_weigh(steepness: float) -> Doubles:
            """Of the shares of ever fewer points: the smaller their number, the more clusters have enough of them."""
            wanted = len(candidates) * np.exp(-steepness)
            shares = allocate(clusters.hierarchy, sizes, wanted, share=fill_evenly)
            logarithms: Doubles = np.log(shares[held] / sizes[held] / wanted)
            return logarithms

        weights = weigh_to_effective(
            log_weigh, target, steepest=_SMALLEST_SHARE, cap=self.cap, sizes=clusters.sizes[held]
        )
        of_rows = spread_over_rows(weights, held, clusters)
        return SelectorResult.of_weights(of_rows, target, self.form, rng, notes=notes, clusters=clusters)


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Tempered(Selector):
    """Clusters drawn from by a power of their size, n^alpha with 0 <= alpha <= 1, which keeps their order.

    alpha = 1 is the corpus as it is, 0 draws from all clusters alike; it is found so that as many rows as wanted are
    effective. Flattening by a power instead of by water-filling: DynamiCS (arXiv 2604.27932) finds it better to keep
    the order of sizes.
    """

    name: ClassVar[str] = "tempered"

    clusters: int | None = None
    "number of clusters; None a twentieth of the rows, at most 1000"
    form: Form = "weights"
    "weights of all rows, or rows drawn by them"
    cap: float = CAP
    "largest weight, in times the mean"
    fit_rows: int | None = 100_000
    "rows the clusters are fitted on at most, drawn uniformly; None: all"
    scaling: Scaling = "auto"
    "scale of the embeddings: auto (what suits the encoder), l2, zscore, zscore_l2 or none"

    def __post_init__(self) -> None:
        expect(
            self.clusters is None or self.clusters >= 1,
            expected="at least 1 cluster",
            got=self.clusters,
            remedy="leave clusters out for a twentieth of the rows",
        )

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Weigh the rows of each cluster by a power of its size, or draw ``target`` rows by these weights."""
        levels = None if self.clusters is None else (self.clusters,)
        clusters, notes = fit_clusters(candidates.points, levels, fit_rows=self.fit_rows, rng=rng)
        held = np.flatnonzero(clusters.sizes)
        weights = flatten_sizes(clusters.sizes[held], target, cap=self.cap)
        of_rows = spread_over_rows(weights, held, clusters)
        return SelectorResult.of_weights(of_rows, target, self.form, rng, notes=notes, clusters=clusters)


def spread_over_rows(weights: Doubles, held: NDArray[np.intp], clusters: Clusters) -> Doubles:
    """Return the weight of each row, float64 [n], from that of each cluster that is ``held`` by one, [m]."""
    of_cluster = np.zeros(len(clusters.sizes))
    of_cluster[held] = weights
    return of_cluster[clusters.labels]

"""The selectors: frozen configurations that pick rows of a matrix of embeddings. Any of them fits any schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from eo_ssl.curation.balanced_sampling import allocate, draw
from eo_ssl.curation.embeddings import Floats, Labels, Rows, Scaling, derive_generator, find_distinct_rows
from eo_ssl.curation.hierarchy import Hierarchy, Resample, Resampling, fit_hierarchy, plan_levels
from eo_ssl.curation.kmeans import ITERATIONS, find_nearest_centroid
from eo_ssl.curation.report import to_plain
from eo_ssl.errors import UserError, expect


@dataclass(frozen=True, slots=True)
class Clusters:
    """The place of every row in the tree of clusters."""

    hierarchy: Hierarchy
    labels: Labels
    "level-1 cluster per row: int32 [n]"
    distance: Floats
    "Euclidean distance to its centroid: float32 [n]"

    @property
    def sizes(self) -> Rows:
        """Rows per level-1 cluster: int64 [k_1]."""
        return np.bincount(self.labels, minlength=self.hierarchy.levels[0]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class SelectorResult:
    """The rows that a selector picked and, if it clustered, its clusters."""

    rows: Rows
    "the rows picked, sorted"
    clusters: Clusters | None
    notes: tuple[str, ...] = ()


class Selector(ABC):
    """Picks ``target`` of the given rows; a frozen dataclass of plain values, chosen by its class name (`--method`)."""

    name: ClassVar[str]
    "in reports and manifests"
    scaling: Scaling
    "the scale on which it wants its points"

    @property
    def parameters(self) -> dict[str, Any]:
        """Its fields as plain values that JSON can hold."""
        plain: dict[str, Any] = to_plain(asdict(self))  # type: ignore[call-overload]
        return plain

    @abstractmethod
    def pick(self, points: Floats, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick ``target`` (between 1 and n) rows of finite, rescaled ``points`` float32 [n, d]."""


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Random(Selector):
    """Uniform draw without replacement: the baseline every selector has to beat."""

    name: ClassVar[str] = "random"

    scaling: Scaling = "l2"
    "scale of the clusters of the report"
    clusters: int | None = None
    "clusters to describe the result with (never to select): None a twentieth of the rows, 0 none"

    def __post_init__(self) -> None:
        if self.clusters is not None and self.clusters < 0:
            raise UserError(f"expected clusters >= 0, got {self.clusters}; 0 switches the description off")

    def pick(self, points: Floats, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick ``target`` rows of ``points`` float32 [n, d] uniformly."""
        rows = np.sort(rng.choice(len(points), target, replace=False)).astype(np.int64)
        if self.clusters == 0:
            return SelectorResult(rows, None)
        flat = Hierarchical(
            levels=None if self.clusters is None else (self.clusters,), n_resample=0, scaling=self.scaling
        )
        clusters, notes = flat.cluster(points, derive_generator(rng))
        return SelectorResult(rows, clusters, notes)


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
    "draw within a cluster: 0 uniform, below 0 prototypes, above 0 the unusual, -inf closest, inf farthest"
    fit_rows: int | None = 100_000
    """rows the clusters are fitted on at most, drawn uniformly, to bound the cost; None: all. Every row is placed and
    may be drawn"""
    scaling: Scaling = "l2"
    "scale of the embeddings: l2, zscore or none"
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
        sample = points
        if self.fit_rows is not None and self.fit_rows < len(points):
            sample = points[np.sort(rng.choice(len(points), self.fit_rows, replace=False))]
        sample = sample[find_distinct_rows(sample)]  # identical rows would give coinciding centroids
        levels, notes = plan_levels(self.levels, len(sample))
        resampling = Resampling(self.n_resample, self.sample_sizes, self.resample)
        hierarchy = fit_hierarchy(sample, levels, resampling=resampling, rng=rng, iterations=self.iterations)
        return Clusters(hierarchy, *find_nearest_centroid(points, hierarchy.centroids[0])), notes

    def pick(self, points: Floats, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick ``target`` rows of ``points`` float32 [n, d], spread evenly over the tree."""
        clusters, notes = self.cluster(points, rng)
        counts = allocate(clusters.hierarchy, clusters.sizes, target, rng=rng)
        return SelectorResult(draw(clusters.labels, clusters.distance, counts, eta=self.eta, rng=rng), clusters, notes)

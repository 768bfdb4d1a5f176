"""The maker of curation reports: balance and diversity before, after and by chance, and example rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from eo_ssl.curation.dedup import Identities, Repeats
from eo_ssl.curation.diversity import (
    compute_gini,
    compute_normalised_entropy,
    compute_vendi_score,
    measure_coverage,
    measure_neighbour_distance,
    measure_neighbourhood_radius,
    measure_turnover,
)
from eo_ssl.curation.embeddings import Floats, Labels, Rows, Scale, derive_generator
from eo_ssl.curation.nuisances import measure_information, tell_nuisances
from eo_ssl.curation.projection import Projection, project_rows
from eo_ssl.curation.report import Balance, Cost, CurationReport, Examples
from eo_ssl.curation.selectors import Selector, SelectorResult
from eo_ssl.curation.weights import draw_without_replacement
from eo_ssl.errors import expect

KEPT, DUPLICATE, SAME_ACQUISITION, NOT_DRAWN = "kept", "duplicate", "same acquisition", "not drawn"
_EXAMPLE_CLUSTERS = 24
_EXAMPLE_ROWS = 8


@dataclass(frozen=True, slots=True)
class Context:
    """Facts about the rows beside their embeddings; everything may be absent."""

    identities: Identities | None = None
    "what makes two rows exact duplicates (pixels_sha256), one per row; absent: no filter"
    looks: tuple[Floats, Floats] | None = None
    "features of two augmented looks at some of the rows, each float32 [m, d], for the readiness gate"
    nuisances: pa.Table | None = None
    "what rows share beside content, such as product, month and brightness: a diagnosis, never used to select"
    repeats: Repeats | None = None
    "rows that show again what another one shows, of first copies alone (`find_repeats`); absent: no filter"
    labels: ArrayLike | None = None
    "classes int [n], -1 unknown: diagnosis only, never used to select"
    columns: pa.Table | None = None
    "columns of the index that a selector may ask for, one value per row"
    spread: Floats | None = None
    "logarithm of the distance between augmented views of each row, less its mean: float32 [n]"
    towards: ArrayLike | None = None
    "embeddings of a target set by the same encoder, float [m, d], for selectors towards one"
    previous: Rows | None = None
    "the previous pool, for the turnover"
    previous_weights: Floats | None = None
    "its weights; None for equal ones"
    scaling: Scale = "l2"
    "the scale that suits the embeddings, for selectors that leave theirs open; see `choose_scaling`"
    forward_passes: int | None = None
    "passes of the encoder that the embeddings cost; None for one each"
    corpus_fingerprint: str = ""
    encoder_fingerprint: str = ""
    notes: tuple[str, ...] = ()
    "what else the report is to say of the rows"

    def read(self, names: Sequence[str], rows: Rows) -> tuple[pa.Table | None, Floats | None]:
        """Return the columns called ``names`` and the spread of ``rows``, for a selector."""
        columns = None if self.columns is None or not names else self.columns.select(list(names)).take(pa.array(rows))
        return columns, None if self.spread is None else self.spread[rows]


@dataclass(frozen=True, slots=True)
class ReportBuilder:
    """Measures a selection and writes its report."""

    points: Floats
    "different rows on the scale that was clustered: float32 [m, d], in memory or mapped to a file"
    group: Rows
    "which of them each row is: int64 [n]"
    method: Selector
    context: Context
    kept: Rows
    reason: NDArray[np.str_]
    cluster: Labels
    distance: Floats
    result: SelectorResult

    def build(
        self, rng: np.random.Generator, *, seed: int | None, select_s: float
    ) -> tuple[CurationReport, Projection]:
        """Return the report and a map of the rows; ``rng`` draws what is measured, compared with and placed."""
        started = time.perf_counter()
        radius = measure_neighbourhood_radius(self.points, self.group, rng=derive_generator(rng))
        size = max(1, round(self.result.effective_rows))
        chance = np.sort(rng.choice(len(self.group), size, replace=False))
        drawn = self.kept
        if self.result.weights is not None:
            drawn = self.kept[draw_without_replacement(self.result.weights, size, derive_generator(rng))]
        everyone = np.arange(len(self.group), dtype=np.int64)
        # The same child for the three sets: equal rows must give equal figures.
        state = rng.bit_generator.state
        figures = []
        for rows in (everyone, drawn, chance):
            rng.bit_generator.state = state
            figures.append(self._measure_balance(rows, radius, derive_generator(rng)))
        if self.result.weights is not None:
            figures[1] = self._weigh_balance(figures[1])
        clusters, information = self.result.clusters, self._measure_information(derive_generator(rng))
        projection = project_rows(self.points, self.group, derive_generator(rng))
        report = CurationReport(
            method=self.method.name,
            parameters=self.method.parameters,
            seed=seed,
            n_rows=len(self.group),
            n_kept=len(self.kept),
            effective_rows=self.result.effective_rows,
            reasons={why: int((self.reason == why).sum()) for why in self._list_reasons()},
            cluster_rows=self._count_rows(everyone),
            cluster_kept=self._count_kept(),
            cluster_chance=self._count_rows(chance),
            cluster_duplicates=self._count_rows(np.flatnonzero(np.isin(self.reason, (DUPLICATE, SAME_ACQUISITION)))),
            cluster_parents=()
            if clusters is None
            else tuple(tuple(path) for path in clusters.hierarchy.paths()[:, 1:].tolist()),
            before=figures[0],
            after=figures[1],
            chance=figures[2],
            radius=radius,
            turnover=None if self.context.previous is None else self._measure_turnover(self.context.previous),
            cost=Cost(round(select_s, 4), round(time.perf_counter() - started, 4), self._count_passes()),
            corpus_fingerprint=self.context.corpus_fingerprint,
            encoder_fingerprint=self.context.encoder_fingerprint,
            examples=self._choose_examples(),
            notes=(*self._list_notes(), *tell_nuisances(information)),
            information=information,
            projected_variance=projection.variance,
        )
        return report, projection

    def _list_reasons(self) -> tuple[str, ...]:
        """Reasons for which a row may have gone; there are no repeats where nobody looked for them."""
        return (DUPLICATE, *(() if self.context.repeats is None else (SAME_ACQUISITION,)), NOT_DRAWN)

    def _count_rows(self, rows: Rows) -> tuple[int, ...]:
        if self.result.clusters is None:
            return ()
        return tuple(np.bincount(self.cluster[rows], minlength=self.result.clusters.hierarchy.levels[0]).tolist())

    def _measure_information(self, rng: np.random.Generator) -> dict[str, float]:
        if self.result.clusters is None or self.context.nuisances is None:
            return {}
        return measure_information(self.cluster, self.context.nuisances, rng=rng)

    def _list_notes(self) -> tuple[str, ...]:
        repeats = self.context.repeats
        return (*self.context.notes, *(() if repeats is None else repeats.notes), *self.result.notes)

    def _count_passes(self) -> int:
        return len(self.group) if self.context.forward_passes is None else self.context.forward_passes

    def _measure_turnover(self, previous: Rows) -> float:
        return measure_turnover(previous, self.kept, weights=(self.context.previous_weights, self.result.weights))

    def _count_kept(self) -> tuple[int, ...]:
        """Rows kept per level-1 cluster, or where they are weighed how many draws of as many fall on it."""
        if self.result.weights is None or self.result.clusters is None:
            return self._count_rows(self.kept)
        mass = np.bincount(self.cluster[self.kept], self.result.weights, self.result.clusters.hierarchy.levels[0])
        return tuple(np.diff(np.rint(np.cumsum(mass)).astype(np.int64), prepend=0).tolist())

    def _weigh_balance(self, drawn: Balance) -> Balance:
        """Return the figures of rows ``drawn`` by weights, with what the weights say of clusters and labels."""
        labelled = replace(drawn, label_entropy=self._measure_label_entropy(self.kept, self.result.weights))
        if self.result.clusters is None:
            return labelled
        mass = np.asarray(self._count_kept(), dtype=np.int64)
        return replace(
            labelled,
            cluster_entropy=compute_normalised_entropy(mass),
            cluster_gini=compute_gini(mass),
            top_entropy=compute_normalised_entropy(self._count_top(mass)),
        )

    def _measure_balance(self, rows: Rows, radius: float, rng: np.random.Generator) -> Balance:
        places = self.group[rows]
        counts = None if self.result.clusters is None else np.asarray(self._count_rows(rows), dtype=np.int64)
        return Balance(
            rows=len(rows),
            cluster_entropy=None if counts is None else compute_normalised_entropy(counts),
            cluster_gini=None if counts is None else compute_gini(counts),
            occupied_clusters=None if counts is None else int((counts > 0).sum()),
            neighbour_distance=measure_neighbour_distance(self.points, places, rng=rng),
            vendi=compute_vendi_score(self.points, places, rng=rng),
            coverage=measure_coverage(self.points, places, self.group, radius=radius, rng=rng),
            label_entropy=self._measure_label_entropy(rows),
            top_entropy=None if counts is None else compute_normalised_entropy(self._count_top(counts)),
        )

    def _count_top(self, counts: Rows) -> Rows:
        if self.result.clusters is None:
            return counts
        hierarchy = self.result.clusters.hierarchy
        top = np.zeros(hierarchy.levels[-1], dtype=np.int64)
        np.add.at(top, hierarchy.paths()[:, -1], counts)
        return top

    def _measure_label_entropy(self, rows: Rows, weights: Floats | None = None) -> float | None:
        if self.context.labels is None:
            return None
        labels = np.asarray(self.context.labels)
        expect(
            len(labels) == len(self.group),
            expected=f"a label for each of {len(self.group)} rows",
            got=len(labels),
            remedy="take both from the same index",
        )
        classes, code = np.unique(labels[labels >= 0], return_inverse=True)
        if not len(classes):
            return None
        full = np.full(len(labels), -1, dtype=np.int64)
        full[labels >= 0] = code
        known = full[rows] >= 0
        mass = np.bincount(full[rows][known], None if weights is None else weights[known], len(classes))
        return compute_normalised_entropy(mass)

    def _choose_examples(self) -> tuple[Examples, ...]:
        """Return rows of the largest clusters, evenly spaced from the centre to the rim."""
        total = np.asarray(self._count_rows(np.arange(len(self.group), dtype=np.int64)), dtype=np.int64)
        shown = []
        for cluster in np.argsort(-total, kind="stable")[:_EXAMPLE_CLUSTERS].tolist():
            members = np.flatnonzero(self.cluster == cluster)
            members = members[np.argsort(self.distance[members], kind="stable")]
            kept = self.reason[members] == KEPT
            shown.append(Examples(cluster, _space_evenly(members[kept]), _space_evenly(members[~kept])))
        return tuple(shown)


def _space_evenly(rows: NDArray[np.intp]) -> tuple[int, ...]:
    if not len(rows):
        return ()
    places = np.linspace(0, len(rows) - 1, min(len(rows), _EXAMPLE_ROWS)).round().astype(np.int64)
    return tuple(rows[np.unique(places)].tolist())

"""One call for every selector: check, remove exact duplicates, pick, and account for what was done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from eo_ssl.curation.dedup import first_copies
from eo_ssl.curation.embeddings import Floats, Labels, Rows, check_embeddings, child, rescale
from eo_ssl.curation.metrics import (
    coverage,
    gini,
    neighbour_distance,
    neighbourhood_radius,
    normalized_entropy,
    turnover,
    vendi_score,
)
from eo_ssl.curation.report import Balance, Cost, CurationReport, Examples, to_plain
from eo_ssl.curation.selectors import Hierarchical, Pick, Selector
from eo_ssl.errors import UserError

KEPT, DUPLICATE, NOT_DRAWN = "kept", "duplicate", "not drawn"
_EXAMPLE_CLUSTERS = 24
_EXAMPLE_ROWS = 8


@dataclass(frozen=True, slots=True)
class Context:
    """What is known about the rows beside their embeddings; everything may be absent."""

    identities: Sequence[Any] | NDArray[Any] | pa.Array | pa.ChunkedArray | None = None
    "what makes two rows exact duplicates (pixels_sha256), one per row; absent: no filter"
    labels: ArrayLike | None = None
    "classes int [n], -1 unknown: diagnosis only, never used to select"
    previous: Rows | None = None
    "the previous pool, for the turnover"
    corpus_fingerprint: str = ""
    encoder_fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """The fate of every row."""

    rows: Rows
    "the rows kept: int64, sorted"
    reason: NDArray[np.str_]
    "per row: kept, duplicate or not drawn"
    cluster: Labels
    "level-1 cluster per row, int32 (a duplicate stands in the cluster of its first copy); -1 when nothing was clustered"
    distance: Floats
    "Euclidean distance to the centroid of that cluster, float32; NaN when nothing was clustered"
    centroids: Floats | None
    "level-1 centroids: float32 [k_1, d]"
    report: CurationReport


def select(
    embeddings: ArrayLike,
    keep: float,
    rng: np.random.Generator,
    *,
    method: Selector | None = None,
    context: Context | None = None,
) -> tuple[Rows, CurationReport]:
    """Choose which rows of ``embeddings`` float [n, d] to keep; return them, int64 sorted, and the report.

    Args:
        embeddings: One vector per row, finite.
        keep: Up to 1 a fraction of n, above 1 a number of rows. At most as many as there are different rows; 1 keeps every row (without
            ``context.identities``) or every different row (with them), in order.
        rng: The only source of randomness.
        method: The selector; hierarchical k-means when absent.
        context: Identities for the duplicate filter in front of the selector, labels and fingerprints for the report.

    Raises:
        UserError: NaN or infinite embeddings, a keep of no row or of more rows than there are, columns of different length.
    """
    selection = curate(embeddings, keep, rng, method=method, context=context)
    return selection.rows, selection.report


def curate(
    embeddings: ArrayLike,
    keep: float,
    rng: np.random.Generator,
    *,
    method: Selector | None = None,
    context: Context | None = None,
) -> Selection:
    """Do what ``select`` does and return the fate of every row beside the report."""
    method, context = method or Hierarchical(), context or Context()
    seed = _seed_of(rng)
    raw = check_embeddings(embeddings)
    started = time.perf_counter()
    first, group = _different_rows(context.identities, len(raw))
    target = min(resolve_keep(keep, len(raw)), len(first))
    measure_rng = child(rng)  # drawn first: what is measured must not change what is picked
    points = rescale(raw[first], method.scaling)
    everything = Pick(np.arange(len(first), dtype=np.int64), None)
    pick = method.pick(points, target, rng) if target < len(first) else everything
    select_s = time.perf_counter() - started

    reason = np.full(len(raw), DUPLICATE, dtype="U9")
    reason[first] = NOT_DRAWN
    reason[first[pick.rows]] = KEPT
    cluster = np.full(len(raw), -1, dtype=np.int32) if pick.clusters is None else pick.clusters.labels[group]
    distance = np.full(len(raw), np.nan, dtype=np.float32) if pick.clusters is None else pick.clusters.distance[group]
    account = _Account(points[group], method, context, first[pick.rows], reason, cluster, distance, pick)
    centroids = None if pick.clusters is None else pick.clusters.hierarchy.centroids[0]
    report = account.report(measure_rng, seed=seed, select_s=select_s)
    return Selection(first[pick.rows], reason, cluster, distance, centroids, report)


def resolve_keep(keep: float, n: int) -> int:
    """Return how many of ``n`` rows ``keep`` means: up to 1 a fraction (rounded, at least one row), above 1 a number of rows.

    Raises:
        UserError: not positive, not a whole number above 1, or more than ``n``.
    """
    if not keep > 0:
        raise UserError(f"expected keep to be a fraction in (0, 1] or a number of rows, got {keep}; 0.5 keeps half")
    if keep <= 1:
        return max(1, round(keep * n))
    if keep != int(keep) or keep > n:
        raise UserError(
            f"expected keep to be a fraction in (0, 1] or a whole number of at most {n} rows, got {keep}; 1 keeps all"
        )
    return int(keep)


def selection_table(selection: Selection, ids: Rows | None = None) -> pa.Table:
    """Return one line per row: row int64 (``ids`` if given), cluster int32, distance float32, kept bool, reason string."""
    rows = np.arange(len(selection.reason), dtype=np.int64) if ids is None else ids
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "cluster": pa.array(selection.cluster, pa.int32()),
            "distance": pa.array(selection.distance, pa.float32()),
            "kept": pa.array(selection.reason == KEPT),
            "reason": pa.array(selection.reason, pa.string()),
        }
    )


def _different_rows(identities: Any, n: int) -> tuple[Rows, Rows]:
    if identities is None:
        return np.arange(n, dtype=np.int64), np.arange(n, dtype=np.int64)
    if len(identities) != n:
        raise UserError(
            f"expected an identity for each of {n} rows, got {len(identities)}; take both from the same index"
        )
    return first_copies(identities)


def _seed_of(rng: np.random.Generator) -> int | None:
    entropy = getattr(rng.bit_generator.seed_seq, "entropy", None)
    return entropy if isinstance(entropy, int) else None


@dataclass(frozen=True, slots=True)
class _Account:
    """Everything the report is made of."""

    points: Floats
    method: Selector
    context: Context
    kept: Rows
    reason: NDArray[np.str_]
    cluster: Labels
    distance: Floats
    pick: Pick

    def report(self, rng: np.random.Generator, *, seed: int | None, select_s: float) -> CurationReport:
        started = time.perf_counter()
        radius = neighbourhood_radius(self.points, rng=child(rng))
        chance = np.sort(rng.choice(len(self.points), len(self.kept), replace=False))
        everyone = np.arange(len(self.points), dtype=np.int64)
        # The same child for the three sets: equal rows must give equal figures.
        state = rng.bit_generator.state
        figures = []
        for rows in (everyone, self.kept, chance):
            rng.bit_generator.state = state
            figures.append(self._balance(rows, radius, child(rng)))
        clusters = self.pick.clusters
        return CurationReport(
            method=self.method.name,
            parameters=to_plain(asdict(self.method)) if is_dataclass(self.method) else {},
            seed=seed,
            n_rows=len(self.points),
            n_kept=len(self.kept),
            reasons={why: int((self.reason == why).sum()) for why in (DUPLICATE, NOT_DRAWN)},
            cluster_rows=self._counts(everyone),
            cluster_kept=self._counts(self.kept),
            cluster_duplicates=self._counts(np.flatnonzero(self.reason == DUPLICATE)),
            cluster_parents=()
            if clusters is None
            else tuple(tuple(path) for path in clusters.hierarchy.paths()[:, 1:].tolist()),
            before=figures[0],
            after=figures[1],
            chance=figures[2],
            radius=radius,
            turnover=None if self.context.previous is None else turnover(self.context.previous, self.kept),
            cost=Cost(round(select_s, 4), round(time.perf_counter() - started, 4), len(self.points)),
            corpus_fingerprint=self.context.corpus_fingerprint,
            encoder_fingerprint=self.context.encoder_fingerprint,
            examples=self._examples(),
            notes=self.pick.notes,
        )

    def _counts(self, rows: Rows) -> tuple[int, ...]:
        if self.pick.clusters is None:
            return ()
        return tuple(np.bincount(self.cluster[rows], minlength=self.pick.clusters.hierarchy.levels[0]).tolist())

    def _balance(self, rows: Rows, radius: float, rng: np.random.Generator) -> Balance:
        counts = None if self.pick.clusters is None else np.asarray(self._counts(rows), dtype=np.int64)
        return Balance(
            rows=len(rows),
            cluster_entropy=None if counts is None else normalized_entropy(counts),
            cluster_gini=None if counts is None else gini(counts),
            occupied_clusters=None if counts is None else int((counts > 0).sum()),
            neighbour_distance=neighbour_distance(self.points[rows], rng=rng),
            vendi=vendi_score(self.points[rows], rng=rng),
            coverage=coverage(self.points, self.points[rows], radius=radius, rng=rng),
            label_entropy=self._label_entropy(rows),
            top_entropy=None if counts is None else normalized_entropy(self._top_counts(counts)),
        )

    def _top_counts(self, counts: Rows) -> Rows:
        if self.pick.clusters is None:
            return counts
        hierarchy = self.pick.clusters.hierarchy
        top = np.zeros(hierarchy.levels[-1], dtype=np.int64)
        np.add.at(top, hierarchy.paths()[:, -1], counts)
        return top

    def _label_entropy(self, rows: Rows) -> float | None:
        if self.context.labels is None:
            return None
        labels = np.asarray(self.context.labels)
        if len(labels) != len(self.points):
            raise UserError(
                f"expected a label for each of {len(self.points)} rows, got {len(labels)}; take both from the same index"
            )
        classes, code = np.unique(labels[labels >= 0], return_inverse=True)
        if not len(classes):
            return None
        full = np.full(len(labels), -1, dtype=np.int64)
        full[labels >= 0] = code
        known = full[rows][full[rows] >= 0]
        return normalized_entropy(np.bincount(known, minlength=len(classes)).astype(np.int64))

    def _examples(self) -> tuple[Examples, ...]:
        """Return rows of the largest clusters, evenly spaced from the centre to the rim."""
        total = np.asarray(self._counts(np.arange(len(self.points), dtype=np.int64)), dtype=np.int64)
        shown = []
        for cluster in np.argsort(-total, kind="stable")[:_EXAMPLE_CLUSTERS].tolist():
            members = np.flatnonzero(self.cluster == cluster)
            members = members[np.argsort(self.distance[members], kind="stable")]
            kept = self.reason[members] == KEPT
            shown.append(Examples(cluster, _spaced(members[kept]), _spaced(members[~kept])))
        return tuple(shown)


def _spaced(rows: NDArray[np.intp]) -> tuple[int, ...]:
    if not len(rows):
        return ()
    places = np.linspace(0, len(rows) - 1, min(len(rows), _EXAMPLE_ROWS)).round().astype(np.int64)
    return tuple(rows[np.unique(places)].tolist())

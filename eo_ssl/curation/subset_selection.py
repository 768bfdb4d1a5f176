"""One call for every selector: check, remove duplicates, pick, and account for what was done."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from eo_ssl.curation.cluster_selectors import Hierarchical
from eo_ssl.curation.dedup import Repeats, join_duplicates
from eo_ssl.curation.embeddings import Floats, Labels, Rows, Scale, check_embeddings, derive_generator, rescale
from eo_ssl.curation.hierarchy import fit_clusters
from eo_ssl.curation.mapped_rows import Values
from eo_ssl.curation.projection import Projection
from eo_ssl.curation.report import CurationReport
from eo_ssl.curation.report_builder import DUPLICATE, KEPT, NOT_DRAWN, SAME_ACQUISITION, Context, ReportBuilder
from eo_ssl.curation.selectors import Candidates, Selector, SelectorResult
from eo_ssl.errors import expect


@dataclass(frozen=True, slots=True)
class Selection:
    """The fate of every row."""

    rows: Rows
    "the rows kept: int64, sorted"
    weights: Floats | None
    "how often each of them is to come up, in times the mean: float32, mean 1; None for equally often"
    reason: NDArray[np.str_]
    "per row: kept, duplicate, same acquisition or not drawn"
    duplicates: Repeats
    "which rows went because they repeat another one, and what says so"
    cluster: Labels
    """level-1 cluster per row, int32 (a duplicate stands in the cluster of its first copy); -1 when nothing was
    clustered"""
    distance: Floats
    "Euclidean distance to the centroid of that cluster, float32; NaN when nothing was clustered"
    centroids: Floats | None
    "level-1 centroids: float32 [k_1, d]"
    projection: Projection
    "where some of the rows lie on a plane, on the scale that was selected on"
    report: CurationReport


def curate(
    embeddings: ArrayLike,
    keep: float,
    rng: np.random.Generator,
    *,
    method: Selector | None = None,
    context: Context | None = None,
    clusters: int | None = None,
) -> Selection:
    """Choose which rows of ``embeddings`` float [n, d] to keep, or weigh them; return the fate of all and the report.

    Args:
        embeddings: One vector per row, finite. Of a memory map (`np.memmap`, of any floating type) at no time more than
            parts are held in memory, and what is computed of all is a map in a nameless file beside it; the outcome is
            that of an array of the same values.
        keep: Up to 1 a fraction of n, above 1 a number of rows: those kept, or for a selector that weighs those
            effective. At most as many as there are different rows; 1 keeps every row (without ``context.identities``
            and ``context.repeats``) or every different row (with them), in order, unweighted.
        rng: The only source of randomness.
        method: The selector; hierarchical k-means when absent. One of scaling auto takes that of ``context``.
        context: Identities and repeats for the duplicate filter in front of the selector, what else the selector reads,
            labels and fingerprints for the report.
        clusters: Number that the report describes the result with where the selector makes none, never to select by;
            None a twentieth of the rows, 0 none.

    Raises:
        UserError: NaN or infinite embeddings, a keep of no row or of more rows than there are, columns of different
            length or that the selector cannot use.
    """
    method, context = method or Hierarchical(), context or Context()
    method.check(context.columns, targeted=context.towards is not None)
    seed = _read_seed(rng)
    raw = check_embeddings(embeddings)
    started = time.perf_counter()
    duplicates = join_duplicates(len(raw), context.identities, context.repeats)
    first, group = duplicates.first, duplicates.group
    target = min(resolve_keep(keep, len(raw)), len(first))
    measure_rng = derive_generator(rng)  # drawn first: what is measured must not change what is picked
    scale = method.scale(context.scaling)
    method = replace(method, scaling=scale)  # type: ignore[type-var]  # a dataclass, of which the report names the scale
    different = first if len(first) < len(raw) else None
    points = rescale(raw, scale, different)
    if target < len(first):
        towards = None if context.towards is None else _rescale_target(context.towards, scale, (raw, different))
        candidates = Candidates(points, *context.read(method.columns, first), towards)
        result = method.pick(candidates, target, rng)
        select_s = time.perf_counter() - started
        result = result if result.clusters or clusters == 0 else describe(result, points, clusters, measure_rng)
    else:
        result, select_s = SelectorResult(np.arange(len(first), dtype=np.int64)), time.perf_counter() - started

    reason = np.full(len(raw), DUPLICATE, dtype=f"U{len(SAME_ACQUISITION)}")
    if context.repeats is not None:
        reason[context.repeats.original >= 0] = SAME_ACQUISITION
    reason[first] = NOT_DRAWN
    reason[first[result.rows]] = KEPT
    cluster = np.full(len(raw), -1, dtype=np.int32) if result.clusters is None else result.clusters.labels[group]
    distance = (
        np.full(len(raw), np.nan, dtype=np.float32) if result.clusters is None else result.clusters.distance[group]
    )
    builder = ReportBuilder(points, group, method, context, first[result.rows], reason, cluster, distance, result)
    centroids = None if result.clusters is None else result.clusters.hierarchy.centroids[0]
    report, projection = builder.build(measure_rng, seed=seed, select_s=select_s)
    kept = first[result.rows]
    return Selection(kept, result.weights, reason, duplicates, cluster, distance, centroids, projection, report)


def describe(result: SelectorResult, points: Floats, clusters: int | None, rng: np.random.Generator) -> SelectorResult:
    """Return ``result`` with flat clusters of all ``points`` float32 [n, d], which tell what was chosen of where."""
    levels = None if clusters is None else (clusters,)
    found, notes = fit_clusters(points, levels, fit_rows=20_000, rng=derive_generator(rng))
    return replace(result, clusters=found, notes=(*result.notes, *notes))


def resolve_keep(keep: float, n: int) -> int:
    """Return how many of ``n`` rows ``keep`` means: up to 1 a fraction (rounded, at least one row), above 1 a number.

    Raises:
        UserError: not positive, not a whole number above 1, or more than ``n``.
    """
    expect(keep > 0, expected="keep to be a fraction in (0, 1] or a number of rows", got=keep, remedy="0.5 keeps half")
    if keep <= 1:
        return max(1, round(keep * n))
    expect(
        keep == int(keep) and keep <= n,
        expected=f"keep to be a fraction in (0, 1] or a whole number of at most {n} rows",
        got=keep,
        remedy="1 keeps all",
    )
    return int(keep)


def tabulate_selection(selection: Selection, ids: Rows | None = None) -> pa.Table:
    """Return one line per row: row int64 (of ``ids``), cluster int32, distance and weight float32, kept, reason, x, y.

    The weight is 0 where the row is not kept, and on average 1 over those that are. ``kept`` is bool, ``reason`` a
    word; ``x`` and ``y`` float32 are the place on the map of the rows, null for those that are not on it.
    """
    rows = np.arange(len(selection.reason), dtype=np.int64) if ids is None else ids
    weights = np.zeros(len(rows), dtype=np.float32)
    weights[selection.rows] = 1 if selection.weights is None else selection.weights
    places, placeless = np.zeros((len(rows), 2), dtype=np.float32), np.ones(len(rows), dtype=bool)
    places[selection.projection.rows] = selection.projection.places
    placeless[selection.projection.rows] = False
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "cluster": pa.array(selection.cluster, pa.int32()),
            "distance": pa.array(selection.distance, pa.float32()),
            "weight": pa.array(weights, pa.float32()),
            "kept": pa.array(selection.reason == KEPT),
            "reason": pa.array(selection.reason, pa.string()),
            "x": pa.array(places[:, 0], mask=placeless),
            "y": pa.array(places[:, 1], mask=placeless),
        }
    )


def _rescale_target(towards: ArrayLike, scale: Scale, reference: tuple[Values, Rows | None]) -> Floats:
    goal, raw = check_embeddings(towards), reference[0]
    expect(
        goal.shape[1] == raw.shape[1],
        expected=f"a target set embedded by the same encoder, {raw.shape[1]} features",
        got=goal.shape[1],
        remedy="embed both alike",
    )
    return rescale(goal, scale, reference=reference)


def _read_seed(rng: np.random.Generator) -> int | None:
    entropy = getattr(rng.bit_generator.seed_seq, "entropy", None)
    return entropy if isinstance(entropy, int) else None

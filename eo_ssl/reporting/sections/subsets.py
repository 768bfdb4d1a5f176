"""What was curated and why: balance and diversity, cluster sizes before and after, and tiles kept and dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eo_ssl.corpus import Corpus, StreamReader, list_snapshots, load_snapshot, read_parquet
from eo_ssl.curation import CurationReport
from eo_ssl.errors import UserError
from eo_ssl.reporting.charts import Chart, draw_ranked_sizes
from eo_ssl.reporting.formatting import (
    MISSING,
    flatten_config,
    format_count,
    format_duration,
    format_fixed,
    format_number,
    format_share,
)
from eo_ssl.reporting.galleries import Gallery, Rows, Thumb, choose_gallery_rendering, draw_thumbs, spread_rows
from eo_ssl.reporting.products import FinishedProduct, read_json
from eo_ssl.reporting.svg import render_svg
from eo_ssl.reporting.thumbnails import Rendering

TILES_SHOWN = 16  # per side
CLUSTERS_SHOWN = 6
TILES_PER_CLUSTER = 5  # per side
EXTREME_PART = 20  # of weighted tiles: this part of those drawn most often, and least, is what they are shown by
# field of Balance -> name, explanation, whether more is better (None: neither), shown as a share
MEASURES: dict[str, tuple[str, str, bool | None]] = {
    "rows": ("Tiles", "", None),
    "cluster_entropy": ("Cluster entropy", "evenness over clusters, 1 = all equally large", True),
    "cluster_gini": ("Gini of cluster sizes", "inequality, 0 = all equally large", False),
    "occupied_clusters": ("Occupied clusters", "", True),
    "neighbour_distance": ("Neighbour distance", "mean cosine distance to the nearest other tile", True),
    "vendi": ("Vendi score", "effective number of different tiles", True),
    "coverage": ("Coverage", "share of all tiles with a kept one nearby", True),
    "label_entropy": ("Label entropy", "diagnosis only, never used to select", None),
}


@dataclass(frozen=True, slots=True)
class BalanceLine:
    """One line of the balance table."""

    name: str
    "what is measured"
    words: str
    "how to read it"
    before: str
    "all tiles"
    chance: str
    "a uniform draw of as many tiles as were kept"
    after: str
    "the subset"
    better: str
    "yes, no or empty: against chance, since a small set alone changes the figures"


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster to look at."""

    title: str
    "its number and sizes"
    thumbs: tuple[Thumb, ...]
    "kept, then dropped"


@dataclass(frozen=True, slots=True)
class SubsetView:
    """One curated subset."""

    name: str
    "folder name"
    anchor: str
    "id in the page"
    sentence: str
    "what was done"
    facts: tuple[tuple[str, str], ...]
    "counts and cost"
    reasons: tuple[tuple[str, int], ...]
    "dropped tiles by reason"
    chosen: str
    "what the last column of the balance is of: what was kept, or drawn by weights"
    balance: tuple[BalanceLine, ...]
    "balance and diversity before and after"
    figures: tuple[Chart, ...]
    "cluster sizes"
    galleries: tuple[Gallery, ...]
    "kept, and dropped by reason"
    clusters: tuple[ClusterView, ...]
    "largest clusters with their tiles"
    notes: tuple[str, ...]
    "what the selection had to change, and what this view lacks"
    parameters: tuple[tuple[str, str], ...]
    "of the selector"
    n_rows: int
    "before"
    n_kept: int
    "after"


def describe_subset(product: FinishedProduct, corpora: Sequence[FinishedProduct], *, position: int) -> SubsetView:
    """Everything the page shows about one subset; its tiles are drawn where its corpus is among the inputs."""
    report = CurationReport.from_json(read_json(product.path / "curation_report.json"))
    corpus = _corpus_of(product, report, corpora)
    notes = list(report.notes)
    galleries: tuple[Gallery, ...] = ()
    clusters: tuple[ClusterView, ...] = ()
    if corpus is None:
        notes.append("Its corpus is not among the inputs of this report, hence no pictures.")
    else:
        reader = _reader(product, corpus)
        galleries, rendering = _galleries(product, reader)
        clusters = tuple(_clusters(report, reader, rendering))
    stream = product.manifest.config.get("stream")
    return SubsetView(
        name=product.name,
        anchor=f"subset-{position + 1}",
        sentence=_sentence(report, str(stream or ""), corpus.name if corpus else ""),
        facts=(
            ("Tiles before", format_number(report.n_rows)),
            ("Tiles kept", f"{format_number(report.n_kept)} ({format_share(report.n_kept / max(report.n_rows, 1))})"),
            *_tell_effective(report),
            ("Copies dropped", format_number(sum(n for why, n in report.reasons.items() if why != "not drawn"))),
            ("Clusters", format_number(len(report.cluster_rows)) if report.cluster_rows else MISSING),
            ("Selection took", format_duration(report.cost.select_s)),
            ("Tiles embedded", format_number(report.cost.forward_equivalents)),
        ),
        reasons=tuple(report.reasons.items()),
        chosen="Drawn by weight" if report.weighs else "Kept",
        balance=tabulate_balance(report),
        figures=tuple(_figures(report)),
        galleries=galleries,
        clusters=clusters,
        notes=tuple(notes),
        parameters=(
            ("method", report.method),
            ("seed", format_number(report.seed)),
            *flatten_config(report.parameters),
        ),
        n_rows=report.n_rows,
        n_kept=report.n_kept,
    )


def _tell_effective(report: CurationReport) -> tuple[tuple[str, str], ...]:
    if not report.weighs or report.effective_rows is None:
        return ()
    share = format_share(report.effective_rows / max(report.n_rows, 1))
    return (("Tiles effective", f"{format_number(round(report.effective_rows))} ({share})"),)


def tabulate_balance(report: CurationReport) -> tuple[BalanceLine, ...]:
    """The lines of the balance table; a figure nobody could ask for is left out."""
    lines = []
    for field, (name, words, more_is_better) in MEASURES.items():
        values = [getattr(balance, field) for balance in (report.before, report.chance, report.after)]
        if values[0] is None and values[2] is None:
            continue
        better = ""
        if more_is_better is not None and None not in values and values[2] != values[1]:
            better = "yes" if (values[2] > values[1]) == more_is_better else "no"
        before, chance, after = (_measured(v, field) for v in values)
        lines.append(BalanceLine(name, words, before, chance, after, better))
    return tuple(lines)


def _measured(value: float | None, field: str) -> str:
    if value is None or isinstance(value, int):
        return format_number(value)
    return (
        format_share(value, 1) if field == "coverage" else format_fixed(value, 3) if value < 1 else format_number(value)
    )


def _sentence(report: CurationReport, stream: str, corpus: str) -> str:
    verb = "weighed" if report.weighs else "kept"
    rows = f"{format_number(report.n_kept)} of {format_count(report.n_rows, 'tile')}"
    where = f" from {stream} of {corpus}" if stream and corpus else f" from {stream}" if stream else ""
    return f"{rows} {verb} by the method {report.method}{where}."


def _corpus_of(
    product: FinishedProduct, report: CurationReport, corpora: Sequence[FinishedProduct]
) -> FinishedProduct | None:
    """The corpus whose newest or older snapshot the subset was chosen from."""
    wanted = {report.corpus_fingerprint, product.manifest.inputs.get("corpus", "")}
    for corpus in corpora:
        made = (
            corpus.manifest.fingerprint,
            *(load_snapshot(corpus.path, n).fingerprint for n in list_snapshots(corpus.path)),
        )
        if wanted & set(made):
            return corpus
    return None


def _reader(product: FinishedProduct, corpus: FinishedProduct) -> StreamReader:
    snapshot = product.manifest.config.get("snapshot")
    opened = Corpus.open(corpus.path, snapshot=int(snapshot) if isinstance(snapshot, int) else None)
    stream = product.manifest.config.get("stream")
    if stream is None and len(opened.streams) == 1:
        stream = next(iter(opened.streams))
    if stream not in opened.streams:
        raise UserError(
            f"expected a stream of {corpus.name} in the subset {product.name}, got {stream!r}: curate again"
        )
    return opened.stream(str(stream))


def _galleries(product: FinishedProduct, reader: StreamReader) -> tuple[tuple[Gallery, ...], Rendering]:
    """Kept tiles and dropped tiles by reason, all with the stretch of the kept and dropped together."""
    remedy = "remove the folder and curate again"
    kept = read_parquet(product.path / "subset.parquet", ["row", "cluster", "weight"], remedy=remedy)
    dropped = read_parquet(product.path / "dropped.parquet", ["row", "cluster", "reason"], remedy=remedy)
    reason = np.asarray(dropped.column("reason").to_pylist(), dtype=object)
    parts: list[tuple[str, str, Rows, Rows]] = [("Kept", "kept", *_columns(kept))]
    weights = kept.column("weight").to_numpy()
    if len(np.unique(weights)) > 1:
        order, few = np.argsort(weights, kind="stable"), -(-len(weights) // EXTREME_PART)
        ends = (("Drawn most often", "kept", order[-few:]), ("Drawn least often", "dropped", order[:few]))
        parts = [(title, mark, *_columns(kept.take(pa.array(np.sort(end))))) for title, mark, end in ends]
    rows, cluster = _columns(dropped)
    for name, _ in Counter(str(r) for r in reason).most_common():
        parts.append((f"Dropped: {name}", "dropped", rows[reason == name], cluster[reason == name]))
    picked = [spread_rows(own_cluster, TILES_SHOWN) for _, _, _, own_cluster in parts]
    shown = np.unique(np.concatenate([own[p] for (_, _, own, _), p in zip(parts, picked, strict=True)]))
    rendering = choose_gallery_rendering(reader, shown)
    galleries = []
    for (title, mark, own, own_cluster), places in zip(parts, picked, strict=True):
        captions = [
            (f"cluster {c}" if c >= 0 else f"row {r}", f"row {r}, cluster {c}, {title.lower()}")
            for r, c in zip(own[places].tolist(), own_cluster[places].tolist(), strict=True)
        ]
        thumbs = draw_thumbs(reader, own[places], captions=captions, rendering=rendering, mark=mark)
        words = f"{len(places)} of {format_count(len(own), 'tile')}, clusters in turn. {rendering.words}."
        galleries.append(Gallery(f"{title}, {format_number(len(own))}", words, thumbs))
    return tuple(galleries), rendering


def _columns(table: pa.Table) -> tuple[Rows, Rows]:
    row = table.column("row").to_numpy().astype(np.int64)
    cluster = pc.fill_null(table.column("cluster"), -1).to_numpy().astype(np.int64)
    return row, cluster


def _clusters(report: CurationReport, reader: StreamReader, rendering: Rendering) -> list[ClusterView]:
    """Tiles of some clusters, largest first: what was kept of each and what was dropped."""
    views = []
    drawn = "drawn in a pass" if report.weighs else "kept"
    by_size = sorted(report.examples, key=lambda e: -report.cluster_rows[e.cluster])
    for example in by_size[:CLUSTERS_SHOWN]:
        thumbs: tuple[Thumb, ...] = ()
        for mark, rows in (("kept", example.kept), ("dropped", example.dropped)):
            chosen = np.asarray(rows[:: max(1, len(rows) // TILES_PER_CLUSTER)][:TILES_PER_CLUSTER], dtype=np.int64)
            captions = [(mark, f"row {row}, cluster {example.cluster}, {mark}") for row in chosen.tolist()]
            thumbs += draw_thumbs(reader, chosen, captions=captions, rendering=rendering, mark=mark)
        before, after = report.cluster_rows[example.cluster], report.cluster_kept[example.cluster]
        views.append(
            ClusterView(
                f"Cluster {example.cluster}: {format_number(before)} tiles, {format_number(after)} {drawn}", thumbs
            )
        )
    return views


def _figures(report: CurationReport) -> list[Chart]:
    if not report.cluster_rows:
        return []
    before, after = report.cluster_rows, report.cluster_kept
    drawn = "drawn in a pass" if report.weighs else "kept"
    alt = (
        f"Sizes of {len(before)} clusters: largest {max(before)} before and {max(after)} after, "
        f"median {int(np.median(before))} before and {int(np.median(after))} after"
    )
    largest = max(before) / max(sum(before), 1), max(after) / max(sum(after), 1)
    caption = (
        f"The largest cluster held {format_share(largest[0])} of the tiles before and {format_share(largest[1])} after."
    )
    return [
        Chart(
            render_svg(draw_ranked_sizes(before, after), alt=alt),
            "Cluster sizes",
            caption,
            legend=(("before", "before"), ("after", drawn)),
        )
    ]

"""What a selection did, of `eo-ssl curate` or of a schedule: balance, figures, maps, and tiles it drew and left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from eo_ssl.corpus import Corpus, StreamReader, list_snapshots, load_snapshot
from eo_ssl.curation import CurationReport
from eo_ssl.reporting.balance_table import INFORMATION_WORDS, BalanceLine, tabulate_balance
from eo_ssl.reporting.charts import Chart
from eo_ssl.reporting.footprints import BOUNDS, Footprints
from eo_ssl.reporting.formatting import format_count, format_title
from eo_ssl.reporting.galleries import Gallery
from eo_ssl.reporting.products import FinishedProduct
from eo_ssl.reporting.quality_histograms import FRACTIONS, QualityHistogram, draw_quality_histograms
from eo_ssl.reporting.selected_tiles import SelectedTiles
from eo_ssl.reporting.selection_figures import (
    draw_embedding_chart,
    draw_months_chart,
    draw_occupancy_chart,
    draw_usage_chart,
    draw_weights_chart,
)
from eo_ssl.reporting.selection_galleries import ClusterView, draw_selection_galleries
from eo_ssl.reporting.selection_maps import draw_selection_maps

COLUMNS = ("month", *BOUNDS, *FRACTIONS)


@dataclass(frozen=True, slots=True)
class SelectionView:
    """One selection, before and after."""

    chosen: str
    "what the last column of the balance is of: what was kept, or drawn by weights"
    balance: tuple[BalanceLine, ...]
    "balance and diversity before and after"
    information: tuple[tuple[str, float], ...]
    "what clusters tell of product, month and brightness, 0 to 1"
    information_words: str
    "how to read that"
    occupancy: Chart | None
    "how full clusters are"
    figures: tuple[Chart, ...]
    "weights or usage, and the map of the embeddings"
    where: tuple[Chart, ...]
    "maps and months"
    quality: tuple[QualityHistogram, ...]
    "validity, clouds ..."
    galleries: tuple[Gallery, ...]
    "kept, and dropped by reason"
    clusters: tuple[ClusterView, ...]
    "largest clusters with their tiles"
    notes: tuple[str, ...]
    "what this view lacks"


def describe_selection(
    report: CurationReport,
    tiles: SelectedTiles | None,
    reader: StreamReader | None,
    index: pa.Table | None,
    *,
    events: int = 0,
) -> SelectionView:
    """What the page shows of a selection.

    Args:
        report: of it; of a schedule, of its last event.
        tiles: what became of each; None where no table says.
        reader: of their stream; None where it is not known, and hence no pictures, places and dates.
        index: `COLUMNS` of the tiles, in their order.
        events: of the schedule; 0 for a selection that was made once.
    """
    figures: list[Chart | None] = []
    where: list[Chart] = []
    notes: list[str] = []
    quality: tuple[QualityHistogram, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    clusters: tuple[ClusterView, ...] = ()
    if tiles is not None:
        words = "Features of the last event; sizes count all events. " if events else ""
        figures.append(draw_usage_chart(tiles, events) if events else draw_weights_chart(tiles, report))
        figures.append(draw_embedding_chart(tiles, report, words))
    if tiles is not None and reader is not None and index is not None:
        galleries, clusters = draw_selection_galleries(tiles, report, reader)
        where, notes = _draw_places(tiles, index)
        quality = draw_quality_histograms(index, tiles.lift)
    return SelectionView(
        chosen="Drawn by weight" if report.weighs else "Kept",
        balance=tabulate_balance(report),
        information=tuple((format_title(name), value) for name, value in report.information.items()),
        information_words=INFORMATION_WORDS,
        occupancy=draw_occupancy_chart(report),
        figures=tuple(figure for figure in figures if figure),
        where=tuple(where),
        quality=quality,
        galleries=galleries,
        clusters=clusters,
        notes=tuple(notes),
    )


def _draw_places(tiles: SelectedTiles, index: pa.Table) -> tuple[list[Chart], list[str]]:
    """Maps and months, and a note on tiles that have no place."""
    bounds = np.stack([index[name].to_numpy().astype(np.float64) for name in BOUNDS], axis=1)
    known, lift = np.isfinite(bounds).all(axis=1), tiles.lift
    placed = Footprints(bounds[known], np.full(int(known.sum()), "", dtype=np.str_), lift[known])
    months = draw_months_chart(index["month"].to_numpy().astype(np.int64), lift)
    placeless = int((~known).sum())
    notes = [f"{format_count(placeless, 'tile has', 'tiles have')} no position."] if placeless else []
    return [*draw_selection_maps(placed), *([months] if months else [])], notes


def open_origin(corpora: Sequence[FinishedProduct], fingerprints: Collection[str]) -> Corpus | None:
    """The first corpus that one of the ``fingerprints`` is of, at the snapshot that has it; None where none is."""
    for corpus in corpora:
        numbers = [n for n in list_snapshots(corpus.path) if load_snapshot(corpus.path, n).fingerprint in fingerprints]
        if numbers or corpus.manifest.fingerprint in fingerprints:
            return Corpus.open(corpus.path, snapshot=numbers[-1] if numbers else None)
    return None

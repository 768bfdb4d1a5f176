"""Tiles of a selection as pictures: kept or drawn most, left out by why, and those of the largest clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eo_ssl.corpus import StreamReader
from eo_ssl.curation import CurationReport, Examples
from eo_ssl.reporting.formatting import format_count, format_number, format_share
from eo_ssl.reporting.galleries import Gallery, Thumb, choose_gallery_rendering, draw_thumbs, spread_rows
from eo_ssl.reporting.selected_tiles import Rows, SelectedTiles
from eo_ssl.reporting.thumbnails import Rendering

TILES_SHOWN = 16  # of each gallery
CLUSTERS_SHOWN = 6
TILES_PER_CLUSTER = 5  # per side
EXTREME_PART = 20  # of weighted tiles: this part of those drawn most often, and least, is what they are shown by


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster to look at."""

    title: str
    "its number and sizes"
    thumbs: tuple[Thumb, ...]
    "kept, then dropped"


@dataclass(frozen=True, slots=True)
class _Part:
    """Tiles that a gallery shows some of."""

    title: str
    mark: str
    "class of their frame"
    rows: Rows
    clusters: Rows
    captions: tuple[str, ...] = ()
    "short line of each where the cluster is not all that is known"


def draw_selection_galleries(
    tiles: SelectedTiles, report: CurationReport, reader: StreamReader
) -> tuple[tuple[Gallery, ...], tuple[ClusterView, ...]]:
    """Galleries of kept and dropped tiles, or of the ends of weighed ones, and tiles of the largest clusters.

    All have the stretch of the former together.
    """
    parts = _choose_parts(tiles)
    picked = [spread_rows(part.clusters, TILES_SHOWN) for part in parts]
    shown = np.unique(np.concatenate([part.rows[places] for part, places in zip(parts, picked, strict=True)]))
    rendering = choose_gallery_rendering(reader, shown)
    galleries = []
    for part, places in zip(parts, picked, strict=True):
        chosen = part.rows[places]
        captions = []
        for place, row, cluster in zip(places.tolist(), chosen.tolist(), part.clusters[places].tolist(), strict=True):
            where = f"cluster {cluster}" if cluster >= 0 else f"row {row}"
            short = f"{part.captions[place]} · {where}" if part.captions else where
            captions.append((short, f"row {row}, cluster {cluster}, {part.title.lower()}"))
        thumbs = draw_thumbs(reader, chosen, captions=captions, rendering=rendering, mark=part.mark)
        end = f", the {100 // EXTREME_PART} % at this end" if part.captions else ""
        words = f"{len(places)} of {format_count(len(part.rows), 'tile')}{end}, clusters in turn. {rendering.words}."
        galleries.append(Gallery(f"{part.title}, {format_number(len(part.rows))}", words, thumbs))
    return tuple(galleries), _draw_clusters(tiles, report, reader, rendering)


def _choose_parts(tiles: SelectedTiles) -> list[_Part]:
    """What is shown: kept tiles, or the ends of weighed ones; then those left out, the most frequent reason first."""

    def take(title: str, mark: str, places: Rows, *, weighed: bool = False) -> _Part:
        captions = tuple(map(_format_lift, tiles.lift[places].tolist())) if weighed else ()
        return _Part(title, mark, tiles.rows[places], tiles.clusters[places], captions)

    drawn = tiles.drawn
    parts = [take("Kept", "kept", drawn)]
    if tiles.weighed:
        order, few = np.argsort(tiles.weights[drawn], kind="stable"), -(-len(drawn) // EXTREME_PART)
        most, least = (np.sort(drawn[end]) for end in (order[-few:], order[:few]))
        parts = [
            take("Drawn most often", "kept", most, weighed=True),
            take("Drawn least often", "dropped", least, weighed=True),
        ]
    for why, places in tiles.reasons.items():
        parts.append(take("Never drawn" if why == "not drawn" else f"Dropped: {why}", "dropped", places))
    for why, rows in tiles.left_out.items():
        parts.append(_Part(f"Dropped: {why}", "dropped", rows, np.full(len(rows), -1, dtype=np.int64)))
    return parts


def _draw_clusters(
    tiles: SelectedTiles, report: CurationReport, reader: StreamReader, rendering: Rendering
) -> tuple[ClusterView, ...]:
    """Tiles of the largest clusters, largest first: what came up of each and what did not, or hardly."""
    by_size = sorted(report.examples, key=lambda example: -report.cluster_rows[example.cluster])
    return tuple(_draw_cluster(tiles, report, example, reader, rendering) for example in by_size[:CLUSTERS_SHOWN])


def _draw_cluster(
    tiles: SelectedTiles, report: CurationReport, example: Examples, reader: StreamReader, rendering: Rendering
) -> ClusterView:
    thumbs: tuple[Thumb, ...] = ()
    for mark, rows in (("kept", example.kept), ("dropped", example.dropped)):
        chosen = np.asarray(rows[:: max(1, len(rows) // TILES_PER_CLUSTER)][:TILES_PER_CLUSTER], dtype=np.int64)
        lift = tiles.lift[np.searchsorted(tiles.rows, chosen)].tolist()
        short = [_format_lift(one) if tiles.weighed and one else mark for one in lift]
        details = [f"row {row}, cluster {example.cluster}, {mark}" for row in chosen.tolist()]
        captions = list(zip(short, details, strict=True))
        thumbs += draw_thumbs(reader, chosen, captions=captions, rendering=rendering, mark=mark)
    sizes = [part[example.cluster] / max(sum(part), 1) for part in (report.cluster_rows, report.cluster_kept)]
    before, after = (format_share(size, 1) for size in sizes)
    return ClusterView(f"Cluster {example.cluster}: {before} of the tiles before, {after} after", thumbs)


def _format_lift(lift: float) -> str:
    return f"{lift:.2g}×" if lift >= 0.01 else "< 0.01×"

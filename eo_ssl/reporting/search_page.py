"""The neighbours of a tile as one self-contained page: pictures, distances, places and dates, and what made them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from eo_ssl.corpus import Corpus
from eo_ssl.embedding import Distance, Embeddings, Hits, Query
from eo_ssl.reporting.charts import Chart
from eo_ssl.reporting.footprints import BOUNDS, Footprints, draw_world_map, group_places
from eo_ssl.reporting.formatting import MISSING, format_count, format_degrees, format_number
from eo_ssl.reporting.galleries import Thumb, choose_gallery_rendering, draw_thumbs
from eo_ssl.reporting.svg import render_svg
from eo_ssl.reporting.templating import render_template
from eo_ssl.reporting.thumbnails import Rendering, choose_rendering, encode_picture, render_tile
from eo_ssl.sensors import Quantity, sensor

HIT_COLUMNS = (
    "row",
    "product_id",
    "row_off",
    "col_off",
    "datetime",
    "split",
    "label_name",
    "bbox",
    "licence",
    "attribution",
)
HYPHEN = "\u2011"  # at which no line breaks
DISTANCES: dict[Distance, str] = {"cosine": "1 − cosine of the angle between embeddings", "l2": "Euclidean distance"}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One line of the table."""

    rank: int
    distance: float
    text: str
    "the distance as printed"
    row: int
    product: str
    window: str
    date: str
    place: str
    split: str
    label: str


@dataclass(frozen=True, slots=True)
class SearchView:
    """Everything the page shows."""

    title: str
    question: str
    "what is looked for"
    facts: tuple[tuple[str, str], ...]
    query: Thumb
    thumbs: tuple[Thumb, ...]
    "the nearest first"
    caption: str
    "bands and stretch"
    lines: tuple[Neighbour, ...]
    maps: tuple[Chart, ...]
    "where they lie; none where no tile has a position"
    details: tuple[tuple[str, str], ...]
    "fingerprints and contract"
    owners: tuple[tuple[str, str], ...]
    "(attribution, licence) of the tiles shown, each pair once"


def describe_search(
    table: Embeddings, query: Query, hits: Hits, *, corpus: Corpus, distance: Distance, left_out: str
) -> SearchView:
    """Make the view of a search.

    Args:
        table: what was searched.
        query: what was asked for.
        hits: what was found.
        corpus: where the tiles are.
        distance: how hits were measured.
        left_out: tiles that were no answer, in words.
    """
    about, stream = table.about, table.about["corpus"]["stream"]
    nearest = table.take(hits.positions, HIT_COLUMNS)
    queried = [] if query.position is None else table.take(np.array([query.position]), HIT_COLUMNS)
    reader = corpus.stream(stream)
    rows = np.array([int(line["row"]) for line in [*queried, *nearest]], dtype=np.int64)
    rendering = choose_gallery_rendering(reader, rows) if len(rows) else _of_image(about, query)
    lines = tuple(_line(i, value, line) for i, (value, line) in enumerate(zip(hits.distance, nearest, strict=True), 1))
    captions = [
        (
            f"{line.rank} · {line.text} · {(line.date or line.product.rpartition('/')[2]).replace('-', HYPHEN)}",
            f"{line.rank}. {_describe(line)}",
        )
        for line in lines
    ]
    head = (
        Thumb(
            encode_picture(render_tile(_arranged(about, query), rendering)),
            f"Query: {query.words}",
            "query",
            query.words,
        )
        if query.image is not None
        else draw_thumbs(reader, rows[:1], captions=[("query", query.words)], rendering=rendering)[0]
    )
    known = sensor(str(about["stream"]["sensor"]))
    encoder = about["encoder"]
    facts = (
        ("Encoder", str(encoder["name"])),
        ("Numbers per tile", format_number(table.dim)),
        ("Tiles searched", format_number(len(table))),
        ("Distance", distance),
        ("Left out", left_out),
        ("Stream", stream),
        ("Sensor", known.title),
    )
    details = (
        ("encoder", str(encoder["fingerprint"])),
        ("corpus", str(about["corpus"]["fingerprint"])),
        ("snapshot", str(about["corpus"]["snapshot"])),
        ("embeddings", table.manifest.fingerprint),
        ("bands", ", ".join(encoder["preprocessing"]["bands"])),
        ("quantity", str(encoder["preprocessing"]["quantity"])),
        ("input", f"{encoder['preprocessing']['size_px']} px"),
    )
    return SearchView(
        title="What the encoder finds alike",
        question=query.words,
        facts=facts,
        query=head,
        thumbs=draw_thumbs(reader, rows[len(queried) :], captions=captions, rendering=rendering),
        caption=f"{rendering.words}. {DISTANCES[distance]}; the nearest first.",
        lines=lines,
        maps=_maps(queried, nearest),
        details=details,
        owners=tuple(dict.fromkeys((str(x["attribution"]), str(x["licence"])) for x in [*queried, *nearest])),
    )


def render_search(
    table: Embeddings, query: Query, hits: Hits, *, corpus: Corpus, distance: Distance, left_out: str
) -> str:
    """The HTML of a search."""
    return render_template(
        "search.html",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        view=describe_search(table, query, hits, corpus=corpus, distance=distance, left_out=left_out),
        non_commercial=bool(table.about["non_commercial"]),
    )


def _line(rank: int, distance: float, about: Mapping[str, Any]) -> Neighbour:
    return Neighbour(
        rank,
        float(distance),
        format(float(distance), "#.3g") if distance else "0",
        int(about["row"]),
        str(about["product_id"]),
        f"{about['row_off']},{about['col_off']}",
        str(about["datetime"])[:10],
        _place(about["bbox"]),
        str(about["split"]),
        str(about["label_name"]),
    )


def _place(box: Mapping[str, float | None]) -> str:
    """Middle of a footprint in degrees."""
    if any(value is None for value in box.values()):
        return MISSING
    west, south, east, north = (float(box[name] or 0.0) for name in BOUNDS)
    return f"{format_degrees(round((south + north) / 2, 4), 'NS')} {format_degrees(round((west + east) / 2, 4), 'EW')}"


def _describe(line: Neighbour) -> str:
    """All that is known of a neighbour, in one line."""
    known = [f"distance {line.text}", f"row {line.row}", f"{line.product}:{line.window}", line.date, line.place]
    return ", ".join(word for word in [*known, line.split, line.label] if word and word != MISSING)


def _maps(queried: Sequence[Mapping[str, Any]], nearest: Sequence[Mapping[str, Any]]) -> tuple[Chart, ...]:
    """The world with a dot per place of the tiles shown."""
    bounds = [
        [float("nan") if line["bbox"][name] is None else float(line["bbox"][name]) for name in BOUNDS]
        for line in [*queried, *nearest]
    ]
    known = [box for box in bounds if all(map(math.isfinite, box))]
    if not known:
        return ()
    groups = group_places(Footprints(np.array(known), np.full(len(known), "", dtype=np.str_)))
    among = ", the query among them" if queried else ""
    words = f"{format_count(len(groups), 'place')} with {format_count(len(known), 'tile')}{among}"
    svg = render_svg(draw_world_map(groups), alt=f"World map: {words}", kind="map")
    return (Chart(svg, "Where", f"{words}. Longitude and latitude in degrees."),)


def _arranged(about: Mapping[str, Any], query: Query) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The query's own image with the stream's bands in the stream's order, NaN for a band it does not have."""
    assert query.image is not None
    bands: Sequence[str] = about["stream"]["bands"]
    empty = np.full(query.image.shape[1:], np.nan, dtype=np.float32)
    return np.stack([query.image[query.bands.index(band)] if band in query.bands else empty for band in bands])


def _of_image(about: Mapping[str, Any], query: Query) -> Rendering:
    stream = about["stream"]
    sample = _arranged(about, query)[None]
    return choose_rendering(
        sample, bands=stream["bands"], sensor_name=stream["sensor"], quantity=Quantity(stream["quantity"])
    )

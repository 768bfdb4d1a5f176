"""Ingested corpora: a view of each with its map, and of each stream with pictures, histograms and quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eo_ssl.corpus import Corpus
from eo_ssl.reporting.band_histograms import BandHistogram, draw_band_histograms
from eo_ssl.reporting.charts import Chart, draw_bars
from eo_ssl.reporting.footprints import BOUNDS, SPLITS, Footprints, draw_maps
from eo_ssl.reporting.formatting import MONTHS, describe_quantity, format_count, format_number, format_size
from eo_ssl.reporting.galleries import Gallery, choose_gallery_rendering, draw_thumbs, spread_rows
from eo_ssl.reporting.products import FinishedProduct
from eo_ssl.reporting.quality_histograms import (
    FRACTIONS,
    QualityHistogram,
    draw_quality_histograms,
    list_unknown_columns,
)
from eo_ssl.reporting.svg import render_svg
from eo_ssl.sensors import sensor

TILES_SHOWN = 24  # per stream
MOST_VALUES = 12  # lines of a table of counts
GROUPED = {"processing_baseline": "Processing baseline", "orbit": "Orbit", "label_name": "Label"}
COLUMNS = (
    "product_id",
    "split",
    "label_name",
    "datetime",
    "month",
    "orbit",
    "processing_baseline",
    "epsg",
    "source",
    "licence",
    "attribution",
    *BOUNDS,
    *FRACTIONS,
    "spectral_entropy",
)


@dataclass(frozen=True, slots=True)
class StreamView:
    """One stream of a corpus."""

    name: str
    "of the stream"
    sentence: str
    "sensor, quantity, bands, grid"
    facts: tuple[tuple[str, str], ...]
    "counts"
    splits: tuple[tuple[str, int, float], ...]
    "(split, tiles, share)"
    gallery: Gallery
    "tiles as pictures"
    bands: tuple[BandHistogram, ...]
    "histograms"
    quality: tuple[QualityHistogram, ...]
    "validity, clouds ..."
    unknown: tuple[str, ...]
    "quality columns without any value"
    dates: Chart | None
    "tiles per month of the year"
    groups: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    "counts by baseline, orbit, label"


@dataclass(frozen=True, slots=True)
class CorpusView:
    """One corpus."""

    name: str
    "folder name"
    anchor: str
    "id in the page"
    facts: tuple[tuple[str, str], ...]
    "counts and sizes"
    maps: tuple[Chart, ...]
    "world and close-ups; empty where no tile has a position"
    map_note: str
    "what the maps leave out"
    streams: tuple[StreamView, ...]
    "in the corpus' order"
    left_out: tuple[tuple[str, str], ...]
    "(product, reason) of products refused or left out"
    window_words: str
    "what became of the windows that were planned"
    n_products: int
    "products with at least one tile"
    n_tiles: int
    "over all streams"
    nbytes: int
    "of the tiles on disk"
    owners: tuple[tuple[str, str], ...]
    "(licence, attribution), each pair once"


def describe_corpus(product: FinishedProduct, position: int) -> CorpusView:
    """Everything the page shows about one corpus; pixels are read only for the gallery."""
    corpus = Corpus.open(product.path)
    tables = {name: corpus.index(name, columns=list(COLUMNS)) for name in corpus.streams}
    described = corpus.describe()
    of_stream = {name: {p["product_id"] for p in described["products"] if p["stream"] == name} for name in tables}
    products = {p["product_id"] for p in described["products"]}
    streams = tuple(
        _stream_view(corpus, name, table, n_products=len(of_stream[name])) for name, table in tables.items()
    )
    n_tiles = sum(table.num_rows for table in tables.values())
    nbytes = int(described["nbytes"])
    boxes, placeless = _boxes(list(tables.values()))
    figures, left_out = draw_maps(boxes, product.name)
    notes = []
    if left_out:
        notes.append(f"{format_count(left_out, 'further place')} on the world map only.")
    if placeless:
        notes.append(
            f"{format_count(placeless, 'tile has', 'tiles have')} no position (chips or arrays without a coordinate "
            "system)."
        )
    owners = {(str(a), str(b)): None for table in tables.values() for a, b in _pairs(table, "licence", "attribution")}
    return CorpusView(
        name=product.name,
        anchor=f"corpus-{position + 1}",
        facts=(
            ("Products", format_number(len(products))),
            ("Tiles", format_number(n_tiles)),
            ("On disk", format_size(nbytes)),
            ("Streams", format_number(len(tables))),
            ("Snapshot", format_number(corpus.snapshot)),
            ("Fingerprint", corpus.fingerprint[:12]),
            *((("Use", "non-commercial only"),) if described["non_commercial"] else ()),
        ),
        maps=figures,
        map_note=" ".join(notes),
        streams=streams,
        left_out=_left_out(corpus, product),
        window_words=_window_words(described["counts"]),
        n_products=len(products),
        n_tiles=n_tiles,
        nbytes=nbytes,
        owners=tuple(owners),
    )


def _stream_view(corpus: Corpus, name: str, index: pa.Table, *, n_products: int) -> StreamView:
    reader = corpus.stream(name)
    stream = reader.stream
    products = index.column("product_id").combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    rows = spread_rows(products, TILES_SHOWN)
    rendering = choose_gallery_rendering(reader, rows)
    captions = [
        _caption(tile, row) for tile, row in zip(index.take(pa.array(rows)).to_pylist(), rows.tolist(), strict=True)
    ]
    counted = _count_values(index, "split")
    measured = stream.quantity.in_db if stream.quantity.is_power else stream.quantity
    words = f"{len(rows)} of {format_count(index.num_rows, 'tile')}, products in turn. {rendering.words}."
    size_px = format_number(stream.size_px)
    grid = f"{size_px} × {size_px} pixels of {format_number(float(stream.gsd_m))} m"
    bands = format_count(len(stream.bands), "band")
    return StreamView(
        name=name,
        sentence=f"{sensor(stream.sensor).title}, {describe_quantity(stream.quantity)}, {bands}, {grid}.",
        facts=(
            ("Tiles", format_number(index.num_rows)),
            ("Products", format_number(n_products)),
            ("Dates", _dates_words(index)),
            ("Bands", " ".join(stream.bands)),
            *_describe_entropy(index),
            *_same(index),
        ),
        splits=tuple((s, counted[s], counted[s] / index.num_rows) for s in SPLITS if counted[s]),
        gallery=Gallery("", words, draw_thumbs(reader, rows, captions=captions, rendering=rendering)),
        bands=draw_band_histograms(corpus.statistics(name, quantity=measured), stream.sensor),
        quality=draw_quality_histograms(index),
        unknown=list_unknown_columns(index),
        dates=_months(index, name),
        groups=_groups(index),
    )


def _caption(tile: dict[str, Any], row: int) -> tuple[str, str]:
    """Below a tile, and where it is pointed at."""
    label, day, split = tile["label_name"] or "", str(tile["datetime"] or "")[:10], tile["split"]
    source, product = str(tile["source"] or ""), str(tile["product_id"])
    return (
        " · ".join(filter(None, (label or day or source[-16:], split))),
        " · ".join(filter(None, (source or product, day, label, split, f"row {row}"))),
    )


def _count_values(index: pa.Table, column: str) -> Counter[str]:
    """Tiles by value of a column; an unknown one is an empty text."""
    counted: Counter[str] = Counter()
    for item in index.column(column).value_counts().to_pylist():
        counted[str(item["values"] or "")] += item["counts"]
    return counted


def _dates_words(index: pa.Table) -> str:
    known = sorted({text[:10] for text in _count_values(index, "datetime")} - {""})
    if not known:
        return "unknown"
    return known[0] if len(known) == 1 else f"{known[0]} to {known[-1]} ({len(known)})"


def _months(index: pa.Table, name: str) -> Chart | None:
    month = index.column("month").to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.bincount(month[(month >= 1) & (month <= 12)], minlength=13)[1:]
    if np.count_nonzero(counts) < 2:
        return None  # one month is said by the dates
    unknown = int((month < 1).sum())
    alt = f"Tiles of {name} per month of the year: " + ", ".join(
        f"month {i + 1} {n}" for i, n in enumerate(counts) if n
    )
    words = f"{format_count(unknown, 'tile')} without a date." if unknown else ""
    return Chart(render_svg(draw_bars(counts.tolist(), MONTHS), alt=alt), "Months", words)


def _describe_entropy(index: pa.Table) -> list[tuple[str, str]]:
    """How much there is to see in a tile, where that is known."""
    known = index.column("spectral_entropy").drop_null().to_numpy()
    if not len(known):
        return []
    mean, low, high = (format_number(float(value)) for value in (known.mean(), known.min(), known.max()))
    return [("Spectral entropy", f"{mean} nats per tile ({low} to {high})")]


def _same(index: pa.Table) -> list[tuple[str, str]]:
    """Baseline, orbit or label where all tiles share one."""
    values = {title: set(_count_values(index, column)) for column, title in GROUPED.items()}
    return [(title, next(iter(taken))) for title, taken in values.items() if len(taken) == 1 and taken != {""}]


def _groups(index: pa.Table) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
    """Tiles by baseline, orbit and label, where they differ."""
    groups = []
    for column, title in GROUPED.items():
        counted = _count_values(index, column)
        if len(counted) > 1:
            most = counted.most_common(MOST_VALUES)
            rest = sum(counted.values()) - sum(n for _, n in most)
            lines = [(name or "unknown", n) for name, n in most] + ([("others", rest)] if rest else [])
            groups.append((title, tuple(lines)))
    return tuple(groups)


def _boxes(tables: list[pa.Table]) -> tuple[Footprints, int]:
    """Footprints of all tiles that have one, and how many have none."""
    parts, splits = [], []
    for table in tables:
        parts.append(
            np.stack(
                [table.column(c).to_numpy(zero_copy_only=False).astype(np.float64) for c in BOUNDS],
                axis=1,
            )
        )
        splits.append(np.asarray(table.column("split").to_pylist(), dtype=np.str_))
    bounds: npt.NDArray[np.float64] = np.concatenate(parts) if parts else np.empty((0, 4))
    known = np.isfinite(bounds).all(axis=1)
    split = np.concatenate(splits) if splits else np.empty(0, np.str_)
    return Footprints(bounds[known], split[known]), int((~known).sum())


def _left_out(corpus: Corpus, product: FinishedProduct) -> tuple[tuple[str, str], ...]:
    """Products that were refused while reading or left out before it, each with the sentence that says why."""
    refused = [(str(item["product_id"]), str(item["reason"])) for item in corpus.quarantine()]
    dropped = [(str(name), str(reason)) for name, reason in product.manifest.summary.get("dropped", ())]
    return tuple(dict.fromkeys(refused + dropped))


def _window_words(counts: Mapping[str, int]) -> str:
    """Windows planned and kept, and how many had too few valid pixels or too much cloud."""
    planned = counts.get("planned", 0)
    if not planned:
        return ""
    words = f"Of {format_count(planned, 'window')}, {format_number(counts.get('kept', 0))} became tiles"
    why = {
        "invalid": "had too few valid pixels",
        "cloudy": "were too cloudy",
        "shadowed": "lay too much in shadow",
        "snowy": "had too much snow",
        "border_noise": "had too much border noise",
        "saturated": "were too saturated",
        "few_looks": "had too few looks",
    }
    lost = [f"{format_number(counts[key])} {text}" for key, text in why.items() if counts.get(key)]
    return "; ".join([words, *lost]) + "."


def _pairs(table: pa.Table, *names: str) -> list[tuple[object, ...]]:
    """Unique combinations of some columns, in order of appearance."""
    grouped = table.select(list(names)).group_by(list(names), use_threads=False).aggregate([])
    return list(zip(*(grouped.column(name).to_pylist() for name in names), strict=True))

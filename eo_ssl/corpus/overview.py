"""What a corpus holds, counted in one pass over its index: places, times, baselines, orbits, splits and quality."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from eo_ssl.corpus.corpus_view import Corpus

COUNTED = ("split", "month", "processing_baseline", "orbit", "platform", "mode", "relative_orbit", "remarks")
MEASURED = (
    "valid_fraction",
    "cloud_fraction",
    "shadow_fraction",
    "snow_fraction",
    "saturated_fraction",
    "border_noise_fraction",
    "cloud_probability",
    "enl",
    "spectral_entropy",
    "incidence_deg",
    "sun_zenith_deg",
    "view_zenith_deg",
)
_PLACE = ("xmin", "ymin", "xmax", "ymax")
_BATCH = 131_072  # rows in memory at once
_pc: Any = pc  # its functions are made at import and not typed


@dataclass
class ColumnSummary:
    """Count, sum and extremes of a column where it is known."""

    known: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, column: pa.Array) -> None:
        """Count a batch."""
        values = column.drop_null()
        if len(values):
            ends = _pc.min_max(values).as_py()
            self.known += len(values)
            self.total += float(_pc.sum(values.cast(pa.float64())).as_py())
            self.low, self.high = min(self.low, ends["min"]), max(self.high, ends["max"])

    def to_json(self) -> dict[str, float | int]:
        """Return plain values."""
        return {"known": self.known, "mean": self.total / self.known, "min": self.low, "max": self.high}


@dataclass
class Overview:
    """What the tiles of one stream have in common and between what they lie."""

    tiles: int = 0
    counted: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in COUNTED})
    "column -> value -> tiles; `unknown` where the product does not say"
    measured: dict[str, ColumnSummary] = field(default_factory=lambda: {name: ColumnSummary() for name in MEASURED})
    bbox: list[float] | None = None
    "west, south, east, north in degrees; all longitudes where a tile lies across the antimeridian"
    times: tuple[str, str] | None = None
    "first and last moment, ISO 8601 UTC; a date alone counts from its first to its last second"

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch of the index."""
        self.tiles += len(batch)
        for name, counter in self.counted.items():
            for item in batch[name].value_counts().to_pylist():
                value = item["values"]
                counter["unknown" if value in (None, "") or (name, value) == ("month", 0) else str(value)] += item[
                    "counts"
                ]
        for name, measure in self.measured.items():
            measure.add(batch[name])
        self._add_place(batch)
        moments = [text for text in batch["datetime"].unique().to_pylist() if text]
        if moments:
            first = min(text if "T" in text else f"{text}T00:00:00Z" for text in moments)
            last = max(text if "T" in text else f"{text}T23:59:59Z" for text in moments)
            self.times = (min(first, self.times[0]), max(last, self.times[1])) if self.times else (first, last)

    def _add_place(self, batch: pa.RecordBatch) -> None:
        west, south, east, north = (batch[name].drop_null() for name in _PLACE)
        if not len(west):
            return
        box = [_pc.min(west).as_py(), _pc.min(south).as_py(), _pc.max(east).as_py(), _pc.max(north).as_py()]
        if _pc.any(_pc.greater(west, east)).as_py():
            box[0], box[2] = -180.0, 180.0
        self.bbox = box if self.bbox is None else unite_boxes([self.bbox, box])

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not known of any tile is left out."""
        return {
            "tiles": self.tiles,
            "bbox": self.bbox,
            "times": list(self.times) if self.times else None,
            **{
                name: dict(sorted(counter.items()))
                for name, counter in self.counted.items()
                if set(counter) - {"unknown"}
            },
            "quality": {name: measure.to_json() for name, measure in self.measured.items() if measure.known},
        }


def unite_boxes(boxes: list[list[float]]) -> list[float]:
    """Return the smallest box (west, south, east, north) round all ``boxes``."""
    west, south, east, north = zip(*boxes, strict=True)
    return [min(west), min(south), max(east), max(north)]


def summarise_streams(corpus: Corpus) -> dict[str, Overview]:
    """Return what each stream of a corpus holds; reads its index once, in batches."""
    overviews = {}
    columns = [*COUNTED, *MEASURED, *_PLACE, "datetime"]
    for name in corpus.streams:
        overviews[name] = Overview()
        for batch in corpus.dataset(name).scanner(columns=columns, batch_size=_BATCH).to_batches():
            if len(batch):
                overviews[name].add(batch)
    return overviews


def describe_corpus(corpus: Corpus) -> dict[str, Any]:
    """Return what a person wants to know of a corpus first, as plain values."""
    aside = Counter(str(item["reason"]) for item in corpus.quarantine())
    known = corpus.describe()
    kept = ("snapshot", "fingerprint", "tiles", "nbytes", "counts", "non_commercial", "licences")
    return {
        **{name: known[name] for name in kept},
        "products": len(known["products"]),
        "streams": {name: part.to_json() for name, part in summarise_streams(corpus).items()},
        "quarantine": [{"products": count, "reason": reason} for reason, count in aside.most_common()],
    }

"""The two tables of a corpus that a task reads, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from eo_ssl.corpus import Stream
from eo_ssl.sensors import Quantity

TOA = Quantity.TOA_REFLECTANCE
S2 = Stream("sentinel2_l1c", TOA, ("B02", "B03", "B04", "B08", "B11", "B12"), 10.0, 8)
L5 = Stream("landsat5_tm", TOA, ("B1", "B2", "B3", "B4", "B5", "B7"), 30.0, 8)
CHIP = Stream("sar_chip", Quantity.AMPLITUDE, ("SAR",), 0.3, 64)
CROP = Stream("sar_chip", Quantity.AMPLITUDE, ("SAR",), 0.3, 128)
DEFAULTS: dict[str, Any] = {
    "product_id": "p",
    "row_off": 0,
    "col_off": 0,
    "height": 8,
    "width": 8,
    "xmin": None,
    "ymin": None,
    "xmax": None,
    "ymax": None,
    "label": 0,
    "label_name": "",
    "split": "train",
    "benchmark_split": "",
    "source": "",
    "source_width_px": None,
    "source_height_px": None,
    "month": None,
    "orbit": "",
    "attribution": "",
}
TYPES = {
    "xmin": pa.float64(),
    "ymin": pa.float64(),
    "xmax": pa.float64(),
    "ymax": pa.float64(),
    "source_width_px": pa.int32(),
    "source_height_px": pa.int32(),
    "month": pa.int32(),
}


@dataclass
class FakeReader:
    stream: Stream
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def read(self, rows: np.ndarray, *, out: np.ndarray) -> np.ndarray:
        out[...] = self.x[rows]
        return out


@dataclass
class FakeCorpus:
    """The two tables of a corpus that a task reads."""

    parts: dict[str, tuple[Stream, np.ndarray, list[dict[str, Any]]]] = field(default_factory=dict)
    fingerprint: str = "fake"

    def add(self, stream: Stream, x: np.ndarray, rows: list[dict[str, Any]]) -> tuple[FakeCorpus, str]:
        self.parts[stream.name] = (stream, x.astype(np.float32), rows)
        return self, stream.name

    def stream(self, name: str) -> FakeReader:
        return FakeReader(*self.parts[name][:2])

    def index(self, name: str, *, columns: list[str]) -> pa.Table:
        rows = [{**DEFAULTS, **row} for row in self.parts[name][2]]
        return pa.table({key: pa.array([row[key] for row in rows], type=TYPES.get(key)) for key in columns})


def tiles(rng: np.random.Generator, stream: Stream, labels: np.ndarray) -> np.ndarray:
    """Tiles whose class is their brightness in the near infrared and nothing else."""
    x = 0.2 + 0.02 * rng.normal(size=(len(labels), 6, 8, 8))
    x[:, 3] += 0.2 * labels[:, None, None]
    return x


def chips(rng: np.random.Generator, n: int = 120) -> tuple[tuple[FakeCorpus, str], tuple[FakeCorpus, str]]:
    """Chips whose size tells the class outright, whose clutter tells it, and whose target tells nothing."""
    labels, corpus = np.arange(n) % 3, FakeCorpus()
    wide = np.abs(0.2 + 0.02 * rng.normal(size=(n, 1, 128, 128)))
    wide[..., :16] += 0.1 * labels[:, None, None, None]  # beyond the centre 80 px
    wide[..., 40:88, 40:88] += rng.random((n, 1, 48, 48))
    rows = [
        {
            "product_id": "batch",
            "source": f"chip{i}",
            "label": int(v),
            "label_name": "abc"[v],
            "source_width_px": 128 + 10 * int(v),
            "source_height_px": 128,
            "benchmark_split": "train" if i < n // 2 else "test",
        }
        for i, v in enumerate(labels)
    ]
    order = rng.permutation(n)  # another corpus has another row order
    return corpus.add(CHIP, wide[..., 32:96, 32:96], rows), FakeCorpus().add(
        CROP, wide[order], [rows[i] for i in order]
    )

"""Benchmarks made from EuroSAT: m-eurosat of GEO-Bench with its permuted bands, and EuroSAT-SAR."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from worlds.benchmarks.eurosat import EUROSAT_CLASSES, draw_eurosat_chip
from worlds.benchmarks.pixels import draw_backscatter_db
from worlds.benchmarks.writing import encode_raster, split_numbers, write_benchmark

M_EUROSAT_KEYS = (
    "01 - Coastal aerosol",
    "02 - Blue",
    "03 - Green",
    "04 - Red",
    "05 - Vegetation Red Edge",
    "06 - Vegetation Red Edge",
    "07 - Vegetation Red Edge",
    "08 - NIR",
    "08A - Vegetation Red Edge",
    "09 - Water vapour",
    "10 - SWIR - Cirrus",
    "11 - SWIR",
    "12 - SWIR",
)
_LEVELS = (-11.0, -9.5, -12.0, -10.0, -6.0, -12.5, -11.5, -7.5, -15.0, -20.0)  # mean VV of EuroSAT's classes, dB


def make_m_eurosat(folder: Path, *, seed: int = 0, per_class: int = 3) -> Path:
    """Write a benchmark in the layout of GEO-Bench's m-eurosat and return its root.

    As in the published one, the planes of EuroSAT (B8A last) go one after the other under names in which 08A follows
    08: the array called 08A holds B09, and so on.

    Raises:
        UserError: too few samples, or a folder made with other arguments.
    """
    base = "classification_v1.0/m-eurosat"
    parts = dict(zip(("train", "valid", "test"), split_numbers(per_class), strict=True))

    def files() -> Iterator[tuple[str, bytes]]:
        classes: dict[str, list[str]] = {name: [] for name in EUROSAT_CLASSES}
        partition: dict[str, list[str]] = {split: [] for split in parts}
        for split, numbers in parts.items():
            for number in numbers:
                for label, name in enumerate(EUROSAT_CLASSES):
                    sample = f"id_{label:02d}{number:03d}"
                    classes[name].append(sample)
                    partition[split].append(sample)
                    yield f"{base}/{sample}.hdf5", _sample(seed, label, number)
        yield f"{base}/label_map.json", json.dumps(classes).encode()
        yield f"{base}/default_partition.json", json.dumps(partition).encode()

    config = {"layout": "m_eurosat", "per_class": per_class}
    return write_benchmark(folder, seed=seed, config=config, files=files())


def _sample(seed: int, label: int, number: int) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, plane in zip(M_EUROSAT_KEYS, draw_eurosat_chip(seed, label, number), strict=True):
            file.create_dataset(name, data=plane.astype(np.int16))
    return buffer.getvalue()


def make_eurosat_sar(folder: Path, *, seed: int = 0, per_class: int = 3) -> Path:
    """Write a benchmark in the layout of EuroSAT-SAR (Copernicus-Bench; VV and VH in dB, float32) and return its root.

    Raises:
        UserError: too few patches, or a folder made with other arguments.
    """
    parts = split_numbers(per_class)

    def files() -> Iterator[tuple[str, bytes]]:
        for split, numbers in zip(("train", "val", "test"), parts, strict=True):
            lines = []
            for number in numbers:
                for label, name in enumerate(EUROSAT_CLASSES):
                    patch = draw_backscatter_db(seed, 0, 100 * label + number, size_px=64)
                    image = np.stack([patch["VV"], patch["VH"]]) - patch["VV"].mean() + np.float32(_LEVELS[label])
                    lines.append(f"{name}_{number + 1}.jpg\n")
                    path = f"eurosat_s1/all_imgs/{name}/{name}_{number + 1}.tif"
                    yield path, encode_raster(image.astype(np.float32), bands=("VV", "VH"), number=number)
            yield f"eurosat_s1/eurosat-{split}.txt", "".join(lines).encode()

    config = {"layout": "eurosat_sar", "per_class": per_class}
    return write_benchmark(folder, seed=seed, config=config, files=files())

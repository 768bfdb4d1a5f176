"""A small benchmark in the layout of So2Sat LCZ42: HDF5 files with the arrays sen1, sen2 and label."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from eo_ssl.sample.optical import QUANTIFICATION
from worlds.benchmarks.pixels import draw_backscatter_db, draw_top_codes
from worlds.benchmarks.writing import split_numbers, write_benchmark

SO2SAT_CLASSES = 17
SO2SAT_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SIZE_PX = 32
VERSIONS = ("random", "block", "culture_10")
Doubles = npt.NDArray[np.float64]


def make_so2sat(folder: Path, *, seed: int = 0, per_class: int = 3) -> Path:
    """Write a benchmark in the layout of So2Sat, versions 3 (three folders) and 2 (three files), and return its root.

    sen2 [n, 32, 32, 10] is top-of-atmosphere reflectance. sen1 [n, 32, 32, 8] holds VH and VV before a filter as
    complex numbers (real, imaginary), their intensities after one, and the element of their covariance: all in linear
    power.

    Args:
        folder: root of the data set; created.
        seed: seed of everything random.
        per_class: patches per class in each version, at least 3, shared 60/20/20 (version 3 trains on 80).

    Raises:
        UserError: too few patches, or a folder made with other arguments.
    """
    train, validation, test = split_numbers(per_class)

    def files() -> Iterator[tuple[str, bytes]]:
        for offset, version in enumerate(VERSIONS):
            first = offset * per_class
            yield f"{version}/training.h5", _file(seed, [first + number for number in (*train, *validation)])
            yield f"{version}/testing.h5", _file(seed, [first + number for number in test])
        first = len(VERSIONS) * per_class
        for name, part in (("training", train), ("validation", validation), ("testing", test)):
            yield f"{name}.h5", _file(seed, [first + number for number in part])

    return write_benchmark(folder, seed=seed, config={"layout": "so2sat", "per_class": per_class}, files=files())


def _file(seed: int, numbers: list[int]) -> bytes:
    patches = [(label, number) for number in numbers for label in range(SO2SAT_CLASSES)]
    label = np.zeros((len(patches), SO2SAT_CLASSES))
    label[np.arange(len(patches)), [kind for kind, _ in patches]] = 1.0
    arrays = {
        "sen1": np.stack([_radar(seed, *patch) for patch in patches]),
        "sen2": np.stack([_optical(seed, *patch) for patch in patches]),
        "label": label,
    }
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
    return buffer.getvalue()


def _optical(seed: int, label: int, number: int) -> Doubles:
    codes = draw_top_codes(seed, label, number, bands=SO2SAT_BANDS, size_px=SIZE_PX)
    return np.moveaxis(codes / QUANTIFICATION, 0, 2)


def _radar(seed: int, label: int, number: int) -> Doubles:
    rng = np.random.default_rng([seed, 17, label, number])
    power = {
        name: 10.0 ** (values / 10.0)
        for name, values in draw_backscatter_db(seed, label, number, size_px=SIZE_PX).items()
    }
    parts = []
    for name in ("VH", "VV"):
        sigma = np.sqrt(power[name] / 2.0)
        parts += [sigma * rng.standard_normal(sigma.shape), sigma * rng.standard_normal(sigma.shape)]
    cross = 0.1 * np.sqrt(power["VH"] * power["VV"])
    parts += [power["VH"], power["VV"], cross, -cross]
    return np.stack(parts, axis=2).astype(np.float64)

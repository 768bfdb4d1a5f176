"""A small benchmark in the layout of Sen1Floods11 v1.1: chips of Sentinel-1 and Sentinel-2 with a water mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eo_ssl.errors import expect
from eo_ssl.sample.fields import draw_smooth_noise
from eo_ssl.sensors import sensor
from worlds.benchmarks.pixels import draw_backscatter_db, draw_top_codes
from worlds.benchmarks.writing import encode_raster, split_numbers, write_benchmark

EVENTS = ("Ghana", "India", "Mekong", "Spain")
_DATA = "v1.1/data/flood_events/HandLabeled"
_LISTS = "v1.1/splits/flood_handlabeled"
_BANDS = sensor("sentinel2_l1c").band_names
_SEA, _CROP = 9, 0  # classes of the generated EuroSAT that give water and land
_RADAR = {_SEA: 0, _CROP: 2}  # the same as land cover: water, crop


def make_sen1floods11(folder: Path, *, seed: int = 0, per_event: int = 5, size_px: int = 64) -> Path:
    """Write a benchmark in the layout of Sen1Floods11 v1.1 and return its root.

    Chips show water in one connected half plane with a ragged shore, bright and dark as water is. A border of the label
    is -1, a corner of the radar image NaN and the same corner of the optical image 0.

    Args:
        folder: root of the data set; created.
        seed: seed of everything random.
        per_event: chips of each of four events, at least 3, shared 60/20/20; Bolivia gets two more.
        size_px: side of the chips (512 in the published set), at least 16.

    Raises:
        UserError: too few or too small chips, or a folder made with other arguments.
    """
    expect(size_px >= 16, expected="chips of at least 16 px", got=size_px, remedy="ask for larger ones")
    parts = split_numbers(per_event)
    lists = dict(zip(("train", "valid", "test"), parts, strict=True))

    def files() -> Iterator[tuple[str, bytes]]:
        chips = {
            f"{event}_{1000 + number}": 100 * place + number
            for place, event in enumerate(EVENTS)
            for number in range(per_event)
        }
        chips |= {f"Bolivia_{2000 + number}": 900 + number for number in range(2)}
        for chip, number in chips.items():
            yield from _chip(chip, seed=seed, number=number, size_px=size_px)
        for name, numbers in lists.items():
            members = [f"{event}_{1000 + number}" for event in EVENTS for number in numbers]
            yield f"{_LISTS}/flood_{name}_data.csv", _lines(members)
        yield f"{_LISTS}/flood_bolivia_data.csv", _lines([chip for chip in chips if chip.startswith("Bolivia")])

    config = {"layout": "sen1floods11", "per_event": per_event, "size_px": size_px}
    return write_benchmark(folder, seed=seed, config=config, files=files())


def _lines(chips: list[str]) -> bytes:
    return "".join(f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n" for chip in chips).encode()


def _chip(chip: str, *, seed: int, number: int, size_px: int) -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng([seed, 19, number])
    rows, columns = np.indices((size_px, size_px))
    angle = rng.uniform(0.0, 2.0 * np.pi)
    distance = (rows - size_px / 2) * np.sin(angle) + (columns - size_px / 2) * np.cos(angle)
    water = distance + 3.0 * draw_smooth_noise(rng, size_px, scale_px=4.0) > 0
    optical = np.where(
        water,
        *(draw_top_codes(seed, label, number, bands=_BANDS, size_px=size_px) for label in (_SEA, _CROP)),
    ).astype(np.int16)
    radar = {label: draw_backscatter_db(seed, cover, number, size_px=size_px) for label, cover in _RADAR.items()}
    power = np.stack([np.where(water, radar[_SEA][name], radar[_CROP][name]) for name in ("VV", "VH")])
    label = water.astype(np.int16)
    label[: size_px // 16] = -1
    power[:, :2, :2] = np.nan
    optical[:, :2, :2] = 0
    yield f"{_DATA}/S1Hand/{chip}_S1Hand.tif", encode_raster(power, bands=("VV", "VH"), number=number)
    yield f"{_DATA}/S2Hand/{chip}_S2Hand.tif", encode_raster(optical, bands=_BANDS, number=number)
    yield f"{_DATA}/LabelHand/{chip}_LabelHand.tif", encode_raster(label[None], bands=("label",), number=number)

"""A radar archive of real pixels that is nearly all ground without targets: corners of MSTAR chips, and few vehicles.

A chip is 48 x 48 px of an MSTAR image, its power averaged over 2 x 2 px: a corner, where only clutter is, or the middle,
where the vehicle is. Vehicles in the long-tailed set and those that probes learn from are different chips of the
depression angle of 17 degrees; those that are tested on are of 15 degrees.
"""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.chip_set import ChipSet, Images

TARGETS = 0.03
"""share of the vehicles in the long-tailed set, ten classes alike"""
CROP_PX = 48
FACTS = {
    "licence": "CC BY-NC 4.0 (renderings; non-commercial); underlying MSTAR: public release of the US AFRL/DARPA (SDMS)",
    "attribution": "MSTAR public targets, US Air Force Research Laboratory and DARPA (SDMS); 8-bit renderings by Li et al., CC BY-NC 4.0",
    "source": "github.com/waterdisappear/Data-Bias-in-MSTAR at 46eef803",
    "citation": "Li et al., IEEE GRSL 2023, 10.1109/LGRS.2023.3266493",
}
PITFALL = "Clutter around a vehicle tells its class in part, as chips of a class were cut in one place."
Row = dict[str, str]


def make_clutter(folder: Path, data: Path, *, seed: int, rows: int, reserved: int) -> Path:
    """Write a set for training and return its card.

    Args:
        folder: of the set, which is named by its last part.
        data: folder of `mstar_sar_chips`.
        seed: of what is drawn.
        rows: number of chips, `TARGETS` of them vehicles.
        reserved: chips of each class that probes learn from, which are left out.
    """
    rng = np.random.default_rng(seed)
    drawn, rest = [], []
    for chips in _read_classes(data, "train").values():
        left = rng.permutation(len(chips) - reserved) + reserved
        count = max(1, round(TARGETS * rows / 10))
        drawn += [(chips[at], "middle") for at in left[:count]]
        rest += [chips[at] for at in left[count:]]
    corners = [(chip, place) for chip in rest for place in CORNERS]
    drawn += [corners[at] for at in rng.choice(len(corners), rows - len(drawn), replace=False)]
    drawn = [drawn[at] for at in rng.permutation(rows)]
    kinds = np.array([chip["class"] if place == "middle" else "clutter" for chip, place in drawn])
    return _write(folder, data, drawn, kinds, np.full(rows, "train"))


def make_judged_clutter(folder: Path, data: Path, *, each: int, tested: int) -> Path:
    """Write a balanced set of vehicles to judge on, the first `each` training and `tested` test chips of each class."""
    drawn, split = [], []
    for part, count in (("train", each), ("test", tested)):
        for chips in _read_classes(data, part).values():
            drawn += [(chip, "middle") for chip in chips[:count]]
            split += [part] * min(count, len(chips))
    return _write(folder, data, drawn, np.array([chip["class"] for chip, _ in drawn]), np.array(split))


CORNERS = ("top left", "top right", "bottom left", "bottom right")


def _read_classes(data: Path, split: str) -> dict[str, list[Row]]:
    """Chips by class, in an order that does not go by the angle from which they were seen."""
    with (data / "mstar_sar_chips" / "mstar_soc_manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    found: dict[str, list[Row]] = {}
    for at in np.random.default_rng(0).permutation(len(rows)):
        found.setdefault(rows[at]["class"], []).append(rows[at])
    return {name: found[name] for name in sorted(found)}


def _write(
    folder: Path, data: Path, drawn: Sequence[tuple[Row, str]], kinds: npt.NDArray[np.str_], split: npt.NDArray[np.str_]
) -> Path:
    with tarfile.open(data / "mstar_sar_chips" / "mstar_all_linear.tar") as archive:
        images = np.stack([cut_chip(_read_image(archive, chip["linear_path"]), place) for chip, place in drawn])
    title = f"MSTAR, {CROP_PX // 2} px: {len(drawn)} chips, {int((kinds != 'clutter').sum())} of vehicles"
    return ChipSet(title, images, kinds, split, 1.0, FACTS).write(folder, pitfall=PITFALL)


def _read_image(archive: tarfile.TarFile, path: str) -> Images:
    """Amplitude from 0 to 1."""
    file: Any = archive.extractfile(path)
    with Image.open(file) as image:
        return np.asarray(image.convert("L"), dtype=np.float64) / 255


def cut_chip(image: Images, place: str) -> Images:
    """Amplitude of a corner or of the middle, its power averaged over 2 x 2 px: float64 [24, 24]."""
    height, width = image.shape
    top = {"top": 0, "bottom": height - CROP_PX}.get(place.split()[0], (height - CROP_PX) // 2)
    left = {"left": 0, "right": width - CROP_PX}.get(place.split()[-1], (width - CROP_PX) // 2)
    power = image[top : top + CROP_PX, left : left + CROP_PX] ** 2
    half = CROP_PX // 2
    return np.asarray(np.sqrt(power.reshape(half, 2, half, 2).mean(axis=(1, 3))))

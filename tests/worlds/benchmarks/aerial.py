"""Small benchmarks of aerial colour images: SAT-6, UC Merced, RESISC45 and TreeSatAI with its Sentinel-2 part."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.io import savemat

from worlds.benchmarks.pixels import draw_surface_codes
from worlds.benchmarks.writing import encode_raster, split_numbers, write_benchmark

Bytes = npt.NDArray[np.uint8]
_COLOURS = ("B04", "B03", "B02", "B08")  # red, green, blue, near infrared
_WHITE = 0.4  # reflectance shown as 255
_TREES_S2 = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
_GENERA = ("Abies", "Acer", "Alnus", "Betula", "Cleared", "Fagus")
SAT6_CLASSES = ("building", "barren land", "trees", "grassland", "road", "water")
_COVERS = (4, 5, 1, 3, 4, 0)  # of SAT-6's classes, as places in landcover.CLASSES


def draw_aerial(seed: int, label: int, number: int, *, size_px: int) -> Bytes:
    """Return patch ``number`` of class ``label`` as red, green, blue and near infrared, [4, y, x] uint8."""
    codes = draw_surface_codes(seed, label, number, bands=_COLOURS, size_px=size_px)
    planes = np.stack([codes[band] for band in _COLOURS]) / 10_000 / _WHITE
    return np.clip(np.rint(255 * planes), 0, 255).astype(np.uint8)


def make_sat6(folder: Path, *, seed: int = 0, per_class: int = 5) -> Path:
    """Write sat-6-full.mat with ``per_class`` patches of each class, 80 % of them for training, and return its folder.

    Raises:
        UserError: too few patches, or a folder made with other arguments.
    """
    train, validation, test = split_numbers(per_class)
    arrays: dict[str, Bytes] = {}
    for name, numbers in (("train", (*train, *validation)), ("test", tuple(test))):
        patches = [(label, number) for number in numbers for label in range(len(SAT6_CLASSES))]
        images = [draw_aerial(seed, _COVERS[label], 10 * number + label, size_px=28) for label, number in patches]
        arrays[f"{name}_x"] = np.moveaxis(np.stack(images), (0, 1), (3, 2))
        arrays[f"{name}_y"] = np.eye(len(SAT6_CLASSES), dtype=np.uint8)[[label for label, _ in patches]].T
    buffer = io.BytesIO()
    savemat(buffer, arrays, do_compression=True)
    data = buffer.getvalue()
    config = {"layout": "sat6", "per_class": per_class}
    return write_benchmark(folder, seed=seed, config=config, files=iter([("sat-6-full.mat", data)]))


def make_ucmerced(folder: Path, *, seed: int = 0, per_class: int = 5, classes: int = 3) -> Path:
    """Write a benchmark in the layout of UC Merced (TIFF, 256 x 256) and return its root.

    The first image of a class has 253 lines.

    Raises:
        UserError: too few images, or a folder made with other arguments.
    """
    names = ("agricultural", "airplane", "baseballdiamond", "beach")[:classes]

    def files() -> Iterator[tuple[str, bytes]]:
        for label, name in enumerate(names):
            for number in range(per_class):
                image = draw_aerial(seed, label, number, size_px=256)[:3, : 253 if number == 0 else 256]
                yield f"UCMerced_LandUse/Images/{name}/{name}{number:02d}.tif", _picture(image, "TIFF")
        yield from _lists("uc_merced-{}.txt", "{}{:02d}.tif", names, per_class)

    config = {"layout": "ucmerced", "per_class": per_class, "classes": classes}
    return write_benchmark(folder, seed=seed, config=config, files=files())


def make_resisc45(folder: Path, *, seed: int = 0, per_class: int = 5, classes: int = 3) -> Path:
    """Write a benchmark in the layout of RESISC45 (JPEG, 256 x 256) and return its root.

    Raises:
        UserError: too few images, or a folder made with other arguments.
    """
    names = ("airplane", "airport", "baseball_diamond", "basketball_court")[:classes]

    def files() -> Iterator[tuple[str, bytes]]:
        for label, name in enumerate(names):
            for number in range(per_class):
                image = draw_aerial(seed, label, number, size_px=256)[:3]
                yield f"NWPU-RESISC45/{name}/{name}_{number:03d}.jpg", _picture(image, "JPEG")
        yield from _lists("resisc45-{}.txt", "{}_{:03d}.jpg", names, per_class)

    config = {"layout": "resisc45", "per_class": per_class, "classes": classes}
    return write_benchmark(folder, seed=seed, config=config, files=files())


def make_treesatai(folder: Path, *, seed: int = 0, plots: int = 12) -> Path:
    """Write a benchmark in the layout of TreeSatAI at 60 m, Sentinel-2 and aerial, and return its root.

    A plot holds its genus with 0.8 of the area and the next one with 0.2; 10 % of the plots, at least one, are the
    test.

    Raises:
        UserError: a folder made with other arguments.
    """
    stems = {
        number: f"{_GENERA[number % len(_GENERA)]}_spec_{number % 5}_{1000 + number}_WEFL_NLF.tif"
        for number in range(plots)
    }
    held = max(1, plots // 10)

    def files() -> Iterator[tuple[str, bytes]]:
        labels = {}
        for number, stem in stems.items():
            genus = number % len(_GENERA)
            labels[stem] = [[_GENERA[genus], 0.8], [_GENERA[(genus + 1) % len(_GENERA)], 0.2]]
            codes = draw_surface_codes(seed, 1 + genus % 2, number, bands=_TREES_S2, size_px=6)
            optical = np.stack([codes[band] for band in _TREES_S2])
            yield f"s2/60m/{stem}", encode_raster(optical, bands=_TREES_S2, number=number)
            aerial = draw_aerial(seed, 1 + genus % 2, number, size_px=304)[[3, 1, 2, 0]]
            yield f"aerial/60m/{stem}", encode_raster(aerial, bands=("NIR", "G", "B", "R"), number=number, pixel_m=0.2)
        yield "labels/TreeSatBA_v9_60m_multi_labels.json", json.dumps(labels).encode()
        names = list(stems.values())
        yield "train_filenames.lst", "\n".join(names[:-held]).encode()
        yield "test_filenames.lst", "\n".join(names[-held:]).encode()

    return write_benchmark(folder, seed=seed, config={"layout": "treesatai", "plots": plots}, files=files())


def _picture(image: Bytes, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.moveaxis(image, 0, 2)).save(buffer, format=kind)
    return buffer.getvalue()


def _lists(file: str, image: str, names: tuple[str, ...], per_class: int) -> Iterator[tuple[str, bytes]]:
    for split, numbers in zip(("train", "val", "test"), split_numbers(per_class), strict=True):
        lines = [image.format(name, number) for name in names for number in numbers]
        yield file.format(split), "".join(f"{line}\n" for line in lines).encode()

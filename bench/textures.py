"""A radar archive of ten kinds of speckled texture, one of them most of it: what curation is to do is known in it.

Chips in a tar file with a manifest and a card, read by `eo-ssl ingest` as any other set. The kinds differ in how their
reflectivity scatters (correlation length, contrast, stripes, points, edges); gain differs from chip to chip and tells
nothing of the kind.
"""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

SHARES = (0.72, 0.10, 0.06, 0.035, 0.025, 0.02, 0.015, 0.01, 0.008, 0.007)
"""of the kinds in the long-tailed set: the first is most of it"""
SIZE_PX = 24
LOOKS = 1.0
FULL_SCALE = 6.0  # amplitude of the largest grey level
Images = npt.NDArray[np.float64]


def make_textures(root: Path, *, seed: int, rows: int, each: int, tested: int) -> tuple[Path, Path]:
    """Write a long-tailed set and a balanced one and return their cards.

    Args:
        root: folder of both.
        seed: of everything random; another seed is another archive of the same world.
        rows: chips of the long-tailed set, by `SHARES`.
        each: training chips of each kind in the balanced set.
        tested: its test chips of each kind.
    """
    tail = [max(1, round(share * rows)) for share in SHARES]
    tail[0] += rows - sum(tail)
    kinds = np.repeat(np.arange(len(SHARES)), tail)
    long_tailed = _write(root / "textures", kinds, np.full(rows, "train"), seed=[seed, 0])
    kinds = np.repeat(np.arange(len(SHARES)), each + tested)
    split = np.tile(np.repeat(["train", "test"], [each, tested]), len(SHARES))
    return long_tailed, _write(root / "textures_judged", kinds, split, seed=[seed, 1])


def draw_textures(kinds: npt.NDArray[np.integer], rng: np.random.Generator) -> Images:
    """Amplitudes of chips of the given kinds: float64 [n, SIZE_PX, SIZE_PX]."""
    images = np.empty((len(kinds), SIZE_PX, SIZE_PX))
    for kind in np.unique(kinds):
        (places,) = np.nonzero(kinds == kind)
        images[places] = _draw_reflectivity(int(kind), len(places), rng)
    gain = 10 ** (rng.uniform(-3, 3, (len(kinds), 1, 1)) / 20)
    speckle = rng.gamma(LOOKS, 1 / LOOKS, images.shape)
    return np.asarray(gain * np.sqrt(images * speckle))


def _draw_reflectivity(kind: int, n: int, rng: np.random.Generator) -> Images:
    """Mean power of chips of one kind, which scatters about 1."""
    if kind in (5, 6):
        period = np.array([4.0, 7.0])[kind - 5] * rng.uniform(0.9, 1.1, (n, 1, 1))
        return np.asarray(np.exp(0.9 * np.sin(2 * np.pi * _slope(n, rng) / period) - 0.25))
    if kind == 7:
        points = rng.random((n, SIZE_PX, SIZE_PX)) < 0.012
        return np.asarray(0.5 + 25 * points * rng.uniform(0.5, 1.5, points.shape))
    if kind == 8:
        return np.asarray(np.where(_scatter(n, rng, length=3.0) > 0.4, 2.2, 0.5))
    if kind == 9:
        return np.asarray(np.where(_slope(n, rng) > rng.uniform(-4, 4, (n, 1, 1)), 1.8, 0.5))
    length, contrast = ((1.5, 0.5), (3.0, 0.5), (0.8, 0.9), (6.0, 0.6), (1.5, 1.0))[kind]
    contrast = contrast * rng.uniform(0.85, 1.15, (n, 1, 1))
    return np.asarray(np.exp(contrast * _scatter(n, rng, length=length) - contrast**2 / 2))


def _scatter(n: int, rng: np.random.Generator, *, length: float) -> Images:
    """Gaussian fields of unit variance with a correlation length in px, which scatters by 15 %."""
    lengths = length * rng.uniform(0.85, 1.15, (n, 1, 1))
    f = np.fft.fftfreq(SIZE_PX)
    power = np.exp(-2 * (np.pi * lengths) ** 2 * (f[:, None] ** 2 + f[None] ** 2))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, SIZE_PX, SIZE_PX))) * power).real
    return np.asarray((field - field.mean((1, 2), keepdims=True)) / field.std((1, 2), keepdims=True))


def _slope(n: int, rng: np.random.Generator) -> Images:
    """Distance in px along a random direction from the middle of each chip."""
    place = np.arange(SIZE_PX) - (SIZE_PX - 1) / 2
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    return np.asarray(np.cos(angle) * place[:, None] + np.sin(angle) * place[None])


def _write(folder: Path, kinds: npt.NDArray[np.integer], split: npt.NDArray[np.str_], *, seed: list[int]) -> Path:
    """A tar file of PNG images, its manifest and its card; returns the card."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(kinds))
    kinds, split = kinds[order], split[order]
    grey = np.clip(np.rint(draw_textures(kinds, rng) / FULL_SCALE * 255), 0, 255).astype(np.uint8)
    with tarfile.open(folder / "chips.tar", "w") as archive, (folder / "chips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "kind", "split"])
        for number, image in enumerate(grey):
            data = io.BytesIO()
            Image.fromarray(image).save(data, "PNG")
            entry = tarfile.TarInfo(f"chip_{number:06d}.png")
            entry.size = data.tell()
            data.seek(0)
            archive.addfile(entry, data)
            table.writerow([entry.name, f"kind_{kinds[number]}", split[number]])
    card = {
        "title": f"Generated speckled textures, {len(kinds)} chips",
        "sensor": "sar_chip",
        "reader": "chips",
        "bands": ["SAR"],
        "quantity": "amplitude",
        "gsd_m": 1.0,
        "scale": FULL_SCALE / 255,
        "chips": {
            "archive": "chips.tar",
            "manifest": "chips.csv",
            "path_column": "path",
            "label_column": "kind",
            "split_column": "split",
            "crop_px": SIZE_PX,
            "undersized": "drop",
        },
        "splits": {name: f"{int((split == name).sum())} chips" for name in np.unique(split).tolist()},
        "licence": "generated",
        "attribution": "none",
        "source": "generated",
        "citation": "none",
        "pitfalls": ["Gain differs from chip to chip and tells nothing of the kind."],
    }
    path = folder / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(card, sort_keys=False))
    return path

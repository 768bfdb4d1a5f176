"""Quick looks of a scene in true colour and of its embeddings' first three principal components as red, green, blue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr
from rasterio.enums import Resampling
from rasterio.windows import Window

from eo_ssl.embedding import Covariance
from eo_ssl.reporting.thumbnails import choose_rendering, render_tile, stretch
from eo_ssl.sensors import Quantity, sensor

Picture = npt.NDArray[np.uint8]
LOOK_PX = 384  # longest side of a quick look
SAMPLED_BLOCKS = 32  # of a map, at even steps: some 10^5 cells, enough for a stable effective rank
_STRIP_ROWS = 64  # of a quick look read at once


def estimate_spectrum(file: rasterio.DatasetReader) -> Covariance:
    """Return the spectrum of the cells of a map that have an embedding, from blocks at even steps over all of it.

    Raises:
        UserError: no cell of them has one.
    """
    windows = [window for _, window in file.block_windows(1)]
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), SAMPLED_BLOCKS)).round().astype(np.int64))

    def cells() -> Iterator[npt.NDArray[np.float32]]:
        for number in chosen.tolist():
            values = file.read(window=windows[number]).reshape(file.count, -1).T
            yield values[np.isfinite(values).all(axis=1)]

    return Covariance.of(cells())


def draw_components(file: rasterio.DatasetReader, spectrum: Covariance) -> Picture:
    """Return three principal components of a map as [h, w, 4] uint8, each between its 2nd and 98th percentile."""
    axes, _ = spectrum.components(3)
    axes = np.concatenate([axes, np.zeros((3 - len(axes), file.count))])  # an encoder of fewer than three numbers
    step = -(-max(file.height, file.width) // LOOK_PX)
    strips = []
    for top in range(0, file.height, _STRIP_ROWS * step):
        rows = min(_STRIP_ROWS * step, file.height - top)
        values = file.read(
            window=Window(0, top, file.width, rows),
            out_shape=(file.count, -(-rows // step), -(-file.width // step)),
            resampling=Resampling.average,
        )
        placed = spectrum.project(values.reshape(file.count, -1).T, axes)
        strips.append(placed.T.reshape(3, *values.shape[1:]))
    look = np.concatenate(strips, axis=1)
    valid = np.isfinite(look).all(axis=0)
    levels = np.zeros((*look.shape[1:], 4))
    for channel, values in enumerate(look):
        low, high = stretch(values.astype(np.float32), low=2, high=98)
        levels[..., channel] = np.nan_to_num(np.clip((values - low) / (high - low), 0, 1))
    levels[..., 3] = valid
    look_: Picture = np.rint(levels * 255).astype(np.uint8)
    return look_


def draw_scene(cube: xr.Dataset) -> tuple[Picture, str]:
    """Return a scene as [h, w, 4] uint8 of block means, and the words that say which bands and stretch.

    Args:
        cube: as ``Product.open`` gives it; only the bands that are shown are read, strip by strip.
    """
    known = [str(name) for name in cube["band"].values]
    bands = _shown(known, str(cube.attrs["sensor"]))
    picked: Any = cube["image"].isel(band=[known.index(band) for band in bands])
    height, width = int(cube.sizes["y"]), int(cube.sizes["x"])
    step = -(-max(height, width) // LOOK_PX)
    strips = []
    for top in range(0, height, _STRIP_ROWS * step):
        values = picked.isel(y=slice(top, top + _STRIP_ROWS * step)).values
        strips.append(_block_means(values, step))
    look = np.concatenate(strips, axis=1)
    quantity = Quantity(str(cube.attrs["quantity"]))
    rendering = choose_rendering(look[None], bands=bands, sensor_name=str(cube.attrs["sensor"]), quantity=quantity)
    return render_tile(look, rendering), rendering.words.removesuffix(", one stretch for all")


def _shown(bands: list[str], sensor_name: str) -> list[str]:
    """The bands that a picture of all of them would be made of."""
    by_common = {sensor(sensor_name).band(name).common: name for name in reversed(bands)}
    for wanted, names in ((("red", "green", "blue"), by_common), (("VV", "VH"), {name: name for name in bands})):
        if set(wanted) <= set(names):
            return [names[word] for word in wanted]
    return bands[:1]


def _block_means(values: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
    """Means over blocks of ``step`` pixels of [C, H, W], of what is measured in each; the last block may be smaller."""
    bands, height, width = values.shape
    padded = np.pad(values, ((0, 0), (0, -height % step), (0, -width % step)), constant_values=np.nan)
    blocks = padded.reshape(bands, padded.shape[1] // step, step, padded.shape[2] // step, step)
    measured = np.isfinite(blocks)
    count = measured.sum(axis=(2, 4))
    total = np.where(measured, blocks, 0).sum(axis=(2, 4), dtype=np.float64)
    means: npt.NDArray[np.float32] = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return means

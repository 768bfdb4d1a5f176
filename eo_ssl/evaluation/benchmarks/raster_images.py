"""Raster files of a benchmark: stored numbers, NaN where a file itself says that there is no measurement."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioIOError
from rasterio.warp import transform_bounds

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import THREADS, Stored, gather_images
from eo_ssl.evaluation.sources import Rows
from eo_ssl.scene import compute_taps, find_masked, find_unmeasured, list_measured, open_unshared, resample


def read_planes(
    path: Path,
    *,
    planes: int,
    ignored: bool,
    size: tuple[int, int] | None = None,
    times: int = 1,
    classes: bool = False,
) -> Stored:
    """Return the bands of one raster [planes, H, W] in the file's own type.

    Where its nodata values, masks or alpha band say that pixels are no measurement they are float, NaN there.

    Args:
        path: of the raster.
        planes: bands that it must have, beside an alpha band.
        ignored: whether masks and the alpha band do not count, as the card says.
        size: height and width wanted; None for those of the file.
        times: how many times coarser than ``size`` the file must be; it is brought there by bilinear interpolation.
        classes: whether the numbers are classes, of which a nodata value may be one.

    Raises:
        UserError: no such file, not a raster, or another number of bands or pixels.
    """
    try:
        with open_unshared(path) as file:
            wanted_bands = list_measured(file, bands=planes, ignored=ignored)
            if len(wanted_bands) != planes:
                tagged = file.count > len(wanted_bands)
                alpha = " beside an alpha band (if it is a measurement: `mask: {ignore: why}` in the card)"
                raise UserError(
                    f"expected {planes} bands in {path}, got {len(wanted_bands)}{alpha if tagged else ''}; this is "
                    "another version of the data set, fetch the one that the card describes"
                )
            own = (file.height * times, file.width * times)
            if size is not None and size != own:
                wanted = [size[0] // times, size[1] // times]
                raise UserError(
                    f"expected {wanted} pixels in {path}, got {[file.height, file.width]}; this is another version of "
                    "the data set, fetch it again"
                )
            stored = np.asarray(file.read(wanted_bands))
            invalid = (
                find_masked(file, wanted_bands)
                if classes
                else find_unmeasured(file, stored, wanted_bands, ignored=ignored)
            )
            if invalid.any():
                stored = stored.astype(np.result_type(stored.dtype, np.float32))
                stored[invalid] = np.nan
            return stored if times == 1 else _enlarge(stored, times=times)
    except RasterioIOError as error:
        raise UserError(
            f"expected a readable raster at {path}, got {str(error).splitlines()[0]}; fetch the file again"
        ) from error


def _enlarge(planes: Stored, *, times: int) -> npt.NDArray[np.float32]:
    """Return [b, H, W] at ``times`` as many pixels along each side, as the reader of a corpus brings bands together."""
    out = np.empty((len(planes), planes.shape[1] * times, planes.shape[2] * times), dtype=np.float32)
    along_y, along_x = (
        compute_taps((0, size * times), ratio=1 / times, shift=0.0, size=size, method="bilinear")
        for size in planes.shape[1:]
    )
    for plane, large in zip(planes.astype(np.float32), out, strict=True):
        resample(plane, large, along_y=along_y, along_x=along_x, method="bilinear")
    return out


def read_raster_shape(path: Path, card: Card) -> tuple[int, int, int]:
    """Return bands, height and width of a raster; an alpha band is no band unless the card ignores masks.

    Raises:
        UserError: no such file, or not a raster.
    """
    try:
        with open_unshared(path) as file:
            bands = list_measured(file, bands=len(card.bands), ignored=card.ignores_masks)
            return len(bands), int(file.height), int(file.width)
    except RasterioIOError as error:
        raise UserError(
            f"expected a readable raster at {path}, got {str(error).splitlines()[0]}; fetch the file again"
        ) from error


@dataclass(frozen=True, slots=True)
class Rasters:
    """One multi-band raster per image."""

    paths: tuple[Path, ...]
    card: Card
    "whose bands are those of the files, in their order"

    def __len__(self) -> int:
        return len(self.paths)

    def stored(self, positions: Rows) -> Stored:
        """Return the images at ``positions``, NaN where a file says that there is no measurement."""
        planes, ignored = len(self.card.bands), self.card.ignores_masks
        return gather_images(lambda at: read_planes(self.paths[at], planes=planes, ignored=ignored), positions.tolist())


def read_raster_boxes(paths: Sequence[Path]) -> npt.NDArray[np.float64]:
    """Return xmin, ymin, xmax, ymax of each raster in degrees, float64 [n, 4]; NaN for one without georeference."""

    def place(path: Path) -> tuple[float, float, float, float]:
        with open_unshared(path) as file:
            if file.crs is None:
                return (np.nan,) * 4
            return transform_bounds(file.crs, "OGC:CRS84", *file.bounds)  # type: ignore[no-any-return]

    with ThreadPoolExecutor(THREADS) as pool:
        return np.array(list(pool.map(place, paths)), dtype=np.float64).reshape(-1, 4)

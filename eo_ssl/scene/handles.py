"""Open rasters, one handle per thread and process, and errors of GDAL in words.

A GDAL handle must cross neither a thread nor a fork. Handles stay open between reads of one thread so that GDAL's block cache serves
neighbouring strips: a block that two strips share is decoded once. The cache is bounded (GDAL's own default is a twentieth of the
machine's memory, in every worker); a bound that is set already stays.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from eo_ssl.errors import UserError
from eo_ssl.scene.grid import Grid

_KEPT_OPEN = 40  # per thread: the bands, masks and labels of two Sentinel-2 products
_DRIVERS = {  # a VRT under the name of an image could show any file of this machine
    ".jp2": "JP2OpenJPEG",
    ".tif": "GTiff",
    ".tiff": "GTiff",
}
os.environ.setdefault(
    "GDAL_CACHEMAX", "512"
)  # MB; a row of 1,024 px of a Sentinel-2 product has 290, read once by GDAL
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class _Local(threading.local):
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.handles: OrderedDict[tuple[str, int, int], Any] = OrderedDict()


_LOCAL = _Local()
_INHERITED: list[
    OrderedDict[tuple[str, int, int], Any]
] = []  # handles of a parent process: never used, never closed by the child
_WARNINGS = threading.Lock()  # the warning filters are global to the process


def _renew_lock() -> None:
    global _WARNINGS
    _WARNINGS = threading.Lock()  # a forked child must not wait for a thread that it does not have


os.register_at_fork(after_in_child=_renew_lock)


def stamp(path: Path) -> tuple[str, int, int]:
    """Return what identifies the present content of a file: path, modification time (ns), size (bytes).

    Of a virtual path through a zip file (``product.zip/S2A.SAFE/B02.jp2``) time and size are those of the zip.

    Raises:
        UserError: the file does not exist or cannot be read.
    """
    container = zip_of(path)
    try:
        status = (container or path).stat()
    except OSError as error:
        raise UserError(
            f"expected the file {path}, got {error.strerror or error}; fetch it or correct the card"
        ) from error
    return str(path), status.st_mtime_ns, status.st_size


def zip_of(path: Path) -> Path | None:
    """Return the zip file that a virtual path goes through, None for a path of the file system."""
    return next((parent for parent in path.parents if parent.suffix.lower() == ".zip" and parent.is_file()), None)


def gdal_name(path: Path) -> str:
    """Return what GDAL calls a file: itself, or ``/vsizip/`` for a path through a zip."""
    container = zip_of(path)
    return str(path) if container is None else f"/vsizip/{{{container}}}/{path.relative_to(container).as_posix()}"


def opened(path: Path) -> Any:
    """Return this thread's open rasterio dataset of ``path``.

    Raises:
        UserError: the file is absent or is no raster.
    """
    if _LOCAL.pid != os.getpid():
        _INHERITED.append(_LOCAL.handles)
        _LOCAL.pid, _LOCAL.handles = os.getpid(), OrderedDict()
    key = stamp(path)
    if key not in _LOCAL.handles:
        try:
            with _WARNINGS, warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", NotGeoreferencedWarning
                )  # a missing georeference is refused where it matters
                _LOCAL.handles[key] = rasterio.open(gdal_name(path), driver=_DRIVERS.get(path.suffix.lower()))
        except RasterioError as error:
            raise UserError(
                f"expected a readable raster in {path}, got: {_reason(error)}; the file is damaged or no raster, fetch it again"
            ) from error
        while len(_LOCAL.handles) > _KEPT_OPEN:
            _LOCAL.handles.popitem(last=False)[1].close()
    _LOCAL.handles.move_to_end(key)
    return _LOCAL.handles[key]


def read(path: Path, indexes: tuple[int, ...], *, rows: tuple[int, int], columns: tuple[int, int]) -> npt.NDArray[Any]:
    """Return stored values [band, y, x] of the file's 1-based bands ``indexes`` in a half-open window.

    Raises:
        UserError: the file is truncated or damaged.
    """
    dataset = opened(path)
    window = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
    try:
        return np.asarray(dataset.read(list(indexes), window=window))
    except RasterioError as error:
        _LOCAL.handles.pop(stamp(path), None)
        raise UserError(
            f"expected readable pixels in {path}, got: {_reason(error)}; the file is truncated or damaged, fetch it again"
        ) from error


def grid_of(path: Path) -> Grid:
    """Return the grid of a raster file; ``transform`` and ``crs`` are empty when it has no georeference."""
    return grid_of_dataset(opened(path))


def grid_of_dataset(dataset: Any) -> Grid:
    """Return the grid of an open rasterio dataset, as ``grid_of``."""
    transform = tuple(float(value) for value in dataset.transform)[:6]
    if dataset.crs is None or transform == _IDENTITY:
        return Grid(dataset.height, dataset.width)
    code = dataset.crs.to_epsg()
    return Grid(dataset.height, dataset.width, transform, f"EPSG:{code}" if code else dataset.crs.to_wkt())


def _reason(error: Exception) -> str:
    causes = [str(item).splitlines()[0] for item in (error.__cause__, error) if item is not None and str(item)]
    return (causes or [type(error).__name__])[0].strip().rstrip(".;")

"""Open rasters, one handle per thread and process, and errors of GDAL in words.

A GDAL handle must cross neither a thread nor a fork. Handles stay open between reads of one thread so that GDAL's block
cache serves neighbouring strips: a block that two strips share is decoded once. The cache is bounded (GDAL's own
default is a twentieth of the machine's memory, in every worker); a bound that is set already stays.
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
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, find_zip, identify_file
from eo_ssl.scene.grids import make_grid

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
        self.handles: OrderedDict[FileIdentity, Any] = OrderedDict()


_LOCAL = _Local()
_INHERITED: list[
    OrderedDict[FileIdentity, Any]
] = []  # handles of a parent process: never used, never closed by the child
_WARNINGS = threading.Lock()  # the warning filters are global to the process


def _renew_lock() -> None:
    global _WARNINGS
    _WARNINGS = threading.Lock()  # a forked child must not wait for a thread that it does not have


os.register_at_fork(after_in_child=_renew_lock)


def name_for_gdal(path: Path) -> str:
    """Return what GDAL calls a file: itself, or ``/vsizip/`` for a path through a zip."""
    container = find_zip(path)
    return str(path) if container is None else f"/vsizip/{{{container}}}/{path.relative_to(container).as_posix()}"


def open_raster(path: Path) -> Any:
    """Return this thread's open rasterio dataset of ``path``.

    Raises:
        UserError: the file is absent or is no raster.
    """
    if _LOCAL.pid != os.getpid():
        _INHERITED.append(_LOCAL.handles)
        _LOCAL.pid, _LOCAL.handles = os.getpid(), OrderedDict()
    key = identify_file(path)
    if key not in _LOCAL.handles:
        try:
            with _WARNINGS, warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", NotGeoreferencedWarning
                )  # a missing georeference is refused where it matters
                _LOCAL.handles[key] = rasterio.open(name_for_gdal(path), driver=_DRIVERS.get(path.suffix.lower()))
        except RasterioError as error:
            raise UserError(
                f"expected a readable raster in {path}, got: {describe_error(error)}; the file is damaged or no "
                "raster, fetch it again"
            ) from error
        while len(_LOCAL.handles) > _KEPT_OPEN:
            _LOCAL.handles.popitem(last=False)[1].close()
    _LOCAL.handles.move_to_end(key)
    return _LOCAL.handles[key]


def read_window(
    path: Path, indexes: tuple[int, ...], *, rows: tuple[int, int], columns: tuple[int, int]
) -> npt.NDArray[Any]:
    """Return stored values [band, y, x] of the file's 1-based bands ``indexes`` in a half-open window.

    Raises:
        UserError: the file is truncated or damaged.
    """
    dataset = open_raster(path)
    window = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
    try:
        return np.asarray(dataset.read(list(indexes), window=window))
    except RasterioError as error:
        _LOCAL.handles.pop(identify_file(path), None)
        raise UserError(
            f"expected readable pixels in {path}, got: {describe_error(error)}; the file is truncated or damaged, "
            "fetch it again"
        ) from error


def read_grid(path: Path) -> GeoBox:
    """Return the grid of a raster file, without reference system when it has no georeference."""
    return read_dataset_grid(open_raster(path))


def read_dataset_grid(dataset: Any) -> GeoBox:
    """Return the grid of an open rasterio dataset, as ``read_grid``."""
    transform = tuple(float(value) for value in dataset.transform)[:6]
    if dataset.crs is None or transform == _IDENTITY:
        return make_grid(dataset.height, dataset.width)
    code = dataset.crs.to_epsg()
    return make_grid(dataset.height, dataset.width, transform, f"EPSG:{code}" if code else dataset.crs.to_wkt())


def describe_error(error: BaseException) -> str:
    """Return the first line of what went wrong, of the cause where GDAL gave one."""
    causes = [str(item).splitlines()[0] for item in (error.__cause__, error) if item is not None and str(item)]
    return (causes or [type(error).__name__])[0].strip().rstrip(".;")

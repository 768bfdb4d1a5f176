"""Open rasters, one handle per thread and process, their masks, and errors of GDAL in words.

Every file is opened by the drivers of the formats that are read here and by no other: text that GDAL takes for a web
service or a list of other files (WMS, WMTS, GTI, VRT ...) would contact whatever address it names.

A GDAL handle must cross neither a thread nor a fork. Handles stay open between reads of one thread so that GDAL's block
cache serves neighbouring strips: a block that two strips share is decoded once. The cache is bounded (GDAL's own
default is a twentieth of the machine's memory, in every worker); a bound that is set already stays.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import FileIdentity, find_zip, identify_file
from eo_ssl.scene.grids import check_place, make_grid

_KEPT_OPEN = 40  # per thread: the bands, masks and labels of two Sentinel-2 products
_DRIVERS = {".jp2": ("JP2OpenJPEG",), ".tif": ("GTiff",), ".tiff": ("GTiff",)}
_OTHER_DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG", "HFA", "ENVI", "EHdr", "SRTMHGT", "DTED", "AAIGrid")
"""Formats of files under other names: those that hold their pixels and name no address."""
_SIDECARS = (".msk", ".ovr")
"""GDAL opens these beside a raster with any driver, whatever drivers the raster itself is opened with."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
os.environ.setdefault(
    "GDAL_CACHEMAX", "512"
)  # MB; a row of 1,024 px of a Sentinel-2 product has 290, read once by GDAL
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
MaskBand = tuple[Literal["alpha", "mask"], int]
"""What tells the pixels that count: an alpha band of the file, or the mask that GDAL keeps for a band."""


_Key = tuple[FileIdentity, FileIdentity | None]
"""A file and the mask beside it, which a handle that was opened without it does not see."""


class _Local(threading.local):
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.handles: OrderedDict[_Key, Any] = OrderedDict()


_LOCAL = _Local()
_INHERITED: list[OrderedDict[_Key, Any]] = []  # handles of a parent process: never used, never closed by the child
_WARNINGS = threading.Lock()  # the warning filters are global to the process


def _renew_lock() -> None:
    global _WARNINGS
    _WARNINGS = threading.Lock()  # a forked child must not wait for a thread that it does not have


os.register_at_fork(after_in_child=_renew_lock)


def name_for_gdal(path: Path) -> str:
    """Return what GDAL calls a file: itself, or ``/vsizip/`` for a path through a zip."""
    path = path.absolute()  # a relative name could begin like one of GDAL's own (GTIFF_DIR:1: ...)
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
    key = _identify(path)
    if key not in _LOCAL.handles:
        try:
            _LOCAL.handles[key] = open_unshared(path)
        except RasterioError as error:
            raise UserError(
                f"expected a readable raster in {path}, got: {describe_error(error)}; the file is damaged or no "
                "raster, fetch it again"
            ) from error
        while len(_LOCAL.handles) > _KEPT_OPEN:
            _LOCAL.handles.popitem(last=False)[1].close()
    _LOCAL.handles.move_to_end(key)
    return _LOCAL.handles[key]


def open_unshared(path: Path) -> Any:
    """Return a new rasterio dataset of a file, by a driver of the formats that are read here; the caller closes it.

    Raises:
        UserError: the file is absent, a pipe or device, or something else than a TIFF lies beside it as its mask.
        rasterio.errors.RasterioError: it is no raster of these formats.
    """
    identify_file(path)
    check_sidecars(path)
    return open_quietly(name_for_gdal(path), drivers=_DRIVERS.get(path.suffix.lower(), _OTHER_DRIVERS))


def open_quietly(name: str, *, drivers: tuple[str, ...]) -> Any:
    """Return `open_dataset` of a file; that it has no georeference is refused where it matters."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return open_dataset(name, drivers=drivers)


def open_dataset(name: str, *, drivers: tuple[str, ...]) -> Any:
    """Return the rasterio dataset of a file or link as GDAL names it, opened by one of ``drivers``.

    Raises:
        rasterio.errors.RasterioError: none of them takes it.
    """
    with rasterio.Env():  # rasterio.open takes one driver until 1.4, the class behind it several
        return DatasetReader(name, driver=list(drivers), sharing=False)


def find_mask_file(path: Path) -> Path | None:
    """Return the file beside a raster that holds its mask, None where there is none."""
    beside = path.with_name(path.name + ".msk")
    return beside if beside.exists() else None


def _identify(path: Path) -> _Key:
    beside = find_mask_file(path)
    return identify_file(path), identify_file(beside) if beside else None


def check_sidecars(path: Path) -> None:
    """Refuse a mask or overview file beside a raster that is no TIFF, before GDAL opens it as whatever it says.

    Raises:
        UserError: naming the file.
    """
    for ending in _SIDECARS:
        beside = path.with_name(path.name + ending)
        if beside.exists():
            identify_file(beside)  # a pipe would never end
            with beside.open("rb") as file:
                expect(
                    is_tiff(file.read(4)),
                    expected=f"{beside} to be the TIFF that GDAL writes beside a raster",
                    got="something else",
                    remedy="remove it or fetch it again",
                )


def is_tiff(start: bytes) -> bool:
    """Return whether bytes begin as a TIFF or BigTIFF does."""
    return start[:4] in _TIFF


def find_alpha(dataset: Any) -> int:
    """Return the 1-based alpha band of an open dataset, which marks what is valid and is no measurement; 0 for none."""
    kinds = list(dataset.colorinterp)
    return kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else 0


def find_masks(dataset: Any, index: int) -> tuple[MaskBand, ...]:
    """Return what tells which pixels of the 1-based band ``index`` are valid, beside its nodata value.

    An alpha band, a mask in the file or in a ``.msk`` file beside it, for all bands or for this one, or a combination
    of nodata values over all bands. Nothing where GDAL says that all pixels are valid or that the nodata value alone
    decides: then nothing has to be read.
    """
    alpha, flags = find_alpha(dataset), set(dataset.mask_flag_enums[index - 1])
    masks: list[MaskBand] = [("alpha", alpha)] if alpha not in (0, index) else []
    if not flags & {MaskFlags.all_valid, MaskFlags.alpha} and flags != {MaskFlags.nodata}:
        masks.append(("mask", 1 if MaskFlags.per_dataset in flags else index))
    return tuple(masks)


def read_masked(dataset: Any, mask: MaskBand, *, window: Window) -> npt.NDArray[np.bool_]:
    """Return [y, x] of a window: whether ``mask`` says that a pixel is no measurement.

    Raises:
        rasterio.errors.RasterioError: the file is truncated or damaged.
    """
    kind, index = mask
    return np.asarray(
        (dataset.read(index, window=window) if kind == "alpha" else dataset.read_masks(index, window=window)) == 0
    )


def list_measured(dataset: Any, *, bands: int, ignored: bool) -> list[int]:
    """Return the 1-based bands of an open dataset that are measurements: all but its alpha band.

    An alpha band counts as one where masks are ``ignored`` and it is among as many ``bands`` as are wanted.
    """
    alpha, as_band = find_alpha(dataset), ignored and dataset.count == bands
    return [index for index in range(1, dataset.count + 1) if index != alpha or as_band]


def find_unmeasured(
    dataset: Any, planes: npt.NDArray[Any], indexes: Sequence[int], *, ignored: bool
) -> npt.NDArray[np.bool_]:
    """Return [band, y, x] of a whole open dataset: what its nodata values, masks or alpha band call no measurement.

    Args:
        dataset: of rasterio.
        planes: stored numbers [band, y, x] of its 1-based bands ``indexes``.
        indexes: of the bands.
        ignored: whether masks and the alpha band do not count.

    Raises:
        rasterio.errors.RasterioError: the file is truncated or damaged.
    """
    out = np.zeros(planes.shape, dtype=bool) if ignored else find_masked(dataset, indexes)
    for plane, invalid, index in zip(planes, out, indexes, strict=True):
        nodata = dataset.nodatavals[index - 1]
        invalid |= False if nodata is None else plane == nodata
    return out


def find_masked(dataset: Any, indexes: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Return [band, y, x] of a whole open dataset: what its masks or alpha band call no measurement.

    Raises:
        rasterio.errors.RasterioError: the file is truncated or damaged.
    """
    whole = place_window((0, dataset.height), (0, dataset.width))
    out = np.zeros((len(indexes), dataset.height, dataset.width), dtype=bool)
    for invalid, index in zip(out, indexes, strict=True):
        for mask in find_masks(dataset, index):
            invalid |= read_masked(dataset, mask, window=whole)
    return out


def list_masks(path: Path, index: int) -> tuple[MaskBand, ...]:
    """Return `find_masks` of a file, asked of GDAL once per process and content."""
    return _list_masks(_identify(path))[index - 1]


@lru_cache(maxsize=1024)
def _list_masks(content: _Key) -> tuple[tuple[MaskBand, ...], ...]:
    dataset = open_raster(Path(content[0][0]))
    return tuple(find_masks(dataset, index) for index in range(1, dataset.count + 1))


def read_masks(
    path: Path, masks: Iterable[MaskBand], *, rows: tuple[int, int], columns: tuple[int, int]
) -> dict[MaskBand, npt.NDArray[np.bool_]]:
    """Return for each of a file's ``masks``, read once, which pixels [y, x] of a half-open window are no measurement.

    Raises:
        UserError: the file is truncated or damaged.
    """
    window = place_window(rows, columns)
    with _pixels_of(path) as dataset:
        return {mask: read_masked(dataset, mask, window=window) for mask in set(masks)}


def read_window(
    path: Path, indexes: tuple[int, ...], *, rows: tuple[int, int], columns: tuple[int, int]
) -> npt.NDArray[Any]:
    """Return stored values [band, y, x] of the file's 1-based bands ``indexes`` in a half-open window.

    Raises:
        UserError: the file is truncated or damaged.
    """
    with _pixels_of(path) as dataset:
        return np.asarray(dataset.read(list(indexes), window=place_window(rows, columns)))


def place_window(rows: tuple[int, int], columns: tuple[int, int]) -> Window:
    """Return rasterio's window of half-open ranges of rows and columns."""
    return Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])


@contextmanager
def _pixels_of(path: Path) -> Iterator[Any]:
    """The open file to read pixels of; damage is said in words, and the handle that met it is not used again."""
    dataset = open_raster(path)
    try:
        yield dataset
    except RasterioError as error:
        _LOCAL.handles.pop(_identify(path), None)
        raise UserError(
            f"expected readable pixels in {path}, got: {describe_error(error)}; the file is truncated or damaged, "
            "fetch it again"
        ) from error


def read_grid(path: Path) -> GeoBox:
    """Return the grid of a raster file, without reference system when it has no georeference.

    Raises:
        UserError: the file is absent or damaged, rotated, upside down or mirrored, or its reference system has no place
            on Earth.
    """
    return read_dataset_grid(open_raster(path), name=str(path))


def read_dataset_grid(dataset: Any, *, name: str) -> GeoBox:
    """Return the grid of an open rasterio dataset that errors call ``name``, as ``read_grid``."""
    transform = tuple(float(value) for value in dataset.transform)[:6]
    if dataset.crs is None or transform == _IDENTITY:
        return make_grid(dataset.height, dataset.width)
    code = dataset.crs.to_epsg()
    grid = make_grid(dataset.height, dataset.width, transform, f"EPSG:{code}" if code else dataset.crs.to_wkt())
    check_place(grid, name=name)
    return grid


def describe_error(error: BaseException) -> str:
    """Return the first line of what went wrong, of the cause where GDAL gave one."""
    causes = [str(item).splitlines()[0] for item in (error.__cause__, error) if item is not None and str(item)]
    return (causes or [type(error).__name__])[0].strip().rstrip(".;")

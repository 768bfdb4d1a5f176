"""Pixels of npy, npz and NetCDF arrays whose layout a card declares."""

from __future__ import annotations

import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS

from eo_ssl.cards import ArrayLayout, Card
from eo_ssl.errors import UserError
from eo_ssl.scene.cube import Layers
from eo_ssl.scene.facts import iso
from eo_ssl.scene.grid import Grid
from eo_ssl.scene.handles import stamp
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.rasters import check_gsd, class_values
from eo_ssl.sensors import sensor

Range = tuple[int, int]
_NETCDF = threading.Lock()  # the HDF5 library below netCDF4 is not safe to enter from two threads
_KEPT_OPEN = 8  # NetCDF files per process
_OPEN: OrderedDict[tuple[str, int, int], Any] = OrderedDict()
_INHERITED: list[OrderedDict[tuple[str, int, int], Any]] = []  # handles of a parent process: never used nor closed


def _forget_parent() -> None:
    """A forked child has neither the parent's threads, which may hold the lock, nor a right to its handles."""
    global _NETCDF, _OPEN
    _INHERITED.append(_OPEN)
    _NETCDF, _OPEN = threading.Lock(), OrderedDict()


os.register_at_fork(after_in_child=_forget_parent)
_IRREGULAR = 1e-3  # relative; coordinates written as float32 vary by less
_SUFFIXES = (".npy", ".npz", ".nc")


@dataclass(frozen=True, slots=True)
class ArrayImage:
    """The bands of one product (one time step) of an array file."""

    grid: Grid
    path: Path
    keys: tuple[str, ...]
    "one variable that holds all bands, or one variable per band; empty string for npy"
    dims: str
    planes: tuple[int, ...]
    "position of each band on the axis b (when all bands share a variable)"
    step: int | None
    radiometry: Radiometry
    saturation: float | None = None

    def _stored(self, bands: Sequence[int], rows: Range, columns: Range) -> npt.NDArray[Any]:
        if len(self.keys) > 1 or "b" not in self.dims:
            keys = [self.keys[band] for band in bands]
            return np.stack(
                [select(self.path, key, dims=self.dims, step=self.step, rows=rows, columns=columns)[0] for key in keys]
            )
        values = select(self.path, self.keys[0], dims=self.dims, step=self.step, rows=rows, columns=columns)
        return values[[self.planes[band] for band in bands]]

    def read(self, bands: Sequence[int], *, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return physical values [band, y, x] float32, NaN invalid, of a half-open window."""
        return self.radiometry.physical(self._stored(bands, rows, columns))

    def saturated(self, *, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return [y, x]: whether any band is stored as the saturation value."""
        count = len(self.keys) if len(self.keys) > 1 else len(self.planes)
        return np.asarray((self._stored(range(count), rows, columns) == self.saturation).any(axis=0))

    @property
    def block_height(self) -> int:
        """Rows of a natural strip: the whole array, which is small or memory-mapped."""
        return self.grid.height


@dataclass(frozen=True, slots=True)
class ArrayClasses:
    """Class values stored as an array of the image's rows and columns."""

    path: Path
    key: str
    dims: str
    step: int | None

    def read(self, *, rows: Range, columns: Range) -> npt.NDArray[np.int64]:
        """Return stored class values [y, x]."""
        return class_values(select(self.path, self.key, dims=self.dims, step=self.step, rows=rows, columns=columns)[0])


def select(path: Path, key: str, *, dims: str, step: int | None, rows: Range, columns: Range) -> npt.NDArray[Any]:
    """Return stored values [b, y, x] (b = 1 without that axis) of one time step and window of variable ``key``."""
    part: dict[str, slice | int] = {"y": slice(*rows), "x": slice(*columns), "t": step or 0, "b": slice(None)}
    values = _fetch(path, key, tuple(part[name] for name in dims))
    kept = [name for name in dims if name != "t"]
    if "b" not in kept:
        values, kept = values[np.newaxis], ["b", *kept]
    return np.ascontiguousarray(values.transpose([kept.index(name) for name in "byx"]))


def _fetch(path: Path, key: str, part: tuple[slice | int, ...]) -> npt.NDArray[Any]:
    if path.suffix == ".nc":
        with _dataset(path) as dataset:
            return np.asarray(_variable(dataset, key, path)[part])
    return np.asarray((_npz(stamp(path), key) if path.suffix == ".npz" else _npy(path))[part])


def _npy(path: Path) -> npt.NDArray[Any]:
    stamp(path)
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"expected a plain numpy array in {path}, got: {_reason(error)}; save numbers with numpy.save"
        ) from error


@lru_cache(maxsize=2)
def _npz(content: tuple[str, int, int], key: str) -> npt.NDArray[Any]:
    """Decompressed member ``key``; an npz has no windows, so the last two are kept."""
    try:
        with Path(content[0]).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if key not in archive:
                raise UserError(
                    f"expected the array {key!r} in {content[0]}, got {', '.join(archive)}; correct `array.key`, mask or label source in the card"
                )
            return np.asarray(archive[key])
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"expected a readable npz of plain numbers in {content[0]}, got: {_reason(error)}; the file is damaged, fetch it again"
        ) from error


@contextmanager
def _dataset(path: Path) -> Iterator[Any]:
    """Lend the open file to one thread at a time; it stays open, so that a chunk of many dates is decompressed once."""
    key = stamp(path)
    with _NETCDF:
        if key not in _OPEN:
            try:
                _OPEN[key] = netCDF4.Dataset(path)
            except OSError as error:
                raise UserError(
                    f"expected a readable NetCDF file in {path}, got: {_reason(error)}; the file is damaged, fetch it again"
                ) from error
            _OPEN[key].set_auto_maskandscale(False)  # scale and offset are the card's business
            while len(_OPEN) > _KEPT_OPEN:
                _OPEN.popitem(last=False)[1].close()
        _OPEN.move_to_end(key)
        yield _OPEN[key]


def _variable(dataset: Any, key: str, path: Path) -> Any:
    if key not in dataset.variables:
        raise UserError(
            f"expected the variable {key!r} in {path}, got {', '.join(dataset.variables)}; correct the card"
        )
    return dataset.variables[key]


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def array_shape(path: Path, key: str) -> tuple[int, ...]:
    """Return the shape of a stored array without reading its pixels."""
    if path.suffix not in _SUFFIXES:
        raise UserError(
            f"expected an array file ({', '.join(_SUFFIXES)}), got {path}; choose the reader raster for GDAL formats"
        )
    if path.suffix == ".nc":
        with _dataset(path) as dataset:
            return tuple(_variable(dataset, key, path).shape)
    if path.suffix == ".npy":
        return _npy(path).shape
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
            version = np.lib.format.read_magic(member)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return tuple(reader(member)[0])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile):
        return _npz(stamp(path), key).shape  # raises the error in words


def layout(card: Card) -> ArrayLayout:
    """Return the card's array layout.

    Raises:
        UserError: the axes are not letters of t, y, x, b with y and x, or bands are laid out in two ways.
    """
    if card.array is None:
        raise UserError(f"expected card {card.name} to have `array`, got none; add it")
    dims = card.array.dims
    if len(set(dims)) != len(dims) or not set("yx") <= set(dims) <= set("tyxb"):
        raise UserError(
            f"expected array.dims of card {card.name} out of t, y, x, b with y and x, got {dims!r}; correct it"
        )
    if bool(card.array.variables) == ("b" in dims):
        raise UserError(
            f"expected card {card.name} to give either an axis b or one variable per band, got dims {dims!r}; correct `array`"
        )
    return card.array


def steps(card: Card, path: Path) -> tuple[str, ...] | None:
    """Return the ISO dates of the axis t (empty strings when the file names none), or None without that axis."""
    declared = layout(card)
    if "t" not in declared.dims:
        return None
    key = next(iter(declared.variables), declared.key or "")
    count = array_shape(path, key)[declared.dims.index("t")]
    if declared.time is None or path.suffix != ".nc":
        return ("",) * count
    with _dataset(path) as dataset:
        variable = _variable(dataset, declared.time, path)
        dates: Any = netCDF4.num2date(variable[:], variable.units, getattr(variable, "calendar", "standard"))
    return tuple(iso(date.isoformat()) for date in dates)


def image(card: Card, path: Path, *, bands: tuple[str, ...], step: int | None, offset: float) -> ArrayImage:
    """Return the image of one time step with ``bands`` in the wanted order.

    Raises:
        UserError: the number of bands or axes differs from the card's, or the file states another scale.
    """
    declared = layout(card)
    by_band = {sensor(card.sensor).resolve(name): key for key, name in declared.variables.items()}
    missing = [band for band in bands if declared.variables and band not in by_band]
    if missing:
        raise UserError(
            f"expected card {card.name} to name a variable for each band, got none for {', '.join(missing)}; add it to array.variables"
        )
    keys = tuple(by_band[band] for band in bands) if declared.variables else (declared.key or "",)
    shape, *others = (array_shape(path, key) for key in keys)
    if len(shape) != len(declared.dims) or any(other != shape for other in others):
        raise UserError(
            f"expected the axes {declared.dims!r}, alike for all bands, in {path}, got shape {' and '.join(map(str, dict.fromkeys([shape, *others])))}; "
            f"correct array.dims in card {card.name}"
        )
    size = dict(zip(declared.dims, shape, strict=True))
    if "b" in size and size["b"] != len(card.bands):
        raise UserError(
            f"expected {len(card.bands)} bands in {path} as card {card.name} lists, got {size['b']}; correct `bands`"
        )
    transform, crs = card.transform, card.crs
    radiometry = Radiometry(card.quantity, card.scale, offset, () if card.nodata is None else (card.nodata,))
    if path.suffix == ".nc":
        own = _netcdf_facts(path, keys, radiometry)
        transform, crs = transform or own.transform, crs or own.crs
        radiometry = replace(radiometry, nodata=radiometry.nodata + own.nodata)
    grid = Grid(size["y"], size["x"], tuple(transform) if transform and crs else (), crs if transform else "")
    check_gsd(card, grid, path=path)
    planes = tuple(card.bands.index(band) for band in bands) if "b" in size else ()
    return ArrayImage(grid, path, keys, declared.dims, planes, step, radiometry, card.dtype_max)


def classes(card: Card, path: Path, *, source: str, step: int | None, grid: Grid) -> ArrayClasses:
    """Return the classes that ``source`` names: a key of the same file, or a file beside it.

    Raises:
        UserError: their rows and columns are not those of the image.
    """
    file = path.parent / source if Path(source).suffix in _SUFFIXES else path
    key = "" if file != path else source
    shape = array_shape(file, key)
    timed = step is not None and "t" in layout(card).dims and file == path and len(shape) == 3
    dims = "tyx" if timed else "yxb" if len(shape) == 3 else "yx"
    if tuple(shape[dims.index(name)] for name in "yx") != grid.shape:
        raise UserError(
            f"expected {source!r} of {file} on the image's {grid.height} x {grid.width} pixels, got shape {shape}; correct the card"
        )
    return ArrayClasses(file, key, dims, step if timed else None)


@dataclass(frozen=True, slots=True)
class _NetcdfFacts:
    transform: tuple[float, float, float, float, float, float] | None
    crs: str
    nodata: tuple[float, ...]


def _netcdf_facts(path: Path, keys: Sequence[str], radiometry: Radiometry) -> _NetcdfFacts:
    """Georeference from the coordinates x, y and the grid mapping, nodata from ``_FillValue``; a contradicting scale is refused."""
    with _dataset(path) as dataset:
        variables = [_variable(dataset, key, path) for key in keys]
        for key, variable in zip(keys, variables, strict=True):
            scale, shift = getattr(variable, "scale_factor", None), getattr(variable, "add_offset", None)
            if scale is not None or shift is not None:
                stated = float(1 if scale is None else scale), float(0 if shift is None else shift)
                radiometry.check_stated(*stated, name=f"{key} of {path}")
        # A value that marks nodata in one band could be a measurement in another, so all bands must agree on it.
        fills = {float(variable._FillValue) if hasattr(variable, "_FillValue") else np.nan for variable in variables}
        fill = tuple(value for value in fills if not np.isnan(value))
        if len(fill) > 1:
            raise UserError(f"expected one _FillValue in {path}, got {fill}; write all bands with the same one")
        mapping = getattr(variables[0], "grid_mapping", None)
        if mapping not in dataset.variables or not {"x", "y"} <= set(dataset.variables):
            return _NetcdfFacts(None, "", fill)
        text = getattr(dataset.variables[mapping], "crs_wkt", getattr(dataset.variables[mapping], "spatial_ref", ""))
        code = CRS.from_wkt(text).to_epsg() if text else None
        x, y = (np.asarray(dataset.variables[name][:], dtype=np.float64) for name in "xy")
    if len(x) < 2 or len(y) < 2 or code is None:
        return _NetcdfFacts(None, "", fill)
    if any(np.ptp(np.diff(axis)) > _IRREGULAR * abs(axis[1] - axis[0]) for axis in (x, y)):
        raise UserError(f"expected equal steps of x and y in {path}, got irregular ones; resample it to a grid first")
    dx, dy = float(x[1] - x[0]), float(y[1] - y[0])
    return _NetcdfFacts((dx, 0.0, float(x[0]) - dx / 2, 0.0, dy, float(y[0]) - dy / 2), f"EPSG:{code}", fill)


def layers(card: Card, path: Path, *, bands: tuple[str, ...], step: int | None, offset: float) -> Layers:
    """Return image, mask and labels of one time step of ``path``.

    Raises:
        UserError: see ``image`` and ``classes``.
    """
    pixels = image(card, path, bands=bands, step=step, offset=offset)
    sources = (card.mask.source if card.mask else None, card.labels.source if card.labels else None)
    quality, labels = (
        classes(card, path, source=source, step=step, grid=pixels.grid) if source else None for source in sources
    )
    return Layers(pixels, quality, labels, has_saturation=card.dtype_max is not None)

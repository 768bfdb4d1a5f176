"""Numbers, shapes, dates and georeference stored in npy, npz and NetCDF files."""

from __future__ import annotations

import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS

from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene.acquisition import format_iso
from eo_ssl.scene.layers import Range
from eo_ssl.scene.radiometry import Radiometry

_NETCDF = threading.Lock()  # the HDF5 library below netCDF4 is not safe to enter from two threads
_KEPT_OPEN = 8  # NetCDF files per process
_OPEN: OrderedDict[FileIdentity, Any] = OrderedDict()
_INHERITED: list[OrderedDict[FileIdentity, Any]] = []  # handles of a parent process: never used nor closed


def _forget_parent() -> None:
    """A forked child has neither the parent's threads, which may hold the lock, nor a right to its handles."""
    global _NETCDF, _OPEN
    _INHERITED.append(_OPEN)
    _NETCDF, _OPEN = threading.Lock(), OrderedDict()


os.register_at_fork(after_in_child=_forget_parent)
_IRREGULAR = 1e-3  # relative; coordinates written as float32 vary by less
SUFFIXES = (".npy", ".npz", ".nc")


def read_part(path: Path, key: str, *, dims: str, step: int | None, rows: Range, columns: Range) -> npt.NDArray[Any]:
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
    return np.asarray((_npz(identify_file(path), key) if path.suffix == ".npz" else _npy(path))[part])


def _npy(path: Path) -> npt.NDArray[Any]:
    identify_file(path)
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"expected a plain numpy array in {path}, got: {_reason(error)}; save numbers with numpy.save"
        ) from error


@lru_cache(maxsize=2)
def _npz(content: FileIdentity, key: str) -> npt.NDArray[Any]:
    """Decompressed member ``key``; an npz has no windows, so the last two are kept."""
    try:
        with Path(content[0]).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if key not in archive:
                raise UserError(
                    f"expected the array {key!r} in {content[0]}, got {', '.join(archive)}; correct `array.key`, mask "
                    "or label source in the card"
                )
            return np.asarray(archive[key])
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"expected a readable npz of plain numbers in {content[0]}, got: {_reason(error)}; the file is damaged, "
            "fetch it again"
        ) from error


@contextmanager
def _dataset(path: Path) -> Iterator[Any]:
    """Lend the open file to one thread at a time; it stays open, so that a chunk of many dates is decompressed once."""
    key = identify_file(path)
    with _NETCDF:
        if key not in _OPEN:
            try:
                _OPEN[key] = netCDF4.Dataset(path)
            except OSError as error:
                raise UserError(
                    f"expected a readable NetCDF file in {path}, got: {_reason(error)}; the file is damaged, fetch it "
                    "again"
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


def read_array_shape(path: Path, key: str) -> tuple[int, ...]:
    """Return the shape of a stored array without reading its pixels."""
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"expected an array file ({', '.join(SUFFIXES)}), got {path}; choose the reader raster for GDAL formats"
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
        return _npz(identify_file(path), key).shape  # raises the error in words


@dataclass(frozen=True, slots=True)
class NetcdfGrid:
    """What the coordinates and attributes of NetCDF variables say; no transform where they say no place."""

    transform: tuple[float, float, float, float, float, float] | None
    crs: str
    nodata: tuple[float, ...]


def read_netcdf_grid(path: Path, keys: Sequence[str], *, radiometry: Radiometry) -> NetcdfGrid:
    """Return georeference from the coordinates x, y and the grid mapping, and nodata from ``_FillValue``.

    Raises:
        UserError: the file states another scale than the card, several fill values, or coordinates of unequal steps.
    """
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
            return NetcdfGrid(None, "", fill)
        text = getattr(dataset.variables[mapping], "crs_wkt", getattr(dataset.variables[mapping], "spatial_ref", ""))
        code = CRS.from_wkt(text).to_epsg() if text else None
        x, y = (np.asarray(dataset.variables[name][:], dtype=np.float64) for name in "xy")
    if len(x) < 2 or len(y) < 2 or code is None:
        return NetcdfGrid(None, "", fill)
    if any(np.ptp(np.diff(axis)) > _IRREGULAR * abs(axis[1] - axis[0]) for axis in (x, y)):
        raise UserError(f"expected equal steps of x and y in {path}, got irregular ones; resample it to a grid first")
    dx, dy = float(x[1] - x[0]), float(y[1] - y[0])
    return NetcdfGrid((dx, 0.0, float(x[0]) - dx / 2, 0.0, dy, float(y[0]) - dy / 2), f"EPSG:{code}", fill)


def read_dates(path: Path, key: str) -> tuple[str, ...]:
    """Return the ISO dates that a NetCDF variable holds."""
    with _dataset(path) as dataset:
        variable = _variable(dataset, key, path)
        dates: Any = netCDF4.num2date(variable[:], variable.units, getattr(variable, "calendar", "standard"))
    return tuple(format_iso(date.isoformat()) for date in dates)

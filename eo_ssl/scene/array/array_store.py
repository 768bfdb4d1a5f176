"""Numbers, shapes, dates and georeference stored in npy, npz and NetCDF (or HDF5) files."""

from __future__ import annotations

import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene.acquisition import format_iso
from eo_ssl.scene.array.cf_conventions import (
    Axes,
    StoredNumbers,
    find_swath,
    read_axes,
    read_decoded,
    read_labels,
    read_stored_numbers,
)
from eo_ssl.scene.layers import Range

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
_TIME = (("units", ""), ("calendar", "standard"))
_NETCDF_SUFFIXES = (".nc", ".nc4", ".h5", ".hdf5")  # NetCDF-4 is HDF5, and its library reads both
SUFFIXES = (".npy", ".npz", *_NETCDF_SUFFIXES)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """A variable of an array file, or one step of it, as its pixels lie on the ground: north up, east to the right."""

    path: Path
    key: str
    "of the npz, variable of the NetCDF file; empty string for npy"
    dims: str
    "a letter per stored axis: t, y, x, b"
    height: int
    width: int
    step: int | None = None
    "index on the axis t"
    turned: tuple[bool, bool] = (False, False)
    "whether the stored rows begin in the south, the columns in the east"

    def read(self, rows: Range, columns: Range) -> npt.NDArray[Any]:
        """Return stored values [b, y, x] (b = 1 without that axis) of a half-open window."""
        windows = zip((rows, columns), (self.height, self.width), self.turned, strict=True)
        inner = [slice(size - high, size - low) if back else slice(low, high) for (low, high), size, back in windows]
        part: dict[str, slice | int] = {"y": inner[0], "x": inner[1], "t": self.step or 0, "b": slice(None)}
        values = _fetch(self.path, self.key, tuple(part[name] for name in self.dims))
        kept = [name for name in self.dims if name != "t"]
        if "b" not in kept:
            values, kept = values[np.newaxis], ["b", *kept]
        back = [slice(None, None, -1 if turn else 1) for turn in self.turned]
        return np.ascontiguousarray(values.transpose([kept.index(name) for name in "byx"])[:, back[0], back[1]])


def _fetch(path: Path, key: str, part: tuple[slice | int, ...]) -> npt.NDArray[Any]:
    if is_netcdf(path):
        with _variable(path, key) as variable:
            try:
                values = np.asarray(variable[part])
            except (RuntimeError, OSError, IndexError, ValueError) as error:  # what the library says of damaged chunks
                raise UserError(
                    f"expected readable numbers in {key} of {path}, got: {_reason(error)}; the file is damaged, fetch "
                    "it again"
                ) from error
        return values.view(describe_numbers(path, key).dtype)
    return np.asarray((_npz(identify_file(path), key) if path.suffix == ".npz" else _npy(path))[part])


def is_netcdf(path: Path) -> bool:
    """Return whether a file is read by the NetCDF library, and so says itself what its numbers are."""
    return path.suffix in _NETCDF_SUFFIXES


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


@contextmanager
def _variable(path: Path, key: str) -> Iterator[Any]:
    """Lend a variable, which may lie in a group (``data/B04``), with scale and mask switched off."""
    with _dataset(path) as dataset:
        try:
            variable = dataset[key]
        except (IndexError, KeyError):
            variable = None
        if not isinstance(variable, netCDF4.Variable):
            raise UserError(
                f"expected the variable {key!r} in {path}, got {', '.join(dataset.variables)}; correct the card"
            )
        yield variable


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def read_array_shape(path: Path, key: str) -> tuple[int, ...]:
    """Return the shape of a stored array without reading its pixels."""
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"expected an array file ({', '.join(SUFFIXES)}), got {path}; choose the reader raster for GDAL formats"
        )
    if is_netcdf(path):
        with _variable(path, key) as variable:
            return tuple(variable.shape)
    if path.suffix == ".npy":
        return _npy(path).shape
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
            version = np.lib.format.read_magic(member)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return tuple(reader(member)[0])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile):
        return _npz(identify_file(path), key).shape  # raises the error in words


def describe_numbers(path: Path, key: str) -> StoredNumbers:
    """Return how the numbers of a NetCDF variable are read, as its attributes say."""
    return _describe(identify_file(path), key)


@lru_cache(maxsize=1024)
def _describe(content: FileIdentity, key: str) -> StoredNumbers:
    """Read once per content: an axis of time makes many products of one file."""
    with _variable(Path(content[0]), key) as variable:
        return read_stored_numbers(variable, name=f"{key} of {content[0]}")


def locate_axes(path: Path, keys: tuple[str, ...], dims: str, *, crs: str) -> Axes:
    """Return where the rows and columns of NetCDF variables lie.

    Args:
        path: of the file.
        keys: variables, which must lie alike.
        dims: a letter per axis of each.
        crs: the card's reference system, which goes before the file's.

    Raises:
        UserError: the variables have different axes, or see :func:`.cf_conventions.read_axes`.
    """
    content = identify_file(path)
    found = [_locate(content, key, dims, crs) for key in keys]
    differs = [key for key, one in zip(keys, found, strict=True) if one != found[0]]
    expect(
        not differs,
        expected=f"variables of the same axes and coordinates in {path}",
        got=f"others for {', '.join(differs)} than for {keys[0]}",
        remedy="write the bands on one grid",
    )
    return found[0][1]


@lru_cache(maxsize=1024)
def _locate(content: FileIdentity, key: str, dims: str, crs: str) -> tuple[tuple[str, ...], Axes]:
    with _variable(Path(content[0]), key) as variable:
        return tuple(variable.dimensions), read_axes(variable, dims, crs=crs, name=f"{key} of {content[0]}")


def locate_swath(path: Path, key: str, dims: str) -> tuple[str, str] | None:
    """Return `cf_conventions.find_swath` of a variable in a NetCDF file."""
    with _variable(path, key) as variable:
        return find_swath(variable, dims)


def list_labels(path: Path, key: str, position: int) -> tuple[str, ...]:
    """Return what a NetCDF file calls the entries of an axis of a variable; nothing where it calls them nothing."""
    with _variable(path, key) as variable:
        return read_labels(variable, position)


def read_dates(path: Path, key: str) -> tuple[str, ...]:
    """Return the ISO dates that a NetCDF variable holds."""
    with _variable(path, key) as variable:
        values = read_decoded(variable, name=f"{key} of {path}")
        units, calendar = (getattr(variable, name, default) for name, default in _TIME)
    try:
        dates: Any = netCDF4.num2date(values, units, calendar)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"expected dates as `units` since a day in {key} of {path}, got units {units!r} and calendar {calendar!r}: "
            f"{_reason(error)}; correct the file or array.time"
        ) from error
    return tuple(format_iso(date.isoformat()) for date in np.atleast_1d(dates))

"""What attributes and coordinates of NetCDF variables say: which stored numbers are measurements, and where they lie.

Climate and Forecast conventions (CF 1.11, sections 2.5.1 missing data, 5.6 grid mappings, 8.1 packed data) and the
attribute conventions of the NetCDF User's Guide (``_Unsigned``, ``valid_range``, default fill values). What is decoded
is what netCDF4-python decodes; a form that readers understand in different ways is refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt
import pyproj
from pyproj.exceptions import CRSError

from eo_ssl.errors import UserError, expect

_PACKING = (("scale_factor", 1.0), ("add_offset", 0.0))
_UNEVEN = 0.01  # of a step: how far a coordinate may lie beside its place on an even axis, beside rounding as stored
_UPWARD, _SIDEWARD = ("y", "lat", "latitude", "northing"), ("x", "lon", "longitude", "easting")  # names of axes
_STANDARD = {
    "projection_y_coordinate": "y",
    "latitude": "y",
    "grid_latitude": "y",
    "projection_x_coordinate": "x",
    "longitude": "x",
    "grid_longitude": "x",
}


@dataclass(frozen=True, slots=True)
class StoredNumbers:
    """How the numbers of a variable are read, in stored units."""

    dtype: np.dtype[Any]
    "integers that ``_Unsigned`` declares to be unsigned are so here"
    missing: tuple[float, ...] = ()
    "values that mean nothing was measured"
    valid: tuple[float, float] = (-np.inf, np.inf)
    "least and largest value of a measurement"
    scale: float = 1.0
    shift: float = 0.0
    "``scale_factor`` and ``add_offset``"
    is_packed: bool = False
    "whether the file states one of them"

    @property
    def kind(self) -> str:
        """What the numbers are, in words: variables of one scale have one kind."""
        packed = "packed " if (self.scale, self.shift) != (1.0, 0.0) else ""
        return f"{packed}{'integers' if self.dtype.kind in 'iu' else 'floats'}"


@dataclass(frozen=True, slots=True)
class Axes:
    """Where the pixels of a variable lie, as its coordinates say; no transform where they say no place."""

    transform: tuple[float, float, float, float, float, float] | None = None
    "of the rows and columns as they are stored"
    crs: str = ""
    "EPSG code or WKT"


def read_stored_numbers(variable: Any, *, name: str) -> StoredNumbers:
    """Return what the attributes of a netCDF4 variable say of its numbers.

    Args:
        variable: of netCDF4.
        name: variable and file named in errors.

    Raises:
        UserError: an attribute is no number, cannot be stored in the variable, or can be understood in several ways.
    """
    held = variable.dtype
    if not isinstance(held, np.dtype) or held.kind not in "iuf":
        return StoredNumbers(np.dtype(held if isinstance(held, np.dtype) else object))
    attributes = {key: variable.getncattr(key) for key in variable.ncattrs()}
    unsigned = str(attributes.get("_Unsigned", "")).lower()
    expect(
        unsigned != "false" or held.kind != "u",
        expected=f"numbers of one sign in {name}",
        got=f"{held} with _Unsigned = {attributes.get('_Unsigned')!r}, which readers take in both ways",
        remedy="write them with a signed type",
    )
    dtype = np.dtype(held.str.replace("i", "u")) if unsigned == "true" and held.kind == "i" else held
    scale, shift = (float(_numbers(attributes, key, default, name)[0]) for key, default in _PACKING)
    packed = any(key in attributes for key, _ in _PACKING)

    def stored(key: str) -> list[float]:
        return _as_stored(_numbers(attributes, key, (), name), held, dtype, name=f"{key} of {name}")

    missing = [*stored("_FillValue"), *stored("missing_value")]
    if "_FillValue" not in attributes and held.itemsize > 1:  # a byte may have any value
        missing += _as_stored(np.atleast_1d(netCDF4.default_fillvals[held.str[1:]]), held, dtype, name=name)
    bounds = _read_valid_range(attributes, held, dtype, packed=packed, name=name)
    return StoredNumbers(dtype, tuple(dict.fromkeys(missing)), bounds, scale, shift, packed)


def check_classes(numbers: StoredNumbers, *, name: str) -> None:
    """Refuse classes whose numbers are packed: the card lists them as they are stored.

    Raises:
        UserError: the file states a scale or an offset.
    """
    expect(
        (numbers.scale, numbers.shift) == (1.0, 0.0),
        expected=f"classes in {name}",
        got=f"numbers packed with scale_factor {numbers.scale:g} and add_offset {numbers.shift:g}",
        remedy="write the class values themselves",
    )


def _numbers(attributes: dict[str, Any], key: str, default: Any, name: str) -> npt.NDArray[Any]:
    values = np.atleast_1d(np.asarray(attributes.get(key, default)))
    if key not in attributes:
        return values
    expect(
        values.dtype.kind in "iuf",
        expected=f"numbers as {key} of {name}",
        got=repr(attributes[key])[:60],
        remedy="correct the attribute",
    )
    return values


def _as_stored(values: npt.NDArray[Any], held: Any, dtype: Any, *, name: str) -> list[float]:
    """Return the numbers of an attribute as the variable stores them, and as they read where it is unsigned."""
    stored = []
    for value in values:
        if np.isnan(value):  # invalid without being named, and no integer is
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            own = [np.asarray(value).astype(kind) for kind in (held, dtype)]
        fits = [form for form in own if np.isclose(float(form), float(value), rtol=1e-6, atol=0)]
        expect(
            fits,
            expected=f"{name} to be a number that {held} can store",
            got=f"{value:g}",
            remedy="no pixel can have it: correct the attribute",
        )
        stored.append(float(fits[0].view(dtype)))
    return stored


def _read_valid_range(
    attributes: dict[str, Any], held: Any, dtype: Any, *, packed: bool, name: str
) -> tuple[float, float]:
    limits = {key: _numbers(attributes, key, (), name) for key in ("valid_range", "valid_min", "valid_max")}
    for key, values in limits.items():
        expect(
            held.kind == "f" or not packed or values.dtype.kind in "iu" or not values.size,
            expected=f"{key} of {name} to be of the stored type {held}",
            got=f"{values.dtype}, which readers take for stored numbers or for physical ones",
            remedy="write it in stored numbers",
        )
        expect(
            key not in attributes or values.size == (2 if key == "valid_range" else 1),
            expected=f"{'two numbers' if key == 'valid_range' else 'a number'} as {key} of {name}",
            got=values.size,
            remedy="correct the attribute",
        )
    low, high = limits["valid_range"] if limits["valid_range"].size else (None, None)
    bounds = [-np.inf, np.inf]
    for position, (own, key) in enumerate(((low, "valid_min"), (high, "valid_max"))):
        stated = limits[key] if own is None else np.atleast_1d(own)
        bounds[position] = next(iter(_as_stored(stated, held, dtype, name=f"{key} of {name}")), bounds[position])
    expect(
        bounds[0] <= bounds[1],
        expected=f"a valid range from low to high in {name}",
        got=f"{bounds[0]:g} to {bounds[1]:g}",
        remedy="correct the attribute",
    )
    return bounds[0], bounds[1]


def read_axes(variable: Any, dims: str, *, crs: str, name: str) -> Axes:
    """Return where the rows and columns of a netCDF4 variable lie.

    Args:
        variable: of netCDF4, with scale and mask switched off.
        dims: a letter per axis of the variable, as the card declares it.
        crs: the card's reference system, which goes before the file's.
        name: variable and file named in errors.

    Raises:
        UserError: the file calls an axis otherwise than the card, coordinates have unequal steps, or they need a
            reference system that neither states.
    """
    found = {letter: _find_coordinate(variable, dims.index(letter), letter) for letter in "yx"}
    for letter, coordinate in found.items():
        own = variable.dimensions[dims.index(letter)]
        stated = _tell_axis(own, coordinate)
        expect(
            stated in ("", letter),
            expected=f"the axes {dims!r} of the card in {name}",
            got=f"{', '.join(variable.dimensions)}, of which {own} is {stated}",
            remedy="correct array.dims",
        )
    if found["y"] is None or found["x"] is None:
        return Axes()
    y, x = (_read_axis(found[letter], name=name) for letter in "yx")
    if y is None or x is None or (_is_count(*y) and _is_count(*x)):
        return Axes()
    own = _read_crs(variable, {found[letter].name for letter in "yx"}, name=name)
    expect(
        not (crs and own) or pyproj.CRS(crs).equals(pyproj.CRS(own), ignore_axis_order=True),
        expected=f"the reference system {crs} of the card in {name}",
        got=own[:60],
        remedy="remove `crs` from the card, or correct it",
    )
    crs = crs or own
    degrees = any(str(getattr(axis, "units", "")).lower().startswith("degree") for axis in found.values())
    expect(
        crs or not (degrees or y[1] > 0 or x[1] < 0),
        expected=f"a reference system for the coordinates of {name}",
        got="none, and coordinates in degrees" if degrees else "none, and rows or columns that run backwards",
        remedy="name it in `crs` of the card, or write a grid_mapping into the file",
    )
    return Axes((x[1], 0.0, x[0] - x[1] / 2, 0.0, y[1], y[0] - y[1] / 2), crs) if crs else Axes()


def _find_coordinate(variable: Any, position: int, letter: str) -> Any:
    """Return the variable with the coordinates of an axis: called as its dimension, or ``x``, ``y``; None if absent."""
    dimension = variable.dimensions[position]
    group = variable.group()
    while group is not None:
        for called in (dimension, letter):
            coordinate = group.variables.get(called)
            if coordinate is not None and coordinate.dimensions == (dimension,):
                return coordinate
        group = group.parent
    return None


def _tell_axis(dimension: str, coordinate: Any) -> str:
    """Return ``x`` or ``y`` where the file says which of the two an axis is, else an empty string."""
    if coordinate is not None:
        stated = _STANDARD.get(str(getattr(coordinate, "standard_name", "")), str(getattr(coordinate, "axis", "")))
        if stated.lower() in ("x", "y"):
            return stated.lower()
    called = dimension.lower()
    return "y" if called in _UPWARD else "x" if called in _SIDEWARD else ""


def _read_axis(coordinate: Any, *, name: str) -> tuple[float, float] | None:
    """Return the first coordinate and the step to the next; None where there is only one."""
    places = read_decoded(coordinate, name=f"{coordinate.name} of {name}").astype(np.float64)
    if places.size < 2:
        return None
    step = float(places[-1] - places[0]) / (places.size - 1)
    rounding = np.spacing(np.abs(places).max().astype(np.float32)) if coordinate.dtype == np.float32 else 0.0
    off = np.abs(places - (places[0] + step * np.arange(places.size))).max()
    expect(
        step and off <= _UNEVEN * abs(step) + rounding and (np.diff(places) * step > 0).all(),
        expected=f"equal steps of x and y in {name}",
        got="irregular ones",
        remedy="resample it to a grid first",
    )
    return float(places[0]), step


def _is_count(first: float, step: float) -> bool:
    """Whether coordinates number the rows or columns and say no place."""
    return step == 1.0 and first in (0.0, 0.5, 1.0)


def find_swath(variable: Any, dims: str) -> tuple[str, str] | None:
    """Return the variables with latitude and longitude of each pixel [y, x] (CF 5.2), None where there are not both.

    Args:
        variable: of netCDF4.
        dims: a letter per axis of the variable, as the card declares it.
    """
    plane, found, group = (
        {variable.dimensions[dims.index(letter)] for letter in "yx"},
        dict[str, str](),
        variable.group(),
    )
    while group is not None:
        for called, other in group.variables.items():
            if len(other.dimensions) == 2 and set(other.dimensions) == plane:
                units = re.fullmatch(r"degrees?_?(n|north|e|east)", str(getattr(other, "units", "")).lower())
                by_units = "" if units is None else "latitude" if units[1][0] == "n" else "longitude"
                found.setdefault(str(getattr(other, "standard_name", by_units)), called)
        group = group.parent
    return (found["latitude"], found["longitude"]) if {"latitude", "longitude"} <= set(found) else None


def read_decoded(variable: Any, *, name: str) -> npt.NDArray[Any]:
    """Return all numbers of a small variable (a coordinate), unpacked by netCDF4.

    Raises:
        UserError: one of them is missing.
    """
    variable.set_auto_maskandscale(True)
    try:
        values = variable[:]
    finally:
        variable.set_auto_maskandscale(False)
    expect(not np.ma.is_masked(values), expected=f"all of {name}", got="missing values", remedy="write them all")
    return np.atleast_1d(np.ma.getdata(values))


def _read_crs(variable: Any, coordinates: set[str], *, name: str) -> str:
    """Return the reference system of the grid mapping as EPSG code or WKT; empty where the file states none."""
    stated = str(getattr(variable, "grid_mapping", ""))
    listed = {key: set(names.split()) for key, names in re.findall(r"(\w+):\s+([^:]*?)(?=\s+\w+:|$)", stated)}
    wanted = next((key for key, names in listed.items() if coordinates <= names), stated)
    group, mapping = variable.group(), None
    while group is not None and mapping is None:
        mapping, group = group.variables.get(wanted), group.parent
    if mapping is None:
        return ""
    attributes = {key: mapping.getncattr(key) for key in mapping.ncattrs()}
    text = attributes.get("crs_wkt") or attributes.get("spatial_ref")
    if not text and "grid_mapping_name" not in attributes:
        return ""
    try:
        reference = pyproj.CRS.from_user_input(text) if text else pyproj.CRS.from_cf(attributes)
    except (CRSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"expected a reference system in {wanted} of {name}, got: {str(error).splitlines()[0][:120]}; correct the "
            "grid mapping, or remove it and name `crs` in the card"
        ) from error
    code = reference.to_epsg()
    return f"EPSG:{code}" if code else str(reference.to_wkt())


def read_labels(variable: Any, position: int) -> tuple[str, ...]:
    """Return what the file calls the entries of an axis; nothing where its coordinate holds no texts."""
    coordinate = variable.group().variables.get(variable.dimensions[position])
    if coordinate is None or coordinate.dimensions[:1] != (variable.dimensions[position],):
        return ()
    values = coordinate[:]
    if values.dtype.kind == "S" and values.ndim == 2:
        values = netCDF4.chartostring(values)
    return tuple(str(value) for value in values) if values.ndim == 1 and values.dtype.kind in "OU" else ()

"""Products of one array file, or of one step on its axis of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eo_ssl.cards import ArrayLayout, Card
from eo_ssl.errors import UserError, expect
from eo_ssl.scene.acquisition import read_acquisition
from eo_ssl.scene.array.array_store import (
    SUFFIXES,
    StoredArray,
    describe_numbers,
    is_netcdf,
    list_labels,
    read_array_shape,
    read_dates,
)
from eo_ssl.scene.array.cf_conventions import check_classes
from eo_ssl.scene.array.placement import (
    check_band_names,
    describe_swath,
    find_turn,
    locate_array,
    turn_transform,
)
from eo_ssl.scene.band_stack import check_gsd
from eo_ssl.scene.class_rasters import convert_classes, open_classes
from eo_ssl.scene.file_patterns import find_extras, list_readable, match_paths, name_product
from eo_ssl.scene.grids import make_grid, read_crs
from eo_ssl.scene.layers import Image, Layer, Layers, Range, attach_masks
from eo_ssl.scene.product import Listing, Product
from eo_ssl.scene.product_source import FileSource
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.sensors import sensor


def list_products(card: Card, root: Path) -> Listing:
    """Return a product per file, or per step where the array has an axis of time.

    Raises:
        UserError: no file can be read.
    """
    pattern = card.files if isinstance(card.files, str) else ""
    matches = match_paths(root, pattern)
    stores = [] if matches else match_paths(root, pattern, folders=True)
    expect(
        not stores,
        expected=f"array files ({', '.join(SUFFIXES)}) as {pattern!r} below {root}",
        got=f"the folder {stores[0][1].name if stores else ''}",
        remedy="this reader takes no Zarr stores: write it as NetCDF (xarray's to_netcdf)",
    )
    return list_readable(card, ((name, partial(_list_steps, card, name, path)) for name, path in matches)), []


def _list_steps(card: Card, name: str, path: Path) -> Iterator[Product]:
    acquisition, declared = read_acquisition(card, folder=path.parent, path=path, names={}), check_layout(card)
    key = next(iter(declared.variables), declared.key or "")
    acquisition = replace(acquisition, remarks=describe_swath(card, path, key, declared.dims))
    parts, offset = (("pixels", path), *find_extras(card, path, pixels=True)), acquisition.offset or 0.0
    dates = _read_steps(card, path)
    if dates is None:
        source = ArraySource(card=card, parts=parts, offset=offset)
        yield Product(name_product(card, name), card, "cube", acquisition, source)
        return
    for step, date in enumerate(dates):
        source = ArraySource(card=card, parts=parts, offset=offset, share=len(dates), step=step)
        dated = replace(acquisition, datetime=date or acquisition.datetime)
        yield Product(name_product(card, name, f"{step:04d}"), card, "cube", dated, source)


def _read_steps(card: Card, path: Path) -> tuple[str, ...] | None:
    """Return the ISO dates of the axis t (empty strings when the file names none), or None without that axis."""
    declared = check_layout(card)
    if "t" not in declared.dims:
        return None
    key = next(iter(declared.variables), declared.key or "")
    count = read_array_shape(path, key)[declared.dims.index("t")]
    return ("",) * count if declared.time is None or not is_netcdf(path) else read_dates(path, declared.time)


def check_layout(card: Card) -> ArrayLayout:
    """Return the card's array layout.

    Raises:
        UserError: the axes are not letters of t, y, x, b with y and x, or bands are laid out in two ways.
    """
    if card.array is None:
        raise UserError(f"expected card {card.name} to have `array`, got none; add it")
    dims = card.array.dims
    expect(
        len(set(dims)) == len(dims) and set("yx") <= set(dims) <= set("tyxb"),
        expected=f"array.dims of card {card.name} out of t, y, x, b with y and x",
        got=repr(dims),
        remedy="correct it",
    )
    expect(
        bool(card.array.variables) != ("b" in dims),
        expected=f"card {card.name} to give either an axis b or one variable per band",
        got=f"dims {dims!r}",
        remedy="correct `array`",
    )
    return card.array


@dataclass(frozen=True, slots=True)
class ArrayImage(Image):
    """The bands of one product (one time step) of an array file, which is small or memory-mapped: one block."""

    grid: GeoBox
    arrays: tuple[StoredArray, ...]
    "one array that holds all bands, or one per band"
    positions: tuple[int, ...]
    "position of each band on the axis b; empty where each has an array"
    radiometries: tuple[Radiometry, ...]
    "one per array"
    saturation: float | None = None

    def _stored(self, bands: Sequence[int], rows: Range, columns: Range) -> Iterator[npt.NDArray[Any]]:
        """Yield the stored values of each band [y, x]."""
        if not self.positions:
            for band in bands:
                yield self.arrays[band].read(rows, columns)[0]
            return
        stored = self.arrays[0].read(rows, columns)
        yield from (stored[self.positions[band]] for band in bands)

    def read(self, bands: Sequence[int], rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return physical values [band, y, x] float32, NaN invalid, of a half-open window."""
        out = np.empty((len(bands), rows[1] - rows[0], columns[1] - columns[0]), dtype=np.float32)
        for values, band, stored in zip(out, bands, self._stored(bands, rows, columns), strict=True):
            self.radiometries[0 if self.positions else band].physical(stored, out=values)
        return out

    @property
    def has_saturation(self) -> bool:
        """Whether a stored value marks saturation."""
        return self.saturation is not None

    def saturated(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return [y, x]: whether any band is stored as the saturation value."""
        flags = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)
        for stored in self._stored(range(len(self.positions or self.arrays)), rows, columns):
            flags |= stored == self.saturation
        return flags


@dataclass(frozen=True, slots=True)
class ArrayClasses(Layer):
    """Class values stored as an array of the image's rows and columns."""

    array: StoredArray

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.int64]:
        """Return stored class values [y, x]."""
        return convert_classes(self.array.read(rows, columns)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySource(FileSource):
    """An array file, or one step of it."""

    step: int | None = None
    "index on the axis of time"

    def checksum(self) -> str:
        """Return a sha256 (hex) over the bytes of the files and the step."""
        return self.hash_parts(step=self.step)

    def layers(self, bands: tuple[str, ...]) -> Layers:
        """Return image, mask and labels of the step.

        Raises:
            UserError: the number of bands or axes differs from the card's, the file states another scale, other bands
                or another place, or mask and labels are not of the image's rows and columns.
        """
        card, path = self.card, dict(self.parts)["pixels"]
        image = self._image(path, bands)
        masks = self._classes("mask", card.mask.source, image) if card.mask else None
        labels = self._classes("labels", card.labels.source, image) if card.labels else None
        return attach_masks(image, masks, card.mask.classes if card.mask else {}, labels=labels)

    def _image(self, path: Path, bands: tuple[str, ...]) -> ArrayImage:
        card, declared = self.card, check_layout(self.card)
        keys = self._keys(bands)
        size = self._measure(path, keys)
        transform, crs = locate_array(card, path, keys, declared.dims)
        arrays = tuple(
            StoredArray(path, key, declared.dims, size["y"], size["x"], self.step, find_turn(transform)) for key in keys
        )
        grid = make_grid(size["y"], size["x"], turn_transform(transform, size["y"], size["x"]), crs)
        check_gsd(card, grid, path=path)
        positions = tuple(card.bands.index(band) for band in bands) if "b" in size else ()
        if positions and is_netcdf(path):
            check_band_names(card, list_labels(path, keys[0], declared.dims.index("b")), path=path)
        return ArrayImage(grid, arrays, positions, self._list_radiometries(path, keys), card.dtype_max)

    def _keys(self, bands: tuple[str, ...]) -> tuple[str, ...]:
        """Return the variable of each band, or the one that holds them all."""
        card, declared = self.card, check_layout(self.card)
        by_band = {sensor(card.sensor).resolve(name): key for key, name in declared.variables.items()}
        missing = [band for band in bands if declared.variables and band not in by_band]
        expect(
            not missing,
            expected=f"card {card.name} to name a variable for each band",
            got=f"none for {', '.join(missing)}",
            remedy="add it to array.variables",
        )
        return tuple(by_band[band] for band in bands) if declared.variables else (declared.key or "",)

    def _measure(self, path: Path, keys: tuple[str, ...]) -> dict[str, int]:
        """Return the length of each axis, alike in all variables."""
        card, dims = self.card, check_layout(self.card).dims
        shape, *others = (read_array_shape(path, key) for key in keys)
        if len(shape) != len(dims) or any(other != shape for other in others):
            shapes = " and ".join(map(str, dict.fromkeys([shape, *others])))
            raise UserError(
                f"expected the axes {dims!r}, alike for all bands, in {path}, got shape {shapes}; "
                f"correct array.dims in card {card.name}"
            )
        size = dict(zip(dims, shape, strict=True))
        expect(
            size.get("b", len(card.bands)) == len(card.bands),
            expected=f"{len(card.bands)} bands in {path} as card {card.name} lists",
            got=size.get("b"),
            remedy="correct `bands`",
        )
        return size

    def _list_radiometries(self, path: Path, keys: tuple[str, ...]) -> tuple[Radiometry, ...]:
        """Return how each variable becomes the card's quantity, with what the file says of missing values."""
        if not is_netcdf(path):
            return (self.radiometry,) * len(keys)
        described = {key: describe_numbers(path, key) for key in keys}
        for key, numbers in described.items():
            if numbers.is_packed:
                self.radiometry.check_stated(numbers.scale, numbers.shift, name=f"{key} of {path}")
        kinds = {numbers.kind: key for key, numbers in described.items()}
        expect(
            len(kinds) == 1,
            expected=f"numbers of one kind in the variables of {path}, because one scale is applied to all",
            got=" and ".join(f"{kind} in {key}" for kind, key in kinds.items()),
            remedy="write the bands alike",
        )
        return tuple(
            replace(self.radiometry, nodata=(*self.radiometry.nodata, *numbers.missing), valid=numbers.valid)
            for numbers in described.values()
        )

    def _classes(self, role: str, source: str, image: ArrayImage) -> Layer:
        """Return the classes that ``source`` names: a key of the same file, or an array or raster beside it."""
        parts, grid = dict(self.parts), image.grid
        path = parts["pixels"]
        file = parts[role] if role in parts and Path(source).suffix else path  # a key may name a group: quality/SCL
        if file != path and file.suffix not in SUFFIXES:
            return open_classes(self.card, file, grid=grid)
        key = "" if file != path else source
        shape = read_array_shape(file, key)
        timed = self.step is not None and "t" in check_layout(self.card).dims and file == path and len(shape) == 3
        dims = "tyx" if timed else "yxb" if len(shape) == 3 else "yx"
        expect(
            tuple(shape[dims.index(name)] for name in "yx") == (grid.height, grid.width),
            expected=f"{source!r} of {file} on the image's {grid.height} x {grid.width} pixels",
            got=f"shape {shape}",
            remedy="correct the card",
        )
        turned = image.arrays[0].turned
        if is_netcdf(file):
            check_classes(describe_numbers(file, key), name=f"{key} of {file}")
            transform, crs = locate_array(self.card, file, (key,), dims, crs=read_crs(grid))
            own = make_grid(grid.height, grid.width, turn_transform(transform, grid.height, grid.width), crs)
            expect(
                own.crs is None or own == grid,
                expected=f"{key} of {file} on the grid of the image",
                got="other coordinates",
                remedy="write it on the grid of the bands",
            )
            turned = find_turn(transform) if transform else turned
        step = self.step if timed else None
        return ArrayClasses(StoredArray(file, key, dims, grid.height, grid.width, step, turned))

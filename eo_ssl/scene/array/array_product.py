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
from eo_ssl.scene.array.array_store import SUFFIXES, read_array_shape, read_dates, read_netcdf_grid, read_part
from eo_ssl.scene.band_stack import check_gsd
from eo_ssl.scene.class_rasters import convert_classes
from eo_ssl.scene.file_patterns import find_extras, list_readable, match_paths, name_product
from eo_ssl.scene.grids import make_grid
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
    matches = match_paths(root, card.files if isinstance(card.files, str) else "")
    return list_readable(card, ((name, partial(_list_steps, card, name, path)) for name, path in matches)), []


def _list_steps(card: Card, name: str, path: Path) -> Iterator[Product]:
    acquisition = read_acquisition(card, folder=path.parent, path=path, names={})
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
    return ("",) * count if declared.time is None or path.suffix != ".nc" else read_dates(path, declared.time)


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
    path: Path
    keys: tuple[str, ...]
    "one variable that holds all bands, or one variable per band; empty string for npy"
    dims: str
    positions: tuple[int, ...]
    "position of each band on the axis b (when all bands share a variable)"
    step: int | None
    radiometry: Radiometry
    saturation: float | None = None

    def _stored(self, bands: Sequence[int], rows: Range, columns: Range) -> npt.NDArray[Any]:
        read = partial(read_part, self.path, dims=self.dims, step=self.step, rows=rows, columns=columns)
        if len(self.keys) > 1 or "b" not in self.dims:
            return np.stack([read(self.keys[band])[0] for band in bands])
        return read(self.keys[0])[[self.positions[band] for band in bands]]

    def read(self, bands: Sequence[int], rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return physical values [band, y, x] float32, NaN invalid, of a half-open window."""
        return self.radiometry.physical(self._stored(bands, rows, columns))

    @property
    def has_saturation(self) -> bool:
        """Whether a stored value marks saturation."""
        return self.saturation is not None

    def saturated(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return [y, x]: whether any band is stored as the saturation value."""
        count = len(self.keys) if len(self.keys) > 1 else len(self.positions)
        return np.asarray((self._stored(range(count), rows, columns) == self.saturation).any(axis=0))


@dataclass(frozen=True, slots=True)
class ArrayClasses(Layer):
    """Class values stored as an array of the image's rows and columns."""

    path: Path
    key: str
    dims: str
    step: int | None

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.int64]:
        """Return stored class values [y, x]."""
        stored = read_part(self.path, self.key, dims=self.dims, step=self.step, rows=rows, columns=columns)
        return convert_classes(stored[0])


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
            UserError: the number of bands or axes differs from the card's, the file states another scale, or mask and
                labels are not of the image's rows and columns.
        """
        card, path = self.card, dict(self.parts)["pixels"]
        image = self._image(path, bands)
        masks = self._classes(path, card.mask.source, image.grid) if card.mask else None
        labels = self._classes(path, card.labels.source, image.grid) if card.labels else None
        return attach_masks(image, masks, card.mask.classes if card.mask else {}, labels=labels)

    def _image(self, path: Path, bands: tuple[str, ...]) -> ArrayImage:
        card, declared = self.card, check_layout(self.card)
        by_band = {sensor(card.sensor).resolve(name): key for key, name in declared.variables.items()}
        missing = [band for band in bands if declared.variables and band not in by_band]
        if missing:
            raise UserError(
                f"expected card {card.name} to name a variable for each band, got none for {', '.join(missing)}; add "
                "it "
                "to array.variables"
            )
        keys = tuple(by_band[band] for band in bands) if declared.variables else (declared.key or "",)
        shape, *others = (read_array_shape(path, key) for key in keys)
        if len(shape) != len(declared.dims) or any(other != shape for other in others):
            shapes = " and ".join(map(str, dict.fromkeys([shape, *others])))
            raise UserError(
                f"expected the axes {declared.dims!r}, alike for all bands, in {path}, got shape {shapes}; "
                f"correct array.dims in card {card.name}"
            )
        size = dict(zip(declared.dims, shape, strict=True))
        expect(
            size.get("b", len(card.bands)) == len(card.bands),
            expected=f"{len(card.bands)} bands in {path} as card {card.name} lists",
            got=size.get("b"),
            remedy="correct `bands`",
        )
        transform, crs, radiometry = card.transform, card.crs, self.radiometry
        if path.suffix == ".nc":
            own = read_netcdf_grid(path, keys, radiometry=radiometry)
            transform, crs = transform or own.transform, crs or own.crs
            radiometry = replace(radiometry, nodata=radiometry.nodata + own.nodata)
        grid = make_grid(size["y"], size["x"], transform or (), crs)
        check_gsd(card, grid, path=path)
        positions = tuple(card.bands.index(band) for band in bands) if "b" in size else ()
        return ArrayImage(grid, path, keys, declared.dims, positions, self.step, radiometry, card.dtype_max)

    def _classes(self, path: Path, source: str, grid: GeoBox) -> ArrayClasses:
        """Return the classes that ``source`` names: a key of the same file, or a file beside it."""
        file = path.parent / source if Path(source).suffix in SUFFIXES else path
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
        return ArrayClasses(file, key, dims, self.step if timed else None)

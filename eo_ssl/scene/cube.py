"""The cube: one product as a lazy ``xr.Dataset`` in physical units, and the contract it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from eo_ssl.errors import expect
from eo_ssl.scene.acquisition import ACQUISITION
from eo_ssl.scene.grids import locate_pixels, read_crs, read_transform
from eo_ssl.scene.layers import FIELDS, FLAGS, Image, Layer, Layers, Range
from eo_ssl.sensors import sensor

ATTRIBUTES = (
    "sensor",
    "quantity",
    "product_id",
    "datetime",
    "processing_baseline",
    "orbit",
    "crs",
    "gsd_m",
    "transform",
    "licence",
    "attribution",
    "source",
)
UNKNOWN_LABEL = -1


@dataclass(frozen=True, slots=True)
class _ValidImage:
    """The image with the pixels that are no measurement set to NaN."""

    layers: Layers

    def read(self, bands: Range, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        values = self.layers.image.read(range(*bands), rows, columns)
        if self.layers.invalid is not None:
            values[:, self.layers.invalid.read(rows, columns)] = np.nan
        return values


@dataclass(frozen=True, slots=True)
class _AnyFlag(Layer):
    """Whether the product flags a pixel, or (saturation) a band of the image says so by its value."""

    flag: Layer | None
    image: Image | None

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        flags = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)
        if self.flag is not None:
            flags |= self.flag.read(rows, columns)
        if self.image is not None:
            flags |= self.image.saturated(rows, columns)
        return flags


@dataclass(frozen=True, slots=True)
class _KnownLabels(Layer):
    """Label classes; values the card does not list are unknown."""

    labels: Layer
    known: tuple[int, ...]

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.int16]:
        values = self.labels.read(rows, columns)
        return np.where(np.isin(values, self.known), values, UNKNOWN_LABEL).astype(np.int16)


class _LazyArray(BackendArray):
    """An array that calls ``fetch`` with half-open ranges, one per axis, when indexed; it pickles as its recipe."""

    def __init__(self, fetch: Callable[..., npt.NDArray[Any]], shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.fetch, self.shape, self.dtype = fetch, shape, np.dtype(dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._window)

    def _window(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        ranges: list[Range] = []
        inner: list[Any] = []
        for item, size in zip(key, self.shape, strict=True):
            if isinstance(item, slice):
                taken = range(*item.indices(size))
                low, high = (min(taken), max(taken) + 1) if len(taken) else (0, 0)
                inner.append(slice(None) if taken.step == 1 or not len(taken) else np.asarray(taken) - low)
            else:
                low, high = int(item), int(item) + 1
                inner.append(0)
            ranges.append((low, high))
        if any(low == high for low, high in ranges):
            values = np.empty([high - low for low, high in ranges], dtype=self.dtype)
        else:
            values = self.fetch(*ranges)
        for axis in reversed(range(values.ndim)):
            values = values[(slice(None),) * axis + (inner[axis],)]
        return values


def build_cube(
    layers: Layers, *, bands: tuple[str, ...], attributes: dict[str, Any], known_labels: tuple[int, ...]
) -> xr.Dataset:
    """Return the lazy cube of a product.

    Args:
        layers: image, flags, fields and labels.
        bands: canonical names in the order of the image's bands.
        attributes: see ``ATTRIBUTES`` and ``ACQUISITION``; ``crs`` and ``transform`` are filled in from the grid.
        known_labels: label values the card lists.

    Returns:
        Dataset with ``image`` [band, y, x] float32 and, where known, the booleans of ``FLAGS``, the float32 of
        ``FIELDS`` and int16 ``label``, all [y, x].
    """
    image, grid = layers.image, layers.image.grid
    shape = (grid.height, grid.width)
    lazy = _LazyArray(_ValidImage(layers).read, (len(bands), *shape), np.float32)
    blocks = image.blocks
    variables = {"image": xr.Variable(("band", "y", "x"), indexing.LazilyIndexedArray(lazy))}
    variables["image"].encoding["preferred_chunks"] = {"band": len(bands), "y": blocks.height, "x": blocks.width}
    variables["image"].encoding["block_period"] = blocks.period

    def add(name: str, layer: Layer, dtype: npt.DTypeLike) -> None:
        variables[name] = xr.Variable(("y", "x"), indexing.LazilyIndexedArray(_LazyArray(layer.read, shape, dtype)))

    for name in FLAGS:
        saturated = image if name == "saturated" and image.has_saturation else None
        if name in layers.flags or saturated is not None:
            add(name, _AnyFlag(layers.flags.get(name), saturated), np.bool_)
    for name, values in layers.fields.items():
        add(name, values, np.float32)
    if layers.labels is not None:
        add("label", _KnownLabels(layers.labels, known_labels), np.int16)
    y, x = locate_pixels(grid)
    attrs = attributes | {"crs": read_crs(grid), "transform": read_transform(grid)}
    return xr.Dataset(
        variables,
        coords={"band": list(bands), "y": y, "x": x},
        attrs={name: attrs[name] for name in (*ATTRIBUTES, *ACQUISITION)},
    )


def check_cube(ds: xr.Dataset) -> xr.Dataset:
    """Return ``ds`` unchanged if it keeps the contract of a cube; no pixel is read.

    Raises:
        UserError: naming the first part that is missing or wrong: image, dims, dtype, attributes, quantity of the
            sensor, bands (canonical, each once, in the sensor's order), gsd, the shapes and dtypes of flags and label.
    """
    _check("image" in ds.data_vars, "a variable 'image'", f"{sorted(map(str, ds.data_vars))}")
    image = ds["image"]
    _check(image.dims == ("band", "y", "x"), "image dims (band, y, x)", f"{image.dims}")
    _check(image.dtype == np.float32, "image of float32", f"{image.dtype}")
    missing = [name for name in ATTRIBUTES if name not in ds.attrs]
    _check(not missing, f"the attributes {', '.join(ATTRIBUTES)}", f"none called {', '.join(missing)}")
    kind = sensor(str(ds.attrs["sensor"]))
    allowed = [quantity.value for quantity in kind.quantities]
    _check(
        str(ds.attrs["quantity"]) in allowed,
        f"a quantity of {kind.name} ({', '.join(allowed)})",
        f"{ds.attrs['quantity']}",
    )
    bands = tuple(str(name) for name in np.atleast_1d(ds["band"].values)) if "band" in ds.coords else ()
    order = tuple(name for name in kind.band_names if name in bands)
    _check(
        bool(bands) and bands == order,
        f"canonical bands of {kind.name} in its order",
        f"{', '.join(bands) or 'no band names'}",
    )
    _check(float(ds.attrs["gsd_m"]) > 0, "gsd_m above 0", f"{ds.attrs['gsd_m']}")
    _check(len(ds.attrs["transform"]) in (0, 6), "a transform of 6 numbers or none", f"{ds.attrs['transform']}")
    _check(
        bool(ds.attrs["crs"]) == bool(len(ds.attrs["transform"])),
        "crs and transform together",
        f"{ds.attrs['crs']!r} and {ds.attrs['transform']}",
    )
    kinds = {
        **dict.fromkeys(FLAGS, np.dtype(bool)),
        **dict.fromkeys(FIELDS, np.dtype(np.float32)),
        "label": np.dtype(np.int16),
    }
    for name, dtype in kinds.items():
        if name in ds.data_vars:
            _check(
                ds[name].dims == ("y", "x") and ds[name].dtype == dtype,
                f"{name} [y, x] of {dtype}",
                f"{ds[name].dims} of {ds[name].dtype}",
            )
    return ds


def _check(holds: bool, expected: str, got: str) -> None:
    remedy = "build cubes with eo_ssl.scene readers or complete this one"
    expect(holds, expected=f"a cube with {expected}", got=got, remedy=remedy)


def read_sample(ds: xr.Dataset, *, size_px: int = 64) -> npt.NDArray[np.float32]:
    """Return [band, <= size, <= size] of the first of five windows (centre, then quarters) that has a valid pixel."""
    height, width = ds.sizes["y"], ds.sizes["x"]
    values = np.full((ds.sizes["band"], 0, 0), np.nan, dtype=np.float32)
    for fy, fx in ((0.5, 0.5), (0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
        top, left = (
            max(0, min(int(size * part) - size_px // 2, size - size_px)) for size, part in ((height, fy), (width, fx))
        )
        values = ds["image"].isel(y=slice(top, top + size_px), x=slice(left, left + size_px)).values
        if np.isfinite(values).any():
            break
    return values

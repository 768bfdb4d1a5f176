"""The cube: one product as an ``xr.Dataset`` in physical units that is read only where it is looked at, and the contract it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from eo_ssl.errors import UserError
from eo_ssl.scene.facts import ACQUISITION
from eo_ssl.scene.grid import Grid
from eo_ssl.sensors import sensor

ATTRIBUTES = (
    "sensor", "quantity", "product_id", "datetime", "processing_baseline", "orbit", "crs", "gsd_m", "transform", "licence", "attribution", "source",
)  # fmt: skip
FLAGS = ("cloud", "shadow", "snow", "saturated", "border_noise")
FIELDS = ("cloud_probability", "incidence_deg")
"float32 [y, x] beside the image: cloud probability 0..1, radar incidence angle in degrees; NaN where unknown"
UNKNOWN_LABEL = -1
Range = tuple[int, int]


class Image(Protocol):
    """Bands on one grid that can be read by window.

    One that is read best in blocks says ``block_width``; others are read in full rows. One whose files have blocks of several sizes
    says in ``block_period`` after how many rows and columns all begin anew.
    """

    @property
    def grid(self) -> Grid:
        """The common grid."""
        ...

    @property
    def block_height(self) -> int:
        """Natural strip height in rows."""
        ...

    def read(self, bands: Sequence[int], *, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Physical values [band, y, x], NaN invalid."""
        ...

    def saturated(self, *, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Whether any band is saturated, [y, x]."""
        ...


class Classes(Protocol):
    """Class values on the same grid."""

    def read(self, *, rows: Range, columns: Range) -> npt.NDArray[np.int64]:
        """Class values [y, x], -1 where there is none."""
        ...


class Flag(Protocol):
    """A yes or no per pixel on the same grid."""

    def read(self, *, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Flags [y, x]."""
        ...


class Field(Protocol):
    """A number per pixel on the same grid."""

    def read(self, *, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Values [y, x], NaN where unknown."""
        ...


@dataclass(frozen=True, slots=True)
class Layers:
    """What a reader hands over: an image and, where the product or its card has them, classes, flags, fields and labels."""

    image: Image
    quality: Classes | None = None
    "classes of which the card says what they mean"
    labels: Classes | None = None
    has_saturation: bool = False
    "whether the image can tell saturated pixels by their stored value"
    flags: Mapping[str, Flag] = field(default_factory=dict)
    "name out of FLAGS -> flag, from products that say themselves what is cloud, snow or border noise"
    fields: Mapping[str, Field] = field(default_factory=dict)
    "name out of FIELDS -> values"


@dataclass(frozen=True, slots=True)
class _PhysicalImage:
    """The image with pixels of nodata classes made invalid."""

    layers: Layers
    nodata: tuple[int, ...]

    def __call__(self, windows: tuple[Range, Range, Range]) -> npt.NDArray[np.float32]:
        bands, rows, columns = windows
        values = self.layers.image.read(range(*bands), rows=rows, columns=columns)
        if self.nodata and self.layers.quality is not None:
            values[:, np.isin(self.layers.quality.read(rows=rows, columns=columns), self.nodata)] = np.nan
        return values


@dataclass(frozen=True, slots=True)
class _Flag:
    """Whether the product flags a pixel, or its class is one of ``members``, or (saturation) a band says so by its value."""

    layers: Layers
    name: str
    members: tuple[int, ...]
    by_value: bool

    def __call__(self, windows: tuple[Range, Range]) -> npt.NDArray[np.bool_]:
        rows, columns = windows
        flags = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)
        if self.name in self.layers.flags:
            flags |= self.layers.flags[self.name].read(rows=rows, columns=columns)
        if self.members and self.layers.quality is not None:
            flags |= np.isin(self.layers.quality.read(rows=rows, columns=columns), self.members)
        if self.by_value:
            flags |= self.layers.image.saturated(rows=rows, columns=columns)
        return flags


@dataclass(frozen=True, slots=True)
class _Field:
    """Values of a field."""

    field: Field

    def __call__(self, windows: tuple[Range, Range]) -> npt.NDArray[np.float32]:
        rows, columns = windows
        return self.field.read(rows=rows, columns=columns)


@dataclass(frozen=True, slots=True)
class _Label:
    """Label classes; values the card does not list are unknown."""

    labels: Classes
    known: tuple[int, ...]

    def __call__(self, windows: tuple[Range, Range]) -> npt.NDArray[np.int16]:
        rows, columns = windows
        values = self.labels.read(rows=rows, columns=columns)
        return np.where(np.isin(values, self.known), values, UNKNOWN_LABEL).astype(np.int16)


class _LazyArray(BackendArray):
    """An array that calls ``fetch`` with half-open ranges, one per axis, when indexed; it pickles as its recipe."""

    def __init__(self, fetch: Callable[[Any], npt.NDArray[Any]], shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
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
            values = self.fetch(tuple(ranges))
        for axis in reversed(range(values.ndim)):
            values = values[(slice(None),) * axis + (inner[axis],)]
        return values


def build(
    layers: Layers,
    *,
    bands: tuple[str, ...],
    attributes: dict[str, Any],
    quality: Mapping[str, tuple[int, ...]],
    known_labels: tuple[int, ...],
) -> xr.Dataset:
    """Return the lazy cube of a product.

    Args:
        layers: image and classes.
        bands: canonical names in the order of the image's bands.
        attributes: see ``ATTRIBUTES`` and ``ACQUISITION``; ``crs`` and ``transform`` are filled in from the grid.
        quality: class values by meaning: cloud, shadow, snow, saturated, nodata.
        known_labels: label values the card lists.

    Returns:
        Dataset with ``image`` [band, y, x] float32 and, where known, the booleans of ``FLAGS``, the float32 of ``FIELDS`` and int16
        ``label``, all [y, x].
    """
    grid = layers.image.grid
    y, x = grid.centres()
    image = _LazyArray(_PhysicalImage(layers, quality.get("nodata", ())), (len(bands), *grid.shape), np.float32)
    variables = {"image": xr.Variable(("band", "y", "x"), indexing.LazilyIndexedArray(image))}
    variables["image"].encoding["preferred_chunks"] = {
        "band": len(bands),
        "y": layers.image.block_height,
        "x": getattr(layers.image, "block_width", grid.width),
    }
    variables["image"].encoding["block_period"] = getattr(
        layers.image, "block_period", (layers.image.block_height, getattr(layers.image, "block_width", grid.width))
    )
    for flag in FLAGS:
        members = quality.get(flag, ())
        by_value = flag == "saturated" and layers.has_saturation
        if by_value or flag in layers.flags or (layers.quality is not None and members):
            lazy = _LazyArray(_Flag(layers, flag, members, by_value), grid.shape, np.bool_)
            variables[flag] = xr.Variable(("y", "x"), indexing.LazilyIndexedArray(lazy))
    for name, values in layers.fields.items():
        lazy = _LazyArray(_Field(values), grid.shape, np.float32)
        variables[name] = xr.Variable(("y", "x"), indexing.LazilyIndexedArray(lazy))
    if layers.labels is not None:
        lazy = _LazyArray(_Label(layers.labels, known_labels), grid.shape, np.int16)
        variables["label"] = xr.Variable(("y", "x"), indexing.LazilyIndexedArray(lazy))
    attrs = attributes | {"crs": grid.crs, "transform": grid.transform}
    return xr.Dataset(
        variables,
        coords={"band": list(bands), "y": y, "x": x},
        attrs={name: attrs[name] for name in (*ATTRIBUTES, *ACQUISITION)},
    )


def check_cube(ds: xr.Dataset) -> xr.Dataset:
    """Return ``ds`` unchanged if it keeps the contract of a cube; no pixel is read.

    Raises:
        UserError: naming the first part that is missing or wrong: image, dims, dtype, attributes, quantity of the sensor, bands
            (canonical, each once, in the sensor's order), gsd, the shapes and dtypes of flags and label.
    """
    _expect("image" in ds.data_vars, "a variable 'image'", f"{sorted(map(str, ds.data_vars))}")
    image = ds["image"]
    _expect(image.dims == ("band", "y", "x"), "image dims (band, y, x)", f"{image.dims}")
    _expect(image.dtype == np.float32, "image of float32", f"{image.dtype}")
    missing = [name for name in ATTRIBUTES if name not in ds.attrs]
    _expect(not missing, f"the attributes {', '.join(ATTRIBUTES)}", f"none called {', '.join(missing)}")
    kind = sensor(str(ds.attrs["sensor"]))
    allowed = [quantity.value for quantity in kind.quantities]
    _expect(
        str(ds.attrs["quantity"]) in allowed,
        f"a quantity of {kind.name} ({', '.join(allowed)})",
        f"{ds.attrs['quantity']}",
    )
    bands = tuple(str(name) for name in np.atleast_1d(ds["band"].values)) if "band" in ds.coords else ()
    order = tuple(name for name in kind.band_names if name in bands)
    _expect(
        bool(bands) and bands == order,
        f"canonical bands of {kind.name} in its order",
        f"{', '.join(bands) or 'no band names'}",
    )
    _expect(float(ds.attrs["gsd_m"]) > 0, "gsd_m above 0", f"{ds.attrs['gsd_m']}")
    _expect(len(ds.attrs["transform"]) in (0, 6), "a transform of 6 numbers or none", f"{ds.attrs['transform']}")
    _expect(
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
            _expect(
                ds[name].dims == ("y", "x") and ds[name].dtype == dtype,
                f"{name} [y, x] of {dtype}",
                f"{ds[name].dims} of {ds[name].dtype}",
            )
    return ds


def _expect(holds: bool, expected: str, got: str) -> None:
    if not holds:
        raise UserError(
            f"expected a cube with {expected}, got {got}; build cubes with eo_ssl.scene readers or complete this one"
        )


def sampled(ds: xr.Dataset, *, size_px: int = 64) -> npt.NDArray[np.float32]:
    """Return [band, <= size, <= size] physical values of the first of five windows (centre, then quarters) that has a valid pixel."""
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

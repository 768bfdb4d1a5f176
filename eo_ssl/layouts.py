"""Parts of a card: how files of each kind are laid out and where they say what.

Each part is read as strictly as the card itself: an unknown key is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Where a product's own JSON file (side-car, STAC item) keeps date, baseline, orbit and offset: dotted keys."""

    __pydantic_config__ = STRICT

    file: str
    "glob of the JSON file, relative to the product's folder; {stem} stands for the product's file name without suffix"
    datetime: str | None = None
    processing_baseline: str | None = None
    orbit: str | None = None
    offset: str | None = None
    "key of the radiometric offset in stored units (BOA_ADD_OFFSET, RADIO_ADD_OFFSET); replaces the card's offset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """Where cloud, shadow, snow, saturation and nodata are marked, and whether the files' own masks count."""

    __pydantic_config__ = STRICT

    source: str = ""
    "what holds the classes: file pattern (band_folder), band name (raster), array key or file beside it (array)"
    classes: dict[Literal["cloud", "shadow", "snow", "saturated", "nodata"], tuple[int, ...]] = field(
        default_factory=dict
    )
    "class values by meaning"
    ignore: str = ""
    "why masks and alpha bands that the raster files have do not count (they do unless a reason stands here)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Where pixel labels come from and when a tile takes the label of its majority."""

    __pydantic_config__ = STRICT

    source: str
    "file relative to the product's folder ({stem} stands for the product's file name without suffix), or array key"
    classes: dict[int, str]
    "class value -> name; values not listed are unknown"
    purity: float = 0.8
    "least share of a tile's pixels that its majority class must have for the tile to be labelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayLayout:
    """How an npy, npz, NetCDF or HDF5 array is laid out."""

    __pydantic_config__ = STRICT

    dims: str
    "one letter per axis, e.g. tyxb, yxb, byx; t becomes one product per step"
    key: str | None = None
    "npz key or NetCDF variable; None for npy, or when `variables` is given"
    variables: dict[str, str] = field(default_factory=dict)
    "NetCDF variable name -> band name, for files with one variable per band"
    time: str | None = None
    "NetCDF variable with the dates of the t axis"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """Chips to leave out: those named in a column of another manifest."""

    __pydantic_config__ = STRICT

    manifest: str
    column: str
    where: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chips:
    """A tar file or folder of small images with a manifest in CSV."""

    __pydantic_config__ = STRICT

    archive: str
    "tar file or folder, relative to the root"
    manifest: str
    path_column: str
    crop_px: int
    "side of the centre crop taken from each chip"
    undersized: Literal["drop", "pad"]
    "what happens to a chip smaller than the crop"
    label_column: str | None = None
    split_column: str | None = None
    where: dict[str, str] = field(default_factory=dict)
    "keep rows whose columns equal these values"
    exclude: Exclusion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileGroup:
    """Several files that make one product: a regular expression over the path with a named group ``band``."""

    __pydantic_config__ = STRICT

    pattern: str
    "Python regular expression with (?P<product>...) and (?P<band>...), optionally (?P<datetime>...) and (?P<orbit>...)"
    datetime_format: str | None = None
    "strptime format of the group `datetime`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Radar:
    """How a Sentinel-1 product in radar geometry becomes backscatter on a map."""

    __pydantic_config__ = STRICT

    geocoding: Literal["gcp", "terrain"]
    "gcp: through the annotation's geolocation grid; terrain: range-Doppler terrain correction with a DEM (sarsen)"
    dem: str = ""
    "terrain: elevation raster, relative to the root, in metres"
    dem_datum: Literal["", "ellipsoid", "egm96", "egm2008"] = ""
    "terrain: what the DEM's heights are above; converted to the WGS 84 ellipsoid"
    remove_noise: bool = True
    "subtract the thermal noise of the annotation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vignettes:
    """How the single-look images of a wave-mode product become chips of the card's ``gsd_m``."""

    __pydantic_config__ = STRICT

    crop_px: int
    "side of the cut from the middle of each vignette; what lies outside a smaller one is invalid"
    remove_noise: bool = True
    "subtract the thermal noise of the annotation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stac:
    """Which STAC items are the products."""

    __pydantic_config__ = STRICT

    catalog: str
    "static catalog, collection or item collection (path relative to the root, or URL), or the URL of an API"
    collections: tuple[str, ...] = ()
    bbox: tuple[float, float, float, float] | None = None
    "west, south, east, north in degrees"
    datetime: str = ""
    "ISO 8601 instant or interval, e.g. 2020-01-01/2020-12-31"
    query: dict[str, dict[str, float | str]] = field(default_factory=dict)
    "STAC query extension, e.g. {eo:cloud_cover: {lt: 20}}"
    limit: int | None = None
    "most items to take"
    sign: Literal["", "planetary_computer"] = ""
    "how asset links are signed before they are read"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSelection:
    """Which part of an existing corpus (SSL4EO-S12) is read."""

    __pydantic_config__ = STRICT

    modality: str
    "as the corpus calls it: s1, s2a, s2c (v1.0); S1GRD, S2L1C, S2L2A, S2RGB (v1.1)"
    seasons: tuple[int, ...] = (0, 1, 2, 3)
    "positions in the order of time; in an LMDB, which holds no times, as stored"
    crop_px: int = 264
    "side of the centre crop taken from each sample"
    void_ids: str = ""
    "CSV of sample ids to leave out, relative to the root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Per-band statistics published for the set, in card band order, with their source."""

    __pydantic_config__ = STRICT

    mean: tuple[float, ...]
    std: tuple[float, ...]
    unit: str
    "quantity of the numbers, e.g. dn"
    source: str

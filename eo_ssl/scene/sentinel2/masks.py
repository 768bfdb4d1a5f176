"""Quality masks of Sentinel-2 products as flags and fields of the common grid.

A mask that a product lacks gives no flag at all.

Level-2A: the scene classification SCL (Sen2Cor ATBD, S2-PDGS-MPC-ATBD-L2A, scene classification): 0 no data, 1
saturated or defective, 3 cloud shadow, 8 and 9 cloud of medium and high probability, 10 thin cirrus, 11 snow or ice;
``MSK_CLDPRB`` (``CLD`` in the pilot products of 2017) is the cloud probability in percent. Level-1C (Products
Specification Document, masks): ``MSK_CLOUDS`` polygons (OPAQUE, CIRRUS) before processing baseline 04.00, the raster
``MSK_CLASSI`` (1 opaque cloud, 2 cirrus, 3 snow or ice) since then. Cirrus counts as cloud in all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from rasterio import features
from rasterio.transform import Affine

from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene import gdal_files
from eo_ssl.scene.class_rasters import ClassRaster
from eo_ssl.scene.grids import measure_gsd, read_crs
from eo_ssl.scene.layers import Layer, Range, flag_classes
from eo_ssl.scene.safe_container import Container
from eo_ssl.scene.sentinel2.tile_metadata import TileMetadata

SCL_FLAGS = {"cloud": (8, 9, 10), "shadow": (3,), "snow": (11,), "saturated": (1,)}
SCL_NODATA = 0
OPTIONAL = {"CLDPRB": "MSK_CLDPRB (cloud probability)"}
"masks that a product may be fetched without: no flag and no pixel depends on them"
_CLASSI_BANDS = {"cloud": (1, 2), "snow": (3,)}
_POLYGON_TYPES = ("OPAQUE", "CIRRUS")
_GML = "{http://www.opengis.net/gml/3.2}"
_STRIP = 1024  # rows of the common grid that polygons are drawn on at once; 11 MB at 10,980 columns


@dataclass(frozen=True, slots=True)
class BitFlag(Layer):
    """Whether any of some 0/1 rasters is set."""

    layers: tuple[ClassRaster, ...]

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return flags [y, x]."""
        flags = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)
        for layer in self.layers:
            flags |= layer.read(rows, columns) > 0
        return flags


@dataclass(frozen=True, slots=True)
class PolygonFlag(Layer):
    """Whether the centre of a pixel lies in one of the polygons of a GML file."""

    safe: Container
    name: str
    grid: GeoBox

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return flags [y, x].

        Polygons are drawn on whole strips at fixed rows, and windows are cut out of those: rounding at a polygon's edge
        cannot depend on the window.
        """
        content = identify_file(self.safe.file(self.name))
        first, last = rows[0] // _STRIP, (rows[1] - 1) // _STRIP
        strips = [_drawn(content, self, number)[:, columns[0] : columns[1]] for number in range(first, last + 1)]
        return np.concatenate(strips)[rows[0] - first * _STRIP : rows[1] - first * _STRIP]


@dataclass(frozen=True, slots=True)
class CloudProbability(Layer):
    """``MSK_CLDPRB`` as a probability 0 to 1."""

    percent: ClassRaster
    scene: ClassRaster | None
    "SCL: where it says no data, the probability is unknown"

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return values [y, x], NaN where unknown."""
        percent = self.percent.read(rows, columns)
        unknown = (percent < 0) | (percent > 100)
        if self.scene is not None:
            unknown |= self.scene.read(rows, columns) == SCL_NODATA
        return np.where(unknown, np.float32(np.nan), percent.astype(np.float32) / np.float32(100))


def find_masks(safe: Container, metadata: TileMetadata) -> dict[str, str]:
    """Return the quality masks that the product has: SCL, CLDPRB, CLASSI or CLOUDS -> file, the finest of each.

    One that its manifest lists and that is not there is among them, so that it is missed and no coarser one takes its
    place, unless it is ``OPTIONAL``.
    """
    return {kind: names[0] for kind, names in _sort_masks(safe, metadata).items() if names}


def describe_absent(safe: Container, metadata: TileMetadata) -> str:
    """Return which of the ``OPTIONAL`` masks the product lacks though its manifest lists them; empty text for none."""
    listed, present = safe.objects(), _sort_masks(safe, metadata)
    missing = []
    for kind, masks in _candidates(metadata).items():
        taken = next((number for number, forms in enumerate(masks) if set(forms) & set(present[kind])), len(masks))
        if kind in OPTIONAL and any(form in listed for forms in masks[:taken] for form in forms):
            missing.append(f"{OPTIONAL[kind]} is absent" + (", a coarser one is read" if present[kind] else ""))
    return "; ".join(missing)


def _sort_masks(safe: Container, metadata: TileMetadata) -> dict[str, list[str]]:
    """Return the files of each mask that are there or, unless it is ``OPTIONAL``, that the manifest lists.

    The finest first.
    """
    listed = safe.objects()
    found: dict[str, list[str]] = {}
    for kind, masks in _candidates(metadata).items():
        there = [[form for form in forms if safe.has(form)] for forms in masks]
        owed = [[form for form in forms if form in listed and kind not in OPTIONAL] for forms in masks]
        found[kind] = [(has or owes)[0] for has, owes in zip(there, owed, strict=True) if has or owes]
    return found


def _candidates(metadata: TileMetadata) -> dict[str, list[tuple[str, ...]]]:
    """Return the files that may hold a mask, the finest first, each in the forms that it may have."""
    if metadata.level == "L2A":
        named = _named(metadata, "MSK_CLDPRB", "MSK_CLDPRB_20m.jp2", "MSK_CLDPRB_60m.jp2")
        return {"SCL": _listed(metadata, "SCL"), "CLDPRB": [*named, *_listed(metadata, "CLD")]}
    return {
        "CLASSI": _named(metadata, "MSK_CLASSI", "MSK_CLASSI_B00.jp2"),
        "CLOUDS": _named(metadata, "MSK_CLOUDS", "MSK_CLOUDS_B00.gml"),
    }


def _listed(metadata: TileMetadata, role: str) -> list[tuple[str, ...]]:
    """Files of a mask that is listed among the images, the finest first."""
    return [
        (name,) for _, name in sorted((metres or 0, name) for kind, metres, name in metadata.images if kind == role)
    ]


def _named(metadata: TileMetadata, kind: str, *usual: str) -> list[tuple[str, ...]]:
    """Files of a mask: as the granule's metadata name them, else as they are called in products that do not.

    Each also as GeoTIFF, in which others store them anew.
    """
    stated = sorted(name for stated, name in metadata.masks if stated == kind)
    names = [f"{metadata.granule}/QI_DATA/{name}" for name in stated or usual]
    return [tuple(dict.fromkeys((name, re.sub(r"\.jp2$", ".tif", name)))) for name in names]


def open_flags(
    safe: Container, present: dict[str, str], *, grid: GeoBox, grids: tuple[GeoBox, ...]
) -> dict[str, Layer]:
    """Return the flags that the masks ``present`` in a product give on ``grid``.

    Raises:
        UserError: a mask is damaged or lies elsewhere.
    """
    if "SCL" in present:
        scene = open_mask(safe, present["SCL"], grid=grid, grids=grids)
        return flag_classes(scene, SCL_FLAGS)
    if "CLASSI" in present:
        path = safe.file(present["CLASSI"])
        count, expected = gdal_files.open_raster(path).count, max(max(bands) for bands in _CLASSI_BANDS.values())
        if count != expected:
            raise UserError(
                f"expected {expected} layers (opaque cloud, cirrus, snow) in {path}, got {count}; the mask is damaged, "
                "fetch the product again"
            )
        return {
            name: BitFlag(
                tuple(open_mask(safe, present["CLASSI"], grid=grid, grids=grids, index=band) for band in bands)
            )
            for name, bands in _CLASSI_BANDS.items()
        }
    if "CLOUDS" in present:
        _polygons(
            identify_file(safe.file(present["CLOUDS"])), safe, present["CLOUDS"], read_crs(grid)
        )  # refuses what is damaged
        return {"cloud": PolygonFlag(safe, present["CLOUDS"], grid)}
    return {}


def open_fields(
    safe: Container, present: dict[str, str], *, grid: GeoBox, grids: tuple[GeoBox, ...]
) -> dict[str, Layer]:
    """Return the fields that the masks ``present`` in a product give on ``grid``."""
    if "CLDPRB" not in present:
        return {}
    scene = open_mask(safe, present["SCL"], grid=grid, grids=grids) if "SCL" in present else None
    return {"cloud_probability": CloudProbability(open_mask(safe, present["CLDPRB"], grid=grid, grids=grids), scene)}


def open_mask(safe: Container, name: str, *, grid: GeoBox, grids: tuple[GeoBox, ...], index: int = 1) -> ClassRaster:
    """Return a layer of a mask, placed where the granule's metadata say."""
    path = safe.file(name)
    return ClassRaster(grid, path, index, place_on_tile(path, grids))


def place_on_tile(path: Any, grids: tuple[GeoBox, ...]) -> GeoBox:
    """Return the grid of the tile that has the shape of a file.

    Raises:
        UserError: no grid has, or the file's own georeference (to a thousandth of a pixel) is another.
    """
    own = gdal_files.read_grid(path)
    for grid in grids:
        if grid.shape != own.shape:
            continue
        apart = [abs(stated - known) for stated, known in zip(own.affine[:6], grid.affine[:6], strict=True)]
        if own.crs is not None and (own.crs != grid.crs or max(apart) > measure_gsd(grid) / 1000):
            break
        return grid
    stated = ", ".join(f"{grid.height} x {grid.width} at {measure_gsd(grid):g} m" for grid in grids)
    raise UserError(
        f"expected {path} on a grid of its tile ({stated}, {read_crs(grids[0])}), got {own.height} x {own.width} at "
        f"{measure_gsd(own):g} m in "
        f"{read_crs(own) or 'no reference system'}; the file is of another tile or damaged, fetch the product again"
    )


@lru_cache(maxsize=8)
def _drawn(content: FileIdentity, flag: PolygonFlag, number: int) -> npt.NDArray[np.bool_]:
    grid, place = flag.grid, flag.grid.affine
    height = min(_STRIP, grid.height - number * _STRIP)
    polygons = _polygons(content, flag.safe, flag.name, read_crs(grid))
    if not polygons:
        return np.zeros((height, grid.width), dtype=bool)
    drawn = features.rasterize(
        polygons,
        out_shape=(height, grid.width),
        transform=Affine(place.a, place.b, place.c, place.d, place.e, place.f + place.e * number * _STRIP),
        all_touched=False,
        dtype=np.uint8,
    )
    return np.asarray(drawn, dtype=bool)


@lru_cache(maxsize=8)
def _polygons(_content: FileIdentity, safe: Container, name: str, crs: str) -> tuple[dict[str, Any], ...]:
    """Return the cloud polygons of a GML file as GeoJSON geometries, in the tile's reference system."""
    where = safe.file(name)
    root = safe.xml(name)
    for item in root.iter():
        stated = item.get("srsName")  # urn:ogc:def:crs:EPSG:8.7:32632
        if stated is not None and crs != f"EPSG:{stated.rpartition(':')[2]}":
            raise UserError(
                f"expected polygons in {crs} in {where}, got {stated!r}; the mask is of another tile, fetch the "
                "product again"
            )
    polygons = []
    for feature in (item for item in root.iter() if str(item.tag).endswith("}MaskFeature")):
        kinds = [(item.text or "").strip() for item in feature.iter() if str(item.tag).endswith("}maskType")]
        if len(kinds) != 1 or kinds[0] not in _POLYGON_TYPES:
            raise UserError(
                f"expected polygons of {' or '.join(_POLYGON_TYPES)} in {where}, got {', '.join(kinds) or 'no type'}; "
                "fetch the product again"
            )
        for polygon in feature.iter(f"{_GML}Polygon"):
            outer = [_ring(ring, where) for ring in polygon.findall(f"{_GML}exterior/{_GML}LinearRing/{_GML}posList")]
            inner = [_ring(ring, where) for ring in polygon.findall(f"{_GML}interior/{_GML}LinearRing/{_GML}posList")]
            if len(outer) != 1:
                raise UserError(
                    f"expected one outline per polygon in {where}, got {len(outer)}; fetch the product again"
                )
            polygons.append({"type": "Polygon", "coordinates": [*outer, *inner]})
    return tuple(polygons)


def _ring(element: Element, where: Any) -> list[tuple[float, float]]:
    dimension = element.get("srsDimension", "2")
    try:
        values = np.array((element.text or "").split(), dtype=np.float64)
    except ValueError:
        values = np.array([np.nan])
    size = int(dimension) if dimension in ("2", "3") else 0
    if not size or len(values) % size or len(values) < 4 * size or not np.isfinite(values).all():
        raise UserError(
            f"expected rings of at least four points with 2 or 3 finite coordinates in {where}, got {len(values)} "
            "numbers; fetch the product again"
        )
    return [(float(x), float(y)) for x, y in values.reshape(-1, size)[:, :2]]

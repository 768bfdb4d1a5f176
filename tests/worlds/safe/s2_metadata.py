"""Metadata of Sentinel-2 SAFE products as in real ones (Product Specification Document S2-PDGS-TAS-DI-PSD, 14.x)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from rasterio.features import shapes

from worlds.safe.container import Draft
from worlds.safe.s2_scene import measure_sun
from worlds.safe.s2_spec import GSD_M, L1C_BANDS, S2SafeSpec
from worlds.safe.templating import fill_template

# Of Sentinel-2A, from the metadata of its products: shortest, longest and central wavelength (nm), solar irradiance
# (W/m2/um), gain.
_SPECTRAL = {
    "B01": (412, 456, 442.7, 1884.69, 4.10304067),
    "B02": (456, 533, 492.7, 1959.66, 3.75668157),
    "B03": (538, 583, 559.8, 1823.24, 4.18953758),
    "B04": (646, 684, 664.6, 1512.06, 4.5233009),
    "B05": (695, 714, 704.1, 1424.64, 5.20566374),
    "B06": (731, 749, 740.5, 1287.61, 4.87066355),
    "B07": (769, 797, 782.8, 1162.08, 4.53175713),
    "B08": (760, 907, 832.8, 1041.63, 6.15677842),
    "B8A": (837, 881, 864.7, 955.32, 5.13408802),
    "B09": (932, 958, 945.1, 812.92, 8.53331509),
    "B10": (1337, 1412, 1373.5, 367.15, 54.96213391),
    "B11": (1539, 1682, 1613.7, 245.59, 35.21561911),
    "B12": (2078, 2320, 2202.4, 85.25, 106.32214723),
}
SCENE_CLASSES = (
    "NODATA",
    "SATURATED_DEFECTIVE",
    "DARK_FEATURE_SHADOW",
    "CLOUD_SHADOW",
    "VEGETATION",
    "NOT_VEGETATED",
    "WATER",
    "UNCLASSIFIED",
    "CLOUD_MEDIUM_PROBA",
    "CLOUD_HIGH_PROBA",
    "THIN_CIRRUS",
    "SNOW_ICE",
)
_MEAN_ORDER = (0, 9, 10, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12)  # in which real products list the mean view angles of bands
_DETECTORS = (5, 6)  # the tile lies under two of the twelve
_NODES_M = 5000.0  # between the nodes of the grids of angles


def get_view_angles(band: str) -> tuple[float, float]:
    """Return the mean zenith and azimuth under which a band sees the product, degrees; each looks aside a little."""
    index = L1C_BANDS.index(band)
    return round(7.25 + 0.013 * index, 6), round(104.5 + 0.21 * index, 6)


def render_product(spec: S2SafeSpec, images: list[str], cloud_percent: float) -> str:
    """Return MTD_MSIL1C.xml or MTD_MSIL2A.xml.

    Args:
        spec: the product.
        images: names of the images relative to the product, without suffix, in the order to be listed.
        cloud_percent: share of the product under cloud.
    """
    columns = ("shortest_nm", "longest_nm", "central_nm", "irradiance", "gain")
    bands = [
        # The metadata spell B1, not B01.
        {"spelling": "B" + band[1:].lstrip("0"), "gsd_m": GSD_M[band], **dict(zip(columns, row, strict=True))}
        for band, row in _SPECTRAL.items()
    ]
    return fill_template(
        "s2_product",
        spec=spec,
        listings=list_by_resolution(images) if spec.pilot else [images],
        cloud_percent=cloud_percent,
        bands=bands,
        scene_classes=SCENE_CLASSES,
        footprint=format_footprint(spec),
    )


def list_by_resolution(images: list[str]) -> list[list[str]]:
    """Return the images at 60, 20 and 10 m: pilot products list the granule once for each."""
    return [[name for name in images if name.endswith(f"_{gsd}m")] for gsd in (60, 20, 10)]


def render_tile(spec: S2SafeSpec, masks: list[tuple[str, str]], cloud_percent: float) -> str:
    """Return MTD_TL.xml.

    Args:
        spec: the product.
        masks: type and name, relative to the product, of each mask.
        cloud_percent: share of the product under cloud.
    """
    nodes = _NODES_M * np.arange(int(spec.extent_m // _NODES_M) + 2)  # one beyond the end
    return fill_template(
        "s2_tile",
        spec=spec,
        masks=masks,
        cloud_percent=cloud_percent,
        sun=measure_sun(spec),
        sun_grid=np.moveaxis([[measure_sun(spec, column, row) for column in nodes] for row in nodes], 2, 0),
        view_grids=list_view_grids(spec, nodes),
        mean_views=[(index, *get_view_angles(L1C_BANDS[index])) for index in _MEAN_ORDER],
    )


def list_view_grids(
    spec: S2SafeSpec, nodes: npt.NDArray[np.float64]
) -> list[tuple[int, int, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Return band, detector, and zenith and azimuth at the nodes [y, x], degrees, NaN where the detector does not look.

    Two detectors share the tile left and right of its middle.
    """
    middle = spec.extent_m / 2
    columns = np.broadcast_to(nodes, (nodes.size, nodes.size))
    grids = []
    for index, band in enumerate(L1C_BANDS):
        zenith, azimuth = get_view_angles(band)
        for detector in _DETECTORS:
            seen = columns < middle if detector == _DETECTORS[0] else columns >= middle
            zeniths = np.where(seen, zenith + 3e-5 * (columns - middle), np.nan)
            azimuths = np.where(seen, azimuth + 0.5 * (detector - 5.5), np.nan)
            grids.append((index, detector, zeniths, azimuths))
    return grids


def render_clouds(spec: S2SafeSpec, classes: npt.NDArray[np.uint8]) -> str:
    """Return MSK_CLOUDS_B00.gml: the outlines of opaque cloud and cirrus along the borders of 60 m pixels.

    Args:
        spec: the product.
        classes: uint8 [opaque cirrus ..., y, x] at 60 m, 0 or 1.
    """
    outlines = [
        (kind, number, outline["coordinates"])
        for kind, mask in zip(("OPAQUE", "CIRRUS"), classes[:2], strict=True)
        for number, (outline, _) in enumerate(shapes(mask, mask=mask.astype(bool), transform=spec.transform(60)))
    ]
    corners = np.array([corner for _, _, rings in outlines for corner in rings[0]]).reshape(-1, 2)
    return fill_template(
        "s2_clouds",
        identifier=f"{spec.tile_id.replace(f'_MSI_{spec.level}_TL_', '_MSK_CLOUDS_')}_B00_MSIL1C",
        epsg=spec.epsg,
        outlines=outlines,
        low=corners.min(axis=0) if outlines else None,
        high=corners.max(axis=0) if outlines else None,
    )


def render_manifest(spec: S2SafeSpec, draft: Draft) -> str:
    """Return manifest.safe, all other files of the product being written.

    Real products have MD5 up to 2020 (baseline 02.09) and SHA3-256 in 2021 (03.01); in L2A products the digests of
    images are in capitals.
    """
    algorithm = "MD5" if int(spec.baseline.partition(".")[0]) < 3 else "SHA3-256"
    objects = draft.list_objects(algorithm)
    if spec.level == "L2A" and algorithm != "MD5":
        for entry in objects:
            if entry["name"].endswith((".jp2", ".tif")):
                entry["digest"] = entry["digest"].upper()
    return fill_template(
        "s2_manifest", spec=spec, objects=objects, algorithm=algorithm, footprint=format_footprint(spec)
    )


def format_footprint(spec: S2SafeSpec) -> str:
    """Return latitude and longitude of the corners, clockwise from the upper left, closed."""
    side = spec.extent_m
    ring = [spec.position(*place) for place in ((0, 0), (side, 0), (side, side), (0, side), (0, 0))]
    return " ".join(f"{latitude:.12f} {longitude:.12f}" for longitude, latitude in ring) + " "

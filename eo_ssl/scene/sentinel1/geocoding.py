"""Geocoding of Sentinel-1 GRD products (IW, EW, stripmap): images, border noise and incidence angle on the map.

Pixels are calibrated and freed of noise in radar geometry and then interpolated as power: bilinear, or where the map's
pixels are coarser the mean of as many bilinear values as radar pixels fit in. The map is the UTM zone of the scene's
centre with corners at multiples of the card's pixel size; the way to it is the annotation's geolocation grid, hence
positions are as good as its terrain heights (a point every 10 to 20 km). Terrain correction with an elevation raster is
in :mod:`eo_ssl.scene.sentinel1.terrain`.

The image lies rotated on the map by the orbit's inclination, so a strip of the map crosses thousands of lines of the
image. The map is therefore read in regions of ``REGION_PX`` squared, each worked through in blocks of ``BLOCK_PX``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene.grids import is_same_gsd, read_crs
from eo_ssl.scene.layers import Blocks, Image, Layer, Layers, Range
from eo_ssl.scene.sentinel1.geolocation import Geolocation, choose_crs
from eo_ssl.scene.sentinel1.image_sampling import average_cells, is_inside, locate_nearest, sample_bilinear
from eo_ssl.scene.sentinel1.power import RadarImage
from eo_ssl.scene.sentinel1.product_manifest import Safe, SafeImage

Array = npt.NDArray[np.float64]
BLOCK_PX = 512  # about 620 by 620 pixels of the image: 13 MB of intermediate arrays
_BOX = (0.9, 10.0)  # area of the map's box over the image's; 3.6 for a strip of 80 by 1000 km, rotated by 12 degrees
REGION_PX = (
    2048  # crosses some 2500 lines of the image, at most 130 MB each polarisation; a strip of full width crosses 7000
)


@dataclass(frozen=True, slots=True)
class GrdImage(Image):
    """The polarisations of one product on the map."""

    grid: GeoBox
    images: tuple[RadarImage, ...]
    "in the order of the bands"
    per_side: int
    "values that are averaged along each side of a pixel"

    @property
    def blocks(self) -> Blocks:
        """Regions of the map."""
        region = min(REGION_PX, self.grid.height), min(REGION_PX, self.grid.width)
        return Blocks(*region, region)

    @property
    def has_saturation(self) -> bool:
        """The largest amplitude that can be stored marks saturation."""
        return True

    def read(self, bands: Sequence[int], rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return linear power [band, y, x] float32, NaN where nothing was measured."""
        out = np.empty((len(bands), rows[1] - rows[0], columns[1] - columns[0]), dtype=np.float32)
        for part, lines, samples in self.places(rows, columns, per_side=self.per_side):
            for position, band in enumerate(bands):
                values = sample_bilinear(self.images[band].power, lines, samples, shape=self.shape)
                out[(position, *part)] = average_cells(values, self.per_side)
        return out

    def saturated(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return [y, x]: whether the nearest pixel of any polarisation holds the largest storable amplitude."""
        out = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)
        for part, lines, samples in self.places(rows, columns):
            on = is_inside(lines, samples, self.shape)
            if on.any():
                own, other = locate_nearest(lines, samples, self.shape)
                window = (int(own[on].min()), int(own[on].max()) + 1), (int(other[on].min()), int(other[on].max()) + 1)
                held = np.where(on, own, window[0][0]) - window[0][0], np.where(on, other, window[1][0]) - window[1][0]
                for image in self.images:
                    out[part] |= image.saturated(*window)[held] & on
        return out

    @property
    def shape(self) -> tuple[int, int]:
        """Lines and samples of the radar image."""
        about = self.images[0].annotation
        return about.lines, about.samples

    @property
    def geolocation(self) -> Geolocation:
        """The way from the map to the image, made once per process."""
        return open_geolocation(self.images[0].safe, self.images[0].image, read_crs(self.grid))

    def places(
        self, rows: Range, columns: Range, *, per_side: int = 1
    ) -> Iterator[tuple[tuple[slice, slice], Array, Array]]:
        """Yield each block's part of the window, and line and sample of ``per_side`` squared points in its pixels."""
        step, way = max(BLOCK_PX // per_side, 1), self.geolocation
        for top in range(rows[0], rows[1], step):
            bottom = min(top + step, rows[1])
            for left in range(columns[0], columns[1], step):
                right = min(left + step, columns[1])
                part = slice(top - rows[0], bottom - rows[0]), slice(left - columns[0], right - columns[0])
                y = (np.arange(top * per_side, bottom * per_side) + 0.5) / per_side
                x = (np.arange(left * per_side, right * per_side) + 0.5) / per_side
                yield part, *way.image_positions(self.grid, y, x)


@dataclass(frozen=True, slots=True)
class BorderFlag(Layer):
    """Where the nearest pixel of the image is border noise in any polarisation."""

    image: GrdImage

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return flags [y, x], False beyond the image."""
        out = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)
        for part, lines, samples in self.image.places(rows, columns):
            held = locate_nearest(lines, samples, self.image.shape)
            for image in self.image.images:
                out[part] |= image.border.at(*held)
            out[part] &= is_inside(lines, samples, self.image.shape)
        return out


@dataclass(frozen=True, slots=True)
class IncidenceField(Layer):
    """Incidence angle against the ellipsoid, from the geolocation grid."""

    image: GrdImage

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return degrees [y, x] float32, NaN beyond the image."""
        out = np.full((rows[1] - rows[0], columns[1] - columns[0]), np.nan, dtype=np.float32)
        for part, lines, samples in self.image.places(rows, columns):
            on = is_inside(lines, samples, self.image.shape)
            y = np.arange(rows[0] + part[0].start, rows[0] + part[0].stop) + 0.5
            x = np.arange(columns[0] + part[1].start, columns[0] + part[1].stop) + 0.5
            out[part][on] = self.image.geolocation.incidence_on(self.image.grid, y, x)[on]
        return out


def geocode(images: tuple[RadarImage, ...], *, gsd_m: float) -> Layers:
    """Return the layers of radar images of one product through its geolocation grid.

    Args:
        images: one per band, all of the same lines and samples.
        gsd_m: pixel size of the map.

    Raises:
        UserError: an image is incomplete or not as its annotation says, has coarser pixels than ``gsd_m``, the
            polarisations differ in size, or the geolocation grid cannot be theirs.
    """
    for image in images:
        image.check()
    about = images[0].annotation
    spacing = max(about.range_spacing_m, about.azimuth_spacing_m)
    if spacing > gsd_m and not is_same_gsd(spacing, gsd_m):
        raise UserError(
            f"expected pixels of {gsd_m:g} m or finer in {images[0].safe.name}, got {spacing:g} m; set gsd_m of the "
            "card to what the product has"
        )
    if any((image.annotation.lines, image.annotation.samples) != (about.lines, about.samples) for image in images):
        raise UserError(
            f"expected polarisations of one size in {images[0].safe.name}, got several; the product is mixed from two, "
            "fetch it again"
        )
    way = open_geolocation(images[0].safe, images[0].image, choose_crs(about.grid))
    per_side = max(round(gsd_m / spacing), 1)
    grid = way.grid(about.lines, about.samples, gsd_m)
    share = (
        grid.height
        * grid.width
        * gsd_m**2
        / (about.lines * about.samples * about.range_spacing_m * about.azimuth_spacing_m)
    )
    if not _BOX[0] <= share <= _BOX[1]:
        raise UserError(
            f"expected a geolocation grid that fits {about.lines} lines and {about.samples} samples in "
            f"{images[0].safe.name}, got a box of {share:.3g} "
            "times their area; the annotation is damaged, fetch the product again"
        )
    mapped = GrdImage(grid, images, per_side)
    return Layers(mapped, flags={"border_noise": BorderFlag(mapped)}, fields={"incidence_deg": IncidenceField(mapped)})


def open_geolocation(safe: Safe, image: SafeImage, crs: str) -> Geolocation:
    """Return the geolocation of an image on the map ``crs``, made once per process."""
    return _geolocation(identify_file(safe.container.file(image.annotation)), safe, image, crs)


@lru_cache(maxsize=16)
def _geolocation(_content: FileIdentity, safe: Safe, image: SafeImage, crs: str) -> Geolocation:
    return Geolocation(safe.annotation(image).grid, crs)

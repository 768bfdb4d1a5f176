"""Sentinel-1 wave mode: the single-look complex vignettes of a product as chips of backscatter on the ground.

Each vignette, some 20 km by 20 km every 100 km along the flight, is calibrated sample by sample as (|DN|^2 - noise) /
A^2, averaged to square ground pixels of the card's ``gsd_m`` (50 m) and cut in its middle to ``crop_px`` (256). Rows
follow the flight, the first row is the earliest; columns follow the ground range, the first column is the nearest to
the satellite. Nothing is flipped: north is up to 180 degrees from the first row, as ``footprint`` tells, whose corners
are those of first row and first column, first row and last column, last row and last column, last row and first column.

One vignette is in memory at a time. A chip smaller than the cut is filled with invalid pixels; ingestion judges it by
its valid share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from numpy.polynomial import polynomial
from pyproj import Transformer

from eo_ssl.cards import Card, Vignettes
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import fingerprint
from eo_ssl.scene import gdal_files
from eo_ssl.scene.acquisition import format_iso
from eo_ssl.scene.chip import UNLABELLED, Chip, UnreadableChip
from eo_ssl.scene.product import Listing, Product
from eo_ssl.scene.product_source import ProductSource
from eo_ssl.scene.safe_container import Container
from eo_ssl.scene.sentinel1.annotation import Annotation
from eo_ssl.scene.sentinel1.geolocation import Geolocation, choose_crs
from eo_ssl.scene.sentinel1.grd_product import collect_products
from eo_ssl.scene.sentinel1.lut import Table
from eo_ssl.scene.sentinel1.multilook import GroundAxis, average, lay_even_axis, lay_slant_axis
from eo_ssl.scene.sentinel1.noise import Noise
from eo_ssl.scene.sentinel1.product_manifest import Safe, SafeImage, open_safe
from eo_ssl.scene.sentinel1.rangedoppler import measure_line_spacing

_STRIP = 512  # lines calibrated at a time: 30 MB of samples


@dataclass(frozen=True, slots=True)
class WaveSource(ProductSource):
    """The vignettes of one product in the card's polarisation."""

    card: Card
    container: Container

    @property
    def name(self) -> str:
        """Name of the product, the same for folder and zip."""
        return self.container.name

    @property
    def nbytes(self) -> int:
        """Unpacked bytes of the files of the vignettes, of those that are there."""
        chosen, present = choose_vignettes(self.card, open_safe(self.container)), self.container.names()
        return sum(self.container.size(name) for image in chosen for name in image.files if name in present)

    def checksum(self) -> str:
        """Return the product's checksum, the same for folder and zip.

        Every file is compared with its checksum in the manifest.

        A damaged vignette is lost alone: its name enters the checksum, so that a repaired product is another one.

        Raises:
            UserError: a file that vignettes share is damaged, or there is no vignette in the card's polarisation.
        """
        safe = open_safe(self.container)
        chosen = choose_vignettes(self.card, safe)
        shared = safe.checksum(without=safe.images)
        damaged = [_name(image) for image in chosen if _is_damaged(safe, image)]
        return fingerprint([shared, damaged]) if damaged else shared

    def open_chips(self) -> Iterator[Chip | UnreadableChip]:
        """Yield the vignettes in the order of their image numbers.

        In place of one whose files are absent, damaged or contradict each other, why.
        """
        safe = open_safe(self.container)
        for image in choose_vignettes(self.card, safe):
            try:
                vignette: Chip | UnreadableChip = _chip(self.card, safe, image)
            except UserError as error:
                vignette = UnreadableChip(_name(image), str(error))
            yield vignette


def list_wave_products(card: Card, root: Path) -> Listing:
    """Return the wave-mode products of a card below ``root``, and what was left out with the reason.

    See :func:`.grd_product.collect_products`.

    Raises:
        UserError: the card states what only the products can state, or wants several polarisations.
    """
    if len(card.bands) != 1:
        raise UserError(
            f"expected one polarisation in `bands` of card {card.name}, got {', '.join(card.bands)}; wave mode sends "
            "one at a time"
        )

    def examine(safe: Safe) -> str | Product:
        if safe.mode != "WV" or safe.product_type != "SLC":
            return f"a product of mode {safe.mode} and type {safe.product_type}, not WV and SLC"
        try:
            choose_vignettes(card, safe)
        except UserError as error:
            return str(error)
        source = WaveSource(card, safe.container)
        return Product(f"{card.name}/{safe.name}", card, "chips", safe.acquisition, source)

    return collect_products(card, root, kind="chips", examine=examine)


def choose_vignettes(card: Card, safe: Safe) -> tuple[SafeImage, ...]:
    """Return the images of ``safe`` in the polarisation of ``card``.

    Raises:
        UserError: there are none.
    """
    images = tuple(image for image in safe.images if image.polarisation == card.bands[0])
    if not images:
        has = ", ".join(sorted({image.polarisation for image in safe.images}))
        raise UserError(
            f"expected {card.bands[0]} in {safe.name}, got {has}; use a card with `bands: [{has}]` for this product"
        )
    return images


def _chip(card: Card, safe: Safe, image: SafeImage) -> Chip:
    digests = safe.digests(image)
    settings, annotation = _settings(card), safe.annotation(image)
    along, across = lay_ground_axes(annotation, pixel_m=card.gsd_m)
    power = average(_strips(card, safe, image), along=along, across=across)
    size = settings.crop_px
    row, column = (along.size - size) // 2, (across.size - size) // 2
    cut = np.full((1, size, size), np.nan, dtype=np.float32)
    part = power[max(row, 0) : max(row + size, 0), max(column, 0) : max(column + size, 0)]
    cut[0, max(-row, 0) : max(-row, 0) + part.shape[0], max(-column, 0) : max(-column, 0) + part.shape[1]] = part
    ends = (row, row + size), (column, column + size)
    return Chip(
        image=cut,
        valid=np.isfinite(cut[0]),
        name=_name(image),
        sha256=digests[image.measurement],
        label=UNLABELLED,
        label_name="",
        split="",
        width_px=across.size,
        height_px=along.size,
        row_off=row,
        col_off=column,
        datetime=_middle_time(annotation),
        mode=annotation.swath,
        incidence_deg=_middle_incidence(annotation),
        footprint=locate_footprint(annotation, along, across, rows=ends[0], columns=ends[1]),
    )


def _is_damaged(safe: Safe, image: SafeImage) -> bool:
    try:
        safe.digests(image)
    except UserError:
        return True
    return False


def _name(image: SafeImage) -> str:
    return PurePosixPath(image.annotation).stem


def lay_ground_axes(annotation: Annotation, *, pixel_m: float) -> tuple[GroundAxis, GroundAxis]:
    """Return how lines and samples of a single-look image lie on the ground.

    Lines are as far apart as the geolocation grid says at the middle sample; samples by the incidence angle of the
    middle line. Over 20 km the angle changes by 0.01 degrees along the track and the spacing of lines by 1 in 10,000
    across it, which moves an edge by 5 m.

    Raises:
        UserError: the image is in ground range already, or smaller than a pixel.
    """
    if annotation.detected:
        raise UserError(
            f"expected a single-look complex vignette, got a detected {annotation.product_type} image; use a card with "
            "reader sentinel1_grd_safe"
        )
    grid = annotation.grid
    middle = [np.interp((annotation.lines - 1) / 2, grid.lines, column) for column in grid.incidence_deg.T]
    angle = np.interp(np.arange(annotation.samples), grid.pixels, middle)
    spacing = float(polynomial.polyval((annotation.samples - 1) / 2, measure_line_spacing(grid)))
    return (
        lay_even_axis(annotation.lines, spacing_m=spacing, pixel_m=pixel_m),
        lay_slant_axis(angle, spacing_m=annotation.range_spacing_m, pixel_m=pixel_m),
    )


def locate_footprint(
    annotation: Annotation, along: GroundAxis, across: GroundAxis, *, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[tuple[float, float], ...]:
    """Return longitude and latitude of the corners of a window of ground pixels, through the geolocation grid.

    Beyond the image, where a cut is padded, the corner is that of the image.
    """
    crs = choose_crs(annotation.grid)
    lines = np.array([along.sample_at(rows[i]) for i in (0, 0, 1, 1)])
    samples = np.array([across.sample_at(columns[i]) for i in (0, 1, 1, 0)])
    x, y = Geolocation(annotation.grid, crs).to_map(lines, samples)
    longitude, latitude = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return tuple((float(a), float(b)) for a, b in zip(longitude, latitude, strict=True))


def _strips(card: Card, safe: Safe, image: SafeImage) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield (first line, calibrated power [line, sample] float32, NaN outside the image)."""
    annotation, table, noise = safe.annotation(image), *_tables(card, safe, image)
    path = safe.container.file(image.measurement)
    grid, complex_type = gdal_files.read_grid(path), gdal_files.open_raster(path).dtypes[0].startswith("complex")
    if grid.shape.yx != (annotation.lines, annotation.samples) or not complex_type:
        raise UserError(
            f"expected {annotation.lines} lines of {annotation.samples} complex samples in {path} as its annotation "
            f"says, got {grid.height} of "
            f"{grid.width} {gdal_files.open_raster(path).dtypes[0]}; the product is damaged or mixed from two, fetch "
            "it again"
        )
    columns = (0, annotation.samples)
    for first in range(0, annotation.lines, _STRIP):
        rows = (first, min(first + _STRIP, annotation.lines))
        samples = gdal_files.read_window(path, (1,), rows=rows, columns=columns)[0]
        power = np.square(samples.real, dtype=np.float32) + np.square(samples.imag, dtype=np.float32)
        outside = _outside(power)
        if noise is not None:
            power -= noise.at(rows, columns)
        power /= np.square(table.at(rows, columns))
        power[outside] = np.nan
        yield first, power


def _tables(card: Card, safe: Safe, image: SafeImage) -> tuple[Table, Noise | None]:
    """Return the calibration table and the noise to subtract, None where there is none to subtract."""
    annotation = safe.annotation(image)
    table = safe.calibration(image).table(card.quantity)
    table.check_cover(annotation.lines, annotation.samples, name=image.calibration)
    if annotation.noise_removed or not _settings(card).remove_noise:
        return table, None
    noise = safe.noise(image)
    if noise is None:
        raise UserError(
            f"expected thermal noise for {image.annotation} of {safe.name}, got none stated; set "
            "vignettes.remove_noise to false in card "
            f"{card.name} to read such products with their noise"
        )
    noise.along_range.check_cover(annotation.lines, annotation.samples, name=str(image.noise))
    shape = annotation.lines, annotation.samples
    noise.check_level(safe.calibration(image).sigma0, shape=shape, name=f"{image.noise} of {safe.name}")
    return table, noise


def _outside(power: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Zeros before the first and after the last sample of each line: fill. Zeros in between are measurements."""
    some = power > 0
    return np.asarray(
        ~(np.logical_or.accumulate(some, axis=1) & np.logical_or.accumulate(some[:, ::-1], axis=1)[:, ::-1])
    )


def _settings(card: Card) -> Vignettes:
    if card.vignettes is None:
        raise UserError(f"expected card {card.name} to have `vignettes`, got none; add it")
    return card.vignettes


def _middle_time(annotation: Annotation) -> str:
    offset = np.timedelta64(round((annotation.lines - 1) / 2 * annotation.line_interval_s * 1e9), "ns")
    return format_iso(str((annotation.first_line_time + offset).astype("datetime64[us]")))


def _middle_incidence(annotation: Annotation) -> float:
    """Degrees at the middle of the image, on which every cut is centred to within a pixel."""
    grid = annotation.grid
    middle = [np.interp((annotation.lines - 1) / 2, grid.lines, column) for column in grid.incidence_deg.T]
    return float(np.interp((annotation.samples - 1) / 2, grid.pixels, middle))

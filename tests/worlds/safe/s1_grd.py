"""Writing a Sentinel-1 ground-range product in SAFE format, and the truth of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.control import GroundControlPoint

from eo_ssl.sample.fields import Floats
from worlds.safe.container import open_draft, write_raster
from worlds.safe.s1_annotation import Image, place_tie_points, render_annotation, render_calibration, render_noise
from worlds.safe.s1_geometry import Geometry, make_ground_geometry
from worlds.safe.s1_luts import Doubles
from worlds.safe.s1_manifest import add_annotation, render_manifest, reserve_measurement
from worlds.safe.s1_scene import (
    NOISE_LEVEL,
    Bools,
    Tables,
    detect,
    draw_backscatter,
    draw_border,
    make_calibration_tables,
    make_noise_tables,
)
from worlds.safe.s1_spec import NEAR_INCIDENCE_DEG, S1GrdSpec, name_product


@dataclass(frozen=True)
class S1GrdTruth:
    """What is true of a product."""

    path: Path
    "the .SAFE folder or the zip file"
    name: str
    spec: S1GrdSpec
    geometry: Geometry
    "line and sample -> latitude, longitude, slant range and incidence angle, exactly"
    tables: dict[str, Tables]
    "polarisation -> calibration and noise as annotated"

    @cached_property
    def border(self) -> Bools:
        """Where the border noise is, bool [line, sample]; the same in all polarisations."""
        return draw_border((self.spec.lines, self.spec.samples), self.spec.border_px, seed=self.spec.seed)

    @cached_property
    def sigma0(self) -> dict[str, Floats]:
        """Polarisation -> backscatter without speckle, noise and border, linear power float32 [line, sample]."""
        shape = (self.spec.lines, self.spec.samples)
        return {name: draw_backscatter(shape, name, seed=self.spec.seed) for name in self.spec.polarisations}

    @cached_property
    def noise(self) -> dict[str, Doubles]:
        """Polarisation -> noise in DN^2, float64 [line, sample]."""
        lines, samples = np.arange(self.spec.lines), np.arange(self.spec.samples)
        return {name: tables.noise_at(lines, samples) for name, tables in self.tables.items()}

    @cached_property
    def dn(self) -> dict[str, npt.NDArray[np.uint16]]:
        """Polarisation -> stored numbers, uint16 [line, sample]."""
        return {name: self._detected(name) for name in self.spec.polarisations}

    def calibration(self, polarisation: str, *, name: str = "sigmaNought") -> Doubles:
        """Return a calibration table at all pixels, float64 [line, sample]: sigmaNought, betaNought, gamma or dn."""
        lines, samples = np.arange(self.spec.lines), np.arange(self.spec.samples)
        return self.tables[polarisation].calibration_at(lines, samples, name=name)

    def locate(self, line: npt.ArrayLike, sample: npt.ArrayLike) -> tuple[Doubles, Doubles]:
        """Return latitude and longitude of pixels in degrees; integers are middles of pixels, as in the tie points."""
        return self.geometry.locate(line, sample)

    def _detected(self, polarisation: str) -> npt.NDArray[np.uint16]:
        key = [self.spec.seed, self.spec.polarisations.index(polarisation)]
        return detect(
            self.sigma0[polarisation],
            self.tables[polarisation],
            self.border,
            looks=self.spec.looks,
            key=key,
            empty_border=self.spec.new_format,
        )


def make_s1_grd_safe(folder: Path, spec: S1GrdSpec, *, zipped: bool = False) -> S1GrdTruth:
    """Write a Sentinel-1 GRD product in SAFE format and return what is true of it. Equal specs give equal bytes.

    Args:
        folder: where the product appears; created.
        spec: what to write.
        zipped: write ``<name>.zip`` with the .SAFE folder inside instead of the folder.

    Raises:
        UserError: the product exists already or cannot be written.
    """
    geometry = make_ground_geometry(
        spec.centre,
        NEAR_INCIDENCE_DEG[spec.mode],
        lines=spec.lines,
        samples=spec.samples,
        spacing_m=spec.spacing_m,
        start=spec.start,
        ascending=spec.ascending,
        height_m=spec.height_m,
    )
    images = [_image(spec, geometry, number) for number in range(1, len(spec.polarisations) + 1)]
    prefix = f"{spec.product_type}_1S{spec.polarisation_code}"
    name = name_product(prefix, geometry.start, images[0].stop, platform=spec.platform, spec=spec, cog=spec.cog)
    tables = {image.polarisation: _tables(spec, image) for image in images}
    with open_draft(Path(folder), name, zipped=zipped) as (draft, final):
        truth = S1GrdTruth(final, name, spec, geometry, tables)
        for image in images:
            held = tables[image.polarisation]
            add_annotation(draft, image, "product", render_annotation(image))
            if spec.noise != "none":
                text = render_noise(image, held.noise, held.azimuth, new_format=spec.new_format)
                add_annotation(draft, image, "noise", text)
            add_annotation(draft, image, "calibration", render_calibration(image, held.calibration))
        for image in images:
            place = draft.root / reserve_measurement(draft, image)
            write_raster(place, truth.dn[image.polarisation], **describe_measurement(image))
        (draft.root / "manifest.safe").write_text(
            render_manifest(draft, images, ipf=spec.ipf, polarisations=spec.polarisations)
        )
    return truth


def _image(spec: S1GrdSpec, geometry: Geometry, number: int) -> Image:
    parts = len(spec.swaths)
    strip = parts == 1
    return Image(
        geometry=geometry,
        mode="SM" if strip else spec.mode,
        swath=spec.mode,
        polarisation=spec.polarisations[number - 1],
        platform=spec.platform,
        kind="GRD",
        number=number,
        bounds=tuple(round(spec.samples * part / parts) for part in range(parts + 1)),
        swaths=spec.swaths,
        ascending=spec.ascending,
        azimuth_spacing_m=spec.spacing_m,
        cog=spec.cog,
    )


def _tables(spec: S1GrdSpec, image: Image) -> Tables:
    noise, azimuth = make_noise_tables(
        (spec.lines, spec.samples),
        image.bounds,
        spec.swaths,
        kind=spec.noise,
        step=spec.lut_step,
        level=NOISE_LEVEL[image.polarisation],
    )
    return Tables(make_calibration_tables(image.geometry, step=spec.lut_step), noise, azimuth)


def describe_measurement(image: Image) -> dict[str, Any]:
    """Return how the measurement is stored, with tie points.

    Uncompressed strips of one line as in real products, or tiles with overviews in the cloud-optimised form.
    """
    lines, samples = place_tie_points(image.geometry)
    points = []
    for line in lines:
        latitude, longitude = image.geometry.locate(line, samples)
        points += [
            GroundControlPoint(float(line), float(sample), float(x), float(y), image.geometry.height_m)
            for sample, x, y in zip(samples, longitude, latitude, strict=True)
        ]
    if image.cog:
        return {"driver": "COG", "gcps": points, "crs": "EPSG:4326", "compress": "DEFLATE", "blocksize": 512}
    return {
        "driver": "GTiff",
        "gcps": points,
        "crs": "EPSG:4326",
        "blockysize": 1,
        "tiled": False,
        "photometric": "MINISBLACK",
    }

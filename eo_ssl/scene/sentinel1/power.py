"""Backscatter of one detected image in radar geometry: calibrated, denoised, border noise and zeros invalid.

``power = (DN^2 - noise) / A^2`` (MPC-0392, section 3). Values are linear, and those below zero are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene import gdal_files
from eo_ssl.scene.layers import Range
from eo_ssl.scene.sentinel1.annotation import Annotation
from eo_ssl.scene.sentinel1.border import NOMINAL_NOISE, Border, measure_border
from eo_ssl.scene.sentinel1.noise import Noise
from eo_ssl.scene.sentinel1.product_manifest import Safe, SafeImage
from eo_ssl.sensors import Quantity

SATURATED_DN = 65535


@dataclass(frozen=True, slots=True)
class RadarImage:
    """One polarisation of a product, read window by window. Pickles; holds no pixels."""

    safe: Safe
    image: SafeImage
    quantity: Quantity
    remove_noise: bool

    @property
    def path(self) -> Path:
        """The measurement file."""
        return self.safe.container.file(self.image.measurement)

    @property
    def annotation(self) -> Annotation:
        """The image's annotation."""
        return self.safe.annotation(self.image)

    @property
    def border(self) -> Border:
        """Border noise, measured once per process."""
        return _border(identify_file(self.path), self.safe, self.image)

    def check(self) -> None:
        """Refuse what would give wrong numbers; reads headers and annotations only.

        Raises:
            UserError: the measurement is absent or not of the annotated size, the quantity has no table, a table does
                not cover the image, or noise is to be removed and the product does not state it in units of DN^2.
        """
        self.safe.check_complete((self.image,))
        about, calibration = self.annotation, self.safe.calibration(self.image)
        name = self.path
        grid, dtype = gdal_files.read_grid(self.path), gdal_files.open_raster(self.path).dtypes[0]
        if grid.shape.yx != (about.lines, about.samples) or dtype != "uint16" or not about.detected:
            raise UserError(
                f"expected {about.lines} x {about.samples} amplitudes of uint16 in {name}, got {grid.height} x "
                f"{grid.width} of {dtype}; "
                "give a product of type GRD, or fetch it again"
            )
        calibration.table(self.quantity).check_cover(about.lines, about.samples, name=self.image.calibration)
        if not self.remove_noise or about.noise_removed:
            return
        noise = self.safe.noise(self.image)
        if noise is None:
            raise UserError(
                f"expected thermal noise of {self.image.polarisation} in {self.safe.name}, got none (processor "
                f"{self.safe.processor}; "
                "those before about 2.50 state zeros); set radar.remove_noise to false in a card for such products"
            )
        noise.along_range.check_cover(about.lines, about.samples, name=str(self.image.noise))
        noise.check_level(
            calibration.sigma0, shape=(about.lines, about.samples), name=f"{self.image.noise} of {self.safe.name}"
        )

    def power(self, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return the linear quantity in a half-open window, float32 [rows, columns], NaN where nothing was measured.

        Raises:
            UserError: the measurement is truncated or damaged.
        """
        stored = gdal_files.read_window(self.path, (1,), rows=rows, columns=columns)[0]
        values: npt.NDArray[np.float32] = stored.astype(np.float32)
        values *= values
        noise = self.safe.noise(self.image) if self.remove_noise and not self.annotation.noise_removed else None
        if noise is not None:
            values -= noise.at(rows, columns)
        divisor = self.safe.calibration(self.image).table(self.quantity).at(rows, columns)
        values /= divisor * divisor
        lines, samples = np.arange(*rows)[:, None], np.arange(*columns)[None, :]
        values[(stored == 0) | self.border.at(lines, samples)] = np.nan
        return values

    def saturated(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window hold the largest amplitude that can be stored."""
        return np.asarray(gdal_files.read_window(self.path, (1,), rows=rows, columns=columns)[0] == SATURATED_DN)


@lru_cache(maxsize=16)
def _border(content: FileIdentity, safe: Safe, image: SafeImage) -> Border:
    about, table = safe.annotation(image), safe.calibration(image).sigma0
    noise: Noise | None = None if about.noise_removed else safe.noise(image)

    def floor(line: int, columns: Range) -> npt.NDArray[np.float32]:
        row = (line, line + 1)
        nominal: npt.NDArray[np.float32] = np.float32(NOMINAL_NOISE) * table.at(row, columns)[0] ** 2
        return nominal if noise is None else np.maximum(nominal, noise.at(row, columns)[0])

    return measure_border(Path(content[0]), lines=about.lines, samples=about.samples, floor=floor)

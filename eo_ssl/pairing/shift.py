"""Co-registration: the sub-pixel shift between two images by orientation correlation, radar to optical too.

Radar and optical images share edges, not brightness: what is bright in one may be dark in the other. Orientation
correlation (Fitch, Kadyrov, Christmas and Kittler 2002, BMVC, eq. 3) correlates the *direction* of the gradient. Here
the angle is doubled, so that an edge counts the same whichever side is brighter (as in Kovesi's and Bigün's
double-angle representation). Correlations of many tiles of the same two scenes are summed before the peak is sought: a
misregistration is common to all of them, speckle is not.

A shift puts n pixels that have an orientation in both images on top of each other, and n differs from shift to shift:
at the border, and where parts of the tiles are invalid. A sum over n unrelated pixels has a mean proportional to n
(land has a dominant direction) and a spread proportional to the root of n; the score takes out both, or tiles that lack
the same part would seem to match where those parts do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float32]
SIGMA_PX = 1.5  # of the derivative of a Gaussian: speckle of a 10 m radar image is correlated over about 1.5 px
SEARCH_SHARE = 4  # shifts of up to a quarter of the tile are compared: those beyond the search say what chance gives
LEAST_COMMON = 0.25  # of the pixels that the best covered shift has in common; fewer are no evidence
UPSAMPLING = 20  # steps per pixel of the refined peak (Guizar-Sicairos, Thurman and Fienup 2008, method 1)


@dataclass(frozen=True, slots=True)
class Shift:
    """The shift of the second image relative to the first."""

    row_px: float
    "positive: its content lies further down (south); NaN where nothing can be said"
    col_px: float
    "positive: its content lies further right (east)"
    score: float
    """height of the peak above the median of the other shifts up to a quarter of the tile, in their robust standard
    deviations (1.4826 MAD)"""
    tiles: int
    "tiles that were summed"
    pixels: int
    "of the first image with an orientation: over all tiles, or on the ground where the tiles are dates of one place"


class ShiftEstimator:
    """Sums the orientation correlation of tile pairs and finds its peak; memory does not grow with their number."""

    def __init__(self, size_px: int, *, search_px: float = 6.0, same_ground: bool = False) -> None:
        """Start with no tiles.

        Args:
            size_px: side of the tiles.
            search_px: largest shift that is looked for, at most a quarter of the tile.
            same_ground: all tiles are dates of one place; a date more is no new ground, so ``Shift.pixels`` counts the
                best one only.
        """
        self._same_ground = same_ground
        self._wide = size_px // SEARCH_SHARE
        self._reach = int(min(np.ceil(search_px), self._wide))
        self._spectrum = np.zeros((2 * size_px, 2 * size_px), dtype=np.complex128)
        self._common = np.zeros_like(self._spectrum)
        self._tiles = self._pixels = 0

    def add(self, first: Floats, second: Floats) -> None:
        """Add a pair of tiles.

        Args:
            first: [C, H, W] of the first image, linear in what edges are (reflectance, dB); NaN invalid.
            second: [D, H, W] of the second; bands need not correspond.
        """
        fields = [compute_orientation(image) for image in (first, second)]
        spectra = [np.fft.fft2(field, s=self._spectrum.shape) for field in fields]
        self._spectrum += np.conj(spectra[0]) * spectra[1]
        covers = [np.fft.fft2(field != 0, s=self._spectrum.shape) for field in fields]
        self._common += np.conj(covers[0]) * covers[1]
        self._tiles += 1
        pixels = int(np.count_nonzero(fields[0]))
        self._pixels = max(self._pixels, pixels) if self._same_ground else self._pixels + pixels

    def estimate(self) -> Shift:
        """Return the shift at the peak of the summed correlation within the range searched."""
        total, common = (self._correlate_near(spectrum) for spectrum in (self._spectrum, self._common))
        sound = common >= max(1.0, LEAST_COMMON * float(common.max()))
        rows, cols = np.indices(total.shape) - self._wide
        searched = sound & (np.maximum(np.abs(rows), np.abs(cols)) <= self._reach)
        if not searched.any():
            return Shift(float("nan"), float("nan"), 0.0, self._tiles, self._pixels)
        filled = np.where(sound, common, 1.0)
        mean = float(np.median((total / filled)[sound]))
        evidence = (total - mean * common) / np.sqrt(filled)
        peak = int(np.argmax(np.where(searched, evidence, -np.inf)))
        row, col = int(rows.flat[peak]), int(cols.flat[peak])
        others = evidence[sound & (np.hypot(rows - row, cols - col) > 2 * SIGMA_PX)]
        middle = float(np.median(others)) if len(others) else 0.0
        spread = 1.4826 * float(np.median(np.abs(others - middle))) if len(others) else 0.0
        score = (float(evidence.flat[peak]) - middle) / spread if spread > 0 else 0.0
        fine_row, fine_col = self._refine_peak(row, col)
        return Shift(fine_row, fine_col, score, self._tiles, self._pixels)

    def _correlate_near(self, spectrum: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
        """Return the correlation of a spectrum for shifts of up to a quarter of the tile, zero in the middle."""
        wide = self._wide
        surface = np.real(np.fft.ifft2(spectrum))
        return np.roll(surface, (wide, wide), axis=(0, 1))[: 2 * wide + 1, : 2 * wide + 1]

    def _refine_peak(self, row: int, col: int) -> tuple[float, float]:
        """Evaluate the correlation per common pixel on a fine grid within one pixel of (row, col); return its peak."""
        steps = np.arange(-UPSAMPLING, UPSAMPLING + 1) / UPSAMPLING
        frequencies = 2j * np.pi * np.fft.fftfreq(len(self._spectrum))
        along_rows = np.exp(np.outer(row + steps, frequencies))
        along_cols = np.exp(np.outer(frequencies, col + steps))
        fine, common = (np.real(along_rows @ spectrum @ along_cols) for spectrum in (self._spectrum, self._common))
        peak = np.unravel_index(int(np.argmax(fine / common)), fine.shape)
        return row + float(steps[peak[0]]), col + float(steps[peak[1]])


def compute_orientation(image: Floats) -> npt.NDArray[np.complex128]:
    """Return the doubled-angle orientation of the gradient, complex [H, W], summed over bands, of magnitude at most 1.

    Each band counts by its gradient relative to the band's median gradient, so that none dominates by its unit. Zero
    where a pixel within two widths of the derivative is invalid, and at the border, where the derivative is made up.

    Args:
        image: [C, H, W] float32, NaN invalid.
    """
    valid = np.isfinite(image).all(axis=0)
    total = np.zeros(image.shape[1:], dtype=np.complex128)
    weight = np.zeros(image.shape[1:])
    for band in image:
        filled = np.where(valid, band, np.median(band[valid]) if valid.any() else 0.0).astype(np.float64)
        down = ndimage.gaussian_filter(filled, SIGMA_PX, order=(1, 0), mode="nearest")
        right = ndimage.gaussian_filter(filled, SIGMA_PX, order=(0, 1), mode="nearest")
        strength = np.hypot(down, right)
        typical = float(np.median(strength[valid])) if valid.any() else 0.0
        if typical <= 0:
            continue
        total += (right + 1j * down) ** 2 / (typical**2 + strength**2)
        weight += 1.0
    margin = int(np.ceil(2 * SIGMA_PX))
    usable = ndimage.binary_erosion(valid, np.ones((2 * margin + 1,) * 2), border_value=0)
    return np.where(usable & (weight > 0), total / np.maximum(weight, 1.0), 0.0)

"""How far one image lies beside another, to a fraction of a pixel, even where one is radar and the other optical.

Radar and optical images share edges, not brightness: what is bright in one may be dark in the other. Orientation correlation (Fitch,
Kadyrov, Christmas and Kittler 2002, BMVC, eq. 3) correlates the *direction* of the gradient. Here the angle is doubled, so that an edge
counts the same whichever side is brighter (as in Kovesi's and Bigün's double-angle representation). Correlations of many tiles of the
same two scenes are summed before the peak is sought: a misregistration is common to all of them, speckle is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float32]
SIGMA_PX = 1.5  # of the derivative of a Gaussian: speckle of a 10 m radar image is correlated over about 1.5 px
UPSAMPLING = 20  # steps per pixel of the refined peak (Guizar-Sicairos, Thurman and Fienup 2008, method 1)


@dataclass(frozen=True, slots=True)
class Shift:
    """Where the second image lies relative to the first."""

    row_px: float
    "positive: its content lies further down (south); NaN where nothing can be said"
    col_px: float
    "positive: its content lies further right (east)"
    score: float
    "height of the peak above the median of all other shifts searched, in their robust standard deviations (1.4826 MAD)"
    tiles: int
    "tiles that were summed"
    pixels: int
    "of the first image with an orientation, over all tiles"


class ShiftEstimator:
    """Sums the orientation correlation of tile pairs of one size and finds its peak. Memory does not grow with the tiles."""

    def __init__(self, size_px: int, *, search_px: float = 6.0) -> None:
        self._size = size_px
        self._reach = int(min(np.ceil(search_px), size_px // 4))
        self._spectrum = np.zeros((2 * size_px, 2 * size_px), dtype=np.complex128)
        self._tiles = self._pixels = 0

    def add(self, first: Floats, second: Floats) -> None:
        """Add a pair of tiles.

        Args:
            first: [C, H, W] of the first image, linear in what edges are (reflectance, dB); NaN invalid.
            second: [D, H, W] of the second; bands need not correspond.
        """
        fields = [orientation(image) for image in (first, second)]
        spectra = [np.fft.fft2(field, s=self._spectrum.shape) for field in fields]
        self._spectrum += np.conj(spectra[0]) * spectra[1]
        self._tiles += 1
        self._pixels += int(np.count_nonzero(fields[0]))

    def estimate(self) -> Shift:
        """Return the shift at the peak of the summed correlation within the range searched."""
        surface = np.real(np.fft.ifft2(self._spectrum))
        reach = self._reach
        around = np.roll(surface, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]
        # Tiles overlap less the further they are shifted; without this the peak is drawn towards zero.
        covered = 1 - np.abs(np.arange(-reach, reach + 1)) / self._size
        around = around / np.outer(covered, covered)
        if self._tiles == 0 or not np.any(around):
            return Shift(float("nan"), float("nan"), 0.0, self._tiles, self._pixels)
        row, col = np.unravel_index(int(np.argmax(around)), around.shape)
        rows, cols = np.indices(around.shape)
        others = around[np.hypot(rows - row, cols - col) > 2 * SIGMA_PX]
        spread = 1.4826 * float(np.median(np.abs(others - np.median(others))))
        score = float(around[row, col] - np.median(others)) / spread if spread > 0 else 0.0
        fine_row, fine_col = self._refined(int(row) - reach, int(col) - reach)
        return Shift(fine_row, fine_col, score, self._tiles, self._pixels)

    def _refined(self, row: int, col: int) -> tuple[float, float]:
        """Evaluate the correlation on a fine grid within one pixel of (row, col) by a direct Fourier sum; return its peak."""
        steps = np.arange(-UPSAMPLING, UPSAMPLING + 1) / UPSAMPLING
        frequencies = 2j * np.pi * np.fft.fftfreq(len(self._spectrum))
        along_rows = np.exp(np.outer(row + steps, frequencies))
        along_cols = np.exp(np.outer(frequencies, col + steps))
        fine = np.real(along_rows @ self._spectrum @ along_cols)
        cover = [1 - np.abs(start + steps) / self._size for start in (row, col)]
        peak = np.unravel_index(int(np.argmax(fine / np.outer(*cover))), fine.shape)
        return row + float(steps[peak[0]]), col + float(steps[peak[1]])


def orientation(image: Floats) -> npt.NDArray[np.complex128]:
    """Return the doubled-angle orientation of the gradient, complex [H, W], summed over bands, of magnitude at most 1.

    Each band counts by its gradient relative to the band's median gradient, so that none dominates by its unit. Zero where a pixel
    within two widths of the derivative is invalid, and at the border, where the derivative is made up.

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

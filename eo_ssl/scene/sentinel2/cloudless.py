"""Cloud probability of Level-1C products by s2cloudless, for cards that ask for it (``cloud_model: s2cloudless``).

The classifier (Sentinel Hub, s2cloudless 1.7; gradient-boosted trees on ten bands of top-of-atmosphere reflectance)
sees one pixel at a time. It is asked for the pixels of the 60 m grid, each the mean of its finer pixels: the grid of
the coarsest bands it uses. Smoothing and dilation, which s2cloudless offers for masks, are left out, so a probability
never depends on the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eo_ssl.errors import UserError
from eo_ssl.scene.band_stack import BandStack
from eo_ssl.scene.layers import Layer, Range
from eo_ssl.scene.resampling import compute_grid_taps, pick_nearest

BANDS = ("B01", "B02", "B04", "B05", "B08", "B8A", "B09", "B10", "B11", "B12")
"""What the classifier wants, in its order."""
GSD_M = 60


@dataclass(frozen=True, slots=True)
class ModelledProbability(Layer):
    """Cloud probability 0 to 1 out of the classifier."""

    image: BandStack
    "``BANDS`` on the 60 m grid"
    grid: GeoBox
    "the common grid"

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return values [y, x], NaN where a band is invalid."""
        along_y, along_x = compute_grid_taps(self.grid, self.image.grid, rows=rows, columns=columns, method="nearest")
        values = self.image.read(range(len(BANDS)), along_y.span, along_x.span)
        valid = np.isfinite(values).all(axis=0)
        coarse = np.full(valid.shape, np.nan, dtype=np.float32)
        if valid.any():
            pixels = values[:, valid].T[np.newaxis, np.newaxis]  # one image of one row
            coarse[valid] = load_detector().get_cloud_probability_maps(pixels, num_threads=1)[0, 0]
        return pick_nearest(coarse, along_y, along_x, outside=np.nan)


@cache
def load_detector() -> Any:
    """Return the classifier, loaded once per process.

    Raises:
        UserError: s2cloudless is not installed.
    """
    try:
        from s2cloudless.cloud_detector import S2PixelCloudDetector
    except ImportError as error:
        raise UserError(
            f"expected the package s2cloudless for cloud_model, got: {error}; install eo-ssl[cloud-masks] or remove "
            "cloud_model from the card"
        ) from error
    return S2PixelCloudDetector()

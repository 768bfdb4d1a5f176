"""Mean and standard deviation of bands: over several streams together, from those of each; and what they must be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import expect
from eo_ssl.preprocessing.tags import CountedStats

Wide = npt.NDArray[np.float64]


def pool_moments(parts: Sequence[CountedStats], bands: Sequence[str]) -> tuple[Wide, Wide]:
    """Return mean and population standard deviation of ``bands`` over all ``parts``, float64 [C]; 0 without pixels.

    Each part weighs by its valid pixels; the variance is that within the parts plus that between their means (Chan,
    Golub and LeVeque 1983, eq. 2.1), as `corpus.BandStats.merge` adds it up for parts with the same bands in the same
    order.
    """
    places = [[stats.bands.index(band) for band in bands] for stats in parts]
    count = np.stack([stats.count[place] for stats, place in zip(parts, places, strict=True)]).astype(np.float64)
    mean = np.stack([stats.mean[place] for stats, place in zip(parts, places, strict=True)])  # [parts, C], as count
    std = np.stack([stats.std[place] for stats, place in zip(parts, places, strict=True)])  # [parts, C]
    seen, total = count > 0, np.maximum(count.sum(axis=0), 1)
    pooled = np.where(seen, mean * count, 0).sum(axis=0) / total
    variance = np.where(seen, (std**2 + (mean - pooled) ** 2) * count, 0).sum(axis=0) / total
    return pooled, np.sqrt(variance)


def check_moments(bands: Sequence[str], means: Sequence[float], stds: Sequence[float]) -> None:
    """Refuse moments of other bands than these, or that nothing can be normalised by.

    Raises:
        UserError: naming the first band.
    """
    expect(
        len(bands) == len(means) == len(stds) > 0,
        expected=f"one mean and one std for each of {len(bands)} bands",
        got=f"{len(means)} and {len(stds)}",
        remedy="give one each",
    )
    for band, mean, std in zip(bands, means, stds, strict=True):
        expect(
            math.isfinite(mean) and math.isfinite(std) and std > 0,
            expected=f"a finite mean and a positive std of {band}",
            got=f"{mean} and {std}",
            remedy="leave out a band that is constant or never valid",
        )

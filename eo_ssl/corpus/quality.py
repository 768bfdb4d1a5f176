"""How good a tile is: shares of valid, cloudy, shaded, snowy and saturated pixels, and the class it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MASKS = ("cloud", "shadow", "snow", "saturated")


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares of a tile's pixels; None where the product has no such mask."""

    valid: float
    "share of all pixels of the tile whose bands are all valid; padding counts as invalid"
    cloud: float | None
    shadow: float | None
    snow: float | None
    saturated: float | None
    "cloud, shadow, snow, saturated: share of the valid pixels"
    label: int = -1
    "majority class, -1 unknown or below the purity asked for"
    label_fraction: float = 0.0
    "share of all pixels that the majority class has"


def assess(valid: npt.NDArray[np.bool_], masks: Mapping[str, npt.NDArray[np.bool_]], *, size_px: int) -> Quality:
    """Return the quality of a tile of ``size_px`` x ``size_px`` pixels.

    Args:
        valid: bool [h, w], all bands valid; h, w <= size_px (less at a padded border).
        masks: name -> bool [h, w] for the masks the product has.
        size_px: side of the tile; pixels beyond [h, w] are padding.
    """
    count = int(np.count_nonzero(valid))

    def share(name: str) -> float | None:
        if name not in masks:
            return None
        return int(np.count_nonzero(masks[name] & valid)) / count if count else 0.0

    return Quality(count / size_px**2, share("cloud"), share("shadow"), share("snow"), share("saturated"))


def majority(labels: npt.NDArray[np.int16], *, size_px: int, purity: float) -> tuple[int, float]:
    """Return the class of most pixels and its share of the tile, or (-1, its share) where that is below ``purity``.

    Negative labels are unknown and count for no class; of equal shares the lower class wins.
    """
    known = labels[labels >= 0]
    if known.size == 0:
        return -1, 0.0
    counts = np.bincount(known.ravel())
    best = int(counts.argmax())
    share = float(counts[best]) / size_px**2
    return (best if share >= purity else -1), share

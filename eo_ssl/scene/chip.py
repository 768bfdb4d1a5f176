"""One decoded chip of a set of small images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class ChipEntry:
    """Where one chip is stored and what the manifest says of it."""

    name: str
    "path inside the archive"
    start: int
    "byte offset in the tar; 0 in a folder"
    size: int
    "bytes"
    label: int
    label_name: str
    split: str


@dataclass(frozen=True, slots=True)
class UnreadableChip:
    """A chip that cannot be read, in its place among those that can."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Chip:
    """One decoded chip: its centre crop in physical units and what the whole image was."""

    image: npt.NDArray[np.float32]
    "[band, crop_px, crop_px], NaN where padded"
    valid: npt.NDArray[np.bool_]
    "[crop_px, crop_px]"
    name: str
    sha256: str
    "of the file bytes, hex"
    label: int
    "position of label_name among the set's sorted labels, -1 unknown"
    label_name: str
    split: str
    "train, test or empty"
    width_px: int
    height_px: int
    row_off: int
    "first row of the crop in the chip, negative where padded"
    col_off: int
    datetime: str = ""
    "ISO 8601, UTC; empty where the product's own time holds"
    mode: str = ""
    "radar mode of the chip (WV1, WV2), empty where the product's holds"
    incidence_deg: float | None = None
    "radar incidence angle at the centre"
    masks: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    "cloud, shadow, snow [crop_px, crop_px], those the set has"
    footprint: tuple[tuple[float, float], ...] = ()
    "corners (longitude, latitude) in order round the chip, OGC:CRS84; empty where unknown"

"""Images and the layers on their grid (classes, flags, numbers), each read by window when it is looked at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

Range = tuple[int, int]
"""First and one past the last row or column of a window."""
FLAGS = ("cloud", "shadow", "snow", "saturated", "border_noise")
FIELDS = ("cloud_probability", "incidence_deg")
"float32 [y, x] beside the image: cloud probability 0..1, radar incidence angle in degrees; NaN where unknown"
UNKNOWN_CLASS = -1


class Blocks(NamedTuple):
    """What is best read together, in pixels of the image."""

    height: int
    width: int
    period: tuple[int, int]
    "rows and columns after which the blocks of all files begin anew"


class Image(ABC):
    """The bands of a product on one grid. Frozen, picklable, without open handles; nothing is read before ``read``."""

    __slots__ = ()
    grid: GeoBox

    @abstractmethod
    def read(self, bands: Sequence[int], rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return physical values [band, y, x] float32, NaN invalid, of a half-open window."""

    @property
    def has_saturation(self) -> bool:
        """Whether saturated pixels can be told by their stored value."""
        return False

    def saturated(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return [y, x]: whether any band is stored as the value that marks saturation."""
        return np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)

    @property
    def blocks(self) -> Blocks:
        """What is best read together: by default the whole image."""
        return Blocks(self.grid.height, self.grid.width, (self.grid.height, self.grid.width))


class Layer(ABC):
    """One value per pixel of the image's grid, read by window.

    A class (int64, -1 where there is none), a flag (bool) or a number (float32, NaN where unknown).
    """

    __slots__ = ()

    @abstractmethod
    def read(self, rows: Range, columns: Range) -> npt.NDArray[Any]:
        """Return values [y, x] of a half-open window."""


@dataclass(frozen=True, slots=True)
class ClassFlag(Layer):
    """Whether a pixel is of one of some classes."""

    classes: Layer
    members: tuple[int, ...]

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return flags [y, x]."""
        return np.isin(self.classes.read(rows, columns), self.members)


@dataclass(frozen=True, slots=True)
class Layers:
    """An image and, where the product or its card has them, flags, fields and labels."""

    image: Image
    invalid: Layer | None = None
    "flag of the pixels that are no measurement"
    flags: Mapping[str, Layer] = field(default_factory=dict)
    "name out of FLAGS -> flag"
    fields: Mapping[str, Layer] = field(default_factory=dict)
    "name out of FIELDS -> float32"
    labels: Layer | None = None
    "classes of the ground, for training"


def flag_classes(classes: Layer | None, meanings: Mapping[Any, tuple[int, ...]]) -> dict[str, Layer]:
    """Return name -> flag for each meaning that has class values; none without classes."""
    return (
        {}
        if classes is None
        else {str(name): ClassFlag(classes, values) for name, values in meanings.items() if values}
    )


def attach_masks(
    image: Image, classes: Layer | None, meanings: Mapping[Any, tuple[int, ...]], *, labels: Layer | None = None
) -> Layers:
    """Return an image with the flags of a card's mask, of which ``nodata`` makes pixels invalid, and with labels."""
    flags = flag_classes(classes, meanings)
    return Layers(image, invalid=flags.pop("nodata", None), flags=flags, labels=labels)

"""Tags of images and statistics that a contract reads: sensor, quantity, bands, pixel size."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from eo_ssl.sensors import Quantity


class Tagged(Protocol):
    """Images of one kind, wherever they come from."""

    @property
    def sensor(self) -> str:
        """Registered name of the sensor whose band names are used."""
        ...

    @property
    def quantity(self) -> Quantity:
        """Physical quantity of the numbers."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Canonical names in the order of the channels."""
        ...

    @property
    def gsd_m(self) -> float:
        """Ground sampling distance, metres."""
        ...


class StreamLike(Tagged, Protocol):
    """The part of a corpus stream that a contract is built from."""

    @property
    def size_px(self) -> int:
        """Side of a tile, pixels."""
        ...


class StatsLike(Protocol):
    """Mean and standard deviation per band of a stream, float64 [C], and the quantity they are in."""

    @property
    def quantity(self) -> Quantity: ...  # noqa: D102
    @property
    def mean(self) -> npt.NDArray[np.float64]: ...  # noqa: D102
    @property
    def std(self) -> npt.NDArray[np.float64]: ...  # noqa: D102


class CountedStats(StatsLike, Protocol):
    """Statistics that can be pooled, as a corpus keeps them."""

    @property
    def bands(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def count(self) -> npt.NDArray[np.int64]:
        """Valid pixels per band, int64 [C]."""
        ...

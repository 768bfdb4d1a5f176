"""Which channel of an image holds which band, by name alone."""

from __future__ import annotations

from functools import lru_cache

from eo_ssl.errors import UserError
from eo_ssl.sensors import sensor as sensor_named


@lru_cache(maxsize=256)
def find_channels(sensor: str, names: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[int | None, ...]:
    """For each wanted band its channel among ``names``; names unknown to the sensor are bands that nobody asked for."""
    known = sensor_named(sensor)
    where: dict[str, int] = {}
    for channel, name in enumerate(names):
        try:
            band = known.resolve(name)
        except UserError:
            continue
        if band in where:
            raise UserError(
                f"expected each band of {sensor} once, got {names[where[band]]} and {name} for {band}; remove one"
            )
        where[band] = channel
    return tuple(where.get(band) for band in wanted)

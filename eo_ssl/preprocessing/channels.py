"""The channels of an image that hold wanted bands, by name alone, and what stands in place of absent ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from eo_ssl.errors import UserError, expect
from eo_ssl.preprocessing.tags import Tagged
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
            got = f"{names[where[band]]} and {name} for {band}"
            raise UserError(f"expected each band of {sensor} once, got {got}; remove one")
        where[band] = channel
    return tuple(where.get(band) for band in wanted)


def order_channels(
    sensor: str, names: tuple[str, ...], wanted: tuple[str, ...], *, fewest: int
) -> tuple[int | None, ...]:
    """Return the channel of each wanted band among ``names``, None where it is missing.

    Raises:
        UserError: fewer than ``fewest`` of the wanted bands are there, or one is there twice.
    """
    index = find_channels(sensor, names, wanted)
    absent = [band for band, channel in zip(wanted, index, strict=True) if channel is None]
    there = len(wanted) - len(absent)
    if there < fewest:
        remedy = "name the channels" if not there else "add them, or choose missing = fill_mean or zero in the contract"
        got, many = f"{', '.join(names)} without {', '.join(absent)}", "bands"
        if there and fewest < len(wanted):
            many, remedy = f"at least {fewest} of the bands", "add some, fewer were never tried in training"
        raise UserError(f"expected {many} {', '.join(wanted)} of {sensor}, got {got}; {remedy}")
    return index


def place_channels(x: Tensor, valid: Tensor, kept: Sequence[int], fill: Tensor) -> tuple[Tensor, Tensor]:
    """Return values and validity [B, C, H, W] of all bands, of which ``x`` and ``valid`` are those at ``kept``.

    The others hold ``fill`` [1, C, 1, 1] and are invalid.
    """
    whole = fill.repeat(x.shape[0], 1, *x.shape[2:])
    whole[:, kept] = x
    known = torch.zeros_like(whole, dtype=torch.bool)
    known[:, kept] = valid
    return whole, known


def check_fewest(fewest: int, bands: Sequence[str], *, any_subset: bool) -> None:
    """Refuse a least number of bands that cannot be, or that nothing asks for.

    Raises:
        UserError: naming it.
    """
    expect(
        1 <= fewest <= (len(bands) if any_subset else 1),
        expected=f"fewest_bands of 1, or up to the {len(bands)} bands of the contract with any_subset",
        got=fewest,
        remedy="correct it",
    )


def choose_bands(images: Tagged, bands: Sequence[str] | None) -> tuple[str, ...]:
    """Return the wanted bands by canonical name, or all that the images have where none are named.

    Raises:
        UserError: the images lack one.
    """
    have = tuple(images.bands)
    wanted = have if bands is None else sensor_named(images.sensor).resolve_all(bands)
    absent = [band for band in wanted if band not in have]
    expect(
        not absent,
        expected=f"bands of the stream ({', '.join(have)})",
        got=", ".join(absent),
        remedy="ingest them or leave them out",
    )
    return wanted

"""Where an array lies, and its rows and columns turned so that north is up and east to the right."""

from __future__ import annotations

from pathlib import Path

from eo_ssl.cards import Card
from eo_ssl.errors import UserError, expect
from eo_ssl.scene.array.array_store import is_netcdf, locate_axes, locate_swath
from eo_ssl.scene.array.cf_conventions import Axes
from eo_ssl.sensors import sensor

_SAME_PLACE = 1e-3  # of a pixel


def locate_array(
    card: Card, path: Path, keys: tuple[str, ...], dims: str, *, crs: str = ""
) -> tuple[tuple[float, ...], str]:
    """Return transform (empty where nothing says one) and reference system of variables, of the rows as stored.

    Args:
        card: its ``transform`` and ``crs`` are for files that state none.
        path: of the array file.
        keys: the variables, which must lie alike.
        dims: a letter per axis of each.
        crs: of the image that they belong to; by default the card's, else the file's.

    Raises:
        UserError: card and file state different places, or the card a rotated grid.
    """
    crs = crs or card.crs
    stated = locate_axes(path, keys, dims, crs=crs) if is_netcdf(path) else Axes()
    if card.transform is None:
        return stated.transform or (), stated.crs or crs
    a, b, _, d, e, _ = card.transform
    expect(not (b or d), expected="north-up rasters", got="a rotated one", remedy="rectify the files first")
    own = stated.transform or card.transform
    apart = max(abs(here - there) for here, there in zip(own, card.transform, strict=True))
    expect(
        apart <= _SAME_PLACE * max(abs(a), abs(e)),
        expected=f"the transform {card.transform} of card {card.name} in {path}",
        got=f"coordinates of {own}",
        remedy="remove `transform` from the card, or correct it",
    )
    return card.transform, crs or stated.crs


def describe_swath(card: Card, path: Path, key: str, dims: str) -> str:
    """Return what a user must know of a NetCDF variable whose file gives a latitude and longitude of each pixel.

    Such a grid gives rows and columns no place, so that it is not read. Empty where there is none, or where the file
    gives coordinates of rows and columns beside it.

    Raises:
        UserError: as `locate_axes`.
    """
    swath = locate_swath(path, key, dims) if is_netcdf(path) else None
    if swath is None or locate_axes(path, (key,), dims, crs=card.crs).transform:
        return ""
    given = f"latitude and longitude of each pixel ({', '.join(swath)}) are not read"
    return f"{given}: {'its place is that of the card' if card.transform else 'its tiles have no place'}"


def find_turn(transform: tuple[float, ...]) -> tuple[bool, bool]:
    """Return whether rows begin in the south and columns in the east."""
    return bool(transform) and transform[4] > 0, bool(transform) and transform[0] < 0


def turn_transform(transform: tuple[float, ...], height: int, width: int) -> tuple[float, ...]:
    """Return the transform of ``height`` rows and ``width`` columns once they are turned north up and east right."""
    if not transform:
        return ()
    a, _, c, _, e, f = transform
    top, left = (f + e * height if e > 0 else f), (c + a * width if a < 0 else c)
    return abs(a), 0.0, left, 0.0, -abs(e), top


def check_band_names(card: Card, names: tuple[str, ...], *, path: Path) -> None:
    """Refuse a file that calls the entries of its axis b otherwise than the card's ``bands``.

    Raises:
        UserError: a name is that of another band of the sensor than the card has in this place.
    """
    kind = sensor(card.sensor)
    for place, (name, band) in enumerate(zip(names, card.bands, strict=True)):
        try:
            own = kind.resolve(name)
        except UserError:
            continue  # no name of a band: a number, a wavelength
        expect(
            own == band,
            expected=f"{band} as entry {place} of axis b in {path}, by the order of `bands` in card {card.name}",
            got=f"{name!r}, which is {own}",
            remedy=f"set bands to [{', '.join(names)}]",
        )

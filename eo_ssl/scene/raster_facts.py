"""What raster files say of their own bands (how many, which masks, what names), and where that contradicts a card.

Exporters (openEO, Earth Engine, GDAL's own readers of Sentinel products) write the band into its description. A card
lists bands in the order of the file; where both speak and disagree, one of them is wrong and nothing in the numbers
tells which. As with scale and offset, that is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rasterio.enums import ColorInterp

from eo_ssl.cards import Card
from eo_ssl.errors import UserError, expect
from eo_ssl.scene import gdal_files
from eo_ssl.sensors import sensor

_CODE = re.compile(r"(?<![a-z0-9])(?:b\d{1,2}a?|[vh][vh])(?![a-z0-9])")
_COLOURS = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}


def find_band(sensor_name: str, text: str | None) -> str:
    """Return the canonical band that a description names, empty where it names none or several.

    The whole text may be a spelling of the band (``B8A``, ``nir``), or hold one band's code (``B4, central wavelength
    665 nm``, ``VV_gamma0``). A bare number counts the bands and names none.
    """
    if not text or text.strip().isdigit():
        return ""
    spelled = {_resolve(sensor_name, text)} - {""}
    codes = spelled or {_resolve(sensor_name, code) for code in _CODE.findall(text.lower().replace("_", " "))}
    return codes.pop() if len(codes) == 1 else ""


def _resolve(sensor_name: str, name: str) -> str:
    try:
        return sensor(sensor_name).resolve(name)
    except UserError:
        return ""


def list_masks(card: Card, path: Path, index: int) -> tuple[gdal_files.MaskBand, ...]:
    """Return the masks of a band that count, beside its nodata values; none where the card says to ignore them."""
    return () if card.ignores_masks else gdal_files.list_masks(path, index)


def check_single_band(path: Path) -> None:
    """Refuse a file of several bands where one is meant; an alpha band is none.

    Raises:
        UserError: naming how many there are.
    """
    file = gdal_files.open_raster(path)
    count = int(file.count) - (gdal_files.find_alpha(file) > 0)
    expect(count == 1, expected=f"one band in {path}", got=count, remedy="use the reader raster, or split the file")


def check_names(card: Card, where: Mapping[str, tuple[Path, int]]) -> None:
    """Refuse files whose own band names say that a band is another one.

    Args:
        card: of the set; its sensor knows the spellings.
        where: canonical band -> file and 1-based band in it, as the card says.

    Raises:
        UserError: with both orders.
    """
    for path in dict.fromkeys(path for path, _ in where.values()):
        listed = {index: band for band, (file, index) in where.items() if file == path}
        check_dataset_names(gdal_files.open_raster(path), listed, card=card, name=str(path))


def check_called(card: Card, text: str, *, band: str, name: str) -> None:
    """Refuse a file of one band whose description ``text`` names another band than ``band``.

    Raises:
        UserError: naming both.
    """
    called = "" if card.ignored_names else find_band(card.sensor, text)
    expect(
        called in ("", band), expected=f"{band} in {name}", got=f"a file that calls it {called}", remedy="correct one"
    )


def check_dataset_names(dataset: Any, listed: Mapping[int, str], *, card: Card, name: str) -> None:
    """Refuse an open dataset whose descriptions, or colours red, green and blue, say that a band is another one.

    Colours count only where they permute the three bands of those names: what else is shown in red is a choice of
    display, and GDAL gives colours to any three bands of bytes.

    Args:
        dataset: of rasterio.
        listed: 1-based band -> canonical band that it is taken for.
        card: whose sensor knows the spellings; one with `ignored_names` says that they do not count.
        name: what errors call the file.

    Raises:
        UserError: with both orders.
    """
    if card.ignored_names:
        return
    descriptions, colours = dataset.descriptions, dataset.colorinterp  # each asks GDAL for all bands
    described = {index: find_band(card.sensor, descriptions[index - 1]) for index in listed}
    shown = {index: _COLOURS.get(colours[index - 1], "") for index in listed}
    coloured = {index: _resolve(card.sensor, colour) for index, colour in shown.items() if colour}
    permuted = sorted(coloured.values()) == sorted(listed[index] for index in coloured)
    own = {index: described[index] or (coloured.get(index, "") if permuted else "") for index in listed}
    if any(band and band != listed[index] for index, band in own.items()):
        order = sorted(listed)
        raise UserError(
            f"expected the bands {', '.join(listed[index] for index in order)} in {name}, got a file that calls them "
            f"{', '.join(own[index] or '(no name)' for index in order)}; correct `bands` or `files` of the card or "
            "the names in the file, or say in the card why they do not count (`ignored_names: why`)"
        )

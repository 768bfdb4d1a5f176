"""Queries for neighbours: a tile of the table by row, window or place on Earth, or an image of one's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import shapely
import torch

from eo_ssl.embedding.search import Embeddings
from eo_ssl.embedding.table import Matrix
from eo_ssl.encoder import Encoder
from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.scene import Product
from eo_ssl.sensors import Quantity, convert

_pc: Any = pc  # its functions are made at import and not typed
_WINDOW = re.compile(r"(?P<product>.+):(?P<row>-?\d+),(?P<col>-?\d+)")
_EARTH_KM = 6371.0  # mean radius


@dataclass(frozen=True, slots=True)
class Query:
    """One question."""

    vector: Matrix
    "float32 [D]"
    words: str
    "what is asked for"
    position: int | None
    "of the tile in the table; None for an image of one's own"
    image: Matrix | None = None
    "[C, H, W] physical values of such an image in the stream's quantity"
    bands: tuple[str, ...] = ()
    "of the image"


def query_tile(table: Embeddings, text: str) -> Query:
    """Return the query for a tile by its row in the stream (``17``) or by a pixel it holds (``PRODUCT:ROW,COL``).

    Raises:
        UserError: another form, or no such tile in the table.
    """
    if text.strip().isdecimal():
        return _query_row(table, int(text))
    window = _WINDOW.fullmatch(text.strip())
    if window is None:
        raise UserError(
            f"expected a row such as 17 or a window such as PRODUCT:640,1280, got {text!r}; product ids stand in the "
            "table and on the page"
        )
    return _query_window(table, window["product"], int(window["row"]), int(window["col"]))


def _query_row(table: Embeddings, row: int) -> Query:
    for first, part in table.groups(["row"]):
        matches = np.flatnonzero(part["row"].to_numpy() == row)
        if len(matches):
            return _make_query(table, first + int(matches[0]))
    raise UserError(
        f"expected a row of {table.about['corpus']['stream']} that was embedded ({len(table)} tiles), got {row}; see "
        "the column `row` of the table"
    )


def _query_window(table: Embeddings, product: str, row: int, col: int) -> Query:
    names: set[str] = set()
    columns = ["product_id", "row_off", "col_off", "height", "width"]
    for first, part in table.groups(columns):
        known = part["product_id"]
        same = _pc.or_(_pc.equal(known, product), _pc.ends_with(known, f"/{product}")).to_numpy()
        top, left, height, width = (part[name].to_numpy() for name in columns[1:])
        matches = np.flatnonzero(same & (top <= row) & (row < top + height) & (left <= col) & (col < left + width))
        if len(matches):
            return _make_query(table, first + int(matches[0]))
        names |= set(_pc.unique(known).to_pylist())
    expect(
        not any(name == product or name.endswith(f"/{product}") for name in names),
        expected=f"a pixel of {product} inside a tile that was embedded",
        got=f"row {row}, column {col}",
        remedy="choose a window of the table",
    )
    raise UserError(
        f"expected one of the {len(names)} products of the table, got "
        f"{product!r}{suggest_nearest(product, names) or '; see its column `product_id`'}"
    )


def parse_lonlat(text: str) -> tuple[float, float]:
    """Return longitude and latitude of ``12.5,41.9``.

    Raises:
        UserError: another form.
    """
    try:
        lon, lat = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"expected longitude,latitude such as 12.5,41.9, got {text!r}; write two numbers in degrees"
        ) from None
    return lon, lat


def query_place(table: Embeddings, lon: float, lat: float) -> Query:
    """Return the query for the tile on the ground at a place; of several the nearest, then the latest.

    Args:
        table: where to look.
        lon: degrees east, OGC:CRS84.
        lat: degrees north.

    Raises:
        UserError: no place on Earth, or no tile there.
    """
    expect(
        -180 <= lon <= 180 and -90 <= lat <= 90,
        expected="longitude and latitude in degrees",
        got=f"{lon:g}, {lat:g}",
        remedy="longitude (-180 ... 180) comes first",
    )
    point = shapely.Point(lon, lat)
    best: tuple[float, str, int] | None = None  # nearness, date, position
    away = np.inf
    for first, part in table.groups(["geometry", "datetime"]):
        shapes = shapely.from_wkb(np.array(part["geometry"].to_pylist(), dtype=object))
        centres = shapely.get_coordinates(shapely.centroid(shapes[~shapely.is_missing(shapes)]))
        if len(centres):
            away = min(away, float(_measure_km(centres, lon, lat).min()))
        for number in np.flatnonzero(shapely.covers(shapes, point)).tolist():
            middle = shapely.get_coordinates(shapely.centroid(shapes[number]))
            rank = (-round(float(_measure_km(middle, lon, lat)[0]), 6), str(part["datetime"][number]))
            if best is None or rank > best[:2]:
                best = (*rank, first + number)
    if best is None:
        where = f"the nearest lies {away:.1f} km away" if np.isfinite(away) else "no tile of the table has a position"
        raise UserError(
            f"expected a place on a tile of the table, got {lon:g}, {lat:g} where there is none ({where}); choose a "
            "place on one of its footprints"
        )
    return _make_query(table, best[2])


def query_image(table: Embeddings, encoder: Encoder, product: Product) -> Query:
    """Return the query for the middle of a scene of one's own, cut to the size of the table's tiles.

    Raises:
        UserError: another encoder than the table's, another kind of image, one smaller than a tile, or one that the
            contract refuses.
    """
    table.check_encoder(encoder)
    stream = table.about["stream"]
    size, wanted = int(stream["size_px"]), Quantity(stream["quantity"])
    cube = product.open()
    height, width = int(cube.sizes["y"]), int(cube.sizes["x"])
    expect(
        min(height, width) >= size,
        expected=f"an image of at least {size} x {size} px, as the table's tiles",
        got=f"{height} x {width}",
        remedy="give a larger cut of the scene",
    )
    top, left = (height - size) // 2, (width - size) // 2
    values = cube["image"].isel(y=slice(top, top + size), x=slice(left, left + size)).values
    given = Quantity(str(cube.attrs["quantity"]))
    if given.is_db and given.in_power == wanted:
        values, given = convert(values, source=given, target=wanted), wanted
    bands = tuple(str(name) for name in cube["band"].values)
    with torch.inference_mode():
        x, valid = encoder.preprocessing(
            torch.from_numpy(values[None]), bands=bands, quantity=given, sensor=str(cube.attrs["sensor"])
        )
        vector = encoder.features(x, valid=valid)[0].to("cpu", torch.float32).numpy()
    expect(
        np.isfinite(vector).all(),
        expected=f"finite features of {product.product_id}",
        got="NaN or infinity",
        remedy="give an image with valid pixels in its middle",
    )
    return Query(vector, f"the middle of {product.product_id}", None, values, bands)


def _make_query(table: Embeddings, position: int) -> Query:
    (about,) = table.take(np.array([position]), ["product_id", "row_off", "col_off", "datetime", "row"])
    words = f"row {about['row']}: {about['product_id']}:{about['row_off']},{about['col_off']}"
    return Query(table.vector(position), f"{words}, {about['datetime'][:10]}" if about["datetime"] else words, position)


def _measure_km(
    points: np.ndarray[Any, np.dtype[np.float64]], lon: float, lat: float
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Great-circle distance of points [n, 2] (longitude, latitude in degrees) from a place, kilometres (haversine)."""
    east, north = np.radians(points[:, 0] - lon), np.radians(points[:, 1] - lat)
    bow = np.sin(north / 2) ** 2 + np.cos(np.radians(points[:, 1])) * np.cos(np.radians(lat)) * np.sin(east / 2) ** 2
    distance: np.ndarray[Any, np.dtype[np.float64]] = 2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(bow, 0, 1)))
    return distance

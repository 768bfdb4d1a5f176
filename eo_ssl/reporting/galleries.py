"""Which tiles a gallery shows, and the tiles as pictures with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eo_ssl.corpus import StreamReader
from eo_ssl.reporting.formatting import MISSING
from eo_ssl.reporting.thumbnails import Rendering, choose_rendering, encode_picture, render_tile

Rows = npt.NDArray[np.int64]
READ_AT_ONCE = 64  # tiles: keeps memory small for large tiles


@dataclass(frozen=True, slots=True)
class Thumb:
    """One tile as a picture."""

    uri: str
    "data URI"
    alt: str
    "what it is, in words"
    caption: str
    "one short line under it"
    detail: str
    "all that is known, shown beside the enlarged tile"
    mark: str = ""
    "class of its frame: kept or dropped"


@dataclass(frozen=True, slots=True)
class Gallery:
    """Tiles with one stretch."""

    title: str
    "a few words above it"
    caption: str
    "bands, stretch and how the tiles were chosen"
    thumbs: tuple[Thumb, ...]
    "in row order"


def spread_rows(products: Rows, most: int, *, among: Rows | None = None) -> Rows:
    """At most `most` rows that visit every product in turn, each at even steps through its own rows; in row order.

    Args:
        products: int64 [n], a number for the product, or the cluster, of every row.
        most: number of rows wanted.
        among: the rows to choose from; all where None.
    """
    pool = np.arange(len(products), dtype=np.int64) if among is None else np.sort(among)
    if len(pool) <= most:
        return pool
    names, inverse = np.unique(products[pool], return_inverse=True)
    if len(names) > most:  # more products than places: products at even steps, the middle row of each
        chosen = np.linspace(0, len(names) - 1, most).round().astype(np.int64)
        return np.sort(
            np.array([pool[inverse == c][np.count_nonzero(inverse == c) // 2] for c in chosen], dtype=np.int64)
        )
    places = np.zeros(len(names), dtype=np.int64)
    room = np.bincount(inverse, minlength=len(names))
    while places.sum() < most:  # one more place to each product in turn, while it has rows
        for product in np.flatnonzero(places < room)[: most - int(places.sum())]:
            places[product] += 1
    picked = []
    for product, n in enumerate(places):
        own = pool[inverse == product]
        picked.append(own[np.floor((np.arange(n) + 0.5) * len(own) / n).astype(np.int64)])
    return np.sort(np.concatenate(picked))


def choose_gallery_rendering(reader: StreamReader, rows: Rows) -> Rendering:
    """The rendering that fits the tiles of these rows."""
    stream = reader.stream
    sample = reader.read(rows)
    return choose_rendering(sample, bands=stream.bands, sensor_name=stream.sensor, quantity=stream.quantity)


def draw_thumbs(
    reader: StreamReader, rows: Rows, *, captions: Sequence[tuple[str, str]], rendering: Rendering, mark: str = ""
) -> tuple[Thumb, ...]:
    """The tiles of some rows as pictures, read in small batches.

    Args:
        reader: of the stream.
        rows: int64 [n].
        captions: [n] a short line and all that is known.
        rendering: shared by every gallery whose tiles are to be compared.
        mark: class of the frame.
    """
    thumbs: list[Thumb] = []
    for start in range(0, len(rows), READ_AT_ONCE):
        batch = reader.read(rows[start : start + READ_AT_ONCE])
        for tile, (caption, detail) in zip(batch, captions[start : start + READ_AT_ONCE], strict=True):
            state = f", {mark}" if mark else ""
            thumbs.append(
                Thumb(
                    encode_picture(render_tile(tile, rendering)),
                    f"Tile: {detail}{state}",
                    caption or MISSING,
                    detail,
                    mark,
                )
            )
    return tuple(thumbs)

"""What is known of an image beside its pixels, as five numbers: when and where it was taken, its pixel size and angle.

Each is optional: what is not known is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eo_ssl.errors import expect, suggest_nearest

MetadataKind = Literal["time", "place", "gsd", "incidence"]
KINDS: tuple[MetadataKind, ...] = get_args(MetadataKind)
COLUMNS: dict[MetadataKind, tuple[int, ...]] = {"time": (0,), "place": (1, 2), "gsd": (3,), "incidence": (4,)}
"""Of [n, 5]: days since 2015-01-01 (UTC); longitude and latitude of the middle, degrees; side of a pixel on the ground,
metres; angle of incidence of the radar, degrees."""
WIDTH = 5
INDEX_COLUMNS = ("datetime", "xmin", "ymin", "xmax", "ymax", "gsd_m", "incidence_deg")
"""Columns of a corpus's index that tell them."""
_ORIGIN = np.datetime64("2015-01-01")
_BOUNDS = ((-np.inf, np.inf), (-180.0, 360.0), (-90.0, 90.0), (1e-3, 1e6), (0.0, 90.0))  # of the columns
Metadata = npt.NDArray[np.float32]


def read_index_metadata(table: pa.Table) -> Metadata:
    """What an index says of its tiles: [N, 5] float32.

    Args:
        table: with `INDEX_COLUMNS`; times in ISO 8601 (UTC), empty where unknown; bounds in degrees, xmin > xmax across
            the antimeridian; numbers null where unknown.
    """
    moments = table["datetime"].combine_chunks().dictionary_encode()  # acquisitions are few, tiles are many
    days = count_days(moments.dictionary.to_pylist())[moments.indices.to_numpy()]
    west, south, east, north, gsd, incidence = (_read_numbers(table, name) for name in INDEX_COLUMNS[1:])
    lon = (west + np.where(west > east, east + 360, east)) / 2
    known = [days, np.where(lon > 180, lon - 360, lon), (south + north) / 2, gsd, incidence]
    return np.stack(known, axis=1).astype(np.float32)


def make_metadata(
    n: int,
    *,
    time: Sequence[str] | str | None = None,
    lonlat: npt.ArrayLike | None = None,
    gsd_m: npt.ArrayLike | None = None,
    incidence_deg: npt.ArrayLike | None = None,
) -> Metadata:
    """Return what an encoder may be told of n images beside their pixels, [n, 5] float32; what is left out is unknown.

    Args:
        n: number of images.
        time: ISO 8601 in UTC, such as 2024-06-21T10:30:00Z; one for all, or [n], empty where unknown.
        lonlat: [2] or [n, 2], longitude and latitude of the middle, degrees.
        gsd_m: side of a pixel on the ground, metres, of the images as they are given; one number, or [n].
        incidence_deg: angle of incidence of a radar, degrees; one number, or [n].

    Raises:
        UserError: a text that is no time, another number of values than images, or values that cannot be.
    """
    out = np.full((n, WIDTH), np.nan, dtype=np.float32)
    days = None if time is None else count_days([time] if isinstance(time, str) else list(time))
    for kind, values in zip(KINDS, (days, lonlat, gsd_m, incidence_deg), strict=True):
        if values is None:
            continue
        columns = list(COLUMNS[kind])
        given = np.reshape(np.asarray(values, dtype=np.float64), (-1, len(columns)))
        low, high = np.array([_BOUNDS[column] for column in columns]).T
        expect(
            len(given) in (1, n) and not ((given < low) | (given > high)).any(),
            expected=f"{kind} of {n} images, or one for all, in degrees and metres",
            got=str(given.tolist())[:60],
            remedy="correct it; NaN stands for unknown",
        )
        out[:, columns] = given
    return out


def count_days(moments: Sequence[str]) -> npt.NDArray[np.float64]:
    """Days since 2015-01-01 of times in ISO 8601 (UTC), NaN for an empty text: [n].

    Raises:
        UserError: a text that is no time.
    """
    try:
        stamps = np.char.rstrip(np.array(moments, str), "Z").astype("datetime64[s]")  # "": no time
    except ValueError:
        stamps = None
    expect(
        stamps is not None,
        expected="times in ISO 8601 such as 2024-06-21T10:30:00Z",
        got=", ".join(map(str, moments))[:60],
        remedy="write them so, or leave them empty",
    )
    return np.asarray((stamps - _ORIGIN) / np.timedelta64(1, "D"), dtype=np.float64)


def order_kinds(kinds: Sequence[str]) -> tuple[MetadataKind, ...]:
    """Return the kinds in the order of `KINDS`, each once.

    Raises:
        UserError: an unknown one.
    """
    for kind in kinds:
        expect(
            kind in KINDS,
            expected=f"metadata out of {', '.join(KINDS)}",
            got=f"{kind!r}{suggest_nearest(str(kind), KINDS)}",
            remedy="name some of these, or none",
        )
    return tuple(kind for kind in KINDS if kind in kinds)


def list_columns(kinds: Sequence[MetadataKind]) -> list[int]:
    """Return the columns of some kinds."""
    return [column for kind in kinds for column in COLUMNS[kind]]


def _read_numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """A column as float64 [N], NaN where null."""
    values: Any = table[name].to_numpy()
    return np.asarray(values, dtype=np.float64)

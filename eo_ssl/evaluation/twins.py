"""The same ground seen again: in another season, or by a radar from the other side, to ask whether an encoder still knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eo_ssl.evaluation.features import CorpusSource, Rows
from eo_ssl.manifest import fingerprint

COLUMNS = ("xmin", "ymin", "xmax", "ymax", "month", "orbit")
APART_MONTHS = 3
"""A quarter of the year, either way round."""
_DEGREES = 1e-6  # a tenth of a metre: windows of one grid at one place


@dataclass(frozen=True, slots=True)
class Twin:
    """For each image of a source another one of the same ground, or itself where there is none."""

    name: str
    about: str
    source: CorpusSource
    "in the order of the source"
    share: float
    "of the images that have one"


Rank = Callable[[npt.NDArray[np.int64], npt.NDArray[np.str_], int], npt.NDArray[np.float64]]


def twins_of(source: CorpusSource, table: pa.Table) -> tuple[Twin, ...]:
    """Return the twins that the stream of ``source`` holds: `season` for optics and radar, `orbit` for radar; none that no image has.

    Args:
        source: rows of a stream.
        table: index of the whole stream, `COLUMNS`.
    """
    found = []
    for name, words, rank in (
        ("season", f"the same ground at least {APART_MONTHS} months apart", _other_season),
        ("orbit", "the same ground from the other orbit direction", _other_orbit),
    ):
        if name == "orbit" and not (source.quantity.is_power or source.quantity.is_db):
            continue
        rows = _partners(source.rows, table, rank)
        share = float((rows != source.rows).mean()) if len(rows) else 0.0
        if share:
            mark = fingerprint([source.fingerprint, name, rows.tolist()])
            about = f"{words}, of {100 * share:.0f} % of the tiles; the others as they are"
            found.append(Twin(name, about, replace(source, rows=rows, fingerprint=mark), share))
    return tuple(found)


def _partners(rows: Rows, table: pa.Table, rank: Rank) -> Rows:
    """Row of the best twin of each row, the row itself where there is none."""
    boxes = np.stack([table[name].to_numpy().astype(np.float64) for name in COLUMNS[:4]], axis=1)
    known = np.isfinite(boxes).all(axis=1)
    keys = np.round(np.where(known[:, None], boxes, 0.0) / _DEGREES).astype(np.int64)
    place = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    month = table["month"].fill_null(0).to_numpy().astype(np.int64)  # 0: nobody said when
    orbit = np.array([str(value).rpartition("-")[2] for value in table["orbit"].to_pylist()])
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(place.max() + 2)) if len(place) else np.zeros(1, dtype=np.int64)
    chosen = rows.copy()
    for position, row in enumerate(rows.tolist()):
        if not known[row]:
            continue
        same = order[starts[place[row]] : starts[place[row] + 1]]
        merit = rank(month[same], orbit[same], int(np.flatnonzero(same == row)[0]))
        if merit.max() > 0:
            chosen[position] = same[int(merit.argmax())]
    return chosen


def _other_season(month: npt.NDArray[np.int64], _: npt.NDArray[np.str_], own: int) -> npt.NDArray[np.float64]:
    """Months apart, the short way round the year; 0 for less than a quarter."""
    apart = np.abs(month - month[own])
    apart = np.minimum(apart, 12 - apart)
    dated = (month > 0) & (month[own] > 0)
    return np.where(dated & (apart >= APART_MONTHS), apart, 0).astype(np.float64)


def _other_orbit(month: npt.NDArray[np.int64], orbit: npt.NDArray[np.str_], own: int) -> npt.NDArray[np.float64]:
    """The nearer in the year the better, among those of the other direction."""
    apart = np.abs(month - month[own])
    other = (orbit != orbit[own]) & np.isin(orbit, ("ascending", "descending"))
    return np.where(other, 13 - np.minimum(apart, 12 - apart), 0).astype(np.float64)

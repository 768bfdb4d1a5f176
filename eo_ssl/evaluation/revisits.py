"""Revisits: tiles of the same ground in another season, or by a radar from the other orbit direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eo_ssl.evaluation.sources import CorpusSource, Rows
from eo_ssl.evaluation.splits import Fold
from eo_ssl.fingerprints import fingerprint

COLUMNS = ("xmin", "ymin", "xmax", "ymax", "month", "orbit", "label", "label_name")
APART_MONTHS = 3
"""A quarter of the year, either way round."""
_DEGREES = 1e-6  # a tenth of a metre: windows of one grid at one place


@dataclass(frozen=True, slots=True)
class Revisit:
    """For each tested image of a source another one of the same ground, or itself where there is none."""

    name: str
    about: str
    source: CorpusSource
    "in the order of the source"
    share: float
    "of the tested images that have one"


@dataclass(frozen=True, slots=True)
class _Tested:
    """An image that is tested, and what may not stand in for it."""

    position: int
    "in the source"
    barred: Rows
    "rows of the stream that teach or validate where it is tested, ascending"


Rank = Callable[[npt.NDArray[np.int64], npt.NDArray[np.str_], int], npt.NDArray[np.float64]]


def find_revisits(
    source: CorpusSource, table: pa.Table, folds: Sequence[Fold], *, first: int = 0
) -> tuple[Revisit, ...]:
    """Return the revisits in the stream of ``source``: `season` for optics and radar, `orbit` for radar, if any.

    A revisit carries the label of the tile it stands in for, which is the one that is scored, and neither teaches nor
    validates in the fold that tests the tile, where it would be found itself.

    Args:
        source: rows of a stream.
        table: index of the whole stream, `COLUMNS`.
        folds: of the task.
        first: position in the task of the first image of the source.
    """
    tested = _tested(source.rows, folds, first)
    found = []
    for name, words, rank in (
        ("season", f"the same ground at least {APART_MONTHS} months apart", _other_season),
        ("orbit", "the same ground from the other orbit direction", _other_orbit),
    ):
        if name == "orbit" and not (source.quantity.is_power or source.quantity.is_db):
            continue
        rows = _partners(source.rows, table, tested, rank)
        share = float((rows != source.rows).sum()) / max(1, len(tested))
        if share:
            mark = fingerprint([source.fingerprint, name, rows.tolist()])
            about = f"{words} and of the same label, of {100 * share:.0f} % of the test tiles; the others as they are"
            found.append(Revisit(name, about, replace(source, rows=rows, fingerprint=mark), share))
    return tuple(found)


def _tested(rows: Rows, folds: Sequence[Fold], first: int) -> list[_Tested]:
    """Images of the source that are tested, fold after fold."""

    def own(positions: Rows) -> Rows:
        return positions[(positions >= first) & (positions < first + len(rows))] - first

    found = []
    for fold in folds:
        barred = np.sort(rows[own(np.concatenate([fold.train, fold.validation]))])
        found += [_Tested(position, barred) for position in own(fold.test).tolist()]
    return found


def _partners(rows: Rows, table: pa.Table, tested: Sequence[_Tested], rank: Rank) -> Rows:
    """Row of the best revisit of each tested row, the row itself where there is none, and for others."""
    boxes = np.stack([table[name].to_numpy().astype(np.float64) for name in COLUMNS[:4]], axis=1)
    known = np.isfinite(boxes).all(axis=1)
    keys = np.round(np.where(known[:, None], boxes, 0.0) / _DEGREES).astype(np.int64)
    place = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    month = table["month"].fill_null(0).to_numpy().astype(np.int64)  # 0: nobody said when
    label = np.array(table["label_name"].to_pylist(), dtype=np.str_)
    labelled = table["label"].to_numpy() >= 0
    orbit = np.array([str(value).rpartition("-")[2] for value in table["orbit"].to_pylist()])
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(place.max() + 2)) if len(place) else np.zeros(1, dtype=np.int64)
    chosen = rows.copy()
    for one in tested:
        row = int(rows[one.position])
        if not known[row]:
            continue
        same = order[starts[place[row]] : starts[place[row] + 1]]
        fit = labelled[same] & (label[same] == label[row]) & ~np.isin(same, one.barred)
        same = same[fit | (same == row)]
        merit = rank(month[same], orbit[same], int(np.flatnonzero(same == row)[0]))
        if merit.max() > 0:
            chosen[one.position] = same[int(merit.argmax())]
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

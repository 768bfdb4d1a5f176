"""Candidate pairs of tiles: same cell of the grid, nearest in time within bounds. Index columns only, no pixels."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eo_ssl.corpus import Corpus
from eo_ssl.errors import UserError, expect

Rows = npt.NDArray[np.int64]
_COLUMNS = ("location_id", "datetime", "orbit", "product_id")
_ROWS_AT_ONCE = 2_000_000  # of both streams; places are dealt into as many passes as that takes
_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Bounds within which two tiles of one place are a pair."""

    min_days: float = 0.0
    "least time between the two; above 0 for pairs of seasons"
    max_days: float = 15.0
    "most time between the two"
    orbit: Literal["any", "same", "ascending", "descending"] = "any"
    "orbit direction asked of radar tiles; same: both tiles of one direction (pairs of radar)"
    dates: Literal["needed", "ignored"] = "needed"
    "ignored: tiles of one cell are paired whatever their dates, for sets that were paired by others and kept no dates"
    shift_of: Literal["products", "places"] = "products"
    "what one shift is measured on: all tiles of two products, or all dates of a cell (small sites with many dates)"
    min_overlap: float = 0.9
    "least share of the cell that is valid in both tiles"
    max_shift_px: float = 1.0
    "largest shift between the two scenes, in pixels of the coarser stream, if it can be told"
    min_score: float = 6.0
    """least score of a shift that counts as told (robust standard deviations above the other shifts); docs/pairs.md has
    what chance reaches"""
    min_pixels: int = 2048
    "least pixels of ground for a shift to count as told; on a few hundred, chance peaks come near min_score"
    search_px: float = 6.0
    "largest shift that is looked for, at most a quarter of a tile"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        expect(
            0 <= self.min_days <= self.max_days,
            expected="0 <= min_days <= max_days",
            got=f"{self.min_days:g} and {self.max_days:g}",
            remedy="give days in this order",
        )
        expect(
            0 <= self.min_overlap <= 1 and 0 < self.max_shift_px <= self.search_px,
            expected="min_overlap in 0..1 and 0 < max_shift_px <= search_px",
            got=f"{self.min_overlap:g}, {self.max_shift_px:g} and {self.search_px:g}",
            remedy="correct them",
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Match:
    """Candidates, one row each, sorted by what one shift is measured on, then by row of a."""

    row_a: Rows
    row_b: Rows
    days: npt.NDArray[np.float64]
    "time of b minus time of a"
    table: pa.Table
    "location_id, product_a, product_b, orbit_a, orbit_b"


@dataclass(frozen=True, slots=True)
class Matching:
    """Candidates, and the tiles of the first stream that found none."""

    match: Match
    unmatched: dict[str, int]
    "reason -> tiles of the first stream"


def match(corpus: Corpus, first: str, second: str, config: PairConfig) -> Matching:
    """Return for each tile of stream ``first`` the tile of ``second`` on its cell that is nearest in time in bounds.

    With ``first`` equal to ``second`` each tile looks forward in time only, so that no pair comes twice.

    Raises:
        UserError: the streams' cells differ in size, a stream was not cut on the grid, or no tile has a date.
    """
    _check_streams(corpus, first, second)
    total = corpus.count(first) + corpus.count(second)
    passes = -(-total // _ROWS_AT_ONCE)
    tables: list[pa.Table] = []
    unmatched: Counter[str] = Counter()
    for number in range(passes):
        tiles_a, tiles_b = (
            _read_part(corpus, name, (number, passes), dated=config.dates == "needed") for name in (first, second)
        )
        if len(tiles_a):
            tables.append(_match_part(tiles_a, tiles_b, config, same=first == second, unmatched=unmatched))
    expect(
        tables,
        expected=f"tiles with dates in stream {first}",
        got="none",
        remedy="pairs need times of acquisition; for a set that others paired give --bounds.dates ignored",
    )
    together = ["product_a", "product_b"] if config.shift_of == "products" else ["location_id"]
    table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in (*together, "row_a")])
    numbers = [table[name].to_numpy() for name in ("row_a", "row_b", "days")]
    names = table.select(["location_id", "product_a", "product_b", "orbit_a", "orbit_b"])
    return Matching(Match(numbers[0], numbers[1], numbers[2], names), dict(sorted(unmatched.items())))


def _check_streams(corpus: Corpus, first: str, second: str) -> None:
    cells, pixels = {}, []
    for name in dict.fromkeys((first, second)):
        if name not in corpus.streams:
            corpus.stream(name)  # says which there are
        stream = corpus.streams[name]
        cells[name] = round(stream.size_px * stream.gsd_m, 6)
        pixels.append(stream.gsd_m)
        tilings = corpus.tilings(name)
        expect(
            tilings == {"grid"},
            expected=f"stream {name} to be cut with tiling grid",
            got=", ".join(sorted(tilings)),
            remedy="only cells of a common grid lie on the same ground: ingest with --tiling grid",
        )
    if len(set(cells.values())) > 1:
        said = " and ".join(f"{size:g} m ({name})" for name, size in cells.items())
        raise UserError(f"expected cells of one size, got {said}; make size_px x gsd_m equal")
    times = max(pixels) / min(pixels)
    expect(
        abs(times - round(times)) <= 1e-6,
        expected="pixels of one stream to be a whole number of those of the other",
        got=f"{max(pixels):g} m and {min(pixels):g} m",
        remedy="ingest one of them with another gsd_m",
    )


def _read_part(corpus: Corpus, name: str, lot: tuple[int, int], *, dated: bool) -> pa.Table:
    """Return the rows of pass ``lot`` (number, of how many) over the places: row, time (s) and the columns needed.

    Rows without a date are left out, unless dates are ignored: then all have the time 0.
    """
    number, passes = lot
    kept, first_row = [], 0
    for batch in corpus.dataset(name).to_batches(columns=list(_COLUMNS)):
        rows = np.arange(first_row, first_row + batch.num_rows, dtype=np.int64)
        first_row += batch.num_rows
        part = pa.table(batch).append_column("row", pa.array(rows))
        mask = pc.or_(pc.not_equal(part["datetime"], ""), not dated)
        if passes > 1:
            codes = part["location_id"].combine_chunks().dictionary_encode()
            lots = np.array([zlib.crc32(place.encode()) % passes for place in codes.dictionary.to_pylist()])
            mask = pc.and_(mask, pa.array(lots[codes.indices.to_numpy()] == number))
        kept.append(part.filter(mask))
    table = pa.concat_tables(kept)
    if not dated:
        return table.append_column("seconds", pa.array(np.zeros(len(table), dtype=np.int64)))
    stamps = np.array([text.rstrip("Z") for text in table["datetime"].to_pylist()], dtype="datetime64[s]")
    return table.append_column("seconds", pa.array(stamps.astype(np.int64)))


def _match_part(
    tiles_a: pa.Table, tiles_b: pa.Table, config: PairConfig, *, same: bool, unmatched: Counter[str]
) -> pa.Table:
    """Return the candidates of one pass; count the tiles of ``one`` without any by reason."""
    if config.orbit in ("ascending", "descending"):
        tiles_a, tiles_b = (
            part.filter(pc.is_in(part["orbit"], pa.array([config.orbit, ""]))) for part in (tiles_a, tiles_b)
        )
    names = pa.concat_arrays([*tiles_a["location_id"].chunks, *tiles_b["location_id"].chunks])
    places = names.dictionary_encode().indices.to_numpy().astype(np.int64)
    place_a, place_b = places[: len(tiles_a)], places[len(tiles_a) :]
    least, most = round(config.min_days * _DAY_S), round(config.max_days * _DAY_S)
    partner, gap = find_nearest_in_time(
        (place_a, tiles_a["seconds"].to_numpy()),
        (place_b, tiles_b["seconds"].to_numpy()),
        least=least,
        most=most,
        forward_only=same,
    )
    present, near = np.isin(place_a, place_b), partner >= 0
    unmatched["no tile of the other stream at this place"] += int(np.count_nonzero(~present))
    unmatched[f"none {config.min_days:g} to {config.max_days:g} days apart"] += int(np.count_nonzero(present & ~near))
    left, right = tiles_a.take(np.flatnonzero(near)), tiles_b.take(partner[near])
    days = gap[near] / _DAY_S if config.dates == "needed" else np.full(int(near.sum()), np.nan)
    table = pa.table(
        {
            "row_a": left["row"],
            "row_b": right["row"],
            "days": pa.array(days),
            "location_id": left["location_id"],
            "product_a": left["product_id"],
            "product_b": right["product_id"],
            "orbit_a": left["orbit"],
            "orbit_b": right["orbit"],
        }
    )
    if config.orbit != "same":
        return table
    alike = table.filter(pc.equal(table["orbit_a"], table["orbit_b"]))
    unmatched["nearest tile is of the other orbit direction"] += len(table) - len(alike)
    return alike


def find_nearest_in_time(
    first: tuple[Rows, Rows], second: tuple[Rows, Rows], *, least: int, most: int, forward_only: bool
) -> tuple[Rows, Rows]:
    """Return for each of ``first`` the nearest in time of ``second`` at the same place.

    Args:
        first: places and times (s), int64 [n] each.
        second: the same of the partners, int64 [m].
        least: least seconds between the two.
        most: most seconds between the two.
        forward_only: look only at strictly later times, as within one stream.

    Returns:
        partner: int64 [n], position in ``second``, -1 where there is none; of equally near ones the later, of equal
            times the first.
        gap: int64 [n], seconds from the first to its partner.
    """
    (place_a, time_a), (place_b, time_b) = first, second
    if not len(place_a) or not len(place_b):
        return np.full(len(place_a), -1, dtype=np.int64), np.zeros(len(place_a), dtype=np.int64)
    origin = int(min(time_a.min(), time_b.min()))
    reach = int(max(time_a.max(), time_b.max())) - origin + most + 1
    order = np.lexsort((time_b, place_b))
    # One axis for all: places lie 3 reaches apart, so that nothing within ``most`` of a tile belongs to another place.
    keys = (3 * reach * place_b + time_b - origin)[order]
    at = 3 * reach * place_a + time_a - origin
    later = np.searchsorted(keys, at + max(least, int(forward_only)), side="left")
    earlier = np.searchsorted(keys, at - least, side="right") - 1
    earlier = np.searchsorted(keys, keys[np.maximum(earlier, 0)], side="left")  # the first of equal times
    far = most + 1
    ahead = np.where(later < len(keys), keys[np.minimum(later, len(keys) - 1)] - at, far)
    behind = at - keys[earlier]
    behind = np.where((behind < least) | forward_only, far, behind)
    use_later = ahead <= behind
    gap = np.where(use_later, ahead, -behind)
    partner = order[np.where(use_later, np.minimum(later, len(keys) - 1), earlier)]
    return np.where(np.abs(gap) <= most, partner, -1), gap

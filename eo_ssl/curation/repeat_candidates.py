"""Tiles that may show one acquisition twice, by the index alone: same time, satellite and ground. No pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from eo_ssl.corpus import Corpus
from eo_ssl.curation.embeddings import Labels, Rows
from eo_ssl.curation.tile_outlines import (
    EARTH_M,
    lay_on_plane,
    map_pixels,
    measure_areas,
    place_on_sphere,
    read_outlines,
)
from eo_ssl.curation.weights import Doubles

_ROWS_AT_ONCE = 65_536  # tiles whose neighbours are looked for at a time
_PAIRS_AT_ONCE = 500_000  # pairs of neighbours in memory at a time
_DAY_S = 86_400
_STATED = ("platform", "mode", "direction", "track", "relative_orbit")
"""What two tiles of one acquisition cannot state differently; direction and track are read from the column orbit."""
_COLUMNS = (
    *("geometry", "epsg", "datetime", "valid_fraction", "height", "width", "processing_baseline", "location_id"),
    *("platform", "mode", "orbit", "relative_orbit", "product_id"),
)


@dataclass(frozen=True, slots=True)
class TileFacts:
    """What the index says of n tiles, as a few arrays of numbers."""

    corners: Doubles
    "longitude and latitude of the corners, float64 [n, 4, 2] as of `read_outlines`"
    size_px: NDArray[np.int32]
    "height and width of the windows, int32 [n, 2]"
    valid_px: Doubles
    "valid pixels, float64 [n]"
    second: Rows
    "time in seconds since 1970, int64 [n]; the beginning of the day where that is all that is known"
    dated: NDArray[np.int8]
    "0 no date, 1 a day, 2 a time: int8 [n]"
    stated: Labels
    "codes of what `_STATED` names, int32 [n, 5]; -1 unknown"
    baseline: Labels
    "rank of the processing baseline, int32 [n], later ones higher; 0 unknown"
    place: Labels
    "number of the location_id, int32 [n]"
    product: Labels
    "number of the product_id, int32 [n]"

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Whether a tile can be compared: it has a place and a date, bool [n]."""
        return np.isfinite(self.corners[:, 0, 0]) & (self.dated > 0)


@dataclass(frozen=True, slots=True)
class CandidatePairs:
    """Pairs of tiles that may show the same acquisition, m of them."""

    first: Rows
    "positions of the tiles, int64 [m]; below those of the second"
    second: Rows
    maps: Doubles
    "where pixels of the first lie in the second, float64 [m, 2, 3] as of `map_pixels`"
    timed: NDArray[np.bool_]
    "whether both have a time, not a day alone: bool [m]"


class _Codes:
    """Numbers values in the order they come."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}

    def number(self, column: pa.ChunkedArray, clean: Callable[[Any], Any] = lambda value: value) -> Labels:
        """Return the numbers of the values of ``column``; -1 where ``clean`` gives None or an empty text."""
        words = column.combine_chunks().dictionary_encode()
        values = [clean(value) for value in words.dictionary.to_pylist()]
        codes = [-1 if value in (None, "") else self.known.setdefault(value, len(self.known)) for value in values]
        table = np.array([*codes, -1], dtype=np.int32)  # the last for null
        numbers: Labels = table[words.indices.fill_null(len(codes)).to_numpy(zero_copy_only=False)]
        return numbers


def read_tile_facts(corpus: Corpus, stream: str, rows: Rows) -> TileFacts:
    """Return what the index says of ``rows`` (int64 ascending) of a stream, read batch by batch.

    Raises:
        UserError: an unknown stream.
    """
    size_px = corpus.streams[stream].size_px
    codes = {name: _Codes() for name in (*_STATED, "baseline", "place", "product")}
    parts = [_read_part(table, codes, size_px) for table in _read_index(corpus, stream, rows)]
    fields = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    known = codes["baseline"].known
    rank = np.zeros(len(known) + 1, dtype=np.int32)  # the last for unknown
    for place, version in enumerate(sorted(known)):
        rank[known[version]] = place + 1
    return TileFacts(**{**fields, "baseline": rank[fields["baseline"]]})


def _read_index(corpus: Corpus, stream: str, rows: Rows) -> Iterator[pa.Table]:
    """Yield the columns of ``rows`` in tables of some ten thousand, the last of them smaller or empty."""
    held, count, first = [corpus.index(stream, columns=_COLUMNS, rows=np.empty(0, dtype=np.int64))], 0, 0
    for batch in corpus.dataset(stream).to_batches(columns=list(_COLUMNS)):
        low, high = np.searchsorted(rows, [first, first + batch.num_rows])
        if high > low:
            held.append(pa.table(batch).take(pa.array(rows[low:high] - first)))
        count, first = count + int(high - low), first + batch.num_rows
        if count >= _ROWS_AT_ONCE:
            yield pa.concat_tables(held)
            held, count = held[:1], 0
    yield pa.concat_tables(held)


def _read_part(table: pa.Table, codes: dict[str, _Codes], size_px: int) -> dict[str, NDArray[Any]]:
    times = table["datetime"].combine_chunks().dictionary_encode()
    words = [text.rstrip("Z") for text in times.dictionary.to_pylist()]
    seconds = np.array([text or "1970-01-01" for text in words], dtype="datetime64[s]").astype(np.int64)
    dated = np.array([0 if not text else 1 if len(text) <= len("2020-01-01") else 2 for text in words], dtype=np.int8)
    which = times.indices.to_numpy(zero_copy_only=False)
    stated = [
        codes["platform"].number(table["platform"], name_satellite),
        codes["mode"].number(table["mode"]),
        codes["direction"].number(table["orbit"], _find_direction),
        codes["track"].number(table["orbit"], lambda text: "" if _find_direction(text) else text),
        codes["relative_orbit"].number(table["relative_orbit"]),
    ]
    return {
        "corners": read_outlines(table["geometry"], table["epsg"].to_numpy()),
        "size_px": np.stack([table["height"].to_numpy(), table["width"].to_numpy()], axis=1).astype(np.int32),
        "valid_px": table["valid_fraction"].fill_null(1.0).to_numpy().astype(np.float64) * size_px**2,
        "second": seconds[which],
        "dated": dated[which],
        "stated": np.stack(stated, axis=1),
        "baseline": codes["baseline"].number(table["processing_baseline"], _split_version),
        "place": codes["place"].number(table["location_id"]),
        "product": codes["product"].number(table["product_id"]),
    }


def name_satellite(platform: str | None) -> str:
    """Return one spelling of a satellite: ``s2a`` for S2A, Sentinel-2A and sentinel-2a; empty where unknown."""
    return re.sub(r"^sentinel[-_ ]?", "s", (platform or "").lower())


def _find_direction(orbit: str) -> str:
    return next((word for word in ("ascending", "descending") if word in orbit.lower()), "")


def _split_version(baseline: str) -> tuple[int, ...] | None:
    """Return the numbers of a processing baseline, by which 05.10 is later than 05.09 and 10.00 than 9.00."""
    return tuple(int(number) for number in re.findall(r"\d+", baseline)) or None


def find_candidates(facts: TileFacts, *, min_overlap: float, max_seconds: int) -> Iterator[CandidatePairs]:
    """Yield pairs of tiles that may show one acquisition, each pair once, in lots of bounded size.

    Two tiles are a candidate if they state no different satellite, mode, orbit direction or relative orbit; if their
    times are at most ``max_seconds`` apart (where one has a day alone: if it is the same day); and if their outlines
    share enough ground that, were all of it valid, ``min_overlap`` of one tile's valid pixels would lie in the other.
    """
    timed = np.flatnonzero(facts.usable & (facts.dated == 2))
    for one, two in _find_neighbours(facts, timed, facts.second[timed], most=max_seconds, min_overlap=min_overlap):
        yield from _judge(facts, one, two, min_overlap)
    day = facts.second // _DAY_S
    vague = np.unique(day[facts.usable & (facts.dated == 1)])
    rows = np.flatnonzero(facts.usable & np.isin(day, vague))
    for one, two in _find_neighbours(facts, rows, day[rows], most=0, min_overlap=min_overlap):
        vaguely = np.minimum(facts.dated[one], facts.dated[two]) == 1
        yield from _judge(facts, one[vaguely], two[vaguely], min_overlap)


def _find_neighbours(
    facts: TileFacts, rows: Rows, when: Rows, *, most: int, min_overlap: float
) -> Iterator[tuple[Rows, Rows]]:
    """Yield pairs of ``rows`` about as near as two that share enough ground, at most ``most`` apart in ``when``.

    A tree over place and time finds them: times, which are whole numbers, are stretched so that half a unit more than
    ``most`` is as long as the reach on the ground.
    """
    order = np.argsort(when, kind="stable")
    rows, when = rows[order], when[order]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(rows))
        end = int(np.searchsorted(when, when[stop - 1] + most, side="right"))
        there = rows[start:end]
        vectors = place_on_sphere(facts.corners[there])
        centres = vectors.mean(axis=1)
        half = EARTH_M * float(np.linalg.norm(vectors - centres[:, None], axis=-1).max())
        # The middle of a tile lies in what holds more than half of it. One with few valid pixels may have them all in
        # a corner.
        whole = facts.size_px[there].prod(axis=1)
        reach = half if (min_overlap * facts.valid_px[there] > whole / 2).all() else 2 * half
        reach = 1.001 * max(reach, 1.0)
        late = (when[start:end] - when[start]) * (reach / (most + 0.5))
        tree = cKDTree(np.column_stack([EARTH_M * (centres - centres[0]), late]))
        for asked, found in _search(tree, stop - start, reach):
            once = found > asked  # the pairs with an earlier tile came with that
            yield there[asked[once]], there[found[once]]


def _search(tree: Any, count: int, reach: float) -> Iterator[tuple[Rows, Rows]]:
    """Yield pairs of points of the tree within ``reach`` along each axis, the first of them below ``count``."""
    numbers = tree.query_ball_point(tree.data[:count], reach, p=np.inf, return_length=True)
    total = np.cumsum(numbers)
    first = 0
    while first < count:
        held = total[first - 1] if first else 0
        last = max(int(np.searchsorted(total, held + _PAIRS_AT_ONCE, side="right")), first + 1)
        lists = tree.query_ball_point(tree.data[first:last], reach, p=np.inf)
        yield np.repeat(np.arange(first, last), numbers[first:last]), np.concatenate(lists).astype(np.int64)
        first = last


def _judge(facts: TileFacts, one: Rows, two: Rows, min_overlap: float) -> Iterator[CandidatePairs]:
    """Yield those of the pairs of one time that state nothing different and share enough ground."""
    first, second = np.minimum(one, two), np.maximum(one, two)
    stated, other = facts.stated[first], facts.stated[second]
    alike = ((stated == other) | (stated < 0) | (other < 0)).all(axis=1)
    first, second = first[alike], second[alike]
    if not len(first):
        return
    vectors = [place_on_sphere(facts.corners[part]) for part in (first, second)]
    centre = vectors[0].mean(axis=1)
    outlines = [lay_on_plane(part, centre) for part in vectors]
    enough = np.zeros(len(first), dtype=bool)
    for rows, own, other in ((first, *outlines), (second, *outlines[::-1])):
        area, shared = measure_areas(own, other)
        pixels = shared / np.maximum(area, 1e-9) * facts.size_px[rows].prod(axis=1)
        enough |= (shared > 0) & (pixels >= (min_overlap - 1e-3) * facts.valid_px[rows])
    sizes = [facts.size_px[rows].astype(np.float64) for rows in (first, second)]
    maps = map_pixels(outlines[0][enough], sizes[0][enough], outlines[1][enough], sizes[1][enough])
    first, second = first[enough], second[enough]
    if len(first):
        yield CandidatePairs(first, second, maps, np.minimum(facts.dated[first], facts.dated[second]) == 2)

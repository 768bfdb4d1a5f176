"""Tiles that show again what another tile of the same acquisition shows: overlap strips and reprocessed products.

Neighbouring products of one datatake overlap, and archives hold several processings of one product. Their tiles are not
equal byte by byte, yet show the same light or echo. They are found by time, satellite and ground in the index, and told
by their pixels. The same place on another date is a season and never a repeat. docs/duplicates.md has the rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_ssl.corpus import Corpus, StreamReader
from eo_ssl.curation.dedup import Identities, Repeats, find_first_copies
from eo_ssl.curation.embeddings import Labels, Rows
from eo_ssl.curation.repeat_candidates import CandidatePairs, TileFacts, find_candidates, read_tile_facts
from eo_ssl.curation.repeat_pixels import TILES_OF_SHIFT, PixelEvidence, compare_tiles, estimate_shift, move_map
from eo_ssl.curation.weights import Doubles
from eo_ssl.errors import expect
from eo_ssl.sensors import convert

_BYTES_AT_ONCE = 64_000_000  # of decoded tiles
_DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads defaults through __dict__
class RepeatConfig:
    """When two tiles are the same acquisition again. All defaults are ours."""

    min_overlap: float = 0.8
    "least share of a tile's valid pixels that one other tile has to show too"
    min_correlation: float = 0.85
    "least correlation of what both show, the median over the bands with texture; of radar of its detail (speckle)"
    max_minutes: float = 15.0
    """most time between the two: longer than catalogues differ in what they call the time of an image, far shorter than
    the 100 minutes after which a satellite may be back"""
    max_shift_px: float = 2.0
    "largest shift between two processings of one image that is looked for where they do not correlate; 0 for none"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        expect(
            0 < self.min_overlap <= 1 and 0 < self.min_correlation <= 1,
            expected="min_overlap and min_correlation above 0, up to 1",
            got=f"{self.min_overlap:g} and {self.min_correlation:g}",
            remedy="give shares, not percent",
        )
        expect(
            0 <= self.max_minutes <= 60 and self.max_shift_px >= 0,
            expected="max_minutes in 0..60 and max_shift_px of at least 0",
            got=f"{self.max_minutes:g} and {self.max_shift_px:g}",
            remedy="an hour later a satellite may see the place again",
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Pairs whose pixels were compared, m of them."""

    first: Rows
    second: Rows
    shares: Doubles
    "of the first that the second shows and the other way round, float64 [m, 2]"
    correlation: Doubles
    same: NDArray[np.bool_]
    flat: NDArray[np.bool_]


def find_repeats(
    corpus: Corpus, stream: str, rows: Rows, config: RepeatConfig, *, identities: Identities | None = None
) -> Repeats:
    """Return which of ``rows`` (int64 ascending) of a stream show again what another of them shows, as places in them.

    Of two tiles the one with more valid pixels stays (in whole percent of a tile), then the one of the later processing
    baseline, then the first in the corpus. What goes always repeats a tile that stays.

    Args:
        corpus: opened.
        stream: name of a stream of it.
        rows: of the stream.
        config: when two tiles are the same acquisition.
        identities: what makes two rows exact copies (pixels_sha256), one per row; only first copies are looked at.

    Raises:
        UserError: an unknown stream, or a damaged file.
    """
    if identities is not None:
        first, _ = find_first_copies(identities)
        found = find_repeats(corpus, stream, rows[first], config)
        original = np.full(len(rows), -1, dtype=np.int64)
        overlap, correlation = (np.full(len(rows), np.nan, dtype=np.float32) for _ in range(2))
        original[first] = np.where(found.original < 0, -1, first[found.original])
        overlap[first], correlation[first] = found.overlap, found.correlation
        return Repeats(original, overlap, correlation, found.notes)
    reader = corpus.stream(stream)
    facts = read_tile_facts(corpus, stream, rows)
    measured = [
        _measure(reader, rows, lot, config, (facts.product[lot.first], facts.product[lot.second]))
        for pairs in find_candidates(facts, min_overlap=config.min_overlap, max_seconds=round(60 * config.max_minutes))
        for lot in _split_pairs(pairs, facts.product, _count_pairs_at_once(reader))
    ]
    original = np.full(len(rows), -1, dtype=np.int64)
    overlap, correlation = (np.full(len(rows), np.nan, dtype=np.float32) for _ in range(2))
    if measured:
        _decide(facts, measured, config, reader.stream.size_px, (original, overlap, correlation))
    return Repeats(original, overlap, correlation, _note(facts, measured, original))


def _count_pairs_at_once(reader: StreamReader) -> int:
    stream = reader.stream
    return max(1, _BYTES_AT_ONCE // (8 * len(stream.bands) * stream.size_px**2))


def _split_pairs(pairs: CandidatePairs, product: Labels, count: int) -> Iterator[CandidatePairs]:
    """Yield lots of ``count`` pairs, those of the same two products together."""
    order = np.lexsort((pairs.second, pairs.first, product[pairs.second], product[pairs.first]))
    for start in range(0, len(order), count):
        part = order[start : start + count]
        yield CandidatePairs(pairs.first[part], pairs.second[part], pairs.maps[part], pairs.timed[part])


def _measure(
    reader: StreamReader, rows: Rows, pairs: CandidatePairs, config: RepeatConfig, products: tuple[Labels, Labels]
) -> _Measured:
    """Read the tiles of ``pairs`` once each and compare them, those that do not fit again at the products' shift."""
    wanted, place = np.unique(np.stack([pairs.first, pairs.second]), return_inverse=True)
    quantity = reader.stream.quantity
    shown = quantity.in_db_if_power
    tiles = convert(reader.read(rows[wanted]), source=quantity, target=shown)
    place = place.reshape(2, -1)
    both = [(tiles[one], tiles[two], mapping) for one, two, mapping in zip(*place, pairs.maps, strict=True)]
    found = [compare_tiles(*pair, quantity=shown) for pair in both]
    for misfits, textured in _group_misfits(found, products, config):
        some = (both[k] for k in textured[:TILES_OF_SHIFT])
        shift = estimate_shift(some, size_px=reader.stream.size_px, search_px=config.max_shift_px)
        if shift is None:
            continue
        for k in misfits:
            again = compare_tiles(*both[k][:2], move_map(both[k][2], shift), quantity=shown)
            found[k] = max(found[k], again, key=lambda evidence: evidence.correlation)
    same = [_is_same(one, timed, config) for one, timed in zip(found, pairs.timed.tolist(), strict=True)]
    return _Measured(
        pairs.first,
        pairs.second,
        np.array([(one.first_seen, one.second_seen) for one in found]).reshape(-1, 2),
        np.array([one.correlation for one in found]),
        np.array(same, dtype=bool),
        np.array([one.flat for one in found], dtype=bool),
    )


def _group_misfits(
    found: list[PixelEvidence], products: tuple[Labels, Labels], config: RepeatConfig
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield places of the pairs of two products that do not correlate enough, and of all whose bands have texture."""
    groups: dict[tuple[int, int], list[int]] = {}
    for k, (one, *key) in enumerate(zip(found, *(part.tolist() for part in products), strict=True)):
        if not np.isnan(one.correlation):
            groups.setdefault((key[0], key[1]), []).append(k)
    for textured in groups.values() if config.max_shift_px else ():
        misfits = [k for k in textured if found[k].correlation < config.min_correlation]
        if misfits:
            yield misfits, textured


def _is_same(evidence: PixelEvidence, timed: bool, config: RepeatConfig) -> bool:
    """Whether pixels say that both tiles are one acquisition; of flat ones their means, if the time is known."""
    return evidence.equal and timed if evidence.flat else evidence.correlation >= config.min_correlation


def _decide(
    facts: TileFacts, measured: list[_Measured], config: RepeatConfig, size_px: int, out: tuple[NDArray[Any], ...]
) -> None:
    """Write into ``out`` (original, overlap, correlation) which tiles go for which, the best first."""
    original, overlap, correlation = out
    first, second, shares, alike, same = (
        np.concatenate([getattr(part, name) for part in measured])
        for name in ("first", "second", "shares", "correlation", "same")
    )
    percent = np.rint(100 * facts.valid_px / size_px**2)
    order = np.lexsort((np.arange(len(original)), -facts.baseline, -percent))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    worse = np.where(rank[first] > rank[second], first, second)
    better = np.where(worse == first, second, first)
    share = np.where(worse == first, shares[:, 0], shares[:, 1])
    shown = np.flatnonzero(same & (share >= config.min_overlap))
    # Worst last, and of several tiles that show it the one that shows most, then the best.
    shown = shown[np.lexsort((rank[better[shown]], -share[shown], rank[worse[shown]]))]
    for pair in shown.tolist():
        row, other = worse[pair], better[pair]
        if original[row] < 0 and original[other] < 0:  # whether the better one stays is decided by now
            original[row], overlap[row], correlation[row] = other, share[pair], alike[pair]


def _note(facts: TileFacts, measured: list[_Measured], original: Rows) -> tuple[str, ...]:
    """Return what a reader of the report has to know, in sentences."""
    notes = []
    blind = int(np.count_nonzero(~facts.usable))
    if blind:
        notes.append(
            f"{blind} of {len(original)} tiles have no place or no date: of them only exact copies were looked for"
        )
    pairs = sum(len(part.first) for part in measured)
    if pairs:
        same, flat = (sum(int(np.count_nonzero(getattr(part, name))) for part in measured) for name in ("same", "flat"))
        notes.append(
            f"{pairs} pairs of tiles share ground and time: {same} show the same pixels, {pairs - same} do not and "
            f"stay; {flat} are flat and were told by their means"
        )
    seasons = _count_seasons(facts, original)
    if seasons:
        notes.append(f"{seasons} tiles show a place that others show on another date: seasons, which stay")
    return tuple(notes)


def _count_seasons(facts: TileFacts, original: Rows) -> int:
    """Return how many tiles that are no repeat lie at a location_id that several dates show."""
    rows = np.flatnonzero(facts.usable & (original < 0))
    day = facts.second[rows] // _DAY_S
    dates = np.unique(np.stack([facts.place[rows].astype(np.int64), day]), axis=1)
    several, counts = np.unique(dates[0], return_counts=True)
    return int(np.isin(facts.place[rows], several[counts > 1]).sum())

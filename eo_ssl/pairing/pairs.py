"""Pairs as a product: candidates kept or refused with the reason, written beside what was measured on their pixels."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.commits import commit, explain_read_error
from eo_ssl.corpus import Corpus, StreamReader, read_parquet
from eo_ssl.documents import build_record, explain_content, read_json
from eo_ssl.errors import expect
from eo_ssl.fingerprints import fingerprint
from eo_ssl.pairing.matching import Matching, PairConfig
from eo_ssl.pairing.shift import Shift, ShiftEstimator
from eo_ssl.sensors import convert

PAIRS, REJECTED, SCENES, REPORT = FILES = ("pairs.parquet", "rejected.parquet", "scenes.parquet", "pairs.json")
_BATCH = 64  # tiles of each stream in memory at a time
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """Counts of a pairing: candidates, pairs kept, tiles refused by reason, shifts told."""

    stream_a: str
    stream_b: str
    tiles_a: int
    candidates: int
    kept: int
    rejected: dict[str, int]
    "reason -> tiles of the first stream that have no pair, or candidates that were refused"
    scene_pairs: int
    scene_pairs_told: int
    "pairs of products (or places) whose shift could be told"
    pixel_m: float
    "size of the pixels that shifts are counted in"
    config: dict[str, Any]
    corpus_fingerprint: str

    @property
    def measured(self) -> str:
        """The noun for what one shift was measured on."""
        return "places" if self.config["shift_of"] == "places" else "pairs of products"

    def sentence(self) -> str:
        """Return the outcome in words."""
        told = f"shift told for {self.scene_pairs_told} of {self.scene_pairs} {self.measured}"
        return f"{self.kept:,} pairs of {self.tiles_a:,} tiles of {self.stream_a} with {self.stream_b}; {told}"


@dataclass(frozen=True, slots=True)
class Pairing:
    """Tables of a pairing: pairs kept, candidates refused, and what was measured per pair of products."""

    report: PairReport
    kept: pa.Table
    """row_a, row_b, location_id, days, orbit_a, orbit_b, overlap, shift_row_px, shift_col_px, shift_score (shift: of
    the pair of products)"""
    rejected: pa.Table
    "the same with reason"
    scenes: pa.Table
    """One row per shift that was measured: product_a, product_b (empty where it is one of a place), location_id (empty
    where it is one of two products), orbit_a, orbit_b, days (median), tiles (summed for the shift), pixels, overlap
    (mean), shift_row_px, shift_col_px, shift_score, kept (candidates)."""


@dataclass(slots=True)
class _Scene:
    """One pair of products, or one place."""

    start: int
    stop: int
    overlap: npt.NDArray[np.float64]
    shift: Shift
    reasons: list[str] = field(default_factory=list)


def pair(
    corpus: Corpus,
    streams: tuple[str, str],
    matching: Matching,
    *,
    config: PairConfig,
    progress: Progress | None = None,
) -> Pairing:
    """Measure overlap and shift of the candidates and keep those within the bounds.

    The shift is one per pair of products (or per place), from the summed correlation of all their tiles with enough
    overlap; where no peak stands out it is not told, and nobody is refused for it.

    Args:
        corpus: the snapshot.
        streams: names of the first and the second stream.
        matching: candidates of these streams.
        config: the bounds.
        progress: called with (candidates done, candidates).
    """
    readers = tuple(corpus.stream(name) for name in streams)
    factors = _find_factors(readers)
    match = matching.match
    scenes = []
    together = ("product_a", "product_b") if config.shift_of == "products" else ("location_id",)
    for start, stop in _split_runs(match.table, together):
        rows = match.row_a[start:stop], match.row_b[start:stop]
        overlap, shift = _measure(readers, factors, rows, config)
        scenes.append(_judge(_Scene(start, stop, overlap, shift), config))
        if progress:
            progress(stop, len(match.row_a))
    return _assemble(corpus, streams, matching, scenes, config)


def _find_factors(readers: tuple[StreamReader, ...]) -> tuple[int, int]:
    """By how much each stream is averaged to the pixels of the coarser one."""
    gsd = [reader.stream.gsd_m for reader in readers]
    coarse = max(gsd)
    return round(coarse / gsd[0]), round(coarse / gsd[1])


def _split_runs(table: pa.Table, together: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Ranges of rows that are equal in some columns."""
    if len(table) == 0:
        return
    codes = np.stack([table[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in together])
    breaks = np.flatnonzero((np.diff(codes, axis=1) != 0).any(axis=0)) + 1
    edges = [0, *breaks.tolist(), len(table)]
    yield from itertools.pairwise(edges)


def _measure(
    readers: tuple[StreamReader, ...],
    factors: tuple[int, int],
    rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    config: PairConfig,
) -> tuple[npt.NDArray[np.float64], Shift]:
    size = readers[0].stream.size_px // factors[0]
    estimator = ShiftEstimator(size, search_px=config.search_px, same_ground=config.shift_of == "places")
    overlap = np.empty(len(rows[0]))
    for start in range(0, len(rows[0]), _BATCH):
        images = [
            _read_edges(reader, part[start : start + _BATCH], factor)
            for reader, part, factor in zip(readers, rows, factors, strict=True)
        ]
        for k, (image_a, image_b) in enumerate(zip(*images, strict=True)):
            both = np.isfinite(image_a).all(axis=0) & np.isfinite(image_b).all(axis=0)
            overlap[start + k] = both.mean()
            if overlap[start + k] >= config.min_overlap:
                estimator.add(image_a, image_b)
    return overlap, estimator.estimate()


def _read_edges(reader: StreamReader, rows: npt.NDArray[np.int64], factor: int) -> npt.NDArray[np.float32]:
    """Return tiles [n, C, size, size] in which edges are alike everywhere: reflectance as it is, powers in dB."""
    tiles = reader.read(rows)
    if factor > 1:  # powers are averaged before the logarithm
        count, bands, side, _ = tiles.shape
        tiles = tiles.reshape(count, bands, side // factor, factor, side // factor, factor).mean(axis=(3, 5))
    quantity = reader.stream.quantity
    return convert(tiles, source=quantity, target=quantity.in_db_if_power)


def _is_told(scene: _Scene, config: PairConfig) -> bool:
    """Return whether the peak stands out, on enough pixels."""
    return scene.shift.score >= config.min_score and scene.shift.pixels >= config.min_pixels


def _judge(scene: _Scene, config: PairConfig) -> _Scene:
    moved = float(np.hypot(scene.shift.row_px, scene.shift.col_px))
    told = _is_told(scene, config)
    misplaced = (
        f"scenes shifted by {moved:.2f} px, more than {config.max_shift_px:g}"
        if told and moved > config.max_shift_px
        else ""
    )
    for share in scene.overlap:
        scene.reasons.append(f"overlap below {config.min_overlap:g}" if share < config.min_overlap else misplaced)
    return scene


def _assemble(
    corpus: Corpus, streams: tuple[str, str], matching: Matching, scenes: list[_Scene], config: PairConfig
) -> Pairing:
    match = matching.match
    reasons = [reason for scene in scenes for reason in scene.reasons]
    per_tile = [scene for scene in scenes for _ in scene.reasons]
    table = pa.table(
        {
            "row_a": match.row_a,
            "row_b": match.row_b,
            "location_id": match.table["location_id"],
            "days": match.days,
            "orbit_a": match.table["orbit_a"],
            "orbit_b": match.table["orbit_b"],
            "overlap": np.concatenate([scene.overlap for scene in scenes]) if scenes else np.empty(0),
            **_tabulate_shifts(per_tile, config),
            "reason": pa.array(reasons, pa.string()),
        }
    )
    good = pa.array([not reason for reason in reasons], pa.bool_())
    kept = table.filter(good).drop_columns(["reason"])
    refused = Counter(_strip_numbers(reason) for reason in reasons if reason)
    told = [scene for scene in scenes if _is_told(scene, config)]
    report = PairReport(
        stream_a=streams[0],
        stream_b=streams[1],
        tiles_a=corpus.count(streams[0]),
        candidates=len(reasons),
        kept=len(kept),
        rejected={**{k: n for k, n in matching.unmatched.items() if n}, **dict(sorted(refused.items()))},
        scene_pairs=len(scenes),
        scene_pairs_told=len(told),
        pixel_m=max(corpus.streams[name].gsd_m for name in streams),
        config=config.to_json(),
        corpus_fingerprint=corpus.fingerprint,
    )
    return Pairing(
        report,
        kept,
        table.filter(pa.array([bool(reason) for reason in reasons], pa.bool_())),
        _tabulate_scenes(matching, scenes, config),
    )


def _strip_numbers(reason: str) -> str:
    """One reason for all scenes that were moved too far, however far."""
    return "scenes shifted too far" if reason.startswith("scenes shifted") else reason


def _tabulate_shifts(scenes: Sequence[_Scene], config: PairConfig) -> dict[str, npt.NDArray[np.float64]]:
    """Shifts of pairs of products as they are written, one per scene: NaN where they could not be told."""
    shifts = [
        (scene.shift.row_px, scene.shift.col_px) if _is_told(scene, config) else (np.nan, np.nan) for scene in scenes
    ]
    rows, columns = np.array(shifts, dtype=np.float64).reshape(-1, 2).T
    score = np.array([scene.shift.score for scene in scenes], dtype=np.float64)
    return {"shift_row_px": rows, "shift_col_px": columns, "shift_score": score}


def _tabulate_scenes(matching: Matching, scenes: list[_Scene], config: PairConfig) -> pa.Table:
    table, days = matching.match.table, matching.match.days
    first = [scene.start for scene in scenes]
    of_places = config.shift_of == "places"
    left_out = {"location_id"} if not of_places else {"product_a", "product_b"}
    names = ("product_a", "product_b", "location_id", "orbit_a", "orbit_b")
    none = pa.array([""] * len(first), pa.string())
    return pa.table(
        {
            **{name: none if name in left_out else table[name].take(pa.array(first, pa.int64())) for name in names},
            "days": np.array([np.median(days[scene.start : scene.stop]) for scene in scenes], dtype=np.float64),
            "pixels": pa.array([scene.shift.pixels for scene in scenes], pa.int64()),
            "tiles": pa.array([scene.shift.tiles for scene in scenes], pa.int64()),
            "overlap": np.array([float(scene.overlap.mean()) for scene in scenes], dtype=np.float64),
            **_tabulate_shifts(scenes, config),
            "kept": pa.array([sum(not reason for reason in scene.reasons) for scene in scenes], pa.int64()),
        }
    )


def write_pairs(folder: Path, pairs: Pairing) -> str:
    """Write the tables and the report of a pairing; return its fingerprint. The caller's manifest finishes the product.

    Raises:
        UserError: the folder cannot be written.
    """
    for name, table in ((PAIRS, pairs.kept), (REJECTED, pairs.rejected), (SCENES, pairs.scenes)):
        data = io.BytesIO()
        pq.write_table(table, data)
        commit(folder / name, data.getvalue())
    commit(folder / REPORT, json.dumps(asdict(pairs.report), indent=1, allow_nan=False).encode())
    return _hash_pairs(pairs)


def _hash_pairs(pairs: Pairing) -> str:
    rows = [pairs.kept["row_a"].to_pylist(), pairs.kept["row_b"].to_pylist()]
    return fingerprint(
        {
            "corpus": pairs.report.corpus_fingerprint,
            "streams": [pairs.report.stream_a, pairs.report.stream_b],
            "rows": rows,
        }
    )


def read_pairs(folder: Path, *, expected: str | None = None) -> Pairing:
    """Return the pairing that :func:`write_pairs` wrote.

    Args:
        folder: of the pairs.
        expected: fingerprint in its manifest, to compare the pairs with.

    Raises:
        UserError: a file is absent or damaged, or the pairs are others.
    """
    remedy = "remove the folder and pair again"
    try:
        value = read_json(folder / REPORT, remedy=remedy)
    except FileNotFoundError as error:
        raise explain_read_error(error, folder / REPORT, remedy=remedy) from error
    report = build_record(PairReport, value, at=str(folder / REPORT), remedy=remedy)
    kept, rejected, scenes = (read_parquet(folder / name, remedy=remedy) for name in (PAIRS, REJECTED, SCENES))
    pairs = Pairing(report, kept, rejected, scenes)
    with explain_content("pairs", at=str(folder), remedy=remedy):
        same = expected is None or _hash_pairs(pairs) == expected
    expect(same, expected=f"the pairs that were made in {folder}", got="others", remedy=remedy)
    return pairs

"""Snapshots: numbered, immutable lists of fragments. A reader opens one and never sees another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eo_ssl.corpus import index
from eo_ssl.corpus.fragments import Recipe
from eo_ssl.corpus.statistics import BandStats, merge_all
from eo_ssl.corpus.streams import Stream
from eo_ssl.errors import UserError
from eo_ssl.manifest import SCHEMA_VERSION, canonical_json, commit, fault, sync_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One fragment of a snapshot: all that a reader needs to find its rows."""

    name: str
    product_id: str
    kind: str
    card: str
    stream: str
    rows: int
    tiles_per_shard: int
    codec: str
    encoding: dict[str, Any]
    counts: dict[str, int]
    nbytes: int

    @classmethod
    def of(cls, recipe: Recipe, stream: str) -> Entry:
        """Return the entry of a finished fragment."""
        names = ("name", "product_id", "kind", "card", "rows", "tiles_per_shard", "encoding", "counts", "nbytes")
        return cls(**{name: getattr(recipe, name) for name in names}, stream=stream, codec=recipe.config["codec"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What ``snapshots/000001.json`` holds."""

    number: int
    fingerprint: str
    streams: dict[str, dict[str, Any]]
    statistics: dict[str, list[dict[str, Any]]]
    "stream -> statistics of its training split, one per quantity"
    fragments: list[dict[str, Any]]
    "entries sorted by name; the global row of a tile is a prefix sum over this order"
    schema_version: int = SCHEMA_VERSION

    @property
    def entries(self) -> list[Entry]:
        """The fragments in order."""
        return [Entry(**value) for value in self.fragments]


def numbers(out: Path) -> list[int]:
    """Return the numbers of the snapshots that exist, ascending."""
    return sorted(int(path.stem) for path in (out / "snapshots").glob("*.json") if path.stem.isdigit())


def load(out: Path, number: int | None = None) -> Snapshot:
    """Return snapshot ``number``, or the newest.

    Raises:
        UserError: there is none, or it is of another schema.
    """
    known = numbers(out)
    if not known:
        raise UserError(
            f"expected a corpus with a snapshot at {out}, got none; make it (or finish it) with `eo-ssl ingest`"
        )
    chosen = known[-1] if number is None else number
    if chosen not in known:
        raise UserError(
            f"expected a snapshot of {out} out of {', '.join(map(str, known))}, got {chosen}; choose one of them"
        )
    path = out / "snapshots" / f"{chosen:06d}.json"
    value = json.loads(path.read_bytes())
    if value.get("schema_version") not in (SCHEMA_VERSION, SCHEMA_VERSION - 1):
        raise UserError(
            f"expected schema version {SCHEMA_VERSION} in {path}, got {value.get('schema_version')}; ingest again with this version"
        )
    return Snapshot(**value)


def publish(out: Path, fresh: Sequence[Recipe], *, replaced: Iterable[tuple[str, str]] = ()) -> Snapshot:
    """Commit the next snapshot: the newest one's fragments, less those superseded, and ``fresh``; return it.

    A fragment is superseded when a fresh one is of the same card and product, or when ``replaced`` names its (card, product). When
    nothing changes the newest snapshot is returned. Of two racing writers the loser reads the winner's snapshot and tries again, so
    both sets of fragments are in the end listed.
    """
    sync_folder(out / "fragments")
    gone = {(recipe.card, recipe.product_id) for recipe in fresh} | set(replaced)
    added = {recipe.name: Entry.of(recipe, Stream.from_json(recipe.stream).name) for recipe in fresh}
    while True:
        known = numbers(out)
        latest = load(out, known[-1]) if known else None
        old = latest.entries if latest else []
        kept = {entry.name: entry for entry in old if (entry.card, entry.product_id) not in gone}
        entries = sorted({**kept, **added}.values(), key=lambda entry: entry.name)
        if latest is not None and [entry.name for entry in entries] == [entry.name for entry in old]:
            return latest
        snapshot = _describe(out, entries, number=(known[-1] if known else 0) + 1)
        fault("before-snapshot")
        if commit(out / "snapshots" / f"{snapshot.number:06d}.json", canonical_json(asdict(snapshot)).encode()):
            return snapshot


def _describe(out: Path, entries: Sequence[Entry], *, number: int) -> Snapshot:
    """Return the snapshot of ``entries``: fingerprint over all tiles, statistics merged from the fragments."""
    folders = [out / "fragments" / entry.name for entry in entries]
    streams: dict[str, dict[str, Any]] = {}
    parts: dict[str, list[BandStats]] = {}
    for entry, folder in zip(entries, folders, strict=True):
        if entry.stream not in streams:
            streams[entry.stream] = json.loads((folder / "fragment.json").read_bytes())["stream"]
        found = [BandStats.from_json(value) for value in json.loads((folder / "statistics.json").read_bytes())]
        parts[entry.stream] = merge_all([*parts.get(entry.stream, []), *found])
    rows = sum(entry.rows for entry in entries)
    return Snapshot(
        number=number,
        fingerprint=index.fingerprint([folder / "index.parquet" for folder in folders], rows=rows),
        streams=dict(sorted(streams.items())),
        statistics={name: [part.to_json() for part in parts[name]] for name in sorted(parts)},
        fragments=[asdict(entry) for entry in entries],
    )

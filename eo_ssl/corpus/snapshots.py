"""Snapshots: numbered, immutable lists of fragments. A reader opens one and never sees another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.commits import check_fault
from eo_ssl.corpus import index
from eo_ssl.corpus.fragments import FragmentManifest, locate_fragment
from eo_ssl.corpus.statistics import BandStats, merge_strata
from eo_ssl.corpus.store import Place, Store, open_store
from eo_ssl.corpus.streams import Stream
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import dump_canonical_json
from eo_ssl.manifest import MANIFEST, SCHEMA_VERSION, check_schema

FOLDER = "snapshots"


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentEntry:
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
    content: str = ""

    @property
    def folder(self) -> str:
        """Where its files lie in the corpus."""
        return locate_fragment(self.name, self.content)

    @classmethod
    def of(cls, manifest: FragmentManifest) -> FragmentEntry:
        """Return the entry of a finished fragment."""
        names = (
            "name",
            "product_id",
            "kind",
            "card",
            "rows",
            "tiles_per_shard",
            "encoding",
            "counts",
            "nbytes",
            "content",
        )
        stream = Stream.from_json(manifest.stream).name
        return cls(**{name: getattr(manifest, name) for name in names}, stream=stream, codec=manifest.config["codec"])


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
    cards: dict[str, Any] = field(default_factory=dict)
    "card -> fingerprint of the card and ingest configuration, as the manifest repeats them"
    inputs: dict[str, str] = field(default_factory=dict)
    "card -> fingerprint over its products"
    schema_version: int = SCHEMA_VERSION

    @property
    def counts(self) -> dict[str, int]:
        """Tiles that were planned and kept, and those left out by reason."""
        totals = dict.fromkeys(("planned", "kept", "invalid", "cloudy"), 0)
        for entry in self.fragments:
            totals |= {reason: totals.get(reason, 0) + count for reason, count in entry["counts"].items()}
        return totals

    @property
    def entries(self) -> list[FragmentEntry]:
        """The fragments in order."""
        return [FragmentEntry(**value) for value in self.fragments]


def list_snapshots(place: Place | Store) -> list[int]:
    """Return the numbers of the snapshots that exist, ascending."""
    parts = (name.partition(".") for name in open_store(place).names(FOLDER))
    return sorted(int(stem) for stem, _, kind in parts if kind == "json" and stem.isdigit())


def load_snapshot(place: Place | Store, number: int | None = None) -> Snapshot:
    """Return snapshot ``number``, or the newest.

    Raises:
        UserError: there is none, or it is of another schema.
    """
    store = open_store(place)
    known = list_snapshots(store)
    if not known:
        raise UserError(
            f"expected a corpus with a snapshot at {store}, got none; make it (or finish it) with `eo-ssl ingest`"
        )
    chosen = known[-1] if number is None else number
    if chosen not in known:
        raise UserError(
            f"expected a snapshot of {store} out of {', '.join(map(str, known))}, got {chosen}; choose one of them"
        )
    value = json.loads(store.read(_key(chosen)))
    check_schema(value, at=f"{store}/{_key(chosen)}", remedy="ingest again with this version")
    if "cards" not in value:  # an earlier version kept them in the manifest alone
        recorded = (
            json.loads(store.read(MANIFEST)) if MANIFEST in store.names("") else {"config": {"cards": {}}, "inputs": {}}
        )
        value |= {"cards": recorded["config"]["cards"], "inputs": recorded["inputs"]}
    return Snapshot(**value)


def _key(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a run brings to the corpus."""

    entries: Sequence[FragmentEntry]
    "fragments of the run's products"
    streams: Mapping[str, dict[str, Any]]
    "of those fragments, by name"
    replaced: frozenset[tuple[str, str]]
    "further (card, product) pairs whose fragments must not stay"
    cards: Mapping[str, dict[str, Any]]
    inputs: Mapping[str, str]


def publish(store: Store, change: Change) -> Snapshot:
    """Commit the next snapshot, the newest one's fragments with ``change`` made to them, and return it.

    A fragment is superseded when one of the change is of the same card and product, or when ``replaced`` names its
    (card, product). When nothing changes the newest snapshot is returned. Of two racing writers the loser reads the
    winner's snapshot and tries again, so both sets of fragments are in the end listed.
    """
    store.fsync_names("fragments")
    gone = {(entry.card, entry.product_id) for entry in change.entries} | change.replaced
    added = {entry.name: entry for entry in change.entries}
    while True:
        known = list_snapshots(store)
        latest = load_snapshot(store, known[-1]) if known else None
        old = latest.entries if latest else []
        kept = {entry.name: entry for entry in old if (entry.card, entry.product_id) not in gone}
        entries = sorted({**kept, **added}.values(), key=lambda entry: entry.name)
        cards = {**(latest.cards if latest else {}), **change.cards}
        inputs = {**(latest.inputs if latest else {}), **change.inputs}
        same = latest is not None and [entry.name for entry in entries] == [entry.name for entry in old]
        if latest is not None and same and (cards, inputs) == (latest.cards, latest.inputs):
            return latest
        streams = {**(latest.streams if latest else {}), **change.streams}
        used = sorted({entry.stream for entry in entries})
        snapshot = Snapshot(
            number=(known[-1] if known else 0) + 1,
            fingerprint=latest.fingerprint if latest is not None and same else compute_fingerprint(store, entries),
            streams={name: streams[name] for name in used},
            statistics=_statistics(store, entries, latest),
            fragments=[asdict(entry) for entry in entries],
            cards=cards,
            inputs=inputs,
        )
        check_fault("before-snapshot")
        if store.create(_key(snapshot.number), dump_canonical_json(asdict(snapshot)).encode()):
            return snapshot


def compute_fingerprint(store: Store, entries: Sequence[FragmentEntry], *, from_index: bool = False) -> str:
    """Return the fingerprint over all tiles of ``entries``, from the digests beside each index or from the indexes."""
    file = "index.parquet" if from_index else index.DIGESTS

    def rows() -> Iterator[npt.NDArray[np.uint8]]:
        for entry, data in zip(entries, store.read_many([f"{entry.folder}/{file}" for entry in entries]), strict=True):
            yield (
                index.hash_rows(pq.read_table(pa.BufferReader(data)))
                if from_index
                else index.unpack_digests(data, entry.name)
            )

    try:
        return index.hash_digests(rows, rows=sum(entry.rows for entry in entries))
    except FileNotFoundError:
        if from_index:
            raise
        return compute_fingerprint(store, entries, from_index=True)  # fragments of an earlier version keep no digests


def _statistics(
    store: Store, entries: Sequence[FragmentEntry], latest: Snapshot | None
) -> dict[str, list[dict[str, Any]]]:
    """Return the statistics of ``entries`` by stream.

    Those of ``latest`` and of what was added, or of all where something has gone.
    """
    names = {entry.name for entry in entries}
    old = {entry.name for entry in latest.entries} if latest else set()
    parts: dict[str, list[BandStats]] = {}
    if latest is not None and old <= names:
        parts = {name: [BandStats.from_json(value) for value in values] for name, values in latest.statistics.items()}
        entries = [entry for entry in entries if entry.name not in old]
    files = store.read_many([f"{entry.folder}/statistics.json" for entry in entries])
    for entry, data in zip(entries, files, strict=True):
        values = [BandStats.from_json(value) for value in json.loads(data)]
        parts[entry.stream] = merge_strata([*parts.get(entry.stream, []), *values])
    return {name: [part.to_json() for part in parts[name]] for name in sorted(parts)}

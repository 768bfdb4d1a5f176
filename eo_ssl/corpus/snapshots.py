"""Snapshots: numbered, immutable lists of fragments. A reader opens one and never sees another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from eo_ssl.commits import check_fault, explain_read_error
from eo_ssl.corpus import fragments, index
from eo_ssl.corpus.fragments import FragmentManifest, locate_fragment
from eo_ssl.corpus.shards import ChunkChecksum
from eo_ssl.corpus.statistics import BandStats, merge_strata
from eo_ssl.corpus.store import Place, Store, open_store
from eo_ssl.corpus.streams import Stream
from eo_ssl.documents import build_record, explain_content, is_signed, parse_json, sign_json
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import dump_canonical_json
from eo_ssl.manifest import MANIFEST, SCHEMA_VERSION, check_schema

FOLDER = "snapshots"
_MOST = 2**40  # tiles, of a fragment or a shard
_REMEDY = "restore that file, or remove it and run the same ingest again"


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentEntry:
    """One fragment of a snapshot: all that a reader needs to find its rows."""

    name: str
    product_id: str
    kind: str
    card: str
    stream: str
    rows: Annotated[int, Field(ge=0, lt=_MOST)]
    tiles_per_shard: Annotated[int, Field(ge=1, lt=_MOST)]
    codec: str
    encoding: dict[str, Any]
    counts: dict[str, int]
    nbytes: Annotated[int, Field(ge=0)]
    content: str = ""
    chunk_checksum: ChunkChecksum = ""
    acquisition: str = ""

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
            "chunk_checksum",
            "acquisition",
        )
        stream = _name_stream(dump_canonical_json(manifest.stream))
        return cls(**{name: getattr(manifest, name) for name in names}, stream=stream, codec=manifest.config["codec"])


@lru_cache(maxsize=256)  # thousands of fragments have a few streams
def _name_stream(text: str) -> str:
    return Stream.from_json(json.loads(text)).name


@dataclass(frozen=True, kw_only=True)  # no slots: its entries are checked once
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

    @cached_property
    def entries(self) -> list[FragmentEntry]:
        """The fragments in order."""
        return _build_entries(self.fragments, f"snapshot {self.number}")


def list_snapshots(place: Place | Store) -> list[int]:
    """Return the numbers of the snapshots that exist, ascending."""
    parts = (name.partition(".") for name in open_store(place).names(FOLDER))
    return sorted(int(stem) for stem, _, kind in parts if kind == "json" and stem.isdigit())


def load_snapshot(place: Place | Store, number: int | None = None) -> Snapshot:
    """Return snapshot ``number``, or the newest.

    Raises:
        UserError: there is none, it is of another schema, or the newest one has gone.
    """
    store = open_store(place)
    described = _read_described(store) if number is None else 0  # before the list: a run may add one meanwhile
    known = list_snapshots(store)
    if not known:
        raise UserError(
            f"expected a corpus with a snapshot at {store}, got none; make it (or finish it) with `eo-ssl ingest`"
        )
    chosen = known[-1] if number is None else number
    expect(
        chosen >= described,
        expected=f"snapshot {described} of {store}, which its manifest describes",
        got=f"{chosen} as the newest",
        remedy="restore it, or run the ingests that made it again",
    )
    if chosen not in known:
        raise UserError(
            f"expected a snapshot of {store} out of {', '.join(map(str, known))}, got {chosen}; choose one of them"
        )
    at = f"{store}/{_key(chosen)}"
    try:
        data = store.read(_key(chosen))
    except OSError as error:
        raise explain_read_error(error, at, remedy=_REMEDY) from error
    value = parse_json(data, at=at, remedy=_REMEDY)
    check_schema(value, at=at, remedy="ingest again with this version")
    if "cards" not in value:  # an earlier version kept them in the manifest alone
        value |= _read_recorded(store)
    snapshot = build_record(Snapshot, value, at=at, remedy=_REMEDY)
    snapshot.__dict__["entries"] = _build_entries(snapshot.fragments, at)
    expect(snapshot.number == chosen, expected=f"snapshot {chosen} in {at}", got=snapshot.number, remedy=_REMEDY)
    if not is_signed(data):
        _check_unsigned(store, snapshot, at)
    return snapshot


def _read_described(store: Store) -> int:
    """Return the number of the snapshot that the manifest of a corpus describes; 0 without a manifest."""
    try:
        data = store.read(MANIFEST)
    except FileNotFoundError:
        return 0
    at = f"{store}/{MANIFEST}"
    with explain_content("the number of a snapshot", at=at, remedy=_REMEDY):
        return int(parse_json(data, at=at, remedy=_REMEDY)["summary"].get("snapshot", 0))  # 0: of another stage


def _read_recorded(store: Store) -> dict[str, Any]:
    """Return cards and inputs as the manifest of a corpus has them."""
    if MANIFEST not in store.names(""):
        return {"cards": {}, "inputs": {}}
    at = f"{store}/{MANIFEST}"
    recorded = parse_json(store.read(MANIFEST), at=at, remedy=_REMEDY)
    with explain_content("cards and inputs", at=at, remedy=_REMEDY):
        return {"cards": recorded["config"]["cards"], "inputs": recorded["inputs"]}


def _build_entries(values: Sequence[Mapping[str, Any]], at: str) -> list[FragmentEntry]:
    return [build_record(FragmentEntry, value, at=at, remedy=_REMEDY) for value in values]


def is_guarded(store: Store, number: int) -> bool:
    """Return whether snapshot ``number`` is signed; those of version 0.1 are not."""
    return is_signed(store.read(_key(number)))


def _check_unsigned(store: Store, snapshot: Snapshot, at: str) -> None:
    """Compare a snapshot of version 0.1, which no signature guards, with its fragments and build all that it holds."""
    for entry in snapshot.entries:
        read_fragment(store, entry)
    with explain_content("streams and statistics", at=at, remedy=_REMEDY):
        bands = {name: Stream.from_json(value).bands for name, value in snapshot.streams.items()}
        known = {name: [BandStats.from_json(part) for part in parts] for name, parts in snapshot.statistics.items()}
    expect(
        {entry.stream for entry in snapshot.entries} == set(bands) == set(known)
        and all(part.bands == bands[name] for name, parts in known.items() for part in parts),
        expected=f"statistics of the bands of each stream in {at}",
        got="others",
        remedy=_REMEDY,
    )


def read_fragment(store: Store, entry: FragmentEntry) -> FragmentManifest:
    """Return the manifest of a fragment that a snapshot lists.

    Raises:
        UserError: it is absent, damaged or another than the one that is listed.
    """
    manifest = fragments.read(store, entry.name)
    at, remedy = f"{store}/fragments/{entry.name}", fragments.explain_remedy(store, entry.name)
    with explain_content("a fragment", at=at, remedy=remedy):
        same = FragmentEntry.of(manifest) == entry
    expect(same, expected=f"{at} as the snapshot lists it", got="another fragment", remedy=remedy)
    return manifest


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
        same = latest is not None and entries == old
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
        if write_snapshot(store, snapshot):
            return snapshot


def write_snapshot(store: Store, snapshot: Snapshot) -> bool:
    """Commit a snapshot under its number, signed; return False where another has that number."""
    return store.create(_key(snapshot.number), sign_json(asdict(snapshot)))


def compute_fingerprint(store: Store, entries: Sequence[FragmentEntry], *, from_index: bool = False) -> str:
    """Return the fingerprint over all tiles of ``entries``, from the digests beside each index or from the indexes."""
    manifests = [read_fragment(store, entry) for entry in entries]
    sources = [  # fragments of schema 1 keep no digests
        index.INDEX if from_index or index.DIGESTS not in manifest.files else index.DIGESTS for manifest in manifests
    ]

    def rows() -> Iterator[npt.NDArray[np.uint8]]:
        files = fragments.read_files(store, list(zip(manifests, sources, strict=True)))
        for manifest, source, data in zip(manifests, sources, files, strict=True):
            yield (
                index.unpack_digests(data, manifest.name)
                if source == index.DIGESTS
                else index.hash_rows(pq.read_table(pa.BufferReader(data)))
            )

    return index.hash_digests(rows, rows=sum(entry.rows for entry in entries))


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
    files = fragments.read_files(store, [(read_fragment(store, entry), "statistics.json") for entry in entries])
    for entry, data in zip(entries, files, strict=True):
        values = [BandStats.from_json(value) for value in json.loads(data)]
        parts[entry.stream] = merge_strata([*parts.get(entry.stream, []), *values])
    return {name: [part.to_json() for part in parts[name]] for name in sorted(parts)}

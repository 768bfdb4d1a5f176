"""A corpus as its readers see it: one snapshot, its streams, index and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads

from eo_ssl.commits import explain_read_error
from eo_ssl.corpus import fragments, index, provenance, quarantine, snapshots
from eo_ssl.corpus.reader import StreamReader
from eo_ssl.corpus.statistics import BandStats
from eo_ssl.corpus.store import LocalStore, Place, Store, open_store
from eo_ssl.corpus.streams import Stream
from eo_ssl.documents import build_record, parse_json
from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.manifest import MANIFEST, Manifest
from eo_ssl.sensors import Quantity


class Corpus:
    """One snapshot of a corpus.

    It pickles as its address and the snapshot's number and opens nothing before it is asked.
    """

    def __init__(self, store: Store, snapshot: int) -> None:
        self.store = store
        self.snapshot = snapshot

    @property
    def root(self) -> Path | Store:
        """Folder of the corpus, or its object store; both have a ``name`` and an address as text."""
        return self.store.path if isinstance(self.store, LocalStore) else self.store

    @classmethod
    def open(cls, place: Place | Store, *, snapshot: int | None = None) -> Corpus:
        """Return the newest snapshot of the corpus, or the one asked for.

        Args:
            place: a folder, or an address such as ``file:///data/corpus`` or ``s3://bucket/prefix``.
            snapshot: number of the snapshot.

        Raises:
            UserError: there is no such corpus or snapshot, or the address is of another kind.
        """
        store = open_store(place)
        content = snapshots.load_snapshot(store, snapshot)
        corpus = cls(store, content.number)
        corpus.__dict__["_content"] = content
        return corpus

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.store, self.snapshot)

    def __repr__(self) -> str:
        return f"Corpus({str(self.store)!r}, snapshot={self.snapshot})"

    @cached_property
    def _content(self) -> snapshots.Snapshot:
        return snapshots.load_snapshot(self.store, self.snapshot)

    @cached_property
    def _entries(self) -> list[snapshots.FragmentEntry]:
        return self._content.entries

    @property
    def fingerprint(self) -> str:
        """Sha256 over all tiles: ids, pixels and quality, whatever their order and files."""
        return self._content.fingerprint

    @cached_property
    def streams(self) -> dict[str, Stream]:
        """The streams by name."""
        return {name: Stream.from_json(value) for name, value in self._content.streams.items()}

    def stream(self, name: str) -> StreamReader:
        """Return a reader of the tiles of one stream.

        Raises:
            UserError: there is no such stream.
        """
        return StreamReader(self.store, self._stream(name), self._entries)

    def _stream(self, name: str) -> Stream:
        if name not in self.streams:
            raise UserError(
                f"expected a stream of {self.store} out of {', '.join(self.streams)}, got "
                f"{name!r}{suggest_nearest(name, self.streams)}"
            )
        return self.streams[name]

    def count(self, stream: str) -> int:
        """Return how many tiles a stream has, without opening a file."""
        self._stream(stream)
        return sum(entry.rows for entry in self._entries if entry.stream == stream)

    def tilings(self, stream: str) -> set[str]:
        """Return how the tiles of a stream were cut: native, grid, or both."""
        self._stream(stream)
        by_card = {entry.card: entry for entry in self._entries if entry.stream == stream}
        return {str(snapshots.read_fragment(self.store, entry).config["tiling"]) for entry in by_card.values()}

    def dataset(self, stream: str) -> pads.Dataset:
        """Return the index of a stream as a lazy pyarrow dataset; its row order is the global row order."""
        self._stream(stream)
        return self._dataset([entry for entry in self._entries if entry.stream == stream])

    def _dataset(self, entries: Sequence[snapshots.FragmentEntry]) -> pads.Dataset:
        self._check_indexes(entries)
        files, home = self.store.dataset_root()
        paths = [f"{home}/{entry.folder}/{index.INDEX}" for entry in entries]
        return pads.dataset(paths, schema=index.SCHEMA, format="parquet", filesystem=files)

    def _check_indexes(self, entries: Sequence[snapshots.FragmentEntry]) -> None:
        """Compare index files with what the fragments say of them, each once; a dataset would fill gaps with nulls."""
        for entry in entries:
            if entry.name not in self._whole:
                fragments.check_file(self.store, snapshots.read_fragment(self.store, entry), index.INDEX)
                self._whole.add(entry.name)

    @cached_property
    def _whole(self) -> set[str]:
        return set()

    def index(
        self, stream: str, *, columns: Sequence[str] | None = None, rows: npt.NDArray[np.integer[Any]] | None = None
    ) -> pa.Table:
        """Return index columns of a stream; row i describes tile i of ``stream(stream).read([i])``.

        Args:
            stream: name of the stream.
            columns: names of columns; all if not given.
            rows: int [n], rows wanted, in this order; all if not given. Only the files that hold them are read.

        Raises:
            UserError: an unknown stream or column, or a row out of range.
        """
        unknown = [name for name in columns or () if name not in index.SCHEMA.names]
        if unknown:
            raise UserError(
                f"expected columns of the index, got {unknown[0]!r}{suggest_nearest(unknown[0], index.SCHEMA.names)}"
            )
        chosen = None if columns is None else list(columns)
        self._stream(stream)
        entries = [entry for entry in self._entries if entry.stream == stream]
        if rows is None:
            return self._read_index(entries, chosen)
        first = np.concatenate([[0], np.cumsum([entry.rows for entry in entries], dtype=np.int64)])
        wanted = np.asarray(rows)
        if wanted.size and (wanted.dtype.kind not in "iu" or wanted.min() < 0 or wanted.max() >= first[-1]):
            raise UserError(
                f"expected rows of {stream} from 0 to {first[-1] - 1}, got {wanted.dtype} beyond them; take rows of "
                "its index"
            )
        if not wanted.size:
            return index.SCHEMA.empty_table().select(chosen or index.SCHEMA.names)
        owner = np.searchsorted(first, wanted, side="right") - 1
        used = np.unique(owner)
        begin = np.concatenate([[0], np.cumsum(np.diff(first)[used])])
        table = self._read_index([entries[number] for number in used.tolist()], chosen)
        return table.take(pa.array(begin[np.searchsorted(used, owner)] + wanted - first[owner]))

    def _read_index(self, entries: Sequence[snapshots.FragmentEntry], columns: list[str] | None) -> pa.Table:
        remedy = "ingest the corpus again"
        try:
            table = self._dataset(entries).to_table(columns=columns)
        except OSError as error:
            raise explain_read_error(error, f"the indexes of {self.store}", remedy=remedy) from error
        rows = sum(entry.rows for entry in entries)
        expect(len(table) == rows, expected=f"{rows} rows in {self.store}", got=len(table), remedy=remedy)
        return table

    def statistics(self, stream: str, quantity: str | Quantity | None = None) -> BandStats:
        """Return the statistics of a stream's training split, in its own quantity or, for a power, in dB.

        Raises:
            UserError: an unknown stream, or a quantity the stream has no statistics in.
        """
        own = self._stream(stream).quantity
        wanted = own if quantity is None else Quantity(quantity)
        known = [BandStats.from_json(value) for value in self._content.statistics[stream]]
        for stats in known:
            if stats.quantity is wanted:
                return stats
        raise UserError(
            f"expected statistics of {stream} in {', '.join(stats.quantity.value for stats in known)}, got "
            f"{wanted.value}; name one of them"
        )

    def describe(self) -> dict[str, Any]:
        """Return what a report says of the corpus, as plain values: counts, bytes, products and what was put aside."""
        entries = self._entries
        rows = {name: self.count(name) for name in self.streams}
        products = [
            {
                "product_id": entry.product_id,
                "card": entry.card,
                "stream": entry.stream,
                "tiles": entry.rows,
                "nbytes": entry.nbytes,
                **entry.counts,
            }
            for entry in sorted(entries, key=lambda entry: entry.product_id)
        ]
        return {
            "root": str(self.store),
            "snapshot": self.snapshot,
            "fingerprint": self.fingerprint,
            "tiles": sum(rows.values()),
            "nbytes": sum(entry.nbytes for entry in entries),
            "counts": self._content.counts,
            "streams": {name: {**self.streams[name].to_json(), "tiles": rows[name]} for name in self.streams},
            "products": products,
            "licences": (licences := self.licences()),
            "non_commercial": any(licence["non_commercial"] for licence in licences),
            "quarantine": self.quarantine(),
        }

    def licences(self) -> list[dict[str, Any]]:
        """Return licence, attribution and tiles of each card, and whether the licence is non-commercial."""
        return provenance.list_licences(self.store, self._entries)

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return, by card, configuration, card fingerprint, code and schema that its tiles were made with."""
        return provenance.list_settings(self.store, self._entries)

    def provenance(self, stream: str, row: int) -> dict[str, Any]:
        """Return all that is known of one tile.

        Product and checksum, window, quality, licence, and the code and settings that made it.

        Raises:
            UserError: an unknown stream, or a row out of range.
        """
        (tile,) = self.index(stream, rows=np.array([row])).to_pylist()
        first = np.cumsum([0, *(entry.rows for entry in self._entries if entry.stream == stream)])
        number = int(np.searchsorted(first, row, side="right")) - 1
        entry = [entry for entry in self._entries if entry.stream == stream][number]
        manifest = snapshots.read_fragment(self.store, entry)
        return provenance.describe(tile, manifest, number=row - int(first[number]))

    def manifest(self) -> Manifest:
        """Return the manifest of the corpus, which describes its newest snapshot.

        Raises:
            UserError: the run that was to write it has not finished.
        """
        remedy = "run the same ingest again"
        try:
            value = parse_json(self.store.read(MANIFEST), at=f"{self.store}/{MANIFEST}", remedy=remedy)
            return build_record(Manifest, value, at=f"{self.store}/{MANIFEST}", remedy=remedy)
        except FileNotFoundError as error:
            raise UserError(
                f"expected a finished corpus at {self.store}, got an unfinished one; run `eo-ssl ingest` again to "
                "finish it"
            ) from error

    def quarantine(self) -> list[dict[str, Any]]:
        """Return what was put aside with its reason: products, and damaged chips of those that were not."""
        damaged = [snapshots.read_fragment(self.store, entry) for entry in self._entries if entry.counts.get("damaged")]
        chips = [
            {"product_id": manifest.product_id, "card": manifest.card, "chip": name, "reason": reason}
            for manifest in damaged
            for name, reason in manifest.refused
        ]
        return quarantine.read(self.store) + chips

    def verify(self) -> list[str]:
        """Return what is wrong with the files of the snapshot and its fingerprint, one sentence each.

        Reads every byte.
        """
        wrong = []
        for entry in self._entries:
            try:
                wrong += fragments.verify(self.store, snapshots.read_fragment(self.store, entry))
            except UserError as error:
                wrong.append(str(error))
        if not wrong:
            actual = snapshots.compute_fingerprint(self.store, self._entries, from_index=True)
            if actual != self.fingerprint:
                wrong.append(
                    f"the fingerprint of {self.store} is {actual}, its snapshot {self.snapshot} says {self.fingerprint}"
                )
        return wrong

    def list_unchecked(self) -> list[str]:
        """Return what readers of the snapshot cannot compare with anything, one sentence each: that of version 0.1."""
        plain = sum(not entry.chunk_checksum for entry in self._entries)
        return [
            *([f"the pixels of {plain} of {len(self._entries)} fragments, when they are read"] if plain else []),
            *([] if snapshots.is_guarded(self.store, self.snapshot) else ["the statistics of the snapshot"]),
        ]

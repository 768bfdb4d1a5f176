"""A corpus as its readers see it: one snapshot, its streams, index and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from eo_ssl.corpus import fragments, index, quarantine, snapshots
from eo_ssl.corpus.reader import StreamReader
from eo_ssl.corpus.statistics import BandStats
from eo_ssl.corpus.streams import Stream
from eo_ssl.errors import UserError, nearest
from eo_ssl.sensors import Quantity


class Corpus:
    """One snapshot of a corpus. It pickles as its path and the snapshot's number and opens nothing before it is asked."""

    def __init__(self, root: Path, snapshot: int) -> None:
        self.root = root
        self.snapshot = snapshot

    @classmethod
    def open(cls, url_or_path: str | Path, *, snapshot: int | None = None) -> Corpus:
        """Return the newest snapshot of the corpus, or the one asked for.

        Raises:
            UserError: there is no such corpus or snapshot, or the address is no local path.
        """
        text = str(url_or_path).removeprefix("file://")
        if "://" in text:
            raise UserError(f"expected a corpus on a local or mounted disk, got {text!r}; copy it there")
        root = Path(text)
        found = snapshots.load(root, snapshot)
        corpus = cls(root.absolute(), found.number)
        corpus.__dict__["_content"] = found
        return corpus

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.root, self.snapshot)

    def __repr__(self) -> str:
        return f"Corpus({str(self.root)!r}, snapshot={self.snapshot})"

    @cached_property
    def _content(self) -> snapshots.Snapshot:
        return snapshots.load(self.root, self.snapshot)

    @cached_property
    def _entries(self) -> list[snapshots.Entry]:
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
        return StreamReader(self.root, self._stream(name), self._entries)

    def _stream(self, name: str) -> Stream:
        if name not in self.streams:
            raise UserError(
                f"expected a stream of {self.root} out of {', '.join(self.streams)}, got {name!r}{nearest(name, self.streams)}"
            )
        return self.streams[name]

    def count(self, stream: str) -> int:
        """Return how many tiles a stream has, without opening a file."""
        self._stream(stream)
        return sum(entry.rows for entry in self._entries if entry.stream == stream)

    def dataset(self, stream: str) -> pads.Dataset:
        """Return the index of a stream as a lazy pyarrow dataset; its row order is the global row order."""
        self._stream(stream)
        files = [
            str(self.root / "fragments" / entry.name / "index.parquet")
            for entry in self._entries
            if entry.stream == stream
        ]
        return pads.dataset(files, schema=index.SCHEMA, format="parquet")

    def index(self, stream: str, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return index columns of a stream; row i describes tile i of ``stream(stream).read([i])``.

        Raises:
            UserError: an unknown stream or column.
        """
        unknown = [name for name in columns or () if name not in index.SCHEMA.names]
        if unknown:
            raise UserError(
                f"expected columns of the index, got {unknown[0]!r}{nearest(unknown[0], index.SCHEMA.names)}"
            )
        return self.dataset(stream).to_table(columns=None if columns is None else list(columns))

    def statistics(self, stream: str, quantity: str | Quantity | None = None) -> BandStats:
        """Return the statistics of a stream's training split, in its own quantity or, for a power, in dB.

        Raises:
            UserError: an unknown stream, or a quantity the stream has no statistics in.
        """
        own = self._stream(stream).quantity
        wanted = own if quantity is None else Quantity(quantity)
        found = [BandStats.from_json(value) for value in self._content.statistics[stream]]
        for stats in found:
            if stats.quantity is wanted:
                return stats
        raise UserError(
            f"expected statistics of {stream} in {', '.join(stats.quantity.value for stats in found)}, got {wanted.value}; name one of them"
        )

    def describe(self) -> dict[str, Any]:
        """Return what a report says of the corpus, as plain values: counts, bytes, products and what was put aside."""
        entries = self._entries
        rows = {name: self.count(name) for name in self.streams}
        totals = {
            key: sum(entry.counts.get(key, 0) for entry in entries) for key in ("planned", "kept", "invalid", "cloudy")
        }
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
            "root": str(self.root),
            "snapshot": self.snapshot,
            "fingerprint": self.fingerprint,
            "tiles": sum(rows.values()),
            "nbytes": sum(entry.nbytes for entry in entries),
            "counts": totals,
            "streams": {name: {**self.streams[name].to_json(), "tiles": rows[name]} for name in self.streams},
            "products": products,
            "quarantine": self.quarantine(),
        }

    def quarantine(self) -> list[dict[str, Any]]:
        """Return the products that were put aside, each with its reason."""
        return quarantine.read(self.root)

    def verify(self) -> list[str]:
        """Return what is wrong with the files of the snapshot and its fingerprint, one sentence each; reads every byte."""
        folders = [self.root / "fragments" / entry.name for entry in self._entries]
        wrong = [sentence for folder in folders for sentence in fragments.verify(folder)]
        if not wrong:
            found = index.fingerprint(
                [folder / "index.parquet" for folder in folders], rows=sum(entry.rows for entry in self._entries)
            )
            if found != self.fingerprint:
                wrong.append(
                    f"the fingerprint of {self.root} is {found}, its snapshot {self.snapshot} says {self.fingerprint}"
                )
        return wrong

"""Random tiles at the speed of the machine: sorted and coalesced reads, decoded into given memory.

A shard of Zarr v3 is its chunks followed by a table of (offset, size) per chunk and a CRC-32C of the table. With the
table in memory a tile is one read, one comparison with the CRC-32C at the end of its chunk and one decode, without a
line of Python per chunk inside a library. Chunks of version 0.1 have no CRC-32C and are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from eo_ssl.corpus.fragments import explain_remedy
from eo_ssl.corpus.shardfiles import allocate_aligned as allocate_aligned
from eo_ssl.corpus.shardfiles import open_shards
from eo_ssl.corpus.shards import shard_path
from eo_ssl.corpus.snapshots import FragmentEntry
from eo_ssl.corpus.store import Place, Store, open_store
from eo_ssl.corpus.streams import Encoding, Stream
from eo_ssl.documents import explain_content
from eo_ssl.errors import UserError

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
_RUN_BYTES = 8_000_000  # largest coalesced read
_LARGEST = 2**48  # bytes, of a shard
_RESIDUE = 0x48674BC7  # CRC-32C of any bytes that are followed by their own CRC-32C


class StreamReader:
    """Reads the tiles of one stream of one snapshot by global row; it pickles without open files."""

    def __init__(self, place: Place | Store, stream: Stream, entries: Sequence[FragmentEntry]) -> None:
        self.stream = stream
        self._store = open_store(place)
        self._entries = [entry for entry in entries if entry.stream == stream.name]
        rows = np.array([entry.rows for entry in self._entries], dtype=np.int64)
        self._first = np.concatenate([[0], np.cumsum(rows)])
        self._per_shard = np.array([entry.tiles_per_shard for entry in self._entries], dtype=np.int64)
        shards = -(-rows // np.maximum(self._per_shard, 1))
        self._first_shard = np.concatenate([[0], np.cumsum(shards)])
        with explain_content("encodings", at=f"the snapshot of {self._store}", remedy="ingest the corpus again"):
            self._encodings = [Encoding(**entry.encoding) for entry in self._entries]
        self._has_checksum = [bool(entry.chunk_checksum) for entry in self._entries]
        dtypes = {encoding.dtype for encoding in self._encodings}
        if len(dtypes) > 1:
            raise UserError(
                f"expected one stored type in stream {stream.name}, got {', '.join(sorted(dtypes))}; keep chips and "
                "scenes in separate corpora"
            )
        self.dtype = np.dtype(next(iter(dtypes), "int16"))
        extra = self._encodings[0].extra_channels if self._encodings else 0
        self.stored_shape = (len(stream.bands) + extra, stream.size_px, stream.size_px)
        # No bound method: a reader that refers to itself would keep its files open until the garbage is collected.
        self._key = partial(_locate_shard, self._first_shard, [entry.folder for entry in self._entries], stream.name)
        self._raw_size = int(np.prod(self.stored_shape)) * self.dtype.itemsize
        self._reset()

    def _reset(self) -> None:
        # Memory of the tables becomes resident only where a shard's is read: rows nobody asks for cost address space.
        total = int(self._first[-1])
        self._offset = np.empty(total, dtype=np.int64)
        self._nbytes = np.empty(total, dtype=np.int32)
        self._known = np.zeros(int(self._first_shard[-1]), dtype=bool)
        self._files = open_shards(self._store, self._key)

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_offset", "_nbytes", "_known", "_files")
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, rows: npt.ArrayLike, *, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """Return tiles in physical units, float32 [n, C, H, W] in the order of ``rows``, NaN where invalid.

        Args:
            rows: int [n], global rows of this stream; repeats are allowed.
            out: memory to fill, float32 [n, C, H, W]; reusing it between batches is several times faster than fresh
                memory.

        Raises:
            UserError: a row is out of range, ``out`` does not fit, or a file is missing or damaged.
        """
        wanted = self._checked(rows)
        shape = (len(wanted), len(self.stream.bands), self.stream.size_px, self.stream.size_px)
        if out is None:
            out = allocate_aligned(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32:
            raise UserError(
                f"expected out of float32 {shape}, got {out.dtype} {out.shape}; allocate it with allocate_aligned"
            )
        stored = allocate_aligned(self.stored_shape, self.dtype)
        flat = stored.reshape(-1).view(np.uint8)
        for position, source, entry in self._chunks(wanted):
            if self._entries[entry].codec == "none":
                tile = source.view(self.dtype).reshape(self.stored_shape)
            else:
                self._decompress(source, flat, position, wanted)
                tile = stored
            self._encodings[entry].decode(tile, out[position])
        return out

    def read_stored(self, rows: npt.ArrayLike, *, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Return tiles as stored, [n, C (+ mask), H, W] of :attr:`dtype`, in the order of ``rows``.

        Raises as :meth:`read`.
        """
        wanted = self._checked(rows)
        shape = (len(wanted), *self.stored_shape)
        if out is None:
            out = allocate_aligned(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise UserError(
                f"expected contiguous out of {self.dtype} {shape}, got {out.dtype} {out.shape}; allocate it with "
                "allocate_aligned"
            )
        flat = out.reshape(len(wanted), int(np.prod(self.stored_shape))).view(np.uint8)
        for position, source, entry in self._chunks(wanted):
            if self._entries[entry].codec == "none":
                flat[position] = source
            else:
                self._decompress(source, flat[position], position, wanted)
        return out

    def _decompress(self, source: Bytes, out: Bytes, position: int, wanted: Rows) -> None:
        try:
            blosc.decompress(source, out)
        except RuntimeError as error:
            raise self._damaged(int(wanted[position]), "a chunk that cannot be decoded") from error

    def _damaged(self, row: int, got: str) -> UserError:
        """Return the sentence for a tile whose bytes are not those that were written."""
        entry = int(np.searchsorted(self._first, row, side="right")) - 1
        shard = int(self._first_shard[entry] + (row - self._first[entry]) // self._per_shard[entry])
        return UserError(
            f"expected tile {row} of {self.stream.name} as it was ingested, got {got} in {self._store}/"
            f"{self._key(shard)}; {explain_remedy(self._store, self._entries[entry].name)}"
        )

    def _checked(self, rows: npt.ArrayLike) -> Rows:
        given = np.atleast_1d(np.asarray(rows))
        if given.size and given.dtype.kind not in "iu":  # a mask would read as rows 0 and 1
            raise UserError(
                f"expected row numbers of {self.stream.name}, got {given.dtype}; use np.flatnonzero of a mask"
            )
        wanted = given.astype(np.int64)
        if wanted.ndim != 1 or (wanted.size and (wanted.min() < 0 or wanted.max() >= len(self))):
            extent = f" from {wanted.min()} to {wanted.max()}" if wanted.size else ""
            raise UserError(
                f"expected rows of {self.stream.name} from 0 to {len(self) - 1}, got shape {wanted.shape}{extent}; "
                "take rows of its index"
            )
        return wanted

    def _chunks(self, wanted: Rows) -> Iterator[tuple[int, Bytes, int]]:
        """Yield (position in the batch, encoded bytes, entry) of each wanted row in file order.

        The bytes live until the next.
        """
        entry = np.searchsorted(self._first, wanted, side="right") - 1
        shard = self._first_shard[entry] + (wanted - self._first[entry]) // self._per_shard[entry]
        self._load_tables(np.unique(shard[~self._known[shard]]).tolist())
        offset, nbytes = self._offset[wanted], self._nbytes[wanted]
        order = np.lexsort((offset, shard))
        starts, sizes = offset[order].tolist(), nbytes[order].tolist()
        files, owners, positions = shard[order].tolist(), entry[order].tolist(), order.tolist()
        runs = _runs(files, starts, sizes)
        spans = [(files[first], starts[first], starts[last - 1] + sizes[last - 1]) for first, last in runs]
        checked, crc32c, raw_size = self._has_checksum, google_crc32c.value, self._raw_size
        for (first, last), view in zip(runs, self._files.spans(spans), strict=True):
            for k in range(first, last):
                begin = starts[k] - starts[first]
                end = begin + sizes[k]
                if checked[owners[k]]:
                    if crc32c(view[begin:end]) != _RESIDUE:
                        raise self._damaged(int(wanted[positions[k]]), "other bytes (the CRC-32C does not fit)")
                    end -= 4
                elif (
                    self._entries[owners[k]].codec != "none"
                    and int.from_bytes(view[begin + 4 : begin + 8].tobytes(), "little") != raw_size
                ):
                    raise self._damaged(int(wanted[positions[k]]), "a chunk of another size")
                yield positions[k], view[begin:end], owners[k]

    def _load_tables(self, shards: Sequence[int]) -> None:
        """Read the tables of offsets and sizes (at the end of each shard, with a CRC-32C)."""
        entries = (np.searchsorted(self._first_shard, shards, side="right") - 1).tolist()
        slots = [int(self._per_shard[entry]) for entry in entries]
        raw_size = self._raw_size
        tails = self._files.tails([(shard, 16 * count + 4) for shard, count in zip(shards, slots, strict=True)])
        for shard, entry, count, raw in zip(shards, entries, slots, tails, strict=True):
            first = int(self._first[entry]) + (shard - int(self._first_shard[entry])) * count
            if len(raw) != 16 * count + 4 or google_crc32c.value(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
                raise self._damaged(first, "damaged bytes in the table of its chunks")
            last = min(first + count, int(self._first[entry + 1]))
            table = np.frombuffer(raw[:-4], dtype="<u8").reshape(count, 2)[: last - first]
            sizes = table[:, 1] - np.uint64(4 * self._has_checksum[entry])
            fits = (
                sizes == raw_size if self._entries[entry].codec == "none" else (sizes >= 16) & (sizes <= raw_size + 16)
            )
            if not fits.all() or (table[:, 0] > _LARGEST).any():
                raise self._damaged(first + int(np.argmin(fits)), "no chunk of its size")
            self._offset[first:last] = table[:, 0]
            self._nbytes[first:last] = table[:, 1]
            self._known[shard] = True


def _locate_shard(first_shard: Rows, folders: Sequence[str], stream: str, shard: int) -> str:
    """Return where a shard lies in the corpus."""
    entry = int(np.searchsorted(first_shard, shard, side="right")) - 1
    array = Path(folders[entry]) / f"{stream}.zarr"
    return shard_path(array, shard - int(first_shard[entry])).as_posix()


def _runs(files: Sequence[int], starts: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return runs [first, last) of chunks that follow each other in one file, up to ``_RUN_BYTES`` (or one chunk)."""
    runs, first = [], 0
    for k in range(1, len(files) + 1):
        joined = (
            k < len(files)
            and files[k] == files[k - 1]
            and starts[k] == starts[k - 1] + sizes[k - 1]
            and starts[k] + sizes[k] - starts[first] <= _RUN_BYTES
        )
        if not joined:
            if len(files):
                runs.append((first, k))
            first = k
    return runs

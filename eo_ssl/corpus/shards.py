"""Writing tiles: one Zarr v3 array per stream and fragment, a chunk per tile, many tiles per shard file.

zarr-python writes the metadata, we write the shards, and anything that knows Zarr v3 reads both. Tasks that cut parts
of one product write whole shards of their own; what is left over waits beside them and is packed at the end, so that
row i of the index is chunk i of the array without gaps.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from eo_ssl.commits import check_fault, explain_os_error
from eo_ssl.corpus.config import Codec
from eo_ssl.corpus.streams import Encoding, Stream

if TYPE_CHECKING:
    import zarr

MAX_TILES = 256  # per shard
MAX_BYTES = 64_000_000  # per shard, uncompressed: what one task holds
ChunkChecksum = Literal["", "crc32c"]
_BLOSC: dict[str, tuple[Literal["lz4", "zstd"], int]] = {"lz4": ("lz4", 5), "zstd": ("zstd", 1)}


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tiles of a stream lie in an array."""

    stream: Stream
    encoding: Encoding
    codec: Codec
    chunk_checksum: ChunkChecksum = ""
    "what follows each chunk; an ingest writes crc32c, version 0.1 wrote nothing"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a stored tile: channels (bands, and a mask for chips), height, width."""
        return (len(self.stream.bands) + self.encoding.extra_channels, self.stream.size_px, self.stream.size_px)

    @property
    def tiles_per_shard(self) -> int:
        """How many tiles share a file."""
        return count_tiles_per_shard(self.shape, np.dtype(self.encoding.dtype).itemsize)

    def create(self, path: Path, tiles: int) -> zarr.Array[Any]:
        """Create an empty array for ``tiles`` tiles."""
        import zarr  # only writers need it, and it takes long to import
        from zarr.codecs import BloscCodec, Crc32cCodec

        itemsize = np.dtype(self.encoding.dtype).itemsize
        compressors: list[Any] = []
        if self.codec in _BLOSC:
            name, level = _BLOSC[self.codec]
            compressors.append(BloscCodec(cname=name, clevel=level, shuffle="shuffle", typesize=itemsize))
        if self.chunk_checksum:
            compressors.append(Crc32cCodec())
        return zarr.create_array(
            store=path,
            shape=(tiles, *self.shape),
            chunks=(1, *self.shape),
            shards=(self.tiles_per_shard, *self.shape),
            dtype=self.encoding.dtype,
            compressors=compressors or None,
            filters=None,
            fill_value=self.encoding.fill_value,
            chunk_key_encoding={
                "name": "default",
                "separator": ".",
            },  # one folder, so one fsync of names and fewer inodes
            dimension_names=("tile", "band", "y", "x"),
            attributes={
                "stream": self.stream.to_json(),
                "encoding": {**self.encoding.to_json(), "physical": "(stored + offset) * scale"},
                "channels": [*self.stream.bands, *(["valid"] * self.encoding.extra_channels)],
            },
            config={"write_empty_chunks": True},
        )


def count_tiles_per_shard(shape: tuple[int, int, int], itemsize: int) -> int:
    """Return how many tiles of ``shape`` share a shard: up to 256 tiles and 64 MB."""
    return max(1, min(MAX_TILES, MAX_BYTES // (int(np.prod(shape)) * itemsize)))


@dataclass(frozen=True, slots=True)
class FileMark:
    """What is known of a file that was just written."""

    size: int
    "bytes"
    sha256: str


class ShardWriter:
    """Encodes tiles into shard files: the chunks one after the other, then the table of their places and its CRC-32C.

    Zarr v3 core specification, sharding codec with ``index_location: end`` and, within it, the codec ``crc32c``, by
    which each chunk ends with the CRC-32C of its bytes; any order of chunks is valid, ours is that of the tiles. A file
    is hashed as it is written, so that nobody has to read it again.
    """

    def __init__(self, layout: Layout) -> None:
        self._slots = layout.tiles_per_shard
        self._compressor = _BLOSC.get(layout.codec)
        self._checked = bool(layout.chunk_checksum)

    def write(self, path: Path, tiles: npt.NDArray[Any]) -> FileMark:
        """Write ``tiles`` [n <= tiles per shard, C, H, W] as one shard and return its size and sha256.

        Raises:
            WriteError: the file cannot be written.
        """
        digest, offset = hashlib.sha256(), 0
        table = np.full((self._slots, 2), np.iinfo(np.uint64).max, dtype="<u8")
        try:
            with path.open("wb") as file:
                for number, tile in enumerate(tiles):
                    chunk, checksum = self._encoded(tile)
                    size = len(chunk) + len(checksum)
                    table[number] = offset, size
                    offset += size
                    for part in (chunk, checksum):
                        digest.update(part)
                        file.write(part)
                index = table.tobytes()
                index += google_crc32c.value(index).to_bytes(4, "little")
                digest.update(index)
                file.write(index)
        except OSError as error:
            raise WriteError(str(explain_os_error(error, path))) from error
        return FileMark(offset + len(index), digest.hexdigest())

    def _encoded(self, tile: npt.NDArray[Any]) -> tuple[Any, bytes]:
        """Return a tile's chunk and what follows it."""
        chunk: Any = tile.reshape(-1).view(np.uint8)
        if self._compressor is not None:
            name, level = self._compressor
            chunk = blosc.compress(tile, name.encode(), level, blosc.SHUFFLE)
        return chunk, google_crc32c.value(chunk).to_bytes(4, "little") if self._checked else b""


class PartWriter:
    """Collects the tiles of one task and writes a shard whenever one is full; memory: one shard."""

    def __init__(self, folder: Path, layout: Layout, *, planned: int) -> None:
        self._folder, self._shard = folder, ShardWriter(layout)
        self._size = layout.tiles_per_shard
        self._buffer: npt.NDArray[Any] = np.empty(
            (min(self._size, max(planned, 1)), *layout.shape), dtype=layout.encoding.dtype
        )
        self._held = 0
        self.shards: list[FileMark] = []

    def slot(self) -> npt.NDArray[Any]:
        """Return where to put the next tile; it counts only after :meth:`keep`."""
        slot: npt.NDArray[Any] = self._buffer[self._held]
        return slot

    def keep(self) -> npt.NDArray[Any] | None:
        """Keep the tile in the slot; return a full shard's tiles once they are written (valid until the next call)."""
        self._held += 1
        if self._held < self._size:
            return None
        self.shards.append(self._shard.write(shard_path(self._folder, len(self.shards)), self._buffer))
        check_fault("inside-task")
        self._held = 0
        return self._buffer

    def close(self) -> npt.NDArray[Any]:
        """Put the tiles that fill no shard aside for :func:`pack` and return them."""
        rest = self._buffer[: self._held]
        try:
            _save(self._folder / "rest.npy", rest)
        except OSError as error:
            raise WriteError(str(explain_os_error(error, self._folder))) from error
        check_fault("inside-task")
        return rest


def pack(path: Path, layout: Layout, parts: Sequence[tuple[Path, Sequence[FileMark], int]]) -> dict[str, FileMark]:
    """Make one array at ``path`` of parts (folder, shards, tiles left over); return what its shard files hold by name.

    Whole shards get a second name, then the rests are written together. The parts stay as they are, so that a task that
    died here can be run again.
    """
    size = layout.tiles_per_shard
    total = sum(len(shards) * size + rest for _, shards, rest in parts)
    marks: dict[str, FileMark] = {}
    try:
        layout.create(path, total)
        for folder, shards, _ in parts:
            for number, mark in enumerate(shards):
                target = shard_path(path, len(marks))
                os.link(shard_path(folder, number), target)
                marks[target.name] = mark
    except OSError as error:
        raise WriteError(str(explain_os_error(error, path))) from error
    writer = ShardWriter(layout)
    for tiles in _rebatch((folder / "rest.npy" for folder, *_ in parts), size):
        target = shard_path(path, len(marks))
        marks[target.name] = writer.write(target, tiles)
    return marks


def _save(path: Path, tiles: npt.NDArray[Any]) -> None:
    """Write an npy file; ``np.save`` would report a full disk without saying that it is full."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(tiles))
        file.write(tiles.reshape(-1).view(np.uint8).data)


def shard_path(array: Path, number: int) -> Path:
    """Return the file of shard ``number``."""
    return array / f"c.{number}.0.0.0"


def _rebatch(files: Iterator[Path], size: int) -> Iterator[npt.NDArray[Any]]:
    """Yield the tiles of several npy files in order, ``size`` at a time, the last batch shorter."""
    held: npt.NDArray[Any] | None = None
    for path in files:
        tiles = np.load(path, mmap_mode="r", allow_pickle=False)
        while len(tiles):
            room = size - (0 if held is None else len(held))
            head, tiles = np.asarray(tiles[:room]), tiles[room:]
            held = head if held is None else np.concatenate([held, head])
            if len(held) == size:
                yield held
                held = None
    if held is not None:
        yield held


class WriteError(OSError):
    """A write failed, which ends the ingest (a product that cannot be read is only put aside)."""

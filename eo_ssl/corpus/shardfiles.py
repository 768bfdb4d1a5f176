"""Bytes of shard files by number: ``pread`` on disk, concurrent range requests in an object store."""

from __future__ import annotations

import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from eo_ssl.commits import TOO_MANY, explain_read_error
from eo_ssl.corpus.store import LocalStore, Store
from eo_ssl.errors import UserError

Bytes = npt.NDArray[np.uint8]
Span = tuple[int, int, int]
"""Shard, first byte, byte after the last."""
_OPEN_FILES = 128  # per thread
_SHARE = 8  # of the files that a process may open, one part for each thread
_ALIGN = 64  # bytes: a cache line; copies between page-offset 0 and 16 run at a tenth of the speed on some CPUs
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class ShardFiles(Protocol):
    """The shards of a stream, numbered through all its fragments."""

    def tails(self, wanted: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Yield the last bytes of shards, given as (shard, size)."""
        ...

    def spans(self, wanted: Sequence[Span]) -> Iterator[Bytes]:
        """Yield the bytes of each span in order, uint8 [n]; they live until the next."""
        ...


def open_shards(store: Store, key: Callable[[int], str]) -> ShardFiles:
    """Return the shard files of ``store``, ``key`` naming each.

    They belong to this process and open what they need when asked.
    """
    if isinstance(store, LocalStore):
        return LocalShards(lambda shard: store.path / key(shard))
    return BucketShards(store, key)


def allocate_aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return uninitialised memory whose address is a multiple of 64 bytes."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    raw = np.empty(size + _ALIGN, dtype=np.uint8)
    start = -raw.ctypes.data % _ALIGN
    return raw[start : start + size].view(kind).reshape(shape)


def _limit_open_files() -> int:
    """Return how many shards a thread keeps open."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _OPEN_FILES if allowed == resource.RLIM_INFINITY else max(1, min(_OPEN_FILES, allowed // _SHARE))


def _explain_repair(path: Path) -> str:
    return f"remove {path.parent.parent} and run the same ingest again"


def _explain_short(path: Path, expected: str, got: int) -> UserError:
    return UserError(f"expected {expected} in {path}, got {got}: it was cut; {_explain_repair(path)}")


class LocalShards(threading.local):
    """Shards on disk; open files and scratch memory cross no thread."""

    def __init__(self, path: Callable[[int], Path]) -> None:
        self._path = path
        self._files: OrderedDict[int, int] = OrderedDict()
        self._most = _limit_open_files()
        self._memory: Bytes = allocate_aligned((0,), np.uint8)

    def __del__(self) -> None:
        self._close()

    def tails(self, wanted: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Read the ends of files."""
        for shard, size in wanted:
            handle = self._file(shard)
            try:
                tail = os.pread(handle, size, max(os.fstat(handle).st_size - size, 0))
            except OSError as error:
                raise self._explain(error, shard) from error
            yield tail

    def spans(self, wanted: Sequence[Span]) -> Iterator[Bytes]:
        """Read one span after the other; once one is not in the page cache, ask for all that are still to come."""
        advised = False
        for number, (shard, begin, end) in enumerate(wanted):
            view = self._scratch(end - begin)
            if not self._pread(shard, view, begin, block=advised):
                advised = True
                for later, start, stop in wanted[number:]:
                    os.posix_fadvise(self._file(later), start, stop - start, os.POSIX_FADV_WILLNEED)
                self._pread(shard, view, begin, block=True)
            yield view

    def _pread(self, shard: int, view: Bytes, offset: int, *, block: bool) -> bool:
        """Fill ``view`` from a shard; without ``block`` give up (False) when the bytes are not in the page cache."""
        handle, done = self._file(shard), 0
        flags = 0 if block else _NOWAIT
        while done < len(view):
            try:
                count = os.preadv(handle, [(view[done:] if done else view).data], offset + done, flags)
            except BlockingIOError:
                return False
            except OSError as error:
                if not flags:
                    raise self._explain(error, shard) from error
                flags = 0  # this file system cannot tell what it has cached
                continue
            if count == 0:
                raise _explain_short(self._path(shard), f"{len(view)} bytes at {offset}", done)
            done += count
        return True

    def _scratch(self, size: int) -> Bytes:
        if len(self._memory) < size:
            self._memory = allocate_aligned((size,), np.uint8)
        return self._memory[:size]

    def _file(self, shard: int) -> int:
        """Return this thread's descriptor of a shard."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        try:
            handle = os.open(self._path(shard), os.O_RDONLY)
        except OSError as error:
            if error.errno not in TOO_MANY or not self._files:
                raise self._explain(error, shard) from error
            self._close()  # others need files too: do with one
            self._most = 1
            return self._file(shard)
        self._files[shard] = handle
        if len(self._files) > self._most:
            os.close(self._files.popitem(last=False)[1])
        return handle

    def _explain(self, error: OSError, shard: int) -> UserError:
        path = self._path(shard)
        return explain_read_error(error, path, remedy=_explain_repair(path))

    def _close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])


class BucketShards:
    """Shards of an object store: all requests of a batch are in flight together."""

    def __init__(self, store: Any, key: Callable[[int], str]) -> None:
        self._store, self._key = store, key

    def tails(self, wanted: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Fetch the ends of objects."""
        return iter(self._ask(self._store.tail, [(self._key(shard), size) for shard, size in wanted]))

    def spans(self, wanted: Sequence[Span]) -> Iterator[Bytes]:
        """Fetch the spans of each shard with one call, several shards at a time."""
        grouped = [list(group) for _, group in groupby(wanted, key=lambda span: span[0])]
        arguments = [
            (self._key(group[0][0]), [begin for _, begin, _ in group], [end for *_, end in group]) for group in grouped
        ]
        for group, buffers in zip(grouped, self._ask(self._store.ranges, arguments), strict=True):
            for (shard, begin, end), buffer in zip(group, buffers, strict=True):
                view = np.frombuffer(buffer, dtype=np.uint8)
                if len(view) != end - begin:
                    path = Path(f"{self._store}/{self._key(shard)}")
                    raise _explain_short(path, f"{end - begin} bytes at {begin}", len(view))
                yield view

    def _ask(self, ask: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        try:
            yield from self._store.at_once(ask, arguments)
        except FileNotFoundError as error:
            raise UserError(
                f"expected the shards of {self._store}, got one that is missing ({error}); remove its fragment and run "
                "the same ingest again"
            ) from error

"""Rows of numbers in memory or mapped to a file, read and written by parts: memory does not grow with the rows."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_ssl.errors import UserError

PART = 1 << 14
"rows read at a time: 25 MB of 384 numbers in single precision (ours)"
_SCATTERED = 256
"rows read one by one before their pages are let go of: with each come its neighbours, some 64 KB"
Values = NDArray[np.floating[Any]]


def allocate_mapped(folder: Path | None, shape: tuple[int, int], dtype: type[np.floating[Any]]) -> np.memmap[Any, Any]:
    """Return zeros [n, d] in a file without a name, which is gone with the last array over it, whatever ends this.

    Args:
        folder: where its space is taken; None: where the system keeps temporary files.
        shape: n and d.
        dtype: of the numbers.

    Raises:
        UserError: there is not so much space.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    # It has a name for a moment, by which NumPy remembers the folder.
    with tempfile.NamedTemporaryFile(prefix=".rows-", dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told now, not by a signal while numbers are set
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            place = Path(file.name).parent
            raise UserError(
                f"expected space for {size / 1e9:.1f} GB of embeddings in {place}, got {error.strerror}; make room"
            ) from error
        return np.memmap(file, dtype=dtype, mode="r+", shape=shape)


def allocate_like(points: Values, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return float32 of ``shape`` to be filled: in memory, or mapped beside the file of ``points`` if these are."""
    if not isinstance(points, np.memmap):
        return np.empty(shape, dtype=np.float32)
    folder = Path(points.filename).parent if points.filename else None
    return allocate_mapped(folder, shape, np.float32)


def release_pages(points: Values) -> None:
    """Let go of what was read or written of a mapped array; its numbers stay in the file. Does nothing to others."""
    owner: Any = points
    shared = False
    while isinstance(owner, np.ndarray):
        shared = shared or getattr(owner, "mode", "c") != "c"  # a private copy would lose what was written
        owner = owner.base
    if isinstance(owner, mmap.mmap) and shared:
        owner.madvise(mmap.MADV_DONTNEED)


def read_parts(
    points: Values, rows: NDArray[np.int64] | None = None, *, size: int | None = None
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield the place of each part of ``rows`` (None: all) of ``points`` [n, d], and its values, float32 [m, d].

    Parts are of ``size`` rows, or `PART`. Of a mapped array they are copies, and no page of it stays in memory.
    """
    count, size = len(points) if rows is None else len(rows), size or PART
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        some = part if rows is None else rows[part]
        if isinstance(points, np.memmap):
            yield part, _copy_rows(points, some, part.stop - start)
        else:
            yield part, np.ascontiguousarray(points[some], dtype=np.float32)


def _copy_rows(points: np.memmap[Any, Any], rows: slice | NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """The ``count`` rows of a map in memory; scattered ones a few at a time."""
    copied = np.empty((count, points.shape[1]), dtype=np.float32)
    if isinstance(rows, slice):
        copied[:] = points[rows]
        release_pages(points)
        return copied
    for start in range(0, count, _SCATTERED):
        few = slice(start, start + _SCATTERED)
        copied[few] = points[rows[few]]
        release_pages(points)
    return copied


def gather_rows(points: Values, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Return ``rows`` (None: all) of ``points`` [n, d] in memory, float32 [m, d]."""
    if not isinstance(points, np.memmap):
        return np.ascontiguousarray(points if rows is None else points[rows], dtype=np.float32)
    gathered = np.empty((len(points) if rows is None else len(rows), points.shape[1]), dtype=np.float32)
    for part, values in read_parts(points, rows):
        gathered[part] = values
    return gathered


def take_rows(points: Values, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return ``rows`` of ``points`` [n, d], float32 [m, d]: mapped if these are, however many they are."""
    taken = allocate_like(points, (len(rows), points.shape[1]))
    for part, values in read_parts(points, rows):
        taken[part] = values
        release_pages(taken)
    return taken

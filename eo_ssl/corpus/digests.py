"""The fingerprint of a corpus, from 48 bytes per tile that every fragment keeps sorted beside its index.

A row is the tile's id (16 bytes) and a digest of its pixels and quality as written (32 bytes). The fingerprint is the sha256 of the
rows of all fragments sorted together: order of files and rows, compression and file layout do not matter; one changed id, pixel or
quality value does.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError

DIGESTS = "digests.bin"
_BYTES = 48
_BATCH = 4_000_000  # rows sorted at once: some 600 MB with the copies
Rows = npt.NDArray[np.uint8]


def sort(rows: Rows) -> Rows:
    """Return ``rows``, uint8 [n, 48], in ascending order of their bytes."""
    numbers = np.ascontiguousarray(rows).view(">u8")
    order = np.argsort(numbers[:, 0].astype(np.uint64), kind="stable")
    lead = numbers[order, 0]
    if (lead[1:] == lead[:-1]).any():  # ids are hashes: rare, but the order must not depend on the files
        order = np.lexsort(numbers.astype(np.uint64).T[::-1])
    return np.ascontiguousarray(rows)[order]


def unpack(data: bytes, name: str) -> Rows:
    """Return the rows of a fragment's file.

    Raises:
        UserError: its size is no multiple of a row's.
    """
    if len(data) % _BYTES:
        raise UserError(
            f"expected {_BYTES} bytes per tile in {DIGESTS} of fragment {name}, got {len(data)} in all; ingest the corpus again"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, _BYTES)


def fingerprint(fragments: Callable[[], Iterable[Rows]], *, rows: int, batch: int = _BATCH) -> str:
    """Return the fingerprint of a corpus.

    Tiles are sorted by ranges of the first byte of their id, so memory stays at about ``batch`` rows however large the corpus.

    Args:
        fragments: called once per range; yields the rows of each fragment, uint8 [n, 48], in any order.
        rows: how many there are in all.
        batch: how many are sorted at once.
    """
    ranges = np.linspace(0, 256, min(max(rows // batch, 0) + 1, 256) + 1).astype(int)
    total = hashlib.sha256()
    for first, last in itertools.pairwise(ranges):
        found = []
        for part in fragments():
            inside = part[(part[:, 0] >= first) & (part[:, 0] < last)] if len(ranges) > 2 else part
            if len(inside):
                found.append(inside)
        if found:
            total.update(sort(np.concatenate(found)).data)
    return total.hexdigest()

"""Duplicates in front of the selector: tiles with the same bytes, and tiles that show an acquisition again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eo_ssl.curation.embeddings import Floats, Rows
from eo_ssl.errors import expect

Identities: TypeAlias = Sequence[Any] | NDArray[Any] | pa.Array | pa.ChunkedArray


@dataclass(frozen=True, slots=True)
class Repeats:
    """Which of n rows repeat another one, and what says so."""

    original: Rows
    "the row that each repeats, which repeats none itself: int64 [n]; -1 for rows that repeat none"
    overlap: Floats
    "share of its valid pixels that the other row shows too: float32 [n]; NaN for rows that repeat none"
    correlation: Floats
    "of what both show: float32 [n]; NaN also where they are too flat to correlate"
    notes: tuple[str, ...] = ()
    "for the report"

    @property
    def first(self) -> Rows:
        """The rows that repeat none, sorted: int64 [m]."""
        return np.flatnonzero(self.original < 0).astype(np.int64)

    @property
    def group(self) -> Rows:
        """For each row the place in `first` of the row that it repeats, or of itself: int64 [n]."""
        rows = np.arange(len(self.original), dtype=np.int64)
        return np.searchsorted(self.first, np.where(self.original < 0, rows, self.original))


def join_duplicates(n: int, identities: Identities | None, repeats: Repeats | None) -> Repeats:
    """Return the duplicates among ``n`` rows: exact copies by ``identities``, and of the first copies ``repeats``.

    A later copy repeats the first one (overlap and correlation 1), or what this one repeats (as far as this one).

    Raises:
        UserError: either is of another number of rows, an identity is missing, or a row repeats a copy.
    """
    for given, what in ((identities, "an identity"), (None if repeats is None else repeats.original, "a row or -1")):
        expect(
            given is None or len(given) == n,
            expected=f"{what} for each of {n} rows",
            got=len(given) if given is not None else 0,
            remedy="take both from the same index",
        )
    original = np.full(n, -1, dtype=np.int64) if repeats is None else repeats.original.copy()
    nothing = np.full(n, np.nan, dtype=np.float32)
    overlap, correlation = (nothing, nothing) if repeats is None else (repeats.overlap, repeats.correlation)
    notes = () if repeats is None else repeats.notes
    if identities is None:
        return Repeats(original, overlap, correlation, notes)
    first, group = find_first_copies(identities)
    earliest = first[group]
    copies = earliest != np.arange(n)
    expect(
        not copies[original[original >= 0]].any() and (original[copies] < 0).all(),
        expected="repeats of first copies only",
        got="a repeat of or by a later copy",
        remedy="look for repeats among the first copies",
    )
    plain = copies & (original[earliest] < 0)
    return Repeats(
        np.where(plain, earliest, original[earliest]),
        np.where(plain, np.float32(1), overlap[earliest]),
        np.where(plain, np.float32(1), correlation[earliest]),
        notes,
    )


def find_first_copies(identities: Identities) -> tuple[Rows, Rows]:
    """Return the first row of every group of equal ``identities`` [n], and for each row the place of its group.

    ``identities`` is what makes two rows the same, as a rule the column ``pixels_sha256``. The first answer is sorted,
    int64 [m]; the second, int64 [n], satisfies ``identities[first[group[i]]] == identities[i]``.

    Raises:
        UserError: an identity is missing.
    """
    column = identities if isinstance(identities, pa.Array | pa.ChunkedArray) else pa.array(identities)
    expect(
        not column.null_count,
        expected=f"an identity for each of {len(column)} rows",
        got=f"{column.null_count} missing",
        remedy="ingest again to fill pixels_sha256",
    )
    encoded = column.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # no chunk at all
        return np.empty(0, np.int64), np.empty(0, np.int64)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    # Codes follow first appearance within a chunk only; the place of a group must follow its first row.
    order = np.argsort(first)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return first[order].astype(np.int64), place[group]

"""Exact duplicates: tiles whose pixels have the same hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eo_ssl.curation.embeddings import Rows
from eo_ssl.errors import expect


def find_first_copies(identities: Sequence[Any] | NDArray[Any] | pa.Array | pa.ChunkedArray) -> tuple[Rows, Rows]:
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

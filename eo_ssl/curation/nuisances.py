"""What clusters follow beside content: product, month, brightness, by mutual information adjusted for chance."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score

from eo_ssl.curation.embeddings import Labels, Rows

ROWS = 2000
"rows it is measured on at most"
_BRIGHT_ROWS = 500
_MOST_BYTES = 2_000_000_000
_BATCH_BYTES = 64_000_000
_BINS = 10
"quantile bins that a measure is cut into"
_FOLLOWED = 0.3
"information from which a selection is said to follow a nuisance; ours"


class TileReader(Protocol):
    """A stream of a corpus."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Tiles [m, C, H, W], NaN where invalid."""
        ...


def measure_brightness(reader: TileReader, rows: Rows, *, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean of the valid pixels over all bands of some of ``rows``: float64 [n], NaN for the others.

    Of 500 rows, or as many as two gigabytes hold: it is a diagnosis, and reads what nothing else needs yet.
    """
    found = np.full(len(rows), np.nan)
    size = reader.read(rows[:1]).nbytes
    asked = np.sort(rng.permutation(len(rows))[: min(_BRIGHT_ROWS, max(2, _MOST_BYTES // size))])
    step = max(1, _BATCH_BYTES // size)
    for start in range(0, len(asked), step):
        part = asked[start : start + step]
        tiles = reader.read(rows[part]).reshape(len(part), -1).astype(np.float64)
        valid = np.isfinite(tiles)
        total, count = np.where(valid, tiles, 0.0).sum(axis=1), valid.sum(axis=1)
        found[part] = np.divide(total, count, out=np.full(len(part), np.nan), where=count > 0)
    return found


def measure_information(cluster: Labels, columns: pa.Table, *, rng: np.random.Generator) -> dict[str, float]:
    """Return how much ``cluster`` int32 [n] says of each of ``columns`` [n], by name: 0 by chance alone, 1 everything.

    Mutual information adjusted for chance (Vinh, Epps and Bailey 2010), since many products would share much with many
    clusters by chance. Measures are cut at their deciles; rows without a value are left out; what has one value, or is
    known of no two rows, tells nothing and is left out.
    """
    found = {}
    for name in columns.column_names:
        column = columns[name].combine_chunks()
        known = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
        if len(known) < 2:
            continue
        if len(known) > ROWS:
            known = np.sort(rng.choice(known, ROWS, replace=False))
        codes = _number_values(column.take(pa.array(known)))
        if len(np.unique(codes)) > 1:
            found[name] = float(adjusted_mutual_info_score(codes, cluster[known]))
    return found


def tell_nuisances(information: dict[str, float]) -> tuple[str, ...]:
    """Return a sentence where clusters follow one of the columns more than a little, for the notes of a report."""
    followed = {name: value for name, value in information.items() if value >= _FOLLOWED}
    if not followed:
        return ()
    most = ", ".join(f"{name} ({value:.2f})" for name, value in sorted(followed.items(), key=lambda item: -item[1]))
    return (f"clusters follow {most}: mutual information, 1 is all of it; what is balanced is that as much as content",)


def _number_values(column: pa.Array) -> Labels:
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        codes = np.searchsorted(np.quantile(values, np.arange(1, _BINS) / _BINS), values)
    else:
        codes = column.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return np.asarray(codes, dtype=np.int32)

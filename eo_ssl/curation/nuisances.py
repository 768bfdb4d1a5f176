"""What clusters follow beside content: product, month, brightness, by mutual information adjusted for chance."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import adjusted_mutual_info_score

from eo_ssl.curation.embeddings import Labels

ROWS = 2000
"rows it is measured on at most"
_BINS = 10
"quantile bins that a measure is cut into"
_FOLLOWED = 0.3
"information from which a selection is said to follow a nuisance; ours"


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

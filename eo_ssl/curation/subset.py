"""A subset on disk: which rows of a corpus snapshot to train on, which not, and the report."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.commits import commit
from eo_ssl.corpus import read_parquet
from eo_ssl.curation.embeddings import Floats, Rows
from eo_ssl.curation.subset_selection import Selection, tabulate_selection
from eo_ssl.errors import expect
from eo_ssl.fingerprints import fingerprint
from eo_ssl.manifest import Manifest

SUBSET, DROPPED, REPORT = FILES = ("subset.parquet", "dropped.parquet", "curation_report.json")


def write_subset(
    folder: Path, selection: Selection, rows: Rows, *, left_out: Mapping[str, Rows] = MappingProxyType({})
) -> str:
    """Write the files of a subset and return its fingerprint; the caller's manifest finishes the product.

    ``subset.parquet`` holds row int64, weight float32 and cluster int32 of the rows kept, ``dropped.parquet`` row,
    cluster and reason of the others and, of those that repeat another row, ``repeats`` int64 (that row; -1 for the
    rest), ``overlap`` and ``correlation`` float32; ``curation_report.json`` the report. The weight says how often a row
    is to be presented, in times the mean of those kept: 1 for all where the selector picked rows. Both tables have x
    and y float32, the place of some rows on a map of all (`Projection`), null for the others.

    Args:
        folder: of the product.
        selection: the fate of the rows.
        rows: what they are called in the snapshot, int64 [n] ascending.
        left_out: rows that were not even chosen from, by the reason; they stand in no cluster.

    Raises:
        UserError: the folder cannot be written.
    """
    table = tabulate_selection(selection, rows)
    kept = table.filter(table["kept"])
    subset = kept.select(["row", "weight", "cluster", "x", "y"])
    gone = ~table["kept"].to_numpy()
    dropped = table.filter(pa.array(gone)).select(["row", "cluster", "reason", "x", "y"])
    duplicates = selection.duplicates
    dropped = dropped.append_column("repeats", [np.where(duplicates.original < 0, -1, rows[duplicates.original])[gone]])
    for name in ("overlap", "correlation"):
        dropped = dropped.append_column(name, [getattr(duplicates, name)[gone]])
    for reason, away in left_out.items():
        n = len(away)
        none, nothing = np.full(n, -1), np.full(n, np.nan)
        known = {"row": away, "cluster": none, "reason": [reason] * n, "repeats": none}
        placeless = pa.nulls(n, pa.float32())
        known |= {"overlap": nothing, "correlation": nothing, "x": placeless, "y": placeless}
        dropped = pa.concat_tables([dropped, pa.table(known, schema=dropped.schema)])
    for name, part in ((SUBSET, subset), (DROPPED, dropped)):
        data = io.BytesIO()
        pq.write_table(part, data)
        commit(folder / name, data.getvalue())
    # The examples are counted within the selection; whoever looks at them knows the snapshot only.
    report = selection.report.renamed(rows)
    commit(folder / REPORT, json.dumps(report.to_json(), indent=1, allow_nan=False).encode())
    return _hash_rows(report.corpus_fingerprint, subset["row"].to_numpy(), subset["weight"].to_numpy())


def read_subset(folder: Path, manifest: Manifest) -> tuple[Rows, Floats]:
    """Return the rows that a subset keeps and their weights, compared with the fingerprint in its manifest.

    Returns:
        int64 [n] ascending, and float32 [n] above 0 of mean 1.

    Raises:
        UserError: the table is absent or damaged, or holds other rows or weights than those that were chosen.
    """
    path, remedy = folder / SUBSET, "remove the folder and curate again"
    table = read_parquet(path, ["row", "weight"], remedy=remedy)
    rows, weights = (np.asarray(table[name].to_numpy()) for name in ("row", "weight"))
    expect(
        rows.dtype == np.int64
        and weights.dtype == np.float32
        and _hash_rows(manifest.inputs.get("corpus", ""), rows, weights) == manifest.fingerprint,
        expected=f"the rows that were chosen in {path}",
        got="others",
        remedy=remedy,
    )
    return rows, weights


def _hash_rows(corpus: str, rows: Rows, weights: Floats) -> str:
    content = {"corpus": corpus, "rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()}
    if (weights != 1).any():  # so that a subset without weights is called what it was before there were any
        content["weights"] = hashlib.sha256(weights.astype("<f4").tobytes()).hexdigest()
    return fingerprint(content)

"""The table beside the pixels (GeoParquet 1.1, which geopandas and DuckDB open as it is) and its fingerprint.

Of each tile 48 bytes are kept sorted beside the table: its id (16) and a digest of its pixels and quality as written
(32). The fingerprint of a corpus is the sha256 of those of all fragments sorted together: order of files and rows,
compression and file layout do not matter; one changed id, pixel or quality value does.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.commits import explain_os_error
from eo_ssl.errors import UserError

INDEX, DIGESTS = "index.parquet", "digests.bin"
_BYTES = 48
_BATCH = 4_000_000  # digests sorted at once: some 600 MB with the copies
Digests = npt.NDArray[np.uint8]
"""uint8 [n, 48]"""

_SHARES = ("valid_fraction", "cloud_fraction", "shadow_fraction", "snow_fraction", "saturated_fraction")
_MEASURES = ("cloud_probability", "border_noise_fraction", "enl", "incidence_deg")
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"], "edges": "planar"}
    },  # no crs: OGC:CRS84
}
SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.binary(16), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("product_id", "stream")),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("row_off", "col_off", "height", "width", "epsg")),
        pa.field("location_id", pa.string(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")),
        pa.field("geometry", pa.binary()),
        pa.field("datetime", pa.string(), nullable=False),
        pa.field("month", pa.int8(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("orbit", "processing_baseline", "sensor")),
        pa.field("gsd_m", pa.float64(), nullable=False),
        *(pa.field(name, pa.float32()) for name in _SHARES),
        pa.field("label", pa.int16(), nullable=False),
        pa.field("label_name", pa.string(), nullable=False),
        pa.field("label_fraction", pa.float32(), nullable=False),
        *(
            pa.field(name, pa.string(), nullable=False)
            for name in ("split", "benchmark_split", "licence", "attribution", "source", "source_sha256")
        ),
        *(pa.field(name, pa.int32()) for name in ("source_width_px", "source_height_px")),
        pa.field("pixels_sha256", pa.binary(32), nullable=False),
        # since schema 2; null where unknown and in fragments made before
        *(pa.field(name, pa.float32()) for name in (*_MEASURES, "sun_zenith_deg", "view_zenith_deg")),
        *(pa.field(name, pa.string()) for name in ("platform", "mode")),
        pa.field("relative_orbit", pa.int32()),
        pa.field("remarks", pa.string()),  # null where there is none and in fragments made before
        pa.field("spectral_entropy", pa.float32()),  # null in fragments made before
    ],
    metadata={b"geo": json.dumps(_GEO).encode()},
)
QUALITY_COLUMNS = (*_SHARES, "label", "label_fraction", *_MEASURES, "spectral_entropy")


def build_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Return the index table of ``rows`` (column name -> value)."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def write(path: Path, parts: Sequence[pa.Table]) -> None:
    """Write ``parts`` one after the other as one Parquet file.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        with pq.ParquetWriter(path, SCHEMA, compression="zstd", write_statistics=True) as writer:
            for part in parts:
                if part.num_rows:
                    writer.write_table(part)
    except OSError as error:
        raise explain_os_error(error, path) from error


def hash_rows(rows: pa.Table) -> Digests:
    """Return what a corpus fingerprint hashes: the id of each tile and a digest of its pixels and quality.

    Args:
        rows: table with ``tile_id``, ``pixels_sha256`` and those of the quality columns it was written with: a fragment
            of an older schema keeps its digest.
    """
    quality = []
    for name in (name for name in QUALITY_COLUMNS if name in rows.column_names):
        column = rows[name].combine_chunks()
        numbers = column.fill_null(0).to_numpy(zero_copy_only=False)
        known = column.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
        little = numbers.astype(numbers.dtype.newbyteorder("<"))
        quality += [np.ascontiguousarray(little).view(np.uint8).reshape(len(rows), -1), known[:, None]]
    pixels = np.frombuffer(b"".join(rows["pixels_sha256"].to_pylist()), dtype=np.uint8).reshape(-1, 32)
    content = np.concatenate([pixels, *quality], axis=1)
    ids = np.frombuffer(b"".join(rows["tile_id"].to_pylist()), dtype=np.uint8).reshape(-1, 16)
    digests = b"".join(hashlib.sha256(row.tobytes()).digest() for row in content)
    return np.concatenate([ids, np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)], axis=1)


def sort_digests(rows: Digests) -> Digests:
    """Return ``rows``, uint8 [n, 48], in ascending order of their bytes."""
    numbers = np.ascontiguousarray(rows).view(">u8")
    order = np.argsort(numbers[:, 0].astype(np.uint64), kind="stable")
    lead = numbers[order, 0]
    if (lead[1:] == lead[:-1]).any():  # ids are hashes: rare, but the order must not depend on the files
        order = np.lexsort(numbers.astype(np.uint64).T[::-1])
    return np.ascontiguousarray(rows)[order]


def unpack_digests(data: bytes, name: str) -> Digests:
    """Return the rows of a fragment's file.

    Raises:
        UserError: its size is no multiple of a row's.
    """
    if len(data) % _BYTES:
        raise UserError(
            f"expected {_BYTES} bytes per tile in {DIGESTS} of fragment {name}, got {len(data)} in all; ingest the "
            "corpus again"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, _BYTES)


def hash_digests(fragments: Callable[[], Iterable[Digests]], *, rows: int, batch: int = _BATCH) -> str:
    """Return the fingerprint of a corpus.

    Tiles are sorted by ranges of the first byte of their id, so memory stays at about ``batch`` rows however large the
    corpus.

    Args:
        fragments: called once per range; yields the rows of each fragment, uint8 [n, 48], in any order.
        rows: how many there are in all.
        batch: how many are sorted at once.
    """
    ranges = np.linspace(0, 256, min(max(rows // batch, 0) + 1, 256) + 1).astype(int)
    total = hashlib.sha256()
    for first, last in itertools.pairwise(ranges):
        parts = []
        for part in fragments():
            inside = part[(part[:, 0] >= first) & (part[:, 0] < last)] if len(ranges) > 2 else part
            if len(inside):
                parts.append(inside)
        if parts:
            total.update(sort_digests(np.concatenate(parts)).data)
    return total.hexdigest()

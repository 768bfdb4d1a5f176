"""The table of embeddings: one row per tile, Parquet that geopandas and DuckDB open as it is (GeoParquet 1.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from eo_ssl.corpus import Corpus
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import dump_canonical_json

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Stored = Literal["float32", "float16"]
ABOUT = b"eo_ssl"
"key of what the file says of encoder, corpus and licence"
_BOUNDS = ("xmin", "ymin", "xmax", "ymax")
_WORDS = [
    "product_id",
    "stream",
    "location_id",
    "datetime",
    "split",
    "benchmark_split",
    "label_name",
    "licence",
    "attribution",
]
_WHOLE_NUMBERS = ["row_off", "col_off", "height", "width", "epsg"]
INDEXED = (
    "tile_id",
    "product_id",
    "stream",
    "row_off",
    "col_off",
    "height",
    "width",
    "epsg",
    "location_id",
    "datetime",
    "split",
    "benchmark_split",
    "label_name",
    "gsd_m",
    "licence",
    "attribution",
    "geometry",
)
"columns taken from the corpus index"
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {  # no crs: OGC:CRS84
            "encoding": "WKB",
            "geometry_types": ["Polygon", "MultiPolygon"],
            "edges": "planar",
            "covering": {"bbox": {name: ["bbox", name] for name in _BOUNDS}},
        }
    },
}


def build_schema(dim: int, *, stored: Stored, about: Mapping[str, Any]) -> pa.Schema:
    """Return the schema of a table of embeddings.

    Args:
        dim: numbers per tile.
        stored: type of the numbers in the file.
        about: plain values that say what the numbers are; they travel in the file's own metadata.
    """
    numbers = {"float32": pa.float32(), "float16": pa.float16()}[stored]
    kinds = dict.fromkeys(_WORDS, pa.string()) | dict.fromkeys(_WHOLE_NUMBERS, pa.int32())
    kinds |= {"tile_id": pa.binary(16), "gsd_m": pa.float64(), "geometry": pa.binary()}
    return pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            *(pa.field(name, kinds[name], nullable=name == "geometry") for name in INDEXED),
            pa.field("bbox", pa.struct([pa.field(name, pa.float64()) for name in _BOUNDS])),
            pa.field("embedding", pa.list_(pa.field("element", numbers, nullable=False), dim), nullable=False),
        ],
        metadata={b"geo": json.dumps(_GEO).encode(), ABOUT: dump_canonical_json(about).encode()},
    )


def build_table(corpus: Corpus, stream: str, rows: Rows, x: Matrix, *, form: pa.Schema) -> pa.Table:
    """Return the table of some tiles.

    Args:
        corpus: the tiles' corpus.
        stream: their stream.
        rows: int64 [n], rows of the stream.
        x: [n, D] float32, their embeddings.
        form: of `schema`.

    Raises:
        UserError: a number does not fit into the stored type.
    """
    known = corpus.index(stream, columns=list(INDEXED), rows=rows)
    kind = form.field("embedding").type
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(x, dtype=kind.value_type.to_pandas_dtype())
    if not np.isfinite(numbers).all():
        got = f"up to {float(np.abs(x).max()):.3g}"
        raise UserError(
            f"expected embeddings within the range of {numbers.dtype} (65504), got {got}; store them as float32"
        )
    # Planar bounds: a footprint across the antimeridian is cut in two, and no filter by bbox must miss either half.
    bounds = shapely.bounds(shapely.from_wkb(np.array(known["geometry"].to_pylist(), dtype=object)))
    columns = {name: known[name] for name in INDEXED} | {
        "row": pa.array(rows),
        "bbox": pa.StructArray.from_arrays(
            [pa.array(bounds[:, i], mask=np.isnan(bounds[:, i])) for i in range(4)], names=list(_BOUNDS)
        ),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), type=kind),
    }
    return pa.table([columns[name] for name in form.names], schema=form)


def open_writer(path: Path, form: pa.Schema) -> pq.ParquetWriter:
    """Return an open writer; each table written to it becomes a row group."""
    words = [field.name for field in form if pa.types.is_string(field.type)]
    return pq.ParquetWriter(path, form, compression="zstd", use_dictionary=words, write_statistics=True)


def extract_vectors(column: pa.ChunkedArray, dim: int) -> Matrix:
    """Return the column ``embedding`` as float32 [n, D]."""
    flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks] or [np.empty(0)])
    return np.ascontiguousarray(flat.reshape(-1, dim), dtype=np.float32)


def read_provenance(form: pa.Schema) -> dict[str, Any]:
    """Return what the file of this schema says of itself, empty where it is none of ours."""
    return dict(json.loads((form.metadata or {}).get(ABOUT, b"{}")))

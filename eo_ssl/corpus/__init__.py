"""The corpus: immutable fragments of tiles, numbered snapshots, an index, statistics and a fast reader.

The only writer of pixels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eo_ssl.corpus.conditions import select_rows
from eo_ssl.corpus.config import Codec, IngestConfig, Method, Tiling
from eo_ssl.corpus.corpus_view import Corpus
from eo_ssl.corpus.parquet_files import open_parquet, read_parquet
from eo_ssl.corpus.reader import StreamReader, allocate_aligned
from eo_ssl.corpus.snapshots import list_snapshots, load_snapshot
from eo_ssl.corpus.statistics import BandStats
from eo_ssl.corpus.streams import Encoding, Stream

if TYPE_CHECKING:
    from eo_ssl.corpus.comparison import compare_corpora
    from eo_ssl.corpus.engine import compute, make_task
    from eo_ssl.corpus.ingest_plan import Estimate, IngestPlan, plan_ingest
    from eo_ssl.corpus.ingestion import IngestReport, ingest, run_plan
    from eo_ssl.corpus.overview import describe_corpus
    from eo_ssl.corpus.regions import find_tiles_within, read_regions

__all__ = [
    "BandStats",
    "Codec",
    "Corpus",
    "Encoding",
    "Estimate",
    "IngestConfig",
    "IngestPlan",
    "IngestReport",
    "Method",
    "Stream",
    "StreamReader",
    "Tiling",
    "allocate_aligned",
    "compare_corpora",
    "compute",
    "describe_corpus",
    "find_tiles_within",
    "ingest",
    "list_snapshots",
    "load_snapshot",
    "make_task",
    "open_parquet",
    "plan_ingest",
    "read_parquet",
    "read_regions",
    "run_plan",
    "select_rows",
]

_ON_DEMAND = {
    "Estimate": "ingest_plan",
    "IngestPlan": "ingest_plan",
    "IngestReport": "ingestion",
    "compare_corpora": "comparison",
    "compute": "engine",
    "describe_corpus": "overview",
    "find_tiles_within": "regions",
    "ingest": "ingestion",
    "make_task": "engine",
    "plan_ingest": "ingest_plan",
    "read_regions": "regions",
    "run_plan": "ingestion",
}


def __getattr__(name: str) -> Any:
    """Import what writes a corpus when it is asked for: who reads one does without GDAL, xarray, Dask and Zarr."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ON_DEMAND[name]}"), name)

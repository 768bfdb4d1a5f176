"""The corpus: immutable fragments of tiles, numbered snapshots, an index, statistics and a fast reader; the only writer of pixels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eo_ssl.corpus.catalogue import Corpus
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.reader import StreamReader, aligned_empty
from eo_ssl.corpus.statistics import BandStats
from eo_ssl.corpus.streams import Encoding, Stream

if TYPE_CHECKING:
    from eo_ssl.corpus.estimation import Estimate, estimate
    from eo_ssl.corpus.ingestion import IngestReport, ingest

__all__ = [
    "BandStats",
    "Corpus",
    "Encoding",
    "Estimate",
    "IngestConfig",
    "IngestReport",
    "Stream",
    "StreamReader",
    "aligned_empty",
    "estimate",
    "ingest",
]

_WRITING = {"Estimate": "estimation", "estimate": "estimation", "IngestReport": "ingestion", "ingest": "ingestion"}


def __getattr__(name: str) -> Any:
    """Import what writes a corpus when it is asked for: who reads one does without GDAL, xarray, Dask and Zarr."""
    if name not in _WRITING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WRITING[name]}"), name)

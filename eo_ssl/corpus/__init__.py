"""The corpus: immutable fragments of tiles, numbered snapshots, an index, statistics and a fast reader; the only writer of pixels."""

from eo_ssl.corpus.catalogue import Corpus
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.estimate import Estimate, estimate
from eo_ssl.corpus.ingestion import IngestReport, ingest
from eo_ssl.corpus.reader import StreamReader, aligned_empty
from eo_ssl.corpus.statistics import BandStats
from eo_ssl.corpus.streams import Encoding, Stream

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

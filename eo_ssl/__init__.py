"""eo_ssl: raw Sentinel archives -> a curated corpus -> an encoder -> a benchmark number one can believe.

Every command of the shell is a function here, every product a folder that says how it was made; a second call does
nothing, an interrupted one goes on. A session, from files on disk to features, on two synthetic products
(`make_archive` writes a larger world)::

    >>> from pathlib import Path
    >>> import eo_ssl

A card says what the files are: sensor, bands, quantity, scale and offset. Cards are shipped, or ten lines of YAML of
your own.

    >>> eo_ssl.card("sample_s2_l2a").quantity.value
    'boa_reflectance'

Ingest cuts the products into tiles. With ``dry_run=True`` it prints the plan and writes nothing.

    >>> report = eo_ssl.ingest("sample_s2_l2a", Path("archive"), Path("corpus"), size_px=32, min_valid=0.2)
    snapshot 1: 9 tiles, ... MB; 1 products added, 0 kept
    >>> corpus = eo_ssl.Corpus.open("corpus")
    >>> name, stream = next(iter(corpus.streams.items()))
    >>> name
    's2_boa_12b_10m_32px'

Row i of the index describes tile i; pixels come in physical units, NaN where invalid.

    >>> tiles = corpus.stream(name).read([0, 1, 2])
    >>> tiles.shape, tiles.dtype.name
    ((3, 12, 32, 32), 'float32')
    >>> corpus.index(name, columns=["row_off", "col_off"]).slice(0, 3).to_pylist()
    [{'row_off': 0, 'col_off': 0}, {'row_off': 0, 'col_off': 32}, {'row_off': 0, 'col_off': 64}]

Curation keeps a balanced, diverse subset and says what was left out and why.

    >>> from eo_ssl.curation import Random
    >>> eo_ssl.curate(Path("corpus"), Path("subset"), keep=0.5, split="all", method=Random())
    kept ... of 9 tiles of s2_boa_12b_10m_32px ...

An encoder carries its preprocessing, which takes bands by name and refuses a wrong unit. Of a trained one give the
folder; statistics of the image are a baseline without weights.

    >>> statistics = corpus.statistics(name)
    >>> encoder = eo_ssl.load_encoder("imagestats", preprocessing=eo_ssl.Preprocessing.of_stream(stream, statistics))
    >>> features = encoder(tiles, bands=stream.bands, quantity=stream.quantity, sensor=stream.sensor)
    >>> features.shape == (3, encoder.dim)
    True

Then `pretrain` trains an encoder on corpus and subset, `evaluate` judges it with intervals beside such baselines, and
`report` makes one page of all of it: see ``help(eo_ssl.pretrain)`` and its like, or ``eo-ssl --help``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eo_ssl.cards import load_card as card
    from eo_ssl.corpus import Corpus
    from eo_ssl.encoder import load_encoder
    from eo_ssl.image_metadata import make_metadata
    from eo_ssl.preprocessing import Preprocessing
    from eo_ssl.sample import make_archive

__version__ = "0.1.0"
__all__ = [
    "Corpus",
    "Preprocessing",
    "card",
    "curate",
    "evaluate",
    "ingest",
    "load_encoder",
    "make_archive",
    "make_metadata",
    "pretrain",
    "report",
]

_ON_DEMAND = {
    "Corpus": ("corpus", "Corpus"),
    "Preprocessing": ("preprocessing", "Preprocessing"),
    "card": ("cards", "load_card"),
    "curate": ("workflows.curate", "main"),
    "evaluate": ("workflows.evaluate", "main"),
    "ingest": ("workflows.ingest", "main"),
    "load_encoder": ("encoder", "load_encoder"),
    "make_archive": ("sample", "make_archive"),
    "make_metadata": ("image_metadata", "make_metadata"),
    "pretrain": ("workflows.pretrain", "main"),
    "report": ("workflows.report", "main"),
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: ``import eo_ssl`` itself imports nothing."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _ON_DEMAND[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

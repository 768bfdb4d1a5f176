"""The tiles of a corpus as a table of embeddings: made in parts that outlive a kill, joined into one file.

::

    out/parts/000000.parquet   while it is made: a part is there whole or not at all
    out/embeddings.parquet     one row group per part
    out/manifest.json          last
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.commits import check_fault, commit, write_beside
from eo_ssl.corpus import Corpus
from eo_ssl.embedding.paired_tiles import PairedTiles, TileEncoder
from eo_ssl.embedding.table import Rows, Stored, build_schema, build_table, open_writer
from eo_ssl.errors import UserError, expect
from eo_ssl.evaluation import CorpusSource, SourceSubset, extract_features, open_corpus_source
from eo_ssl.fingerprints import compute_sha256

EMBEDDINGS = "embeddings.parquet"
_PARTS = "parts"
PART_TILES = 4096  # of a part and a row group: 6 MB of 384 float32, seconds of work that a kill may cost


@dataclass(frozen=True, slots=True)
class TileSettings:
    """Settings of a corpus's embedding."""

    batch_size: int = 64
    "tiles per forward pass"
    stored: Stored = "float32"
    "type of the numbers in the file"
    part_tiles: int = PART_TILES
    "tiles per part, rounded up to whole batches, so that a resumed run cuts the same batches"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse an empty batch."""
        expect(
            self.batch_size >= 1,
            expected="at least one tile per forward pass",
            got=self.batch_size,
            remedy="give --batch_size 64",
        )

    @property
    def step(self) -> int:
        """Tiles per part."""
        return -(-max(self.part_tiles, 1) // self.batch_size) * self.batch_size

    def to_json(self) -> dict[str, Any]:
        """Return what decides the bytes of the table, as plain values."""
        return {"batch_size": self.batch_size, "stored": self.stored, "part_tiles": self.step}


def check_tiles(encoder: TileEncoder, corpus: Corpus, stream: str, *, row: int, settings: TileSettings) -> None:
    """Embed one tile, so that what cannot be embedded is refused before a product is begun.

    Raises:
        UserError: another sensor, quantity or bands than the encoder's, or values that it refuses.
    """
    wanted, given = encoder.preprocessing.sensor, corpus.streams[stream].sensor
    if wanted != given:
        fitting = [name for name, known in corpus.streams.items() if known.sensor == wanted]
        remedy = f"name {' or '.join(fitting)} with --stream" if fitting else "embed a corpus of that sensor"
        raise UserError(f"expected a stream of {wanted} for {encoder.name}, got {stream} of {given}; {remedy}")
    _extract(encoder, open_corpus_source(corpus, stream), np.array([row]), batch_size=1, device=settings.device)


def describe(encoder: TileEncoder, corpus: Corpus, stream: str) -> dict[str, Any]:
    """Return what a table of embeddings says of itself: encoder with contract, corpus, licences."""
    licences = corpus.licences()
    return {
        "encoder": {
            "name": encoder.name,
            "fingerprint": encoder.fingerprint,
            "dim": encoder.dim,
            "preprocessing": encoder.preprocessing.to_json(),
        },
        **({"partner": encoder.describe()} if isinstance(encoder, PairedTiles) else {}),
        "corpus": {"fingerprint": corpus.fingerprint, "snapshot": corpus.snapshot, "stream": stream},
        "stream": corpus.streams[stream].to_json(),
        "licences": [
            {key: licence.get(key) for key in ("card", "licence", "attribution", "non_commercial")}
            for licence in licences
        ],
        "non_commercial": any(bool(licence.get("non_commercial")) for licence in licences),
    }


def embed_tiles(
    encoder: TileEncoder,
    corpus: Corpus,
    stream: str,
    *,
    rows: Rows,
    out: Path,
    settings: TileSettings,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Write ``out/embeddings.parquet`` and return its sha256; parts that are there already are kept.

    Memory holds one part, whatever the corpus.

    Args:
        encoder: any, its own contract is applied; or one of two sensors with the pairs that it is shown.
        corpus: holds the tiles.
        stream: their stream.
        rows: int64 [n], rows of the stream, ascending, each once.
        out: folder of the product, which the caller began with ``manifest.plan`` and ends with ``manifest.finish``.
        settings: batch, type and parts.
        progress: called with the number of tiles finished.

    Raises:
        UserError: the contract refuses the stream, a number is not finite or does not fit, or the disk is full.
    """
    final = out / EMBEDDINGS
    if not final.is_file():
        source = open_corpus_source(corpus, stream)
        form = build_schema(encoder.dim, stored=settings.stored, about=describe(encoder, corpus, stream))
        starts = range(0, len(rows), settings.step)
        paths = [out / _PARTS / f"{number:06d}.parquet" for number in range(len(starts))]
        for path, start in zip(paths, starts, strict=True):
            chosen = rows[start : start + settings.step]
            if not path.is_file():
                _write_part(path, encoder, (corpus, stream, source), chosen, form=form, settings=settings)
            if progress is not None:
                progress(len(chosen))
        check_fault("before-join")
        with write_beside(final) as temporary:
            with open_writer(temporary, form) as joined:
                for path in paths:
                    part = pq.read_table(path).cast(form)
                    joined.write_table(part, row_group_size=max(part.num_rows, 1))
            commit(final, temporary)
    return compute_sha256(final)


def remove_parts(out: Path) -> None:
    """Remove the parts of a finished product."""
    shutil.rmtree(out / _PARTS, ignore_errors=True)


def _write_part(
    path: Path,
    encoder: TileEncoder,
    where: tuple[Corpus, str, CorpusSource],
    rows: Rows,
    *,
    form: pa.Schema,
    settings: TileSettings,
) -> None:
    corpus, stream, source = where
    x = _extract(encoder, source, rows, batch_size=settings.batch_size, device=settings.device)
    made = build_table(corpus, stream, rows, x, form=form)
    with write_beside(path) as temporary:
        with open_writer(temporary, form) as file:
            file.write_table(made, row_group_size=max(made.num_rows, 1))
        commit(path, temporary)


def _extract(encoder: TileEncoder, source: CorpusSource, rows: Rows, *, batch_size: int, device: str) -> Any:
    """Vectors of the tiles ``rows`` of ``source``: [n, D] float32."""
    if isinstance(encoder, PairedTiles):
        return encoder.extract(source, rows, batch_size=batch_size, device=device)
    return extract_features(encoder, SourceSubset(source, rows), batch_size=batch_size, device=device).x

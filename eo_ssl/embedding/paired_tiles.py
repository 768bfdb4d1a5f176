"""Tiles that an encoder of two sensors embeds: each optical one with the radar tile of its ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.corpus import Corpus, select_rows
from eo_ssl.embedding.inputs import open_stream, prepare_encoder
from eo_ssl.embedding.table import Rows
from eo_ssl.encoder import Encoder, FusedEncoder, load_fused_encoder
from eo_ssl.errors import expect
from eo_ssl.evaluation import Computing, CorpusSource, SourceSubset, extract_joint, open_corpus_source
from eo_ssl.manifest import require
from eo_ssl.pairing import read_pairs
from eo_ssl.preprocessing import Preprocessing


@dataclass(frozen=True)
class PairedTiles:
    """An encoder of two sensors and the pairs it is shown; a row of the table is that of the optical tile."""

    fused: FusedEncoder
    stream: str
    "of the optical tiles"
    radar_stream: str
    radar: CorpusSource
    optical_rows: Rows
    "int64 [n], ascending, each once"
    radar_rows: Rows
    "int64 [n], nearest in time to each"
    made: str
    "fingerprint of the pairs"

    @property
    def name(self) -> str:
        """Of the encoder."""
        return self.fused.name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.fused.dim

    @property
    def fingerprint(self) -> str:
        """Of the encoder."""
        return self.fused.fingerprint

    @property
    def preprocessing(self) -> Preprocessing:
        """What the encoder of the optical tiles accepts."""
        return self.fused.optical.preprocessing

    def describe(self) -> dict[str, Any]:
        """Return what a table says of the second sensor."""
        contract = self.fused.radar.preprocessing.to_json()
        return {"stream": self.radar_stream, "pairs": self.made, "preprocessing": contract}

    def extract(self, optical: CorpusSource, rows: Rows, *, batch_size: int, device: str) -> Any:
        """Return the vectors of optical ``rows``, each with its radar tile: [m, D] float32."""
        partners = self.radar_rows[np.searchsorted(self.optical_rows, rows)]
        radar = SourceSubset(self.radar, partners)
        return extract_joint(self.fused, radar, SourceSubset(optical, rows), Computing(batch_size, device=device))


TileEncoder = Encoder | PairedTiles
"""What embeds the tiles of a stream."""


def open_tiles(
    encoder: str, source: str, stream: str | None, snapshot: int | None, pairs: Path | None, *, seed: int = 0
) -> tuple[TileEncoder, Corpus, str]:
    """Return an encoder, a corpus, and the stream whose tiles it embeds.

    Args:
        encoder: what `prepare_encoder` takes; with pairs, what `load_fused_encoder` takes.
        source: folder or link of the corpus.
        stream: of the corpus; None for its only one, and with pairs, which name their streams.
        snapshot: of the corpus; None for the latest.
        pairs: folder that pair made, for an encoder of two sensors.
        seed: of random weights.

    Raises:
        UserError: no such encoder, corpus, stream or pairs, or what does not fit together.
    """
    if pairs is None:
        corpus, name = open_stream(source, stream, snapshot=snapshot)
        return prepare_encoder(encoder, statistics=(corpus, name), seed=seed), corpus, name
    expect(stream is None, expected="no stream for pairs, which name theirs", got=stream, remedy="leave it out")
    corpus = Corpus.open(source, snapshot=snapshot)
    tiles = open_paired_tiles(load_fused_encoder(encoder), corpus, pairs)
    return tiles, corpus, tiles.stream


def select_tiles(encoder: TileEncoder, corpus: Corpus, stream: str, conditions: Sequence[str]) -> Rows:
    """Return the rows of ``stream`` that meet ``conditions``, and of those that the encoder can embed.

    Raises:
        UserError: there are none.
    """
    rows, wanted = select_rows(corpus, stream, conditions), list(conditions)
    if isinstance(encoder, PairedTiles):
        rows = rows[np.isin(rows, encoder.optical_rows)]
        wanted.append(f"have a tile of {encoder.radar_stream}")
    expect(len(rows), expected=f"tiles of {stream} that meet {', '.join(wanted)}", got="none", remedy="choose others")
    return rows


def name_pairs(encoder: TileEncoder) -> dict[str, str]:
    """Return the fingerprint of the pairs that an encoder is shown, as an input of a product; nothing without."""
    return {"pairs": encoder.made} if isinstance(encoder, PairedTiles) else {}


def open_paired_tiles(fused: FusedEncoder, corpus: Corpus, pairs: Path) -> PairedTiles:
    """Return the pairs in the folder ``pairs`` as tiles of ``corpus``; of several partners the nearest in time.

    Raises:
        UserError: pairs of another corpus or snapshot, or of other streams than a radar and an optical one.
    """
    made = require(pairs, "pair").fingerprint
    paired = read_pairs(pairs, expected=made)
    report = paired.report
    expect(
        report.corpus_fingerprint == corpus.fingerprint,
        expected=f"pairs of the corpus {corpus.root} and its snapshot",
        got=f"those of another in {pairs}",
        remedy="pair this corpus, or name the --snapshot that was paired",
    )
    names = {corpus.streams[name].quantity.is_reflectance: name for name in (report.stream_a, report.stream_b)}
    expect(
        len(names) == 2,
        expected=f"pairs of a radar and an optical stream for {fused.name}",
        got=f"{report.stream_a} and {report.stream_b}",
        remedy="pair such streams",
    )
    kept = paired.kept
    columns = ("row_a", "row_b") if names[True] == report.stream_a else ("row_b", "row_a")
    optical, radar = (kept[column].to_numpy().astype(np.int64) for column in columns)
    order = np.lexsort((radar, np.abs(kept["days"].to_numpy()), optical))
    rows, first = np.unique(optical[order], return_index=True)
    source = open_corpus_source(corpus, names[False])
    return PairedTiles(fused, names[True], names[False], source, rows, radar[order][first], made)

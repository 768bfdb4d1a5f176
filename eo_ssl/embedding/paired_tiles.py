"""Tiles that an encoder of two sensors embeds: each optical one with the radar tile of its ground."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.corpus import Corpus
from eo_ssl.embedding.table import Rows
from eo_ssl.encoder import FusedEncoder
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

    def select(self, rows: Rows) -> Rows:
        """Return those of the optical ``rows`` [m] that have a radar tile."""
        return rows[np.isin(rows, self.optical_rows)]

    def extract(self, optical: CorpusSource, rows: Rows, *, batch_size: int, device: str) -> Any:
        """Return the vectors of optical ``rows``, each with its radar tile: [m, D] float32."""
        partners = self.radar_rows[np.searchsorted(self.optical_rows, rows)]
        radar = SourceSubset(self.radar, partners)
        return extract_joint(self.fused, radar, SourceSubset(optical, rows), Computing(batch_size, device=device))


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

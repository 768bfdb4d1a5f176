"""Products of the data half, of embedding and of evaluation, and all that their readers give: `damage_trials` damages and reads them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.damage_trials import Kind, digest_table
from eo_ssl.corpus import Corpus, describe_corpus, read_parquet
from eo_ssl.curation import CurationReport, read_subset
from eo_ssl.embedding import Embeddings
from eo_ssl.evaluation.predictions import Predictions
from eo_ssl.manifest import require
from eo_ssl.pairing import read_pairs
from eo_ssl.reporting.products import find_products, read_json, read_list
from eo_ssl.reporting.sections.scores import read_rows
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows.curate import main as curate
from eo_ssl.workflows.embed import main as embed
from eo_ssl.workflows.evaluate import main as evaluate
from eo_ssl.workflows.ingest import main as ingest
from eo_ssl.workflows.pair import main as pair

OPTICAL, RADAR = "s2_boa_b02b03b04b08_10m_16px", "s1rtc_gamma0_vvvh_10m_16px"


def make_products(root: Path) -> Path:
    """Make one small product of each kind and return their folder."""
    made = root / "sound"
    make_archive(made / "archive", seed=3, spec=ArchiveSpec(sites=2, dates=2, size_px=96))
    corpus, tiles = made / "corpus", {"size_px": 16, "tiling": "grid", "dask": "synchronous"}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ingest("sample_s2_l2a", made / "archive", corpus, bands=["B02", "B03", "B04", "B08"], **tiles)
        ingest("sample_s1_rtc", made / "archive", corpus, **tiles)
        curate(corpus, made / "subset", stream=OPTICAL, keep=0.5)
        pair(corpus, made / "pairs", RADAR, OPTICAL)
        embed("imagestats", str(corpus), made / "embeddings", stream=OPTICAL)
        chosen: dict[str, Any] = {"streams": [OPTICAL], "protocols": ["knn5"], "draws": 2, "held_out": "all"}
        evaluate(["imagestats", "rcf"], "corpus", corpus, made / "results", device="cpu", **chosen)
    return made


def _read_corpus(folder: Path) -> Iterator[Any]:
    corpus = Corpus.open(folder)
    described = corpus.describe()
    described.pop("root")
    yield described
    yield describe_corpus(corpus)
    yield [corpus.settings(), corpus.manifest().to_bytes().decode()]
    for name in corpus.streams:
        reader = corpus.stream(name)
        yield reader.read_stored(np.arange(len(reader))).tobytes()
        yield reader.read([0]).tobytes()
        yield digest_table(corpus.index(name))
        yield corpus.statistics(name).to_json()
    yield corpus.provenance(OPTICAL, 0)


def _read_subset(folder: Path) -> Iterator[Any]:
    manifest = require(folder, "curate")
    yield manifest.to_bytes()
    yield from (column.tobytes() for column in read_subset(folder, manifest))
    yield CurationReport.from_json(read_json(folder / "curation_report.json")).to_json()
    yield digest_table(read_parquet(folder / "dropped.parquet", remedy="curate again"))


def _read_pairs(folder: Path) -> Iterator[Any]:
    manifest = require(folder, "pair")
    pairs = read_pairs(folder, expected=manifest.fingerprint)
    yield manifest.to_bytes()
    yield str(pairs.report)
    yield from map(digest_table, (pairs.kept, pairs.rejected, pairs.scenes))


def _read_embeddings(folder: Path) -> Iterator[Any]:
    table = Embeddings.open(folder)
    yield [table.manifest.to_bytes().decode(), table.about, table.dim, len(table)]
    for _, part in table.groups(table._file.schema_arrow.names):
        yield digest_table(part)


def _read_results(folder: Path) -> Iterator[Any]:
    (product,) = find_products([folder])
    yield product.manifest.to_bytes()
    rows = read_rows([product], [])
    yield [dict(row.data) for row in rows]
    yield read_list(folder / "comparisons.json")
    for row in rows:
        for key in row.data["answers"]:
            yield Predictions.read(folder, key).values.tobytes()


KINDS = {
    "corpus": Kind(_read_corpus),
    "subset": Kind(_read_subset),
    "pairs": Kind(_read_pairs),
    "embeddings": Kind(_read_embeddings),
    "results": Kind(_read_results),
}

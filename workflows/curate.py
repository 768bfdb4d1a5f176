"""``eo-ssl curate``: one stream of a corpus in, the rows worth training on out, with the reasons for the rest."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import Progress

from eo_ssl.corpus import Corpus
from eo_ssl.corpus.conditions import rows_where
from eo_ssl.curation import Context, Hierarchical, Random, curate
from eo_ssl.curation.embeddings import Floats, Rows
from eo_ssl.curation.report import to_plain
from eo_ssl.curation.selection import resolve_keep
from eo_ssl.curation.subset import write_subset
from eo_ssl.encoder import WEIGHT_FREE, Encoder, load_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation import CorpusSource, extract_features, open_corpus_source
from eo_ssl.manifest import Clock, finish, plan
from eo_ssl.preprocessing import Preprocessing


def main(
    corpus: Path,
    out: Path,
    stream: str | None = None,
    keep: float = 0.5,
    method: Literal["hierarchical", "random"] = "hierarchical",
    hierarchical: Hierarchical = Hierarchical(scaling="zscore"),  # noqa: B008  (frozen)
    encoder: str = "imagestats",
    duplicates: Literal["drop", "keep"] = "drop",
    split: Literal["train", "val", "test", "all"] = "train",
    snapshot: int | None = None,
    where: list[str] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Choose a balanced, diverse subset of one stream of a corpus and say what was left out and why.

    Rows of another split, and those that do not meet the conditions, are neither kept nor dropped.

    Args:
        corpus: folder that `eo-ssl ingest` made.
        out: folder that receives the subset.
        stream: name of the stream; may be left out when the corpus has only one.
        keep: up to 1 the fraction of the rows to keep, above 1 their number; 1 with `duplicates: drop` removes duplicates only.
        method: hierarchical (k-means with resampling, balanced sampling) or random.
        hierarchical: its parameters; scaling zscore suits image statistics, l2 trained encoders; eta may be .inf or -.inf.
        encoder: folder of a trained encoder, or a weight-free one: imagestats, rcf, random_init.
        duplicates: drop all but the first of tiles with equal pixels, or keep them.
        split: rows to choose from; the subset of a training corpus comes from train.
        snapshot: number of the corpus snapshot; the latest when left out.
        where: conditions that rows must meet, such as `[cloud_fraction<0.2, orbit==ascending]`; what is unknown meets none.
        batch_size: tiles embedded at once.
        seed: of everything random.
        overwrite: replace a subset made with another configuration.
    """
    console, clock, opened = Console(), Clock(), Corpus.open(corpus, snapshot=snapshot)
    only = next(iter(opened.streams)) if len(opened.streams) == 1 else ""  # of several one must be named
    name = opened.stream(stream or only).stream.name
    model = _encoder(opened, name, encoder, seed)
    rows, context = _rows(opened, name, split, model, where=where or [], duplicates=duplicates == "drop")
    resolve_keep(keep, len(rows))  # refused before anything is written or embedded
    inputs = {"corpus": opened.fingerprint, "encoder": model.fingerprint}
    config = {"stream": name, "snapshot": opened.snapshot, "keep": keep, "method": method, "split": split, "seed": seed}
    config |= {"encoder": encoder, "duplicates": duplicates, "hierarchical": to_plain(asdict(hierarchical))}
    config |= {"where": where} if where else {}
    if plan(out, stage="curate", config=config, inputs=inputs, overwrite=overwrite) == "done":
        console.print(f"nothing to do: {out} is made with this configuration already", soft_wrap=True)
        return
    embeddings = _embed(model, open_corpus_source(opened, name, rows=rows), batch_size, console)
    selector = hierarchical if method == "hierarchical" else Random(scaling=hierarchical.scaling)
    with console.status(f"choosing from {len(rows)} tiles"):
        selection = curate(embeddings, keep, np.random.default_rng(seed), method=selector, context=context)
    report, product = selection.report, write_subset(out, selection, rows)
    summary = {"rows": report.n_rows, "kept": report.n_kept, "dropped": report.reasons}
    made: dict[str, Any] = {"config": config, "inputs": inputs, "product": product, "summary": summary}
    finish(out, stage="curate", started=clock, seed=seed, **made)
    dropped = ", ".join(f"{count} {reason}" for reason, count in report.reasons.items())
    said = f"kept {report.n_kept} of {report.n_rows} tiles of {name} ({dropped}): {out.resolve()}"
    console.print(said, soft_wrap=True)


def _encoder(corpus: Corpus, stream: str, encoder: str, seed: int) -> Encoder:
    """Load the encoder; a weight-free one sees the stream normalised by its own training split, power as dB."""
    if encoder not in WEIGHT_FREE:
        return load_encoder(encoder)
    tag = corpus.streams[stream]
    quantity = tag.quantity.in_db if tag.quantity.is_power else None
    statistics = corpus.statistics(stream, quantity=quantity) if quantity else corpus.statistics(stream)
    convert = (f"{tag.quantity.value}->{quantity.value}",) if quantity else ()
    return load_encoder(encoder, preprocessing=Preprocessing.from_stats(tag, statistics, convert=convert), seed=seed)


def _rows(
    corpus: Corpus, stream: str, split: str, model: Encoder, *, where: list[str], duplicates: bool
) -> tuple[Rows, Context]:
    """Return the rows to choose from and what the index knows of them."""
    index = corpus.index(stream, columns=["label", "pixels_sha256"])
    rows = rows_where(corpus, stream, where if split == "all" else [f"split=={split}", *where])
    if not len(rows):
        raise UserError(
            f"expected tiles in the split {split} of {stream}, got none of {len(index)}; choose another split or other conditions"
        )
    chosen = index.take(pa.array(rows))
    identities, labels = chosen["pixels_sha256"] if duplicates else None, chosen["label"].to_numpy()
    return rows, Context(
        identities, labels, corpus_fingerprint=corpus.fingerprint, encoder_fingerprint=model.fingerprint
    )


def _embed(model: Encoder, source: CorpusSource, batch_size: int, console: Console) -> Floats:
    with Progress(console=console, transient=True, disable=bool(os.environ.get("EO_SSL_QUIET"))) as bars:
        task = bars.add_task(f"embedding {len(source)} tiles with {model.name}", total=len(source))
        return extract_features(model, source, batch_size=batch_size, progress=lambda done: bars.advance(task, done)).x

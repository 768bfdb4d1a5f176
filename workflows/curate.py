"""``eo-ssl curate``: one stream of a corpus in, the rows worth training on out, with the reasons for the rest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console
from rich.progress import Progress

from eo_ssl.corpus import Corpus, select_rows
from eo_ssl.curation import (
    SUBSET_FILES,
    Context,
    Hierarchical,
    RepeatConfig,
    Selector,
    curate,
    find_repeats,
    resolve_keep,
    write_subset,
)
from eo_ssl.embedding import choose_stream, prepare_encoder
from eo_ssl.encoder import Encoder
from eo_ssl.errors import expect
from eo_ssl.evaluation import CorpusSource, extract_features, open_corpus_source
from eo_ssl.manifest import open_product
from eo_ssl.printable import make_console


def main(
    corpus: Path,
    out: Path,
    stream: str | None = None,
    keep: float = 0.5,
    method: Selector = Hierarchical(scaling="zscore"),  # noqa: B008  (frozen)
    encoder: str = "imagestats",
    duplicates: Literal["drop", "exact", "keep"] = "drop",
    bounds: RepeatConfig = RepeatConfig(),  # noqa: B008
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
        keep: up to 1 the fraction of the rows to keep, above 1 their number; 1 with `duplicates: drop` removes
            duplicates only.
        method: selector: Hierarchical (k-means with resampling, balanced sampling) or Random. The default is
            Hierarchical with scaling zscore, which suits image statistics; a named one has scaling l2, which suits
            trained encoders, unless --method.scaling says otherwise. Its eta may be .inf or -.inf.
        encoder: folder of a trained encoder, or a weight-free one: imagestats, rcf, random_init.
        duplicates: drop all but one of tiles that show the same acquisition (equal pixels, and of tiles with a place
            and a date also overlap strips and reprocessed products), only those with equal pixels (exact), or keep
            all. The same place on another date is no duplicate.
        bounds: limits on overlap, correlation, time and shift within which two tiles are the same acquisition.
        split: rows to choose from; the subset of a training corpus comes from train.
        snapshot: number of the corpus snapshot; the latest when left out.
        where: conditions that rows must meet, such as `[cloud_fraction<0.2, orbit==ascending]`; what is unknown meets
            none.
        batch_size: tiles embedded at once.
        seed: of everything random.
        overwrite: replace a subset made with another configuration.
    """
    console, opened = make_console(), Corpus.open(corpus, snapshot=snapshot)
    name = choose_stream(opened, stream)
    model = prepare_encoder(encoder, statistics=(opened, name), seed=seed)
    chosen = select_rows(opened, name, [*([] if split == "all" else [f"split=={split}"]), *(where or [])])
    rows, context = _rows(opened, name, chosen, model, columns=method.columns, duplicates=duplicates != "keep")
    resolve_keep(keep, len(rows))  # refused before anything is written or embedded
    config = {
        "stream": name,
        "snapshot": opened.snapshot,
        "keep": keep,
        "method": method.name,
        "split": split,
        "seed": seed,
        "encoder": encoder,
        "duplicates": duplicates,
        method.name: method.parameters,
    }
    config |= {"where": where} if where else {}
    config |= {"bounds": bounds.to_json()} if duplicates == "drop" else {}
    inputs = {"corpus": opened.fingerprint, "encoder": model.fingerprint}
    with open_product(out, stage="curate", config=config, inputs=inputs, overwrite=overwrite) as product:
        if product.done:
            console.print(product.nothing_to_do, soft_wrap=True)
            return
        if duplicates == "drop":
            with console.status(f"comparing tiles of one acquisition among {len(rows)}"):
                repeats = find_repeats(opened, name, rows, bounds, identities=context.identities)
                context = replace(context, repeats=repeats)
        embeddings = _embed(model, open_corpus_source(opened, name, rows=rows), batch_size, console)
        with console.status(f"choosing from {len(rows)} tiles"):
            selection = curate(embeddings, keep, np.random.default_rng(seed), method=method, context=context)
        report = selection.report
        summary = {"rows": report.n_rows, "kept": report.n_kept, "dropped": report.reasons}
        product.sign(write_subset(out, selection, rows), seed=seed, summary=summary, files=SUBSET_FILES)
    dropped = ", ".join(f"{count} {reason}" for reason, count in report.reasons.items())
    outcome = f"kept {report.n_kept} of {report.n_rows} tiles of {name} ({dropped}): {out.resolve()}"
    console.print(outcome, soft_wrap=True)


def _rows(
    corpus: Corpus,
    stream: str,
    rows: npt.NDArray[np.int64],
    model: Encoder,
    *,
    columns: tuple[str, ...],
    duplicates: bool,
) -> tuple[npt.NDArray[np.int64], Context]:
    """Return the rows to choose from and what the index knows of them."""
    index = corpus.index(stream, columns=list(dict.fromkeys(["label", "pixels_sha256", *columns])))
    expect(
        len(rows),
        expected=f"tiles in the split of {stream} that is chosen from, which meet the conditions",
        got=f"none of {len(index)}",
        remedy="choose another split or other conditions",
    )
    chosen = index.take(pa.array(rows))
    return rows, Context(
        identities=chosen["pixels_sha256"] if duplicates else None,
        labels=chosen["label"].to_numpy(),
        columns=chosen,
        corpus_fingerprint=corpus.fingerprint,
        encoder_fingerprint=model.fingerprint,
    )


def _embed(model: Encoder, source: CorpusSource, batch_size: int, console: Console) -> npt.NDArray[np.float32]:
    with Progress(console=console, transient=True, disable=bool(os.environ.get("EO_SSL_QUIET"))) as bars:
        task = bars.add_task(f"embedding {len(source)} tiles", total=len(source))
        return extract_features(model, source, batch_size=batch_size, progress=lambda done: bars.advance(task, done)).x

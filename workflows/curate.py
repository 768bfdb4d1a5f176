"""``eo-ssl curate``: one stream of a corpus in, the rows worth training on out, with the reasons for the rest."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from eo_ssl.corpus import Corpus, select_rows
from eo_ssl.curation import (
    SUBSET_FILES,
    Context,
    Hierarchical,
    Selector,
    curate,
    resolve_keep,
    thin_strata,
    write_subset,
)
from eo_ssl.embedding import choose_stream, open_target, prepare_encoder
from eo_ssl.encoder import Encoder
from eo_ssl.errors import expect
from eo_ssl.evaluation import ImageSource, extract_features, open_corpus_source
from eo_ssl.manifest import open_product
from eo_ssl.printable import make_console


def main(
    corpus: Path,
    out: Path,
    stream: str | None = None,
    keep: float = 0.5,
    method: Selector = Hierarchical(scaling="zscore"),  # noqa: B008  (frozen)
    encoder: str = "imagestats",
    duplicates: Literal["drop", "keep"] = "drop",
    split: Literal["train", "val", "test", "all"] = "train",
    snapshot: int | None = None,
    where: list[str] | None = None,
    per_location: int | None = None,
    towards: str | None = None,
    towards_data: Path | None = None,
    batch_size: int = 256,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Choose a balanced, diverse subset of one stream of a corpus and say what was left out and why.

    Rows of another split, those that do not meet the conditions and those above the number per place are neither kept
    nor dropped.

    Args:
        corpus: folder that `eo-ssl ingest` made.
        out: folder that receives the subset.
        stream: name of the stream; may be left out when the corpus has only one.
        keep: up to 1 the fraction of the rows to keep, above 1 their number; 1 with `duplicates: drop` removes
            duplicates only.
        method: selector, such as Hierarchical (k-means with resampling, balanced sampling), Density or Random.
            The default is Hierarchical with scaling zscore, which suits image statistics; a named one has scaling l2,
            which suits trained encoders, unless --method.scaling says otherwise. Its eta may be .inf or -.inf.
        encoder: folder of a trained encoder, or a weight-free one: imagestats, rcf, random_init.
        duplicates: drop all but the first of tiles with equal pixels, or keep them.
        split: rows to choose from; the subset of a training corpus comes from train.
        snapshot: number of the corpus snapshot; the latest when left out.
        where: conditions that rows must meet, such as `[cloud_fraction<0.2, orbit==ascending]`; what is unknown meets
            none.
        per_location: tiles to choose from at most of each location_id, drawn at random; all when left out.
        towards: target set of a selector such as SimCore: another corpus (its stream of the same name or else of the
            same quantity and bands, in the same split), a GeoJSON file of regions (the tiles to choose from whose
            bounding boxes reach into them), or the name of a benchmark (its training images).
        towards_data: root folder of that benchmark.
        batch_size: tiles embedded at once.
        seed: of everything random.
        overwrite: replace a subset made with another configuration.
    """
    console, opened = make_console(), Corpus.open(corpus, snapshot=snapshot)
    name = choose_stream(opened, stream)
    model = prepare_encoder(encoder, statistics=(opened, name), seed=seed)
    chosen = select_rows(opened, name, [*([] if split == "all" else [f"split=={split}"]), *(where or [])])
    rows, notes = (chosen, ()) if per_location is None else _thin(opened, name, chosen, per_location, seed)
    context = _describe(opened, name, rows, model, columns=method.columns, duplicates=duplicates == "drop", notes=notes)
    resolve_keep(keep, len(rows))  # refused before anything is written or embedded
    method.check(context.columns, targeted=towards is not None)
    goal = open_target(towards, opened, name, rows, split=split, data=towards_data)
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
    told = {"where": where, "per_location": per_location, "towards": towards}
    config |= {option: value for option, value in told.items() if value}
    inputs = {"corpus": opened.fingerprint, "encoder": model.fingerprint, **goal.inputs}
    with open_product(out, stage="curate", config=config, inputs=inputs, overwrite=overwrite) as product:
        if product.done:
            console.print(product.nothing_to_do, soft_wrap=True)
            return
        embed = partial(_embed, model, batch_size=batch_size, console=console)
        embeddings, target = goal.embed(open_corpus_source(opened, name, rows=rows), embed)
        context = replace(context, towards=target, notes=(*notes, *goal.notes))
        with console.status(f"choosing from {len(rows)} tiles"):
            selection = curate(embeddings, keep, np.random.default_rng(seed), method=method, context=context)
        report = selection.report
        summary = {"rows": report.n_rows, "kept": report.n_kept, "dropped": report.reasons}
        product.sign(write_subset(out, selection, rows), seed=seed, summary=summary, files=SUBSET_FILES)
    dropped = ", ".join(f"{count} {reason}" for reason, count in report.reasons.items())
    outcome = f"kept {report.n_kept} of {report.n_rows} tiles of {name} ({dropped}): {out.resolve()}"
    console.print(outcome, soft_wrap=True)


def _thin(
    corpus: Corpus, stream: str, rows: npt.NDArray[np.int64], most: int, seed: int
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return at most so many of ``rows`` of each place, and what that left out."""
    places = corpus.index(stream, columns=["location_id"], rows=rows)
    kept = rows[thin_strata(places, most, np.random.default_rng([seed, most]))]
    return kept, (f"{len(rows) - len(kept)} tiles above {most} of a place were left out before",)


def _describe(
    corpus: Corpus,
    stream: str,
    rows: npt.NDArray[np.int64],
    model: Encoder,
    *,
    columns: tuple[str, ...],
    duplicates: bool,
    notes: tuple[str, ...],
) -> Context:
    """Return what the index knows of the rows to choose from."""
    expect(
        len(rows),
        expected=f"tiles in the split of {stream} that is chosen from, which meet the conditions",
        got=f"none of {corpus.count(stream)}",
        remedy="choose another split or other conditions",
    )
    chosen = corpus.index(stream, columns=list(dict.fromkeys(["label", "pixels_sha256", *columns])), rows=rows)
    return Context(
        identities=chosen["pixels_sha256"] if duplicates else None,
        labels=chosen["label"].to_numpy(),
        columns=chosen,
        corpus_fingerprint=corpus.fingerprint,
        encoder_fingerprint=model.fingerprint,
        notes=notes,
    )


def _embed(model: Encoder, source: ImageSource, *, batch_size: int, console: Console) -> npt.NDArray[np.float32]:
    with Progress(console=console, transient=True, disable=bool(os.environ.get("EO_SSL_QUIET"))) as bars:
        task = bars.add_task(f"embedding {len(source)} tiles", total=len(source))
        return extract_features(model, source, batch_size=batch_size, progress=lambda done: bars.advance(task, done)).x

"""``eo-ssl curate``: one stream of a corpus in, the rows worth training on out, with the reasons for the rest."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress

from eo_ssl.corpus import Corpus
from eo_ssl.curation import (
    SUBSET_FILES,
    Hierarchical,
    RepeatConfig,
    Selector,
    allocate_mapped,
    curate,
    find_repeats,
    release_pages,
    write_subset,
)
from eo_ssl.embedding import CandidateRows, choose_stream, open_target, open_tests, prepare_encoder
from eo_ssl.encoder import Encoder
from eo_ssl.evaluation import ImageSource, extract_features, open_corpus_source
from eo_ssl.manifest import open_product
from eo_ssl.printable import make_console


def main(
    corpus: Path,
    out: Path,
    stream: str | None = None,
    keep: float = 0.5,
    method: Selector = Hierarchical(),  # noqa: B008  (frozen)
    encoder: str = "imagestats",
    duplicates: Literal["drop", "exact", "keep"] = "drop",
    bounds: RepeatConfig = RepeatConfig(),  # noqa: B008
    split: Literal["train", "val", "test", "all"] = "train",
    snapshot: int | None = None,
    where: list[str] | None = None,
    per_location: int | None = None,
    towards: str | None = None,
    towards_data: Path | None = None,
    audit: str | None = None,
    audit_data: Path | None = None,
    audit_distance_m: float = 1000.0,
    audit_similarity: float | None = None,
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
            Its scaling, unless given, is what suits the encoder: z-scores of image statistics (of reflectance then put
            to unit length), unit length of all others. The eta of Hierarchical may be .inf or -.inf.
        encoder: folder of a trained encoder, or a weight-free one: imagestats, rcf, random_init.
        duplicates: drop all but one of tiles that show the same acquisition (equal pixels, and of tiles with a place
            and a date also overlap strips and reprocessed products), only those with equal pixels (exact), or keep
            all. The same place on another date is no duplicate.
        bounds: limits on overlap, correlation, time and shift within which two tiles are the same acquisition.
        split: rows to choose from; the subset of a training corpus comes from train.
        snapshot: number of the corpus snapshot; the latest when left out.
        where: conditions that rows must meet, such as `[cloud_fraction<0.2, orbit==ascending]`; what is unknown meets
            none.
        per_location: tiles to choose from at most of each location_id, drawn at random; all when left out.
        towards: target set of a selector such as SimCore: another corpus (its stream of the same name or else of the
            same quantity and bands, in the same split), a GeoJSON file of regions (the tiles to choose from whose
            bounding boxes reach into them), or the name of a benchmark (its training images).
        towards_data: root folder of that benchmark.
        audit: leave out tiles near test images: those of a benchmark, by its name, or of another corpus (its split
            test). Benchmarks without places say so. With `keep` 1 and Random nothing else is left out but copies.
        audit_data: root folder of that benchmark.
        audit_distance_m: metres between the edges of a tile and of a test image from which they are not near.
        audit_similarity: leave out also tiles whose features have at least this cosine (such as 0.99) with those of a
            test image, which needs no places; by place alone when left out.
        batch_size: tiles embedded at once.
        seed: of everything random.
        overwrite: replace a subset made with another configuration.
    """
    console, opened = make_console(), Corpus.open(corpus, snapshot=snapshot)
    name = choose_stream(opened, stream)
    model = prepare_encoder(encoder, statistics=(opened, name), seed=seed)
    candidates = CandidateRows.of(opened, name, split=split, where=where or (), per_location=per_location, seed=seed)
    tests = open_tests(audit, data=audit_data, like=opened.streams[name], similarity=audit_similarity)
    candidates = candidates.keep_away(tests, distance_m=audit_distance_m)
    candidates.check(method, keep, targeted=towards is not None)
    goal = open_target(towards, opened, name, candidates.rows, split=split, data=towards_data)
    config = {"stream": name, "snapshot": opened.snapshot, "keep": keep, "method": method.name, "split": split}
    config |= {"seed": seed, "encoder": encoder, "duplicates": duplicates, method.name: method.parameters}
    told: dict[str, Any] = {"where": where, "per_location": per_location, "towards": towards, "audit": audit}
    told |= {"audit_distance_m": audit and audit_distance_m, "audit_similarity": audit_similarity}
    told |= {"bounds": bounds.to_json()} if duplicates == "drop" else {}
    config |= {option: value for option, value in told.items() if value}
    inputs = {"corpus": opened.fingerprint, "encoder": model.fingerprint, **goal.inputs, **tests.inputs}
    with open_product(out, stage="curate", config=config, inputs=inputs, overwrite=overwrite) as product:
        if product.done:
            console.print(product.nothing_to_do, soft_wrap=True)
            return
        embed = partial(_embed, model, product.folder, batch_size=batch_size, console=console)
        embeddings, target = goal.embed(open_corpus_source(opened, name, rows=candidates.rows), embed)
        candidates, embeddings = candidates.keep_unlike(tests, embeddings, embed, encoder=model)
        rows, context = candidates.rows, candidates.describe(model, method, duplicates=duplicates != "keep")
        repeats = None
        if duplicates == "drop":
            with console.status(f"comparing tiles of one acquisition among {len(rows)}"):
                repeats = find_repeats(opened, name, rows, bounds, identities=context.identities)
        with console.status(f"choosing from {len(rows)} tiles"):
            told = {"notes": (*candidates.notes, *goal.notes), "nuisances": candidates.measure_nuisances(seed=seed)}
            known = replace(context, repeats=repeats, towards=target, **told)
            selection = curate(embeddings, keep, np.random.default_rng(seed), method=method, context=known)
        report, made = selection.report, write_subset(out, selection, rows, left_out=candidates.left_out)
        summary = {"rows": report.n_rows, "kept": report.n_kept, "dropped": report.reasons}
        product.sign(made, seed=seed, summary=summary, files=SUBSET_FILES)
    rest = ", ".join(f"{count} {reason}" for reason, count in report.reasons.items())
    console.print(f"kept {report.n_kept} of {report.n_rows} tiles of {name} ({rest}): {out.resolve()}", soft_wrap=True)


def _embed(
    model: Encoder, folder: Path, source: ImageSource, *, batch_size: int, console: Console
) -> np.memmap[Any, Any]:
    """Return the features of ``source`` in a file without a name: nothing is left of it, whatever ends this."""
    out = allocate_mapped(folder, (len(source), model.dim), np.float16)
    with Progress(console=console, transient=True, disable=bool(os.environ.get("EO_SSL_QUIET"))) as bars:
        task = bars.add_task(f"embedding {len(source)} tiles", total=len(source))

        def progress(done: int) -> None:
            bars.advance(task, done)
            release_pages(out)

        extract_features(model, source, batch_size=batch_size, progress=progress, out=out)
    return out

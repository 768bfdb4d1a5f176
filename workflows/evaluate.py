"""``eo-ssl evaluate``: encoders, baselines and controls on one task, each number with its interval, each pair with a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress

from eo_ssl.corpus import Corpus
from eo_ssl.evaluation.benchmarks import BENCHMARKS
from eo_ssl.evaluation.candidates import Candidate, candidates
from eo_ssl.evaluation.catalogue import Choice, Name, named_task
from eo_ssl.evaluation.display import show
from eo_ssl.evaluation.extraction import images
from eo_ssl.evaluation.leaderboard import csv_text, markdown, page
from eo_ssl.evaluation.methods import DEFAULT
from eo_ssl.evaluation.mstar import SHOTS
from eo_ssl.evaluation.neighbours import warned
from eo_ssl.evaluation.results import judge, write_comparisons
from eo_ssl.evaluation.settings import Computing, Settings
from eo_ssl.evaluation.studies import Grid, Study, study_of
from eo_ssl.evaluation.tasks import HeldOut, Task
from eo_ssl.evaluation.tuning import Tuning
from eo_ssl.manifest import Clock, commit, fingerprint, finish, plan


def main(
    encoders: list[str],
    task: Name,
    data: Path,
    out: Path,
    name: str | None = None,
    streams: list[str] | None = None,
    clutter: Path | None = None,
    sensor: str | None = None,
    classes: list[str] | None = None,
    held_out: HeldOut = "unseen",
    variant: str | None = None,
    card: str | None = None,
    protocols: list[str] | None = None,
    shots: list[int] | None = None,
    fractions: list[float] | None = None,
    study: Study = "compare",
    sizes: list[int] | None = None,
    normalisations: list[str] | None = None,
    resizers: list[str] | None = None,
    tuning: Tuning | None = None,
    draws: int = 5,
    seed: int = 0,
    batch_size: int = 64,
    cache: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    overwrite: bool = False,
) -> None:
    """Judge encoders on a task with kNN and linear probes, with intervals and paired comparisons.

    Args:
        encoders: folders of trained encoders, weights of others (torchgeo:ENUM.MEMBER, timm:NAME?contract=..., remoteclip:FILE), and names of
            weight-free ones (imagestats, rcf, rcf_zca, random_init, random_resnet50; rcf@3 for seed 3); NAME=FOLDER,FOLDER,FOLDER for
            one recipe pretrained with several seeds, which are resampled too; two joined by + for a task of two sensors.
        task: corpus (labels in a corpus, places held out), mstar_soc (few shots, with controls), or a published benchmark in its own layout.
        data: the corpus, or the root folder of the benchmark.
        out: folder that receives the results.
        name: of the task in the results; default: that of the data folder or the task.
        streams: streams of the corpus to use; default: its only one (mstar_soc: its only one but the 128-px crops).
        clutter: mstar_soc: corpus with 128-px crops of the same chips for the clutter control; default: data.
        sensor: corpus: name the bands of all streams as those of this sensor by their common names, to judge an encoder on another sensor.
        classes: corpus: label names to tell apart; default: all.
        held_out: corpus: test only tiles outside the corpus's training split, or, for a corpus nothing was trained on, all.
        variant: benchmark: bands, sensor or split, such as rgb or spatial of eurosat; default: the first.
        card: benchmark: card that says what the bands of the files are; default: the shipped one.
        protocols: knn5, knn5-standardised, knn20-cosine, linear, linear-sgd on frozen features, finetune, lora; of masks seg-linear, seg-upernet,
            seg-dpt, seg-finetune; default: knn5, knn5-standardised and linear, or seg-linear.
        shots: training samples per class, 0 for all; default: mstar_soc 1 5 10 20, else all.
        fractions: shares of the training samples, such as 0.01 0.1, beside or instead of shots.
        study: compare encoders; grid: each encoder under its contract against other sizes and normalisations; robustness: on perturbed test images.
        sizes: grid: sides in pixels that images are brought to beside the contract's.
        normalisations: grid: out of contract, zscore, divide, minmax, percentile, imagenet; default: all.
        resizers: grid: out of contract, torchvision, torchvision-no-antialias, kornia; default: contract.
        tuning: recipe of protocols that train.
        draws: draws per number of shots or fraction.
        seed: of draws, bootstrap and random weights.
        batch_size: images per forward pass.
        cache: folder where features are kept for the next evaluation.
        device: where encoders run; auto takes a GPU where there is one.
        overwrite: remove results made with another configuration.
    """
    started = Clock()
    plain = candidates(encoders, seed=seed)
    choice = Choice(name, streams, clutter, sensor, classes, held_out, variant, card)
    chosen = warned(named_task(task, data, choice))
    grid = Grid.of(sizes, normalisations, resizers)
    compared = study_of(plain, chosen, study, grid=grid, seed=seed)
    default = () if fractions else SHOTS if task == "mstar_soc" else (0,)
    settings = Settings.of(
        protocols or DEFAULT[chosen.kind],
        kind=chosen.kind,
        tuning=tuning,
        shots=default if shots is None else shots,
        fractions=fractions or (),
        draws=draws,
        seed=seed,
    )
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    inputs = {"task": chosen.fingerprint}
    for one in plain:
        inputs |= one.weights
    if task not in BENCHMARKS:
        inputs["corpus"] = Corpus.open(data).manifest().fingerprint
    state = plan(out, stage="evaluate", config=_config(chosen, compared, settings), inputs=inputs, overwrite=overwrite)
    kept = cache or (out / "features" if study != "compare" else None)  # equal inputs of a grid are encoded once
    _run(chosen, compared, settings, out, Computing(batch_size, kept, where), started, inputs, state == "done")


def _config(task: Task, compared: Sequence[Candidate], settings: Settings) -> dict[str, Any]:
    return {"encoders": [one.name for one in compared], "task": task.name, **dataclasses.asdict(settings)}


def _run(
    task: Task,
    compared: Sequence[Candidate],
    settings: Settings,
    out: Path,
    computing: Computing,
    started: Clock,
    inputs: dict[str, str],
    done: bool,
) -> None:
    """Judge, print and finish the product ``out``; a finished one is printed again and left alone."""
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("features", total=sum(images(one, task) for one in compared))
        counted = dataclasses.replace(computing, progress=lambda count: progress.advance(bar, count))
        rows, comparisons = judge(task, compared, settings, out, computing=counted)
    show(console, task, rows, comparisons)
    if done:
        console.print(f"nothing to do: {out} holds these results already")
        return
    write_comparisons(out, comparisons)
    for suffix, text in (
        ("md", markdown(rows, comparisons)),
        ("html", page(rows, comparisons)),
        ("csv", csv_text(rows)),
    ):
        commit(out / f"leaderboard.{suffix}", text.encode())
    summary = {
        "task": task.name,
        "rows": len(rows),
        "test_items": len(task.tested),
        "classes": len(task.class_names),
        "split": task.split,
    }
    product = fingerprint([rows, comparisons])
    finish(
        out,
        stage="evaluate",
        config=_config(task, compared, settings),
        inputs=inputs,
        product=product,
        started=started,
        seed=settings.seed,
        summary=summary,
    )
    console.print(f"{len(rows)} results in {started.wall_s:.0f} s: {out}")

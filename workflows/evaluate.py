"""``eo-ssl evaluate``: encoders, baselines and controls on one task, with intervals and paired comparisons."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from rich.progress import Progress

from eo_ssl.corpus import Corpus
from eo_ssl.evaluation import (
    BENCHMARKS,
    DEFAULT,
    PROTOCOLS,
    SHOTS,
    SUPERSEDED,
    Candidate,
    Computing,
    ContrastPlan,
    HeldOut,
    ResultsFolder,
    Settings,
    Study,
    Task,
    TaskOptions,
    Tuning,
    VariantGrid,
    check_compatibility,
    choose_device,
    estimate_training_cost,
    expand_study,
    judge,
    load_candidates,
    note_spatial_leakage,
    open_task,
)
from eo_ssl.leases import reserve
from eo_ssl.manifest import Clock
from eo_ssl.printable import make_console
from eo_ssl.reporting import print_results, render_leaderboard


def main(
    encoders: list[str],
    task: str,
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
    subsets: list[str] | None = None,
    contrasts: ContrastPlan | None = None,
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
        encoders: folders of trained encoders, weights of others (torchgeo:ENUM.MEMBER, timm:NAME?contract=...,
            remoteclip:FILE), and names of weight-free ones (imagestats, rcf, rcf_zca, random_init, random_resnet50;
            rcf@3 for seed 3); NAME=FOLDER,FOLDER,FOLDER for one recipe pretrained with several seeds, which are
            resampled too; two joined by + for a task of two sensors.
        task: corpus (labels in a corpus, places held out), mstar_soc (few shots, with controls), or a published
            benchmark in its own layout, such as eurosat or so2sat; a wrong name lists all.
        data: the corpus, or the root folder of the benchmark.
        out: folder that receives the results; one that has results of the same task and seed is added to.
        name: of the task in the results; default: that of the data folder or the task.
        streams: streams of the corpus to use; default: its only one (mstar_soc: its only one but the 128-px crops).
        clutter: mstar_soc: corpus with 128-px crops of the same chips for the clutter control; default: data.
        sensor: corpus: name the bands of all streams as those of this sensor by their common names, to judge an encoder
            on another sensor.
        classes: corpus: label names to tell apart; default: all.
        held_out: corpus: test only tiles outside the corpus's training split, or, for a corpus nothing was trained on,
            all.
        variant: benchmark: bands, sensor or split, such as rgb or spatial of eurosat; default: the first.
        card: benchmark: card that says what the bands of the files are; default: the shipped one.
        protocols: knn5, knn5-standardised, knn20-cosine, linear, linear-sgd on frozen features, finetune, lora; of
            masks seg-linear, seg-upernet, seg-dpt, seg-finetune; default: knn5, knn5-standardised and linear, or
            seg-linear.
        shots: training samples per class, 0 for all; default: mstar_soc 1 5 10 20, else all.
        fractions: shares of the training samples, such as 0.01 0.1, beside or instead of shots.
        study: compare encoders; grid: each encoder under its contract against other sizes and normalisations;
            robustness: on perturbed test images; bands: taught and tested with some of the bands alone; training: each
            run also after the steps at which it kept its encoder (training.encoders_at).
        sizes: grid: sides in pixels that images are brought to beside the contract's.
        normalisations: grid: out of contract, zscore, divide, minmax, percentile, imagenet; default: all.
        resizers: grid: out of contract, torchvision, torchvision-no-antialias, kornia; default: contract.
        subsets: bands: such as B04,B03,B02 or all-B8A (all but that one); default: red, green and blue, the bands of
            the finest pixels, and all but the narrow near infrared, or each polarisation alone.
        contrasts: against: encoder of several seeds that the others are compared with seed by seed; family, encoders,
            protocols, at: name and extent of the primary family, whose verdicts are corrected together.
        tuning: recipe of protocols that train.
        draws: draws per number of shots or fraction.
        seed: of draws, bootstrap and random weights.
        batch_size: images per forward pass.
        cache: folder where features are kept for the next evaluation.
        device: where encoders run; auto takes a GPU where there is one.
        overwrite: remove results of another task, seed, number of draws or tuning.
    """
    started = Clock()
    plain = load_candidates(encoders, seed=seed)
    options = TaskOptions(name, streams, clutter, sensor, classes, held_out, variant, card)
    chosen = note_spatial_leakage(open_task(task, data, options))
    grid = VariantGrid.of(sizes, normalisations, resizers)
    compared = expand_study(plain, chosen, study, grid=grid, seed=seed, subsets=subsets)
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
    chosen = check_compatibility(chosen, compared, settings)
    if contrasts is not None:
        contrasts.check([candidate.name for candidate in plain if candidate.pretrained], settings.protocols)
    own = [candidate for candidate in compared if candidate.root == candidate.name]  # no variants of inputs
    inputs = {name: weights for candidate in own for name, weights in candidate.weights.items()}
    if task not in BENCHMARKS:
        inputs["corpus"] = Corpus.open(data).manifest().fingerprint
    where = choose_device(device)
    kept = cache or (out / "features" if study != "compare" else None)  # equal inputs of a grid are encoded once
    read_only = out.is_dir() and not os.access(out, os.W_OK)  # prints what is finished; what it lacks cannot be written
    with nullcontext() if read_only else reserve(out):
        folder = ResultsFolder.open(out, chosen, settings, inputs=inputs, overwrite=overwrite, started=started)
        _run(chosen, compared, settings, folder, Computing(batch_size, kept, where), contrasts)


def _run(
    task: Task,
    compared: Sequence[Candidate],
    settings: Settings,
    folder: ResultsFolder,
    computing: Computing,
    contrasts: ContrastPlan | None,
) -> None:
    """Judge, print and finish ``folder``; a finished one is printed again and left alone."""
    console, aside, started = make_console(), make_console(stderr=True), folder.product.started
    ahead = estimate_training_cost(task, compared, settings)
    if ahead.steps:
        aside.print(f"to train, at most: {ahead.label}", soft_wrap=True)
    with Progress(console=aside, transient=True) as progress:
        frozen = not all(PROTOCOLS[name].trains for name in settings.protocols)
        total = ahead.images + (sum(candidate.count_images(task) for candidate in compared) if frozen else 0)
        bar = progress.add_task("training" if ahead.steps else "features", total=total)
        counted = dataclasses.replace(computing, progress=lambda count: progress.advance(bar, count))
        rows, comparisons = judge(task, compared, settings, folder.path, computing=counted)
    found = folder.contrast(rows, contrasts)
    print_results(console, task, rows, comparisons, found)
    if (folder.path / SUPERSEDED).is_dir():
        console.print(f"note: {folder.path / SUPERSEDED} holds results of weights that were replaced", soft_wrap=True)
    if not folder.finish(task, rows, comparisons, found, render=render_leaderboard):
        console.print(f"nothing to do: {folder.path} holds these results already", soft_wrap=True)
        return
    console.print(f"{len(rows)} results in {started.wall_s:.0f} s: {folder.path}", soft_wrap=True)

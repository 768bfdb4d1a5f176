"""``eo-ssl evaluate``: encoders, baselines and controls on one task, each number with its interval, each pair with a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress

from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus
from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate, candidates, passes
from eo_ssl.evaluation.display import show
from eo_ssl.evaluation.mstar import CLUTTER_PX, SHOTS, mstar_task
from eo_ssl.evaluation.protocols import PROTOCOLS
from eo_ssl.evaluation.results import Computing, Settings, judge, write_comparisons
from eo_ssl.evaluation.tasks import HeldOut, Task, corpus_task
from eo_ssl.manifest import Clock, fingerprint, finish, plan

Kind = Literal["corpus", "mstar_soc", "eurosat"]


def main(
    encoders: list[str],
    task: Kind,
    data: Path,
    out: Path,
    name: str | None = None,
    streams: list[str] | None = None,
    clutter: Path | None = None,
    sensor: str | None = None,
    classes: list[str] | None = None,
    held_out: HeldOut = "unseen",
    card: str = "eurosat",
    protocols: list[str] | None = None,
    shots: list[int] | None = None,
    draws: int = 5,
    seed: int = 0,
    batch_size: int = 64,
    cache: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    overwrite: bool = False,
) -> None:
    """Judge encoders on a task with kNN and linear probes, with intervals and paired comparisons.

    Args:
        encoders: folders of trained encoders and names of weight-free ones (imagestats, rcf, random_init, random_resnet50).
        task: corpus (labels in a corpus, places held out), mstar_soc (few shots, with controls) or eurosat (TorchGeo's layout).
        data: the corpus, or the root folder of EuroSAT.
        out: folder that receives the results.
        name: of the task in the results; default: that of the data folder or the task.
        streams: streams of the corpus to use; default: its only one (mstar_soc: its only one but the 128-px crops).
        clutter: mstar_soc: corpus with 128-px crops of the same chips for the clutter control; default: data.
        sensor: corpus: name the bands of all streams as those of this sensor by their common names, to judge an encoder on another sensor.
        classes: corpus: label names to tell apart; default: all.
        held_out: corpus: test only tiles outside the corpus's training split, or, for a corpus nothing was trained on, all.
        card: eurosat: card that says what the bands of the files are.
        protocols: out of knn5, knn5-standardised, linear; default: all.
        shots: training samples per class, 0 for all; default: mstar_soc 1 5 10 20, else all.
        draws: shot draws per number of shots.
        seed: of draws, bootstrap and random weights.
        batch_size: images per forward pass.
        cache: folder where features are kept for the next evaluation.
        device: where encoders run; auto takes a GPU where there is one.
        overwrite: remove results made with another configuration.
    """
    started = Clock()
    compared = candidates(encoders, seed=seed)
    chosen = _task(task, data, name, streams, clutter, sensor, classes, held_out, card)
    default = SHOTS if task == "mstar_soc" else (0,)
    settings = Settings.of(protocols or PROTOCOLS, shots=default if shots is None else shots, draws=draws, seed=seed)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    inputs = {"task": chosen.fingerprint} | {one.name: one.trained.fingerprint for one in compared if one.trained}
    if task != "eurosat":
        inputs["corpus"] = Corpus.open(data).manifest().fingerprint
    state = plan(out, stage="evaluate", config=_config(chosen, compared, settings), inputs=inputs, overwrite=overwrite)
    _run(chosen, compared, settings, out, Computing(batch_size, cache, where), started, inputs, state == "done")


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
    images = sum(len(rows) for one in compared for used in passes(one, task) for _, rows in used)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("features", total=images)
        counted = dataclasses.replace(computing, progress=lambda count: progress.advance(bar, count))
        rows, comparisons = judge(task, compared, settings, out, computing=counted)
    show(console, task, rows, comparisons)
    if done:
        console.print(f"nothing to do: {out} holds these results already")
        return
    write_comparisons(out, comparisons)
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


def _task(
    kind: Kind, data: Path, name: str | None, streams: list[str] | None, clutter: Path | None,
    sensor: str | None, classes: list[str] | None, held_out: HeldOut, card: str,
) -> Task:  # fmt: skip
    """Build the task; options that it has no use for are refused rather than ignored."""
    by_task: dict[str, dict[str, Any]] = {
        "corpus": {"clutter": clutter}, "mstar_soc": {"sensor": sensor, "classes": classes},
        "eurosat": {"clutter": clutter, "sensor": sensor, "classes": classes, "streams": streams},
    }  # fmt: skip
    given = [option for option, value in by_task[kind].items() if value is not None]
    if given:
        raise UserError(f"expected options of task {kind}, got {', '.join(given)}; leave out what it has no use for")
    if kind == "eurosat":
        # TorchGeo takes seconds to import, which the other tasks need not pay.
        from eo_ssl.evaluation.eurosat import eurosat_task

        return eurosat_task(data, load_card(card), name=name or "eurosat")
    corpus = Corpus.open(data)
    if kind == "corpus":
        parts = [(corpus, stream) for stream in streams or [_only(corpus, list(corpus.streams))]]
        return corpus_task(parts, name=name or data.name, sensor=sensor, classes=classes, held_out=held_out)
    crops = Corpus.open(clutter) if clutter is not None else corpus
    wide = _only(crops, [key for key, stream in crops.streams.items() if stream.size_px == CLUTTER_PX])
    chips = streams or [_only(corpus, [key for key, stream in corpus.streams.items() if stream.size_px != CLUTTER_PX])]
    if len(chips) != 1:
        raise UserError(f"expected one stream of chips for mstar_soc, got {', '.join(chips)}; name one")
    return mstar_task((corpus, chips[0]), clutter=(crops, wide), name=name or "mstar_soc")


def _only(corpus: Corpus, options: Sequence[str]) -> str:
    if len(options) != 1:
        raise UserError(
            f"expected one stream to choose in {corpus.root}, got {', '.join(options) or 'none'} out of {', '.join(corpus.streams)}; name it with "
            f"--streams, or ingest the crops that are missing (mstar_soc needs a stream of {CLUTTER_PX} px for its clutter control)"
        )
    return options[0]

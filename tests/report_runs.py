"""A small finished run to report on: corpus and subset are real, logs and results are written as the stages write them.

Hostile text is planted in every place that a name can come from.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from embeddings import save_vit, write_card, write_scene
from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.curation import (
    Context,
    DynamicConfig,
    DynamicSchedule,
    Hierarchical,
    curate,
    tabulate_selection,
    write_subset,
)
from eo_ssl.export import Options, export
from eo_ssl.manifest import Clock, finish
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.scene import list_products
from eo_ssl.workflows.embed import main as embed
from exported import TINY_8, encoder, radar

HOSTILE = "<script>window.hacked=1</script>"
HOSTILE_NAME = "<img src=x onerror=window.hacked=2>"
SPEC = ArchiveSpec(sites=2, dates=2, size_px=192)
RESULTS = {
    "mae": (0.52, 0.66, 0.74),
    "imagestats": (0.5, 0.58, 0.62),
    "rcf": (0.51, 0.65, 0.73),
    "control: chip size only": (0.2, 0.2, 0.2),
}


def shared_run(factory: pytest.TempPathFactory) -> Path:
    """The run folder, made once per test session."""
    folder = factory.getbasetemp() / "report-run"
    return folder / "run" if folder.exists() else make_run(folder)


def make_run(folder: Path) -> Path:
    """Write corpora, a subset, an encoder's log with two pruning events, results, a bundle and embeddings; return the run folder."""
    run = folder / "run"
    make_archive(folder / "archive", seed=3, spec=SPEC)
    for name, card in (("optical", "sample_s2_l2a"), ("radar", "sample_s1_rtc")):
        hostile = replace(load_card(card), attribution=f"{HOSTILE} owners of {name}", licence="CC & Co <4.0>")
        found = list_products(hostile, folder / "archive").products
        ingest(
            found,
            out=run / name,
            config=IngestConfig(size_px=48, min_valid=0.5),
            client="synchronous",
            dropped=[("left.tif", f"no offset {HOSTILE}")],
        )
    (run / "optical" / "quarantine").mkdir(exist_ok=True)
    (run / "optical" / "quarantine" / "bad.json").write_text(
        json.dumps({"product_id": HOSTILE_NAME, "reason": "expected 12 bands, got 11"})
    )
    rows, embeddings = make_subset(run / "optical", run / "subset")
    make_encoder(run / HOSTILE_NAME, Corpus.open(run / "optical"), rows, embeddings)
    make_results(run / "judged")
    export(encoder(TINY_8, radar(32)), run / "bundle", options=Options(onnx=False))
    embed(str(save_vit(folder / "vit")), str(run / "optical"), run / "embedded")
    for name in ("a", "b"):
        image = np.random.default_rng(4).uniform(0, 0.4, (3, 48, 80)).astype(np.float32)
        write_scene(folder / "scenes" / f"{name}.tif", image)
    embed(str(folder / "vit"), str(folder / "scenes"), run / "maps", card=write_card(folder / "card.yaml"))
    return run


def make_subset(corpus: Path, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Curate the training rows of the only stream by their band means; return those rows and means."""
    opened = Corpus.open(corpus)
    (name,) = opened.streams
    split = np.asarray(opened.index(name, columns=["split"])["split"].to_pylist())
    rows = np.flatnonzero(split == "train").astype(np.int64)
    means = np.nanmean(opened.stream(name).read(rows), axis=(2, 3))
    identities = opened.index(name, columns=["pixels_sha256"])["pixels_sha256"].take(rows)
    context = Context(identities=identities, corpus_fingerprint=opened.fingerprint)
    method = Hierarchical(levels=(6, 2), n_resample=1, scaling="zscore")
    selection = curate(means, 0.4, np.random.default_rng(0), method=method, context=context)
    config = {"stream": name, "snapshot": opened.snapshot, "keep": 0.4}
    product = write_subset(out, selection, rows)
    finish(
        out,
        stage="curate",
        config=config,
        inputs={"corpus": opened.fingerprint},
        product=product,
        started=Clock(),
        seed=0,
    )
    return rows, means


def make_encoder(folder: Path, corpus: Corpus, rows: np.ndarray, embeddings: np.ndarray) -> None:
    """Write a training log of 40 steps and the events of a dynamic schedule whose first one was postponed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "log.jsonl").open("w") as file:
        for step in range(1, 41):
            row = {
                "step": step,
                "presentations": 8 * step,
                "loss": 1 / step,
                "lr": 1e-3 * (1 - step / 40),
                "pool": 50 - step // 20,
                "images_per_s": 90.0,
                "teacher_entropy": 0.9 - step / 100,
                "term_of_loss": 0.1 / step,
                "queue": 40.0,
            }
            monitors = (
                {"rankme": 3 + step / 10, "feature_std": 0.4, "uniformity": -2.0, "knn_accuracy": 0.3 + step / 100}
                if step % 10 == 0
                else {}
            )
            file.write(json.dumps(row | monitors) + "\n")
        file.write('{"step": 41, "lo')  # cut off by a kill
    events = []
    config = DynamicConfig(
        keep=0.5, warmup=80, interval=80, method=Hierarchical(levels=(6,), n_resample=1, scaling="zscore"), seed=0
    )
    schedule = DynamicSchedule(config)
    (folder / "pruning").mkdir()
    for number, presentations in enumerate((80, 160, 240), 1):
        points = embeddings + rng.normal(0, 1e-3, embeddings.shape)
        events.append(schedule.update(points, rows, presentations=presentations)[1].to_json())
        pq.write_table(tabulate_selection(schedule.last, rows), folder / "pruning" / f"event_{number:04d}.parquet")
    events[0] |= {"postponed": True, "event": None, "gate": {"agreement": 0.2, "threshold": 0.5, "ready": False}}
    (folder / "pruning" / "events.json").write_text(json.dumps(events))
    summary = {"loss_first": 1.0, "loss_last": 0.025, "images_per_s": 90.0}
    finish(
        folder,
        stage="pretrain",
        config={"objective": "mae", "data": {"batch": 8}, "items": "tiles", "streams": list(corpus.streams)},
        inputs={"corpus optical": corpus.fingerprint},
        product="e" * 64,
        started=Clock(),
        seed=0,
        summary=summary,
    )


def make_results(folder: Path) -> None:
    """Write rows of three numbers of shots and their comparisons; the trained encoder beats one baseline and not the other."""
    (folder / "rows").mkdir(parents=True)
    comparisons = []
    for place, shots in enumerate((1, 5, 20)):
        for name, values in RESULTS.items():
            row = result_row(name, values[place], shots)
            (folder / "rows" / f"{name.replace(' ', '_').replace(':', '')}-{shots}.json").write_text(json.dumps(row))
        same = {"task": "vehicles", "protocol": "knn5", "shots": shots, "metric": "accuracy", "a": "mae"}
        comparisons.append({**same, "b": "imagestats", "difference": 0.12, "low": 0.05, "high": 0.19, "verdict": "a"})
        comparisons.append(
            {**same, "b": "rcf", "difference": 0.01, "low": -0.02, "high": 0.04, "verdict": "not separable"}
        )
    (folder / "comparisons.json").write_text(json.dumps(comparisons))
    finish(
        folder,
        stage="evaluate",
        config={"task": "vehicles"},
        inputs={"mae": "e" * 64},
        product="f" * 64,
        started=Clock(),
        seed=0,
    )


def result_row(name: str, value: float, shots: int | None, **more: object) -> dict[str, object]:
    """One row as `evaluate` writes it."""
    row: dict[str, object] = {
        "task": "vehicles",
        "encoder": name,
        "encoder_fingerprint": "e" * 64 if name == "mae" else "0" * 64,
        "protocol": "knn5",
        "protocol_words": "five nearest neighbours",
        "shots": shots,
        "metric": "accuracy",
        "value": value,
        "low": value - 0.04,
        "high": value + 0.04,
        "interval": "95% bootstrap over 5 shot draws and 300 blocks of test items together",
        "n_test": 300,
        "n_train": 10 * (shots or 30),
        "n_blocks": 300,
        "eval_seeds": 5,
        "pretraining_seeds": 1 if name == "mae" else 0,
        "split": "train at 17 degrees, test at 15",
        "quantity": "amplitude",
        "bands": ["SAR"],
        "notes": [f"chips {HOSTILE}", "one pretraining run"] if name == "mae" else [f"chips {HOSTILE}"],
    }
    return row | more

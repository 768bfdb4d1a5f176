"""A masked, a queue-based and a multi-crop method in two processes on real Sentinel-2 scenes, by the command."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_ssl.cli import main
from eo_ssl.corpus import Corpus
from eo_ssl.encoder import load_encoder
from eo_ssl.manifest import require

CARDS = "[terramesh_s2l1c, eolearn_l1c, ssl4eo_patch_l1c]"
STEPS, BATCH, WORLD = 5, 16, 2
STILL = "crop: null, flips: false, gain: 0.0, noise: 0.0"
OPTIONS = {  # of the two that draw nothing but their views, the views are whole tiles: then one process does the same
    "Mae": ["--objective.norm", "patch"],
    "MocoV2": ["--objective.queue", "40", "--views", f"{{tile: {{{STILL}}}}}"],
    "Dino": ["--objective.prototypes", "64", "--views", f"{{global: {{{STILL}}}, local: {{{STILL}}}}}"],
}


def pretrain(name: str, folder: Path, out: str, *more: str) -> None:
    arguments = ["--objective", name, *OPTIONS[name], "--model.name", "test_vit", "--model.depth", "1", *more]
    arguments += ["--corpus", str(folder / "corpus"), "--split", "all", "--out", str(folder / out / name)]
    arguments += ["--steps", str(STEPS), "--batch_size", str(BATCH), "--lr", "2e-3", "--device", "cpu"]
    arguments += ["--training.log_every", "1", "--training.monitor_every", str(STEPS), "--loggers", "[]"]
    assert main(["pretrain", *arguments]) == 0


def pretrain_in_process(rank: int, folder: Path, ports: list[int]) -> None:
    """What `torchrun --nproc-per-node 2 eo-ssl pretrain` starts, for each method in turn."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(WORLD)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(WORLD), "TORCHELASTIC_RUN_ID": "two", "MASTER_ADDR": "127.0.0.1"}
    for name, port in zip(OPTIONS, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        pretrain(name, folder, "two", "--devices", str(WORLD))


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of tiles of 32 px of seven places, and what two processes trained on it."""
    folder = tmp_path_factory.mktemp("real")
    ingest = ["--card", CARDS, "--data", str(real_data), "--out", str(folder / "corpus"), "--size_px", "32"]
    assert main(["ingest", *ingest, "--dask", "synchronous"]) == 0
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in OPTIONS]
    ports = [server.getsockname()[1] for server in taken]
    for server in taken:
        server.close()
    multiprocessing.set_forkserver_preload(["eo_ssl.cli", "eo_ssl.pretraining"])  # imported once for both
    torch.multiprocessing.start_processes(pretrain_in_process, (folder, ports), nprocs=WORLD, start_method="forkserver")
    return folder


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_train_an_encoder_of_real_scenes(name: str, runs: Path) -> None:
    out = runs / "two" / name
    rows, manifest, encoder = log(out), require(out, "pretrain"), load_encoder(out)
    assert [row["presentations"] for row in rows] == [BATCH * step for step in range(1, STEPS + 1)]
    assert manifest.config["world"] == WORLD and np.isfinite([row["loss"] for row in rows]).all()
    corpus = Corpus.open(runs / "corpus")
    (stream,) = corpus.streams
    reader = corpus.stream(stream)
    tag = reader.stream
    features = encoder(
        reader.read(np.arange(0, len(reader), 20)), bands=tag.bands, quantity=tag.quantity, sensor=tag.sensor
    )
    assert np.isfinite(features.numpy()).all() and features.numpy().std(axis=0).min() > 0
    if name == "Mae":  # each process draws masks of its own
        assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
        return
    pretrain(name, runs, "one")
    alone = log(runs / "one" / name)
    for both, single in zip(rows, alone, strict=True):
        assert both["loss"] == pytest.approx(single["loss"], rel=1e-4)
    assert rows[-1]["rankme"] == pytest.approx(alone[-1]["rankme"], rel=1e-3)
    if name == "MocoV2":
        assert {row["queue"] for row in rows} == {40}

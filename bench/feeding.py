"""What a training step costs beside its network: `train/loader-wait`, the loader, and `train/two-processes`, a process on each core."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.scenes import product_folder
from eo_ssl.cards import load_card
from eo_ssl.corpus import IngestConfig, ingest
from eo_ssl.models import Vit
from eo_ssl.objectives import Mae
from eo_ssl.pretraining import ItemLoader, ItemSampler, OptimizerConfig, ViewMaker
from eo_ssl.pretraining.module import group_parameters, make_optimizer
from eo_ssl.pretraining.training_data import DataSelection, open_training_data
from eo_ssl.scene import list_products

SCENE_PX = 3660
LARGE_PX, LARGE_BATCH, WAITS = 224, 64, 6
"""Tile and batch of the published scripts' size, and steps that are timed; the batch is what fits beside the network in 16 GB."""
SMALL_PX, SMALL_BATCH, RUNS, STEPS = 64, 32, 5, 24
MOST_WAIT = 0.05


def run() -> Iterator[dict[str, Any]]:
    """Both rows, on tiles that ingest cuts of a generated Level-1C product."""
    with tempfile.TemporaryDirectory(prefix="eo_ssl-bench-") as home:
        yield measure_wait(cut_tiles(Path(home), LARGE_PX))
        yield measure_processes(cut_tiles(Path(home), SMALL_PX), Path(home))


def cut_tiles(home: Path, size_px: int) -> Path:
    """A corpus of the product's tiles."""
    out = home / f"corpus_{size_px}"
    products = list_products(load_card("s2_safe_l1c"), product_folder(SCENE_PX)).products
    ingest(products, out=out, config=IngestConfig(size_px=size_px, codec="lz4", min_valid=0.0), client="synchronous")
    return out


def measure_wait(corpus: Path) -> dict[str, Any]:
    """Steps of ViT-S/16 on batches from the corpus, in turns with steps on one batch that stays in memory."""
    data = open_training_data(DataSelection((corpus,), split="all"))
    contract, method = data.items.contracts["tile"], Mae()
    encoder = Vit("vit_small_patch16_224", patch_size=16).build(contract.bands, contract.size_px, 0)
    objective, config = method.build({"tile": encoder}, 1), OptimizerConfig()
    groups = group_parameters(objective, weight_decay=config.weight_decay)
    optimizer = make_optimizer(groups, lr=1e-4, config=config)
    make_views = ViewMaker(method.views, data.items.contracts)
    batches = iter(ItemLoader(data.items, ItemSampler(data.pool, batch_size=LARGE_BATCH, seed=0), steps=WAITS + 1))

    def step(take: Callable[[], Any]) -> tuple[float, float]:
        """Seconds of a step, and those of them that it waited for its batch."""
        begun = time.perf_counter()
        batch = take()
        waited = time.perf_counter() - begun
        optimizer.zero_grad(set_to_none=True)
        objective(make_views(batch))["loss"].backward()
        optimizer.step()
        return time.perf_counter() - begun, waited

    kept = next(batches)  # the thread reads the next one from here on
    step(lambda: kept)
    rounds = [(*step(lambda: next(batches)), step(lambda: kept)[0]) for _ in range(WAITS)]
    value, _, reference = (statistics.median(column) for column in zip(*rounds, strict=True))
    waits = [waited / whole for whole, waited, _ in rounds]
    ratios = [whole / other for whole, _, other in rounds]
    return {
        "name": "train/loader-wait",
        "value": value,
        "unit": "s/step",
        "reference": "the same step on a batch that stays in memory",
        "reference_value": reference,
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "wait": round(sum(waited for _, waited, _ in rounds) / sum(whole for whole, _, _ in rounds), 4),
        "waits": [round(wait, 4) for wait in waits],
        "pairs": WAITS,
        "note": f"wait: share of the steps' time in which they wait for their batch, at most {MOST_WAIT:.0%} wanted; Mae of ViT-S/16, default decoder,"
        f" views made in the step by both, {len(data.pool)} tiles {len(contract.bands)} x {LARGE_PX} x {LARGE_PX} of a generated Level-1C product,"
        f" lz4, warm cache, batch {LARGE_BATCH}, read ahead in a thread, {torch.get_num_threads()} threads",
    }


def measure_processes(corpus: Path, home: Path) -> dict[str, Any]:
    """Runs of the command with two processes of a thread each, in turns with runs of one process with two threads."""
    times: list[tuple[float, float]] = []
    for number in range(RUNS):
        order = (2, 1) if number % 2 == 0 else (1, 2)
        seconds = {devices: time_command(corpus, home / f"{number}_{devices}", devices=devices) for devices in order}
        times.append((seconds[2], seconds[1]))
    value, reference = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [two / one for two, one in times]
    return {
        "name": "train/two-processes",
        "value": value,
        "unit": "s/step",
        "reference": "one process with two threads, same batches",
        "reference_value": reference,
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "pairs": RUNS,
        "note": f"eo-ssl pretrain --devices 2 (gloo), a thread each; Mae of ViT-Ti/8, {SMALL_PX} px, 13 bands, batch {SMALL_BATCH} of both together,"
        f" medians of the speeds that log.jsonl states for {STEPS} steps, without the first {STEPS // 4}",
    }


def time_command(corpus: Path, out: Path, *, devices: int) -> float:
    """Median seconds a step of a run, two threads shared by its processes; as the run's own log has it."""
    options: Mapping[str, Any] = {
        "corpus": corpus,
        "out": out,
        "split": "all",
        "objective": "Mae",
        "model": "Vit",
        "steps": STEPS,
        "batch_size": SMALL_BATCH,
        "devices": devices,
        "device": "cpu",
        "training.log_every": STEPS // 4,
        "training.monitor_every": STEPS,
        "training.monitor_tiles": 8,
        "training.checkpoint_every": STEPS,
    }
    command = [
        sys.executable,
        "-m",
        "eo_ssl.cli",
        "pretrain",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(2 // devices)}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return SMALL_BATCH / statistics.median(line["images_per_s"] for line in lines[1:])

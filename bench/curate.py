"""`curate/*`: what selection costs beside the searches and products that bound it, its share of a training, and its peak of memory.

``make bench ONLY=curate`` takes some minutes on two cores. ``FULL=1`` measures at the sizes that matter (a million rows; hours); every row
says at which size it was measured.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from bench.load import alternate
from bench.memory import peak_bytes
from bench.plain_hierarchy import pick_plainly
from eo_ssl.curation import (
    Candidates,
    Density,
    DynamicConfig,
    DynamicSchedule,
    Hierarchical,
    Selector,
    allocate_mapped,
    curate,
)
from eo_ssl.curation.kmeans import assign, average_clusters, use_faiss_threads
from eo_ssl.curation.mapped_rows import read_parts

FULL = bool(os.environ.get("FULL"))
PAIRS = 9 if FULL else 5
METHODS: dict[str, Selector] = {"density": Density(), "hierarchical": Hierarchical(n_resample=3, fit_rows=20_000)}
RING_SIZES = (5000, 50, 250, 125, 2000)
RING_CENTRES = ((-2.2, 1.0), (0.0, 1.0), (2.2, 1.0), (-1.2, 0.2), (1.2, 0.2))
BLOCK = 1 << 12
"rows of a bare product, whose result is overwritten: 164 MB for 10,000 columns"


def run() -> Iterator[dict[str, Any]]:
    """One row a comparison, then the shares of a training, then peaks of memory."""
    yield compare_kmeans(*(200_000, 1000) if FULL else (20_000, 500))
    yield compare_hierarchy()
    yield compare_assignment(*(1_000_000, 10_000) if FULL else (16_384, 10_000))
    yield compare_density(*(100_000, 50_000) if FULL else (20_000, 10_000))
    yield from share_events(100_000 if FULL else 10_000)
    yield from tabulate_memory((10_000, 100_000, 1_000_000) if FULL else (10_000, 40_000))


def cluster_like(rows: int, dim: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return unit vectors float32 [rows, dim] around 50 directions of very different frequency."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(50, dim))
    share = 1 / np.arange(1, 51)
    points = np.empty((rows, dim), np.float32)
    for start in range(0, rows, 1 << 14):
        part = points[start : start + (1 << 14)]
        part[:] = centres[rng.choice(50, len(part), p=share / share.sum())] + 0.7 * rng.normal(size=part.shape)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return points


def compare_kmeans(rows: int, k: int, dim: int = 384, iterations: int = 10) -> dict[str, Any]:
    """Lloyd's iterations from the same centroids."""
    points = cluster_like(rows, dim)
    start = points[np.random.default_rng(1).choice(rows, k, replace=False)]

    def ours() -> None:
        centroids = start
        for _ in range(iterations):
            centroids = average_clusters(points, assign(points, centroids), centroids)

    def theirs() -> None:
        with use_faiss_threads():
            faiss.Kmeans(dim, k, niter=iterations, min_points_per_centroid=1, max_points_per_centroid=rows).train(
                points, init_centroids=start
            )

    note = f"{rows:,} x {dim}, {k} clusters, {iterations} iterations from the same centroids; ours averages in double precision"
    return line(
        "kmeans-vs-faiss", [ours, theirs], iterations, "s/iteration", reference="faiss.Kmeans", wanted=1.3, note=note
    )


def make_rings(seed: int) -> np.ndarray[Any, Any]:
    """Return five interlocked rings of 50 to 5000 points (Vo et al. 2024, their toy example at a quarter of its size): float32 [7425, 2]."""
    rng = np.random.default_rng(seed)
    parts = []
    for size, centre in zip(RING_SIZES, RING_CENTRES, strict=True):
        radius, angle = rng.uniform(0.7, 1.0, size), rng.uniform(0, 2 * np.pi, size)
        parts.append(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1) + centre)
    return np.concatenate(parts).astype(np.float32)


def compare_hierarchy() -> dict[str, Any]:
    """The rings, balanced by two levels with ten rounds of resampling."""
    points = make_rings(0)
    method = Hierarchical(levels=(250, 75), n_resample=10, scaling="none")

    def ours() -> None:
        method.pick(Candidates(points), 500, np.random.default_rng(0))

    def theirs() -> None:
        pick_plainly(points.astype(np.float64), (250, 75), 500, rounds=10, rng=np.random.default_rng(0))

    note = f"{len(points):,} points in the plane, 250 and 75 clusters, 10 rounds of resampling, 500 rows"
    return line(
        "hierarchy-vs-reference", [ours, theirs], 1, "s", reference="NumPy and loops", wanted=0.12, note=note, pairs=3
    )


def compare_assignment(rows: int, k: int, dim: int = 384) -> dict[str, Any]:
    """The nearest of many centroids for every row of a memory map, and what that takes in memory."""
    child = [sys.executable, "-m", "bench.curate", "assign", str(rows), str(k), str(dim)]
    peak = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)["bytes"]
    with tempfile.TemporaryDirectory(prefix="eo_ssl-bench-") as home:
        points, centroids = map_rows(Path(home), rows, dim), cluster_like(k, dim, seed=1)
        out = np.empty((BLOCK, k), np.float32)

        def bare() -> None:
            for _, values in read_parts(points, size=BLOCK):
                np.matmul(values, centroids.T, out=out[: len(values)])

        note = (
            f"{rows:,} x {dim} in half precision on disk, {k:,} centroids; peak {peak / 1e6:.0f} MB, wanted below 1000"
        )
        pairs = 1 if rows > 100_000 else PAIRS
        actions = [partial(assign, points, centroids), bare]
        return line("assign-vs-gemm", actions, 1, "s", reference="matrix product", wanted=1.2, note=note, pairs=pairs)


def compare_density(rows: int, reference_rows: int, dim: int = 192) -> dict[str, Any]:
    """The selector beside the search it needs: six nearest, of which one is the row itself."""
    points = cluster_like(rows, dim)
    method = Density(reference_rows=reference_rows)
    searched = points[np.sort(np.random.default_rng(0).choice(rows, reference_rows, replace=False))]

    def ours() -> None:
        method.pick(Candidates(points), round(0.15 * rows), np.random.default_rng(0))

    def theirs() -> None:
        with use_faiss_threads():
            faiss.knn(points, searched, method.neighbour + 1)

    note = f"{rows:,} x {dim}, {reference_rows:,} of them searched, 15 % of the rows effective"
    return line("density-vs-faiss", [ours, theirs], 1, "s", reference="faiss.knn", wanted=1.2, note=note)


def share_events(rows: int, dim: int = 192) -> Iterator[dict[str, Any]]:
    """An event without its embedding, in per cent of the training between two events."""
    seconds = time_training()
    points = cluster_like(rows, dim)
    for name, method in METHODS.items():
        begun = time.perf_counter()
        DynamicSchedule(DynamicConfig(rows, rows, keep=0.15, method=method)).update(points)
        spent = time.perf_counter() - begun
        yield {
            "name": f"curate/event-share-{name}",
            "value": 100 * spent / (seconds * rows),
            "unit": "% of the training between events",
            "reference": "training, s per presentation",
            "reference_value": seconds,
            "seconds": spent,
            "note": f"{rows:,} x {dim}, an event every {rows:,} presentations, selection and report; training: median of 5 steps of Mae, ViT-S/8 at"
            " 64 px and 13 bands, batch 32, on the same threads",
        }


def time_training(batch: int = 32, steps: int = 5) -> float:
    """Return the seconds of training per presentation: the median optimizer step of a masked autoencoder with a ViT-S/8 on 64 px."""
    import torch

    from eo_ssl.models import View, Vit
    from eo_ssl.objectives import Batch, Mae, Step
    from eo_ssl.pretraining import OptimizerConfig
    from eo_ssl.pretraining.module import group_parameters, make_optimizer
    from eo_ssl.sensors import sensor

    bands = sensor("sentinel2_l1c").band_names
    objective = Mae().build({"tile": Vit("vit_small_patch16_224", patch_size=8).build(bands, 64, 0)}, 1)
    optimizer = make_optimizer(group_parameters(objective, weight_decay=0.05), lr=1e-4, config=OptimizerConfig())
    images = torch.randn(batch, len(bands), 64, 64, generator=torch.Generator().manual_seed(0))
    view = View(images, torch.ones_like(images, dtype=torch.bool), bands)
    seconds = []
    for number in range(steps + 1):
        begun = time.perf_counter()
        loss = objective(Batch({"tile": [view]}, torch.arange(batch), Step(number, steps + 1, 0)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:]) / batch


def tabulate_memory(sizes: tuple[int, ...], dim: int = 192) -> Iterator[dict[str, Any]]:
    """Peaks of processes that curate a memory map, less what they had before: one row a method and number of rows."""
    for name in METHODS:
        first = 0.0
        for rows in sizes:
            child = [sys.executable, "-m", "bench.curate", "memory", name, str(rows), str(dim)]
            peak = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)["bytes"] / 1e6
            first = first or peak
            yield {
                "name": f"curate/memory-{name}",
                "rows": rows,
                "value": peak,
                "unit": "MB above the interpreter and its libraries",
                "reference": f"{sizes[0]:,} rows",
                "reference_value": first,
                "ratio": peak / first,
                "note": f"{rows:,} x {dim} in half precision, {rows * dim * 2 / 1e6:.0f} MB on disk; at most {getattr(METHODS[name], 'fit_rows', 50_000):,} rows"
                " are fitted on or searched",
            }


def map_rows(folder: Path, rows: int, dim: int) -> np.memmap[Any, Any]:
    """Return a memory map of unit vectors float16 [rows, dim] in ``folder``."""
    points = allocate_mapped(folder, (rows, dim), np.float16)
    for start in range(0, rows, 1 << 14):
        part = points[start : start + (1 << 14)]
        part[:] = cluster_like(len(part), dim, seed=start)
    points.flush()
    for _ in read_parts(points):  # lets go of what was written
        pass
    return points


def measure_peak(action: Callable[[np.memmap[Any, Any]], object], rows: int, dim: int) -> int:
    """Return how far ``action`` on so many mapped rows raises the peak of this process, bytes."""
    with tempfile.TemporaryDirectory(prefix="eo_ssl-bench-") as home:
        points = map_rows(Path(home), rows, dim)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
        before = peak_bytes()
        action(points)
        return peak_bytes() - before


def line(
    name: str,
    actions: list[Callable[[], object]],
    per: int,
    unit: str,
    *,
    reference: str,
    wanted: float,
    note: str,
    pairs: int = PAIRS,
) -> dict[str, Any]:
    """Return a row of the table: ours in turns with what limits it."""
    ours, theirs, ratio = alternate(*actions, pairs=pairs)[0]  # type: ignore[arg-type]
    return {
        "name": f"curate/{name}",
        "value": ours / per,
        "unit": unit,
        "reference": reference,
        "reference_value": theirs / per,
        "ratio": ratio,
        "wanted": wanted,
        "pairs": pairs,
        "note": note,
    }


def main() -> None:
    what, *numbers = sys.argv[1:]
    if what == "assign":
        rows, k, dim = map(int, numbers)
        centroids = cluster_like(k, dim, seed=1)
        peak = measure_peak(lambda points: assign(points, centroids), rows, dim)
    else:
        name, (rows, dim) = numbers[0], map(int, numbers[1:])
        peak = measure_peak(
            lambda points: curate(points, 0.15, np.random.default_rng(0), method=METHODS[name]), rows, dim
        )
    print(json.dumps({"bytes": peak}))


if __name__ == "__main__":
    main()

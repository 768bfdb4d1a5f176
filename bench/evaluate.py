"""Features against the bare forward pass, the grid against its distinct inputs, kNN against faiss, the swept probe against one scikit-learn fit."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from bench.contract import make_contract
from eo_ssl.encoder import TrainedEncoder
from eo_ssl.evaluation.candidates import Computing
from eo_ssl.evaluation.draws import Amount, draw
from eo_ssl.evaluation.encoder_candidates import TrainedCandidate
from eo_ssl.evaluation.features import extract_features
from eo_ssl.evaluation.knn import find_neighbours
from eo_ssl.evaluation.linear import fit_standardiser
from eo_ssl.evaluation.protocols import predict_frozen
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.studies import VariantGrid
from eo_ssl.evaluation.tasks import Task
from eo_ssl.models import Vit
from eo_ssl.sensors import Quantity, sensor

TRAIN, TEST, DIM, CLASSES, K, PAIRS = 21_600, 5_400, 384, 10, 5, 5  # EuroSAT's 27,000 images, ViT-S features
IMAGES, SIZE, BATCH = 512, 64, 64
BANDS = sensor("sentinel2_l1c").band_names


@dataclass(frozen=True)
class Images:
    """Images in memory, reflectance."""

    x: np.ndarray[Any, Any]
    sensor: str = "sentinel2_l1c"
    quantity: Quantity = Quantity.TOA_REFLECTANCE
    bands: tuple[str, ...] = BANDS
    gsd_m: float = 10.0
    fingerprint: str = "bench"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.x.shape[1:]  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.x)

    def read(self, positions: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        out[...] = self.x[positions]


def clustered(rng: np.random.Generator, count: int, spread: float = 0.5) -> tuple[np.ndarray[Any, Any], ...]:
    """Return ``count`` features around class centres, float32 [count, DIM], and their classes."""
    centres = spread * np.random.default_rng(1).normal(size=(CLASSES, DIM))
    labels = rng.integers(0, CLASSES, count)
    return (centres[labels] + rng.normal(size=(count, DIM))).astype(np.float32), labels


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(name: str, reference: str, times: list[tuple[float, float]], note: str) -> dict[str, Any]:
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [a / b for a, b in times]
    return {
        "name": name,
        "value": mine,
        "unit": "s",
        "reference": reference,
        "reference_value": theirs,
        "ratio": statistics.median(ratios),
        "ratios": [round(r, 3) for r in ratios],
        "pairs": len(times),
        "note": note,
    }


def encoder() -> TrainedEncoder:
    """ViT-Ti/8 for 13 bands of 64 px with random weights."""
    contract = make_contract(BANDS, size_px=SIZE)
    return TrainedEncoder(Vit(patch_size=8).build(BANDS, SIZE, 0), contract)


def features_vs_forward(rng: np.random.Generator) -> dict[str, Any]:
    made, images = encoder(), Images(rng.uniform(0.05, 0.4, size=(IMAGES, 13, SIZE, SIZE)).astype(np.float32))
    ready = torch.split((torch.from_numpy(images.x) - 0.2) / 0.1, BATCH)

    def forward() -> None:
        with torch.inference_mode():
            for batch in ready:
                made.features(batch)

    forward()
    times = [
        (seconds(lambda: extract_features(made, images, batch_size=BATCH)), seconds(forward)) for _ in range(PAIRS)
    ]
    note = f"ViT-Ti/8, {IMAGES} images 13 x {SIZE} x {SIZE} through the whole contract, {IMAGES / statistics.median(t for t, _ in times):.0f} images/s"
    return row("evaluate/features-vs-forward", "bare forward pass of normalised batches", times, note)


def grid_forwards(rng: np.random.Generator) -> dict[str, Any]:
    """Count forward passes; the contract is the data's z-score at the data's size, so that cells of the grid coincide."""
    images = Images(rng.uniform(0.05, 0.4, size=(32, 13, SIZE, SIZE)).astype(np.float32))
    rows, made, passed = np.arange(32), encoder(), [0]
    task = Task("bench", (images,), rows % 2, ("a", "b"), rows, (Fold(rows[:16], rows[16:], rows[:0]),), "", "accuracy")
    forward = TrainedEncoder.features

    def counted(self: TrainedEncoder, x: torch.Tensor, **named: Any) -> torch.Tensor:
        passed[0] += len(x)
        return forward(self, x, **named)

    grid = VariantGrid.of([SIZE, 96], None, ["contract", "torchvision", "torchvision-no-antialias", "kornia"])
    cells = grid.expand(TrainedCandidate("ours", made))
    inputs = {c.encoder(task, task.folds[0]).preprocessing.effective(SIZE, SIZE) for c in cells}
    TrainedEncoder.features = counted  # type: ignore[method-assign,assignment]
    try:
        with tempfile.TemporaryDirectory() as cache:
            for cell in cells:
                cell.features(task, Computing(cache=Path(cache)))
    finally:
        TrainedEncoder.features = forward  # type: ignore[method-assign]
    distinct = len(inputs) * len(images)
    return {
        "name": "evaluate/grid-forwards",
        "value": passed[0],
        "unit": "images encoded",
        "reference": "images x distinct inputs",
        "reference_value": distinct,
        "ratio": passed[0] / distinct,
        "pairs": 1,
        "note": f"{len(cells)} cells, {len(inputs)} distinct inputs",
    }


def knn_vs_faiss(rng: np.random.Generator) -> dict[str, Any]:
    (train, _), (test, _) = clustered(rng, TRAIN), clustered(rng, TEST)

    def reference() -> Any:
        index: Any = faiss.IndexFlatL2(DIM)
        index.add(train)
        return index.search(test, K)

    def ours() -> Any:
        return find_neighbours(train, test, k=K)

    same = float((np.sort(ours()) == np.sort(reference()[1])).mean())
    times = [(seconds(ours), seconds(reference)) for _ in range(PAIRS)]
    note = f"{K} neighbours of {TEST} among {TRAIN} x {DIM}; ours ranks by float64 distances; {100 * same:.3f} % equal neighbours"
    return row("evaluate/knn-vs-faiss", "faiss IndexFlatL2, float32", times, note)


def probe_vs_sklearn(rng: np.random.Generator) -> dict[str, Any]:
    count, held = 16_200, 5_400
    x, y = clustered(rng, count + 2 * held, spread=0.12)
    rows = np.arange(len(x))
    fold = Fold(rows[:count], rows[count : count + held], rows[count + held :])
    task = Task(
        "bench",
        (Images(np.empty((len(x), 13, 1, 1), np.float32)),),
        y,
        tuple(map(str, range(CLASSES))),
        rows,
        (fold,),
        "",
        "accuracy",
    )
    drawn = draw(task, Amount(), draws=1, seed=0)
    found: list[float] = []

    def ours() -> None:
        answers = predict_frozen(task, [x], drawn, protocol="linear", amount=Amount(), seed=0)
        found.append(float((answers[0] == y[fold.test]).mean()))

    def reference() -> None:
        shift, scale = fit_standardiser(x[:count])
        LogisticRegression(max_iter=5000).fit((x[:count] - shift) / scale, y[:count])

    times = [(seconds(ours), seconds(reference)) for _ in range(PAIRS)]
    note = f"{count} x {DIM}, {CLASSES} classes: 7 penalties on {held} validation samples, then the fit; accuracy {100 * found[0]:.1f} %"
    return row("evaluate/probe-vs-sklearn", "one scikit-learn LogisticRegression at C = 1", times, note)


def run() -> Iterator[dict[str, Any]]:
    """Yield the lines of this group."""
    rng = np.random.default_rng(0)
    yield features_vs_forward(rng)
    yield grid_forwards(rng)
    yield knn_vs_faiss(rng)
    yield probe_vs_sklearn(rng)

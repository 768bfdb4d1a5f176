"""Exact kNN of ours against faiss."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np

from eo_ssl.evaluation.knn import neighbours

TRAIN, TEST, DIM, CLASSES, K, PAIRS = 16_200, 5_400, 384, 10, 5, 7  # EuroSAT's sizes, ViT-S features


def clustered(rng: np.random.Generator, count: int, centres: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return ``count`` features around class centres, float32 [count, DIM]."""
    return (centres[rng.integers(0, len(centres), count)] + rng.normal(size=(count, centres.shape[1]))).astype(
        np.float32
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run() -> Iterator[dict[str, Any]]:
    """Yield `evaluate/knn-vs-faiss`."""
    rng = np.random.default_rng(0)
    centres = 0.5 * rng.normal(size=(CLASSES, DIM))
    train, test = clustered(rng, TRAIN, centres), clustered(rng, TEST, centres)

    def reference() -> object:
        index: Any = faiss.IndexFlatL2(DIM)
        index.add(train)
        return index.search(test, K)

    def ours() -> object:
        return neighbours(train, test, k=K)

    same = float((np.sort(neighbours(train, test, k=K)) == np.sort(reference()[1])).mean())  # type: ignore[index]
    times = [(seconds(ours), seconds(reference)) for _ in range(PAIRS)]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    yield {
        "name": "evaluate/knn-vs-faiss",
        "value": mine,
        "unit": "s",
        "reference": "faiss IndexFlatL2, float32",
        "reference_value": theirs,
        "ratio": statistics.median(a / b for a, b in times),
        "pairs": PAIRS,
        "note": f"{K} neighbours of {TEST} among {TRAIN} x {DIM}; ours ranks by float64 distances; {100 * same:.3f} % equal neighbours",
    }

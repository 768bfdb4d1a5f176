"""How often intervals hold the truth and equal encoders are told apart: the simulations behind docs/evaluation.md (``python -m bench.intervals``)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eo_ssl.evaluation.intervals import Bootstrap
from eo_ssl.evaluation.task_metrics import Measured, Metric, PredictionArray, measure

RARE = (
    ((0.9, 0.5, 0.5), (500, 1, 1)),
    ((0.9, 0.5, 0.5, 0.5), (300, 2, 2, 2)),
    ((0.9, 0.7, 0.7, 0.7), (300, 3, 3, 3)),
    ((0.9, 0.9), (200, 8)),
    ((0.9, 0.8, 0.8, 0.6), (1122, 499, 144, 8)),
)
"""Shares of right answers, and test items, of each class."""
Generate = Callable[[np.random.Generator, int], tuple[PredictionArray, PredictionArray]]


def of_rare_classes(cases: int = 400) -> None:
    """Print coverage of balanced accuracy, and how often equal encoders are called different at 5 %."""
    rng = np.random.default_rng(5)
    for shares, counts in RARE:
        truth = np.repeat(np.arange(len(counts)), counts)
        boot = Bootstrap(np.arange(len(truth)), draws=1, seed=0, replicates=1000)
        held = apart = 0
        for _ in range(cases):
            a, b = (_answered(rng, truth, shares) for _ in range(2))
            found, chance = boot.interval(a), boot.compare(a, b).p
            assert found.low is not None and found.high is not None and chance is not None
            held += found.low <= np.mean(shares) <= found.high
            apart += chance < 0.05
        print(
            f"balanced accuracy, items {counts}: holds {held / cases:.1%}, equal encoders told apart {apart / cases:.1%}"
        )


def _answered(rng: np.random.Generator, truth: PredictionArray, shares: tuple[float, ...]) -> Measured:
    right = rng.random(len(truth)) < np.array(shares)[truth]
    return measure("balanced_accuracy", np.where(right, truth, (truth + 1) % len(shares))[None], truth)


def precision(rng: np.random.Generator, n: int) -> tuple[PredictionArray, PredictionArray]:
    """19 labels, ten of which hold for 2 % of the images."""
    truth = (rng.random((n, 19)) < np.r_[np.full(3, 0.4), np.full(6, 0.1), np.full(10, 0.02)]).astype(np.int64)
    return (rng.normal(size=(n, 19)) + 1.2 * truth)[None], truth


def overlap(rng: np.random.Generator, n: int) -> tuple[PredictionArray, PredictionArray]:
    """Six classes of pixels in 100 down to 3 % of the images."""
    counts = np.zeros((n, 6, 6), dtype=np.int64)
    for image in counts:
        for k in [0, *(k for k, share in enumerate((0.5, 0.3, 0.15, 0.08, 0.03), 1) if rng.random() < share)]:
            pixels = int(rng.integers(50, 400))
            right = int(pixels * rng.beta(6, 2))
            image[k, k] += right
            image[k, 0] += pixels - right
    return counts[None], np.zeros((n, 0))


def explained(rng: np.random.Generator, n: int) -> tuple[PredictionArray, PredictionArray]:
    """Values of which 5 % lie six times as far."""
    truth = rng.normal(size=n) * np.where(rng.random(n) < 0.05, 6, 1)
    return (truth + 0.7 * rng.normal(size=n))[None], truth


def of_metric(metric: Metric, generate: Generate, sizes: tuple[int, ...], cases: int = 300) -> None:
    """Print how often the interval holds the value of 100,000 images."""
    rng = np.random.default_rng(7)
    truth = measure(metric, *generate(rng, 100_000)).value
    for n in sizes:
        boot = Bootstrap(np.arange(n), draws=1, seed=0, replicates=1000)
        found = [boot.interval(measure(metric, *generate(rng, n))) for _ in range(cases)]
        held = [one.low <= truth <= one.high for one in found if one.low is not None and one.high is not None]
        print(f"{metric}, {n} images: holds {np.mean(held):.1%}")


if __name__ == "__main__":
    of_rare_classes()
    of_metric("micro_ap", precision, (10, 20, 50, 200))
    of_metric("miou", overlap, (10, 30, 100, 400))
    of_metric("r2", explained, (10, 30, 100, 400))

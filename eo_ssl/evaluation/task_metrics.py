"""Metrics of a test, each with what every item contributes to it, so that one bootstrap serves them all.

To first order a metric that is a smooth function of sums over items moves by a sum of *terms*, one per item (Taylor
linearisation; Woodruff 1971, JASA 66:411; Deville 1999, Survey Methodology 25:193). Resampling the terms costs nothing,
and differences of terms are the paired comparison of two encoders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
PredictionArray = npt.NDArray[Any]
"""Predictions of an encoder, [draws, items, ...]: see `measure`."""
Metric = Literal["accuracy", "balanced_accuracy", "micro_ap", "miou", "r2"]
METRIC_WORDS: dict[Metric, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "micro_ap": "micro average precision",
    "miou": "mean intersection over union",
    "r2": "share of variance explained",
}


@dataclass(frozen=True, slots=True)
class Runs:
    """Trainings of one recipe that differ in their seed."""

    count: int = 1
    name: str = ""
    "of the recipe: runs of one name are the same runs, and their luck is shared"


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric over draws and items, of one run or of several."""

    value: float
    "mean over the draws, and over the runs"
    terms: Floats
    """[runs * draws, items], run after run; the terms of a row sum to its own value minus the mean, those of an item
    say how much it lifts the value"""
    strata: Ints
    "[items]: classes that weigh alike, all 0 where items do"
    least: float
    "the worst that the metric can be"
    shares: Floats | None = None
    "[K] of right answers in each class, whose mean is the value; None for a metric that is no share"
    runs: Runs = Runs()


def measure(metric: Metric, answers: PredictionArray, truth: PredictionArray, *, runs: Runs = Runs()) -> Measured:
    """Return ``metric`` of what was answered on the test items.

    Args:
        metric: `accuracy` weighs items equally, `balanced_accuracy` classes; `micro_ap` is the average precision of all
            (item, class) pairs together; `miou` the mean over classes of intersection over union of all pixels; `r2`
            the share of variance explained.
        answers: accuracies: [D, n] int64 classes; micro_ap: [D, n, K] scores; miou: [D, n, K, K] pixel counts, truth by
            prediction, ignored pixels left out; r2: [D, n] values.
        truth: accuracies: [n] int64 classes; micro_ap: [n, K] 0 or 1; miou: unused; r2: [n] values.
        runs: what the D rows stand for: the draws of each run, run after run.

    Raises:
        UserError: no draw, no item, another number of items than the truth, or a metric that the items leave undefined.
    """
    if answers.ndim < 2 or not answers.shape[0] or not answers.shape[1]:
        raise UserError(
            f"expected answers of at least one draw on at least one test item, got {list(answers.shape)}; check the "
            "task"
        )
    if metric != "miou" and len(truth) != answers.shape[1]:
        raise UserError(
            f"expected answers on the {len(truth)} test items, got {answers.shape[1]}; evaluate the same task"
        )
    if metric in ("accuracy", "balanced_accuracy"):
        strata = np.zeros(len(truth), dtype=np.int64) if metric == "accuracy" else truth.astype(np.int64)
        return replace(measure_shares((answers == truth).astype(np.float64), strata), runs=runs)
    options: dict[Metric, Callable[..., tuple[float, Floats]]] = {
        "micro_ap": _average_precision,
        "miou": _mean_iou,
        "r2": _explained,
    }
    values, terms = zip(*(options[metric](one, truth) for one in answers), strict=True)
    value = float(np.mean(values))
    share = (np.array(values) - value)[:, None] / answers.shape[1]  # a draw's own luck, borne by all items alike
    least = -np.inf if metric == "r2" else 0.0
    return Measured(value, np.stack(terms) + share, np.zeros(answers.shape[1], dtype=np.int64), least, runs=runs)


def measure_shares(right: Floats, strata: Ints) -> Measured:
    """Return the mean over strata [n] of the share of right answers [D, n] (1 right, 0 wrong)."""
    strata = np.unique(strata, return_inverse=True)[1].astype(np.int64)
    counts = np.bincount(strata).astype(np.float64)  # [K]
    mean = np.bincount(strata, weights=right.mean(axis=0)) / counts  # [K]
    terms = (right - mean[strata]) / (counts[strata] * len(counts))
    return Measured(float(mean.mean()), terms, strata, 0.0, mean)


def _average_precision(scores: Floats, truth: Ints) -> tuple[float, Floats]:
    """Area under precision over recall of all pairs, a step function as in scikit-learn, and the terms of the items.

    AP = sum over positives i of TP_i / N_i / P, where N_i counts the pairs that score at least as high as i, TP_i the
    positives among them and P all positives. A pair j enters its own summand and N and TP of every positive that scores
    no higher.
    """
    positive = truth.astype(bool).ravel()
    total = float(positive.sum())
    if not total:
        raise UserError("expected a test item with a label for an average precision, got none; check the task's split")
    flat = scores.astype(np.float64).ravel()
    order = np.argsort(-flat, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(flat[order]) != 0, True))  # the last pair of each score
    group = np.empty(len(flat), dtype=np.int64)
    group[order] = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    found = np.cumsum(positive[order])[ends].astype(np.float64)  # TP
    seen = ends + 1.0  # N
    own = np.diff(found, prepend=0.0)  # positives of each score
    value = float((own * found / seen).sum() / total)
    below = np.cumsum((own / seen)[::-1])[::-1]
    diluted = np.cumsum((own * found / seen**2)[::-1])[::-1]
    moved = np.where(positive, (found / seen + below)[group] - value, 0.0) - diluted[group]
    terms: Floats = moved.reshape(truth.shape).sum(axis=1) / total
    return value, terms


def _mean_iou(confusion: Ints, _: PredictionArray) -> tuple[float, Floats]:
    """Mean over the classes that occur, in truth or prediction, and the terms of the items."""
    counts = confusion.astype(np.float64)  # [n, K, K]
    hit = np.diagonal(counts, axis1=1, axis2=2)  # [n, K]
    union = counts.sum(axis=1) + counts.sum(axis=2) - hit
    whole = union.sum(axis=0)
    occurs = whole > 0
    if not occurs.any():
        raise UserError("expected test images with labelled pixels, got none; check the task's split")
    iou = hit.sum(axis=0)[occurs] / whole[occurs]
    terms: Floats = ((hit[:, occurs] - iou * union[:, occurs]) / whole[occurs]).mean(axis=1)
    return float(iou.mean()), terms


def _explained(predicted: Floats, truth: Floats) -> tuple[float, Floats]:
    """One minus the squared errors over the squared deviations from the mean of the test items."""
    wide = truth.astype(np.float64)
    error, deviation = (predicted.astype(np.float64) - wide) ** 2, (wide - wide.mean()) ** 2
    spread = float(deviation.sum())
    if not spread:
        raise UserError("expected test items of different values for r2, got equal ones; check the task's split")
    lost = float(error.sum()) / spread
    terms: Floats = (lost * deviation - error) / spread
    return 1.0 - lost, terms

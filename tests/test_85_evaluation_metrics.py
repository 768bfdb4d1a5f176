"""Each metric is that of an independent library, and its terms are its derivative by the weight of an item."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, r2_score
from torchmetrics.classification import MulticlassJaccardIndex

from eo_ssl.errors import UserError
from eo_ssl.evaluation.intervals import Bootstrap, correct_by_holm, decide_verdict
from eo_ssl.evaluation.task_metrics import measure

N, K = 60, 4


def labels_and_scores(rng: np.random.Generator, *, steps: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, K] and scores that know something of them, rounded to ``steps`` levels where given (ties)."""
    truth = (rng.random((N, K)) < (0.1, 0.3, 0.5, 0.7)).astype(np.uint8)
    scores = truth + rng.normal(0, 1.0, (N, K))
    return truth, (np.round(scores * steps) / steps if steps else scores).astype(np.float32)


def confusions(rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Counts [N, K, K] of N images of 30 pixels, and the pixels themselves."""
    truth = rng.integers(0, K, (N, 30))
    predicted = np.where(rng.random((N, 30)) < 0.6, truth, rng.integers(0, K, (N, 30)))
    counts = np.zeros((N, K, K), dtype=np.int64)
    np.add.at(counts, (np.arange(N)[:, None], truth, predicted), 1)
    return counts, torch.from_numpy(truth), torch.from_numpy(predicted)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_micro_average_precision_is_scikit_learns(rng: np.random.Generator, steps: int) -> None:
    truth, scores = labels_and_scores(rng, steps=steps)
    assert measure("micro_ap", scores[None], truth).value == pytest.approx(
        average_precision_score(truth, scores, average="micro"), abs=1e-12
    )


def test_mean_iou_is_that_of_all_pixels_together(rng: np.random.Generator) -> None:
    counts, truth, predicted = confusions(rng)
    oracle = MulticlassJaccardIndex(K, average="macro")(predicted, truth)
    assert measure("miou", counts[None], np.empty((N, 0))).value == pytest.approx(float(oracle), abs=1e-6)


def test_a_class_that_never_occurs_is_left_out_of_the_mean() -> None:
    counts = np.zeros((1, 2, 3, 3), dtype=np.int64)
    counts[0, :, 0, 0], counts[0, :, 1, 0] = 6, 3  # class 1 is always missed, class 2 does not exist
    assert measure("miou", counts, np.empty((2, 0))).value == pytest.approx((6 / 9 + 0) / 2)


def test_variance_explained_is_scikit_learns_and_may_be_negative(rng: np.random.Generator) -> None:
    truth = rng.normal(3, 2, N).astype(np.float32)
    good, bad = truth + rng.normal(0, 0.5, N), rng.normal(-9, 1, N)
    for predicted in (good, bad):
        found = measure("r2", predicted[None].astype(np.float32), truth)
        assert found.value == pytest.approx(r2_score(truth, predicted.astype(np.float32)), rel=1e-6)
    low = Bootstrap(np.arange(N), draws=1, seed=0).interval(found).low
    assert low is not None and low < found.value < 0


def derivative(metric: Callable[[np.ndarray], float], item: int) -> float:
    """Change of ``metric`` by the weight of one item, central difference."""
    step = 1e-4
    weights = np.ones((2, N))
    weights[:, item] += (step, -step)
    return (metric(weights[0]) - metric(weights[1])) / (2 * step)


@pytest.mark.parametrize("name", ["micro_ap", "micro_ap with ties", "miou", "r2", "accuracy"])
def test_terms_are_the_derivative_by_the_weight_of_an_item(rng: np.random.Generator, name: str) -> None:
    if name.startswith("micro_ap"):
        truth, answers = labels_and_scores(rng, steps=2 if "ties" in name else 0)
        flat = truth.ravel(), answers.ravel()

        def metric(w: np.ndarray) -> float:
            return float(average_precision_score(*flat, sample_weight=np.repeat(w, K)))
    elif name == "miou":
        answers, truth = confusions(rng)[0], np.empty((N, 0))

        def metric(w: np.ndarray) -> float:
            total = np.einsum("n,nij->ij", w, answers)
            hit = np.diagonal(total)
            return float((hit / (total.sum(axis=0) + total.sum(axis=1) - hit)).mean())
    elif name == "r2":
        truth = rng.normal(size=N)
        answers = truth + rng.normal(0, 0.7, N)

        def metric(w: np.ndarray) -> float:
            return float(r2_score(truth, answers, sample_weight=w))
    else:
        truth = rng.integers(0, K, N)
        answers = np.where(rng.random(N) < 0.7, truth, 0)

        def metric(w: np.ndarray) -> float:
            return float(np.average(answers == truth, weights=w))

    found = measure(name.split()[0], answers[None], truth)  # type: ignore[arg-type]
    expected = [derivative(metric, item) for item in range(0, N, 7)]
    np.testing.assert_allclose(found.terms[0, ::7], expected, atol=2e-6)
    assert found.terms.sum() == pytest.approx(0.0, abs=1e-12)


def test_linear_replicates_spread_as_metrics_computed_anew(rng: np.random.Generator) -> None:
    truth, scores = labels_and_scores(rng)
    found = measure("micro_ap", scores[None], truth)
    interval = Bootstrap(np.arange(N), draws=1, seed=0).interval(found)
    anew = []
    for _ in range(1000):
        rows = rng.integers(0, N, N)
        anew.append(average_precision_score(truth[rows], scores[rows], average="micro"))
    assert interval.low is not None and interval.high is not None
    assert (interval.high - interval.low) / (2 * 1.96 * np.std(anew)) == pytest.approx(1.0, abs=0.12)


def test_terms_of_a_draw_sum_to_its_own_luck(rng: np.random.Generator) -> None:
    truth, first = labels_and_scores(rng)
    second = labels_and_scores(rng)[1]
    both = measure("micro_ap", np.stack([first, second]), truth)
    alone = [measure("micro_ap", one[None], truth).value for one in (first, second)]
    assert both.value == pytest.approx(np.mean(alone))
    np.testing.assert_allclose(both.terms.sum(axis=1), np.array(alone) - both.value, atol=1e-12)


def test_a_family_of_comparisons_is_corrected() -> None:
    # By hand: sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each at least its predecessor.
    assert correct_by_holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    rng, false = np.random.default_rng(5), 0
    blocks, families = np.arange(300), 100
    boot = Bootstrap(blocks, draws=1, seed=1, replicates=400)
    for _ in range(families):
        truth = rng.integers(0, 2, 300)
        equals = [np.where(rng.random(300) < 0.7, truth, 1 - truth)[None] for _ in range(4)]
        measured = [measure("accuracy", one, truth) for one in equals]
        pairs = [boot.compare(a, b) for i, a in enumerate(measured) for b in measured[i + 1 :]]
        false += any(
            decide_verdict(pair, p) != "not separable"
            for pair, p in zip(pairs, correct_by_holm([c.p for c in pairs]), strict=True)
        )
    assert false / families <= 0.1  # 5 % of families, and the luck of a hundred


def test_what_has_no_answer_is_said() -> None:
    with pytest.raises(UserError, match="a test item with a label"):
        measure("micro_ap", np.zeros((1, 3, 2)), np.zeros((3, 2)))
    with pytest.raises(UserError, match="different values"):
        measure("r2", np.zeros((1, 3)), np.ones(3))
    with pytest.raises(UserError, match=r"answers on the 3 test items, got 2"):
        measure("accuracy", np.zeros((1, 2), dtype=np.int64), np.zeros(3, dtype=np.int64))
    with pytest.raises(UserError, match="at least one test item"):
        measure("accuracy", np.zeros((1, 0), dtype=np.int64), np.zeros(0, dtype=np.int64))

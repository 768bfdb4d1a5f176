"""A class with few test items decides nothing by itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from eo_ssl.evaluation.intervals import (
    Bootstrap,
    Comparison,
    Interval,
    estimate_degrees_of_freedom,
    estimate_small_class_variance,
)
from eo_ssl.evaluation.task_metrics import measure


def truth_of(counts: tuple[int, ...]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def answered(rng: np.random.Generator, truth: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """One draw of answers, [1, n]: of each class that share is right."""
    right = rng.random(len(truth)) < np.array(shares)[truth]
    return np.where(right, truth, (truth + 1) % len(shares))[None]


def of(truth: np.ndarray, a: np.ndarray, boot: Bootstrap, b: np.ndarray | None = None) -> Interval | Comparison:
    one = measure("balanced_accuracy", a, truth)
    return boot.interval(one) if b is None else boot.compare(one, measure("balanced_accuracy", b, truth))


def test_one_item_is_no_winner() -> None:
    truth = truth_of((200, 200, 1))
    a, b = truth.copy()[None], truth.copy()[None]
    a[0, :10], b[0, 5:15], b[0, 400] = 1, 1, 0  # equally good but for the only item of a class
    boot = Bootstrap(np.arange(401), draws=1, seed=0)
    found = of(truth, a, boot, b)
    assert found.difference == pytest.approx(1 / 3)  # type: ignore[union-attr]
    assert found.p > 0.2 and found.low < 0 < found.high  # type: ignore[union-attr, operator]
    assert of(truth, a, boot, a) == Comparison(0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("counts", [(500, 1, 1), (300, 3, 3, 3), (1122, 499, 144, 8)])
def test_equal_encoders_are_told_apart_as_rarely_as_said(counts: tuple[int, ...]) -> None:
    rng, truth = np.random.default_rng(5), truth_of(counts)
    shares = (0.9, 0.7, 0.7, 0.7)[: len(counts)]
    boot = Bootstrap(np.arange(len(truth)), draws=1, seed=0, replicates=300)
    found = [of(truth, answered(rng, truth, shares), boot, answered(rng, truth, shares)) for _ in range(200)]
    assert np.mean([one.p < 0.05 for one in found]) <= 0.085  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(
    ("counts", "shares"), [((200, 3), (0.9, 0.7)), ((200, 8), (0.9, 0.9)), ((300, 2, 2, 2), (0.9, 0.5, 0.5, 0.5))]
)
def test_the_interval_holds_the_share_of_classes_that_few_items_tell_of(
    counts: tuple[int, ...], shares: tuple[float, ...]
) -> None:
    rng, truth = np.random.default_rng(1), truth_of(counts)
    boot = Bootstrap(np.arange(len(truth)), draws=1, seed=0, replicates=300)
    found = [of(truth, answered(rng, truth, shares), boot) for _ in range(200)]
    assert np.mean([one.low <= np.mean(shares) <= one.high for one in found]) >= 0.92  # type: ignore[operator]


def test_a_class_answered_alike_has_the_variance_of_agresti_and_coull() -> None:
    truth = truth_of((50, 8))
    answers = truth.copy()[None]
    answers[0, 50:] = 0  # of class 1 none is right
    found = of(truth, answers, Bootstrap(np.arange(58), draws=1, seed=0, replicates=20_000))
    parts = np.array([52 / 54 * 2 / 54 / 54, 2 / 12 * 10 / 12 / 12]) / 4
    free = parts.sum() ** 2 / (parts**2 / np.array([50, 8])).sum()
    wide = student.ppf(0.975, free) * parts.sum() ** 0.5
    assert found.value == 0.5
    assert (found.low, found.high) == (pytest.approx(0.5 - wide, rel=2e-3), pytest.approx(0.5 + wide, rel=2e-3))


def test_many_items_show_their_variance_themselves(rng: np.random.Generator) -> None:
    right = (rng.random(4000) < 0.6).astype(float)
    strata = np.zeros(4000, dtype=np.int64)
    terms = (right - right.mean()) / 4000
    lacking, _ = estimate_small_class_variance(strata, np.arange(4000), terms, np.array([right.mean()]), paired=False)
    assert lacking < 0.002 * right.var() / 4000


def test_freedom_is_that_of_the_variance_it_stands_for() -> None:
    rng, n = np.random.default_rng(3), 40
    for sample in (lambda size: rng.normal(size=size), lambda size: (rng.random(size) < 0.1).astype(float)):
        variances = sample((20_000, n)).var(axis=1, ddof=1)
        wanted = 2 * variances.mean() ** 2 / variances.var()  # of a chi-squared variable of as many degrees
        large = sample(200_000)
        kurtosis = ((large - large.mean()) ** 4).mean() / large.var() ** 2
        assert 2 / (kurtosis / n - (n - 3) / (n * (n - 1))) == pytest.approx(wanted, rel=0.06)
    few = np.zeros(n)
    few[0] = 1.0
    assert estimate_degrees_of_freedom(few) < 2.2  # one block carries all
    assert estimate_degrees_of_freedom(np.array([1.0, 2.0])) == 1.0
    assert estimate_degrees_of_freedom(np.linspace(-1, 1, n)) == n - 1


def test_a_perfect_score_that_is_no_share_has_no_interval() -> None:
    counts = np.zeros((1, 4, 2, 2), dtype=np.int64)
    counts[0, :, 0, 0], counts[0, :, 1, 1] = 4000, 96
    boot = Bootstrap(np.arange(4), draws=1, seed=0)
    assert boot.interval(measure("miou", counts, np.zeros((4, 0)))) == Interval(1.0, None, None)
    assert boot.interval(measure("accuracy", np.ones((1, 4), np.int64), np.ones(4, np.int64))).low == pytest.approx(
        0.025**0.25
    )

"""Intervals cover what they claim to cover, and a winner is named only where there is one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from eo_ssl.errors import UserError
from eo_ssl.evaluation.intervals import Bootstrap, decide_verdict
from eo_ssl.evaluation.task_metrics import measure_shares


class Shares:
    """A bootstrap of shares of right answers, [draws, items]."""

    def __init__(self, blocks: np.ndarray, *, strata: np.ndarray, **more: int) -> None:
        self.boot, self.strata = Bootstrap(blocks, **more), strata  # type: ignore[arg-type]

    def interval(self, right: np.ndarray):
        return self.boot.interval(measure_shares(right.astype(float), self.strata))

    def compare(self, a: np.ndarray, b: np.ndarray):
        return self.boot.compare(*(measure_shares(right.astype(float), self.strata) for right in (a, b)))

    def verdict(self, a: np.ndarray, b: np.ndarray) -> str:
        found = self.compare(a, b)
        return decide_verdict(found, found.p)


def bootstrap(
    n: int, *, draws: int = 1, per_block: int = 1, labels: np.ndarray | None = None, seed: int = 0, **more: int
) -> Shares:
    """``labels``: of classes that weigh alike; None: items do."""
    strata = np.zeros(n, dtype=np.int64) if labels is None else labels
    return Shares(np.arange(n) // per_block, strata=strata, draws=draws, seed=seed, **more)


def test_one_draw_of_independent_items_is_the_binomial_interval(rng: np.random.Generator) -> None:
    scores = rng.random((1, 2000)) < 0.8
    found = bootstrap(2000).interval(scores)
    p = scores.mean()
    half = 1.96 * np.sqrt(p * (1 - p) / 2000)
    assert found.value == p
    np.testing.assert_allclose([found.low, found.high], [p - half, p + half], atol=0.15 * half)


def test_blocks_widen_by_the_design_effect(rng: np.random.Generator) -> None:
    # Items of a block are copies: 2000 items are worth 200.
    scores = np.repeat(rng.random((1, 200)) < 0.8, 10, axis=1)
    alone, together = (bootstrap(2000, per_block=size).interval(scores) for size in (1, 10))
    ratio = (together.high - together.low) / (alone.high - alone.low)  # type: ignore[operator]
    assert ratio == pytest.approx(np.sqrt(10), rel=0.1)


def test_draws_alone_give_students_interval() -> None:
    # All items alike within a draw: what remains is a mean of five numbers.
    means = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    found = bootstrap(100, draws=5).interval(np.repeat(means[:, None], 100, axis=1))
    half = 2.776 * means.std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose([found.low, found.high], [0.7 - half, 0.7 + half], atol=0.2 * half)


@pytest.mark.parametrize(
    ("draws", "blocks", "per_block", "draw_sd", "block_sd", "least"),
    [
        (1, 200, 1, 0.0, 0.0, 0.93),
        (5, 200, 1, 0.1, 0.0, 0.91),
        (1, 30, 10, 0.0, 0.1, 0.91),
        (5, 30, 10, 0.05, 0.1, 0.92),
        (1, 3, 100, 0.0, 0.1, 0.86),
    ],
)
def test_coverage_on_simulated_answers(
    draws: int, blocks: int, per_block: int, draw_sd: float, block_sd: float, least: float
) -> None:
    rng, hits, repeats = np.random.default_rng(1), 0, 200
    for repeat in range(repeats):
        by_draw, by_block = (
            rng.normal(0, draw_sd, (draws, 1)),
            np.repeat(rng.normal(0, block_sd, blocks), per_block)[None],
        )
        scores = rng.random((draws, blocks * per_block)) < np.clip(0.7 + by_draw + by_block, 0, 1)
        found = bootstrap(blocks * per_block, draws=draws, per_block=per_block, seed=repeat, replicates=400).interval(
            scores
        )
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.7 <= found.high
    assert hits / repeats >= least


def test_pairs_share_their_luck(rng: np.random.Generator) -> None:
    # b is right wherever a is, and on 3 % more: far inside either interval, yet a clear win on the same items.
    a = rng.random((5, 1500)) < 0.8
    b = a | (rng.random((5, 1500)) < 0.15)
    boot = bootstrap(1500, draws=5)
    assert boot.interval(b).low < boot.interval(a).high  # type: ignore[operator]
    found = boot.compare(a, b)
    assert boot.verdict(a, b) == "b" and found.difference == pytest.approx(a.mean() - b.mean())
    assert boot.verdict(b, a) == "a" and boot.compare(b, a).low == pytest.approx(-found.high)


def test_equal_encoders_are_rarely_separated() -> None:
    rng = np.random.default_rng(2)
    boot = bootstrap(400, draws=3, replicates=500)
    verdicts = [boot.verdict(rng.random((3, 400)) < 0.7, rng.random((3, 400)) < 0.7) for _ in range(200)]
    assert verdicts.count("not separable") >= 0.93 * 200
    same = rng.random((3, 400)) < 0.7
    assert boot.verdict(same, same) == "not separable"


def test_balanced_accuracy_weighs_classes(rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1], [900, 100])
    scores = (labels == 0)[None]  # always the frequent class
    assert bootstrap(1000).interval(scores).value == pytest.approx(0.9)
    balanced = bootstrap(1000, labels=labels).interval(scores)
    assert balanced.value == pytest.approx(0.5)
    assert balanced.high - balanced.low < 0.03  # type: ignore[operator]


def test_a_class_that_lives_in_one_scene_does_not_shift_the_interval() -> None:
    """A replicate without that scene knows nothing of its class: once the value lay below its own interval."""
    labels = np.array([0] * 60 + [1] * 20)  # class 1, always wrong, is in the last of four scenes only
    scores = (labels == 0)[None]
    found = bootstrap(80, per_block=20, labels=labels).interval(scores)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value == 0.5 <= found.high
    mixed = np.random.default_rng(3).random((1, 80)) < np.where(labels == 0, 0.6, 0.2)
    low, high = (getattr(bootstrap(80, per_block=20, labels=labels).interval(mixed), side) for side in ("low", "high"))
    value = measure_shares(mixed.astype(float), labels).value
    assert low < value < high


def test_all_right_is_no_proof_of_perfection() -> None:
    # Twenty answers, all right: the bound is the share of right answers that would still give that in one case out of 40.
    right = np.ones((5, 200), dtype=bool)
    found = bootstrap(200, draws=5, per_block=10).interval(right)
    oracle = binomtest(20, 20).proportion_ci(0.95, "exact")
    assert found.value == found.high == 1.0 and found.low == pytest.approx(oracle.low)
    nothing = bootstrap(200, draws=5, per_block=10).interval(~right)
    assert nothing.value == nothing.low == 0.0 and nothing.high == pytest.approx(1 - oracle.low)
    # Two classes, one of them in two blocks only: four answers that weigh alike, not twenty.
    labels = np.repeat([0, 1], [180, 20])
    rare = bootstrap(200, draws=5, per_block=10, labels=labels).interval(right)
    assert rare.low == pytest.approx(binomtest(4, 4).proportion_ci(0.95, "exact").low)


def test_one_block_has_no_interval() -> None:
    found = bootstrap(50, per_block=50).interval(np.ones((1, 50), dtype=bool))
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert bootstrap(50, per_block=50).verdict(np.ones((1, 50)), np.zeros((1, 50))) == "not separable"


def test_same_seed_same_bounds_and_bounds_stay_shares(rng: np.random.Generator) -> None:
    scores = rng.random((5, 40)) < 0.97
    first, second = (bootstrap(40, draws=5).interval(scores) for _ in range(2))
    assert first == second and 0 <= first.low <= first.value <= first.high <= 1  # type: ignore[operator]


def test_refuses_other_draws_or_items() -> None:
    with pytest.raises(UserError, match=r"answers \[5, 40\] on the same draws and items, got \[4, 40\]"):
        bootstrap(40, draws=5).interval(np.ones((4, 40), dtype=bool))
    with pytest.raises(UserError, match="at least one draw"):
        bootstrap(0)

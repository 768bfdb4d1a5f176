"""Mistakes planted in real patches: how many the doctor finds, and how often it accuses patches that are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import power_study
from bench.doctor import CARDS

CERTAIN = {
    "bands shuffled",
    "scale forgotten",
    "scaled twice",
    "nodata not declared",
    "one band constant",
    "one band copied",
}


def share(trials: list[power_study.Trial], *results: str) -> float:
    return sum(item.result in results for item in trials) / len(trials)


def test_a_small_trial_finds_what_cannot_be_overlooked(real_data: Path) -> None:
    samples = power_study.gather_samples(CARDS, real_data, most=3)
    done = power_study.run_study(samples, plantings=2 * len(power_study.PLANTINGS), seed=7)
    planted = [item for item in done if item.planting]
    assert {item.planting for item in planted} == {planting.name for planting in power_study.PLANTINGS}
    assert share([item for item in planted if item.planting in CERTAIN], "detected") == 1.0
    assert share(planted, "detected") >= 0.8 and share(planted, "missed") <= 0.1
    assert share([item for item in done if not item.planting], "false alarm") == 0.0


def test_the_same_seed_gives_the_same_trial(real_data: Path) -> None:
    samples = power_study.gather_samples(("terramesh_s1rtc", "csmask_sentinel2"), real_data, most=2)
    assert power_study.run_study(samples, plantings=14, seed=5) == power_study.run_study(samples, plantings=14, seed=5)


@pytest.mark.slow
def test_two_hundred_plantings_and_as_many_controls(real_data: Path) -> None:
    done = power_study.run_study(power_study.gather_samples(CARDS, real_data, most=22), plantings=200, seed=1)
    planted, controls = ([item for item in done if bool(item.planting) is what] for what in (True, False))
    assert len(planted) == len(controls) == 200
    for part in ("design", "held out"):
        assert share([item for item in planted if item.part == part], "detected") >= 0.85
    assert share(planted, "missed", "wrong kind") <= 0.02
    assert share(controls, "false alarm") <= 0.01

"""Scores of studies that grow seed by seed: what is added, and the tables that come of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.seed_scores import describe_family, describe_scores, read_scores, update_scores

GAINS = {0: 3.0, 1: 5.0, 2: 7.0}  # points that the arm is above full at the end, by seed


def row(arm: str, runs: list[dict[str, Any]], step: int | None = None) -> dict[str, Any]:
    """A row as an evaluation leaves it, of the last step or of an earlier one."""
    name = arm if step is None else f"{arm} | step {step}"
    place = {"task": "t", "protocol": "knn5", "amount": "all", "metric": "accuracy"}
    departure = {} if step is None else {"step": step}
    told = {"encoder": name, "root": arm, "reference": None if step is None else arm, "departure": departure}
    return {**place, **told, "pretraining_seeds": len(runs), "runs": runs}


def leave_results(folder: Path, seeds: list[int]) -> Path:
    """Full scores 50 at the end of 200 forward equivalents; the arm is at 51 half way, and above at the end."""
    (folder / "rows").mkdir(parents=True)
    for number, (arm, step) in enumerate([("full", 10), ("full", None), ("soft", 10), ("soft", None)]):
        runs = []
        for seed in seeds:
            end = 0.5 + (GAINS[seed] / 100 if arm == "soft" else 0.0)
            value = end if step is None else 0.4 if arm == "full" else 0.51
            spent = {"forward_equivalents": 200 if step is None else 100}
            runs.append({"seed": seed, "value": value, "cost": spent})
        (folder / "rows" / f"{number}.json").write_text(json.dumps(row(arm, runs, step)))
    return folder


def test_parts_of_a_study_add_up_and_a_part_that_is_repeated_takes_the_place_of_itself(tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    assert read_scores(scores) == {}
    update_scores(scores, "study", leave_results(tmp_path / "a", [0, 1]))
    first = scores.read_bytes()
    update_scores(scores, "study", tmp_path / "a")
    assert scores.read_bytes() == first
    update_scores(scores, "study", leave_results(tmp_path / "b", [2]))
    found = read_scores(scores)
    assert len(found) == 2 * 3 * 2
    assert found["study", "soft", "2", "knn5", ""] == (200.0, pytest.approx(0.57))
    assert found["study", "full", "0", "knn5", "10"] == (100.0, pytest.approx(0.4))


def test_the_table_has_students_interval_of_the_paired_differences_and_the_compute_to_the_score(
    tmp_path: Path,
) -> None:
    scores = tmp_path / "scores.csv"
    update_scores(scores, "study", leave_results(tmp_path / "a", [0, 1, 2]))
    lines = list(describe_scores(read_scores(scores), protocols=["knn5"]))
    half = stats.t.ppf(0.975, 2) * np.std([3, 5, 7], ddof=1) / 3**0.5
    # The first point, at half of the compute, is above 50 already.
    assert f"| `soft` | 55.0 | +5.0 ({5 - half:+.1f} to {5 + half:+.1f}) | 0.50 |" in lines
    assert "| `full` | 50.0 |  |  |" in lines
    assert lines[0] == "`study`, 3 seeds from 0:"


def test_a_family_is_corrected_together(tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    for name in ("one", "two"):
        update_scores(scores, name, leave_results(tmp_path / name, [0, 1, 2]))
    pairs = {"one": [("soft", "full")], "two": [("soft", "full")], "other": [("soft", "full")]}
    *_, first, second = describe_family(read_scores(scores), pairs, protocols=["knn5"])
    p = stats.ttest_1samp([3, 5, 7], 0).pvalue
    assert first.endswith(f"| {p:.4f} | {2 * p:.4f} |")
    assert second.startswith("| `two` | `soft` less `full` | knn5 | +5.0")

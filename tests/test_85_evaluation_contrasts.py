"""Recipes compared seed by seed: by hand, by scipy, at equal steps, at equal compute, and by the compute to a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from eo_ssl.errors import UserError
from eo_ssl.evaluation.seed_contrasts import (
    ContrastPlan,
    SeedContrasts,
    TrainingCurve,
    collect_curves,
    compare_paired,
    compare_seeds,
    measure_saving,
    tabulate_contrasts,
)

T_2 = 4.302652729911275  # 97.5 % quantile of Student's t with 2 degrees of freedom


def row(
    encoder: str, runs: dict[int, tuple[float | None, float]], *, step: int | None = None, **changes: Any
) -> dict[str, Any]:
    """A row of the last step, or of an earlier one, by seed: compute and value."""
    made = [
        {"seed": seed, "value": value} | ({} if cost is None else {"cost": {"forward_equivalents": cost}})
        for seed, (cost, value) in runs.items()
    ]
    return {
        "task": "fields",
        "protocol": "knn5",
        "amount": "all",
        "metric": "accuracy",
        "encoder": encoder if step is None else f"{encoder} | step {step}",
        "reference": "" if step is None else encoder,
        "departure": None if step is None else {"step": step},
        "pretraining_seeds": len(made),
        "runs": made,
    } | changes


def curves(*rows: dict[str, Any]) -> dict[str, TrainingCurve]:
    (found,) = collect_curves(rows).values()
    return {curve.encoder: curve for curve in found}


def test_the_interval_of_paired_differences_is_students() -> None:
    differences = [0.01, 0.03, 0.05]
    found = compare_paired(differences)
    half = T_2 * 0.02 / 3**0.5  # standard deviation 0.02 of three
    assert found.difference == pytest.approx(0.03)
    assert (found.low, found.high) == pytest.approx((0.03 - half, 0.03 + half))
    oracle = stats.ttest_1samp(differences, 0.0)
    assert found.p == pytest.approx(oracle.pvalue) == pytest.approx(0.1217, abs=1e-4)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    flipped = compare_paired([-value for value in differences])
    assert (flipped.low, flipped.high, flipped.p) == pytest.approx((-found.high, -found.low, found.p))


@pytest.mark.parametrize("differences", [[0.04], [0.04, 0.04, 0.04], [0.0, 0.0]])
def test_one_difference_or_equal_ones_prove_nothing(differences: list[float]) -> None:
    found = compare_paired(differences)
    assert found.difference == pytest.approx(differences[0])
    assert (found.low, found.high, found.p) == (None, None, None)


def test_last_steps_are_compared_over_the_seeds_of_both() -> None:
    full = row("full", {0: (100, 0.50), 1: (100, 0.60), 2: (100, 0.70), 9: (100, 0.0)})
    soft = row("soft", {2: (130, 0.75), 1: (130, 0.63), 0: (130, 0.51), 7: (130, 0.0)})
    (found,) = [one for one in compare_seeds([full, soft], ContrastPlan("full")).rows if one["at"] == "end"]
    assert dict(zip(found["seeds"], found["differences"], strict=True)) == pytest.approx({0: 0.01, 1: 0.03, 2: 0.05})
    assert (found["encoder"], found["against"], found["step"], found["compute"]) == ("soft", "full", None, 130)
    assert found["difference"] == pytest.approx(0.03) and found["low"] == pytest.approx(0.03 - T_2 * 0.02 / 3**0.5)
    assert (found["family"], found["verdict"]) == ("primary", "not separable")


def test_points_of_training_are_compared_at_equal_steps_and_read_off_at_equal_compute() -> None:
    # The second recipe spends 50 and 100 more by the same steps. At 200, where the first ends, it lies between its
    # points at 150 and 300: 0.6 + 50/150 x 0.3 = 0.7.
    of = curves(
        row("full", {0: (100, 0.5)}, step=10),
        row("full", {0: (200, 0.72)}),
        row("soft", {0: (150, 0.6)}, step=10),
        row("soft", {0: (300, 0.9)}),
    )
    found = {(one["at"], one["step"]): one for one in tabulate_contrasts(of["soft"], of["full"])}
    assert set(found) == {("step", 10), ("end", None), ("compute", None)}  # at 100 the second has no point yet
    assert found["step", 10]["differences"] == pytest.approx([0.1]) and found["step", 10]["compute"] == 150
    assert found["end", None]["differences"] == pytest.approx([0.18])
    assert (
        found["compute", None]["differences"] == pytest.approx([0.7 - 0.72])
        and found["compute", None]["compute"] == 200
    )
    # The other way round: the reference is read off at the end of the cheaper one, and its own points within it.
    back = {(one["at"], one["step"]): one for one in tabulate_contrasts(of["full"], of["soft"])}
    assert back["compute", 10]["differences"] == pytest.approx([0.61 - 0.6]) and back["compute", 10]["compute"] == 150
    assert back["compute", None]["differences"] == pytest.approx([0.72 - 0.7])


def test_each_seed_is_read_off_at_its_own_compute() -> None:
    of = curves(
        row("full", {0: (0, 0.0), 1: (0, 0.0)}, step=0),
        row("full", {0: (100, 0.5), 1: (200, 0.5)}),
        row("soft", {0: (0, 0.0), 1: (0, 0.0)}, step=0),
        row("soft", {0: (200, 1.0), 1: (200, 1.0)}),
    )
    found = {(one["at"], one["step"]): one for one in tabulate_contrasts(of["soft"], of["full"])}
    assert found["compute", None]["differences"] == pytest.approx([0.0, 0.5])
    assert found["compute", None]["compute"] == 150 and found["compute", 0]["differences"] == [0.0, 0.0]


def test_without_known_compute_there_are_steps_alone_and_no_savings() -> None:
    rows = [row("full", {0: (None, 0.5), 1: (None, 0.5)}), row("soft", {0: (None, 0.6), 1: (80, 0.7)})]
    found = compare_seeds(rows, ContrastPlan("full"))
    assert [(one["at"], one["compute"]) for one in found.rows] == [("end", None)] and found.savings == []


def test_points_come_in_the_order_of_their_steps() -> None:
    of = curves(row("full", {0: (90, 0.3)}, step=100), row("full", {0: (10, 0.1)}, step=9), row("full", {0: (99, 0.4)}))
    assert of["full"].steps == (9, 100, None) and of["full"].compute[0].tolist() == [10, 90, 99]


def test_a_seed_that_lacks_a_point_is_left_out_of_the_curve() -> None:
    of = curves(row("full", {0: (1, 0.1)}, step=1), row("full", {0: (2, 0.2), 1: (2, 0.3)}))
    assert list(of["full"].values) == [0] and of["full"].steps == (1, None)


def test_compute_to_the_last_score_of_the_reference_is_that_of_the_first_crossing() -> None:
    of = curves(
        row("full", {0: (100, 0.5), 1: (100, 0.5)}, step=1),
        row("full", {0: (400, 0.8), 1: (400, 0.8)}),
        # Seed 0 crosses 0.8 half way between 100 and 300, seed 1 a quarter of the way between 300 and 500.
        row("soft", {0: (100, 0.7), 1: (100, 0.7)}, step=1),
        row("soft", {0: (300, 0.9), 1: (300, 0.78)}, step=2),
        row("soft", {0: (500, 0.7), 1: (500, 0.86)}),
    )
    found = measure_saving(of["soft"], of["full"])
    assert found["shares"] == pytest.approx([200 / 400, 350 / 400])
    assert (found["reached"], found["at_most"]) == (2, False)
    logs = np.log([0.5, 0.875])
    half = stats.t.ppf(0.975, 1) * logs.std(ddof=1) / 2**0.5
    assert found["share"] == pytest.approx((0.5 * 0.875) ** 0.5)
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.exp([logs.mean() - half, logs.mean() + half])))


def test_a_score_that_is_not_reached_or_reached_before_the_first_point_is_said() -> None:
    of = curves(
        row("full", {0: (400, 0.8), 1: (400, 0.8)}),
        row("never", {0: (100, 0.7), 1: (100, 0.7)}, step=1),
        row("never", {0: (300, 0.79), 1: (300, 0.9)}),
        row("early", {0: (100, 0.8), 1: (100, 0.85)}, step=1),
        row("early", {0: (300, 0.9), 1: (300, 0.9)}),
    )
    never, early = (measure_saving(of[name], of["full"]) for name in ("never", "early"))
    assert never["shares"][0] is None and never["shares"][1] == pytest.approx(200 / 400)
    assert (never["reached"], never["share"], never["low"]) == (1, None, None)
    assert early["shares"] == pytest.approx([0.25, 0.25]) and early["at_most"]
    assert early["share"] == pytest.approx(0.25) and early["low"] is None  # equal ones prove nothing


def study() -> list[dict[str, Any]]:
    """Three recipes with three seeds under two protocols."""
    scores = {"full": (0.5, 0.6, 0.7), "soft": (0.56, 0.67, 0.765), "hard": (0.5, 0.63, 0.65)}
    return [
        row(name, {seed: (100, value + (protocol == "linear") * 0.1 * seed * (name == "soft")) for seed, value in enumerate(of)}, protocol=protocol)
        for protocol in ("knn5", "linear")
        for name, of in scores.items()
    ]  # fmt: skip


def test_the_primary_family_alone_is_corrected_and_judged() -> None:
    plan = ContrastPlan("full", family="curated, kNN", protocols=["knn5"])
    found = [one for one in compare_seeds(study(), plan).rows if one["at"] == "end"]
    by = {(one["encoder"], one["protocol"]): one for one in found}
    chances = {name: stats.ttest_1samp(by[name, "knn5"]["differences"], 0).pvalue for name in ("soft", "hard")}
    assert chances["soft"] < 0.025 < chances["hard"]
    assert by["soft", "knn5"]["p_holm"] == pytest.approx(2 * chances["soft"])  # the smaller of two
    assert by["hard", "knn5"]["p_holm"] == pytest.approx(chances["hard"])
    assert (by["soft", "knn5"]["verdict"], by["hard", "knn5"]["verdict"]) == ("better", "not separable")
    assert all(one["family"] == "curated, kNN" for one in found if one["protocol"] == "knn5")
    outside = [one for one in found if one["protocol"] == "linear"]
    assert [(one["family"], one["p_holm"], one["verdict"]) for one in outside] == [(None, None, None)] * 2
    assert all(one["p"] is not None for one in outside)
    alone = compare_seeds(study(), ContrastPlan("full", encoders=["soft"], protocols=["knn5"])).rows
    (one,) = [one for one in alone if one["family"]]
    assert one["p_holm"] == pytest.approx(chances["soft"])
    worse = compare_seeds(study(), ContrastPlan("soft", encoders=["full"], protocols=["knn5"])).rows
    assert [one["verdict"] for one in worse if one["family"]] == ["worse"]


def test_the_family_may_be_of_equal_compute() -> None:
    rows = [
        row("full", {seed: (100, 0.5 + seed / 10) for seed in range(3)}, step=1),
        row("full", {seed: (200, 0.6 + seed / 10) for seed in range(3)}),
        row("soft", {seed: (100, 0.5 + seed / 9) for seed in range(3)}, step=1),
        row("soft", {seed: (300, 0.8 + seed / 9) for seed in range(3)}),
    ]
    found = compare_seeds(rows, ContrastPlan("full", at="compute")).rows
    assert [(one["at"], one["step"], one["compute"]) for one in found if one["family"]] == [("compute", None, 200)]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (ContrastPlan("ful"), "expected contrasts of full, soft, hard, got ful"),
        (ContrastPlan("full", encoders=["soft", "sft"]), "got sft"),
        (ContrastPlan("full", protocols=["lora"]), "expected contrasts of knn5, linear, got lora"),
    ],
)
def test_names_that_nothing_has_are_refused(plan: ContrastPlan, words: str) -> None:
    with pytest.raises(UserError, match=words):
        compare_seeds(study(), plan)


def test_rows_without_training_and_inputs_that_vary_are_no_recipes() -> None:
    rows = study()
    rows += [row("rcf", {0: (None, 0.9), 1: (None, 0.9)}, pretraining_seeds=0), {**row("old", {}), "runs": None}]
    rows += [row("full | dark", {0: (1, 0.0)}, reference="full", departure={"perturbation": "dark"})]
    found = compare_seeds(rows, ContrastPlan("full"))
    assert {one["encoder"] for one in found.rows} == {"soft", "hard"}
    assert {one["step"] for one in found.rows} == {None}


def test_contrasts_are_kept_as_they_are(tmp_path: Path) -> None:
    found = compare_seeds(study(), ContrastPlan("full", encoders=["soft"]))
    assert SeedContrasts.read(tmp_path) is None
    (tmp_path / "contrasts.json").write_text(json.dumps(found.to_json()))
    assert SeedContrasts.read(tmp_path) == found
    (tmp_path / "contrasts.json").write_text('{"plan": {"against": "full"}}')
    with pytest.raises(UserError, match="got one without 'contrasts'; remove it and evaluate again"):
        SeedContrasts.read(tmp_path)

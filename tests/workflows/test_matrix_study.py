"""A study from one configuration: two arms by two seeds, judged along their training, compared seed by seed, reported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from eo_ssl.cli import main
from eo_ssl.manifest import require
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows import run

SPEC = ArchiveSpec(sites=6, dates=1, size_px=192, exact_duplicates=0, near_duplicates=0, reprocessed=0)
PRUNE = {"warmup": 16, "interval": 16, "keep": 0.7, "method": "Random"}
WATCHED = {"log_every": 2, "monitor_every": 100, "encoders_at": [2, 4]}
MATRIX = {"arm": {"full": {}, "pruned": {"prune": PRUNE}}, "seed": [0, 1]}
TRAIN = {
    "with": "arm",
    "corpus": "{out}/corpus",
    "steps": 6,
    "batch_size": 8,
    "lr": 1e-3,
    "model": {"Vit": {"patch_size": 8, "depth": 1}},
    "training": WATCHED,
    "seed": "{seed}",
    "out": "{out}/{arm}_{seed}",
}
JUDGE = {"task": "corpus", "data": "{out}/corpus", "held_out": "all", "protocols": ["knn5"], "name": "fields"}
CONTRASTS = {"against": "full", "family": "pruning"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder; stages run in this process, which a run starts one for each."""
    folder = tmp_path_factory.mktemp("study")
    make_archive(folder / "archive", seed=2, spec=SPEC)
    ingest = {"card": "sample_s2_l2a", "data": "{data}", "out": "{out}/corpus", "size_px": 32, "dask": "synchronous"}
    judge = {**JUDGE, "encoders": ["{matrix}", "imagestats"], "study": "training", "contrasts": CONTRASTS}
    stages = [
        {"ingest": ingest},
        {"pretrain": TRAIN},
        {"evaluate": {**judge, "out": "{out}/results"}},
        {"report": {"inputs": ["{out}"], "out": "{out}/report"}},
    ]
    config = {"out": str(folder / "out"), "data": str(folder / "archive"), "matrix": MATRIX, "stages": stages}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))

    def in_process(command: str, options: dict[str, Any], path: Path) -> dict[str, Any]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(options))
        assert main([command, "--config", str(path)]) == 0
        return {"command": command, "out": str(options["out"]), "wall_s": 0.0, "cpu_s": 0.0, "peak_mb": 0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_stage", in_process)
        assert main(["run", "--config", str(folder / "run.yaml")]) == 0
    return folder / "out"


def read_rows(results: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(path.read_text()) for path in (results / "rows").glob("*.json")]
    return {row["encoder"]: row for row in rows}


def test_every_arm_is_judged_after_each_step_it_kept_with_what_it_had_cost(study: Path) -> None:
    rows = read_rows(study / "results")
    points = {f"{arm}{name}" for arm in ("full", "pruned") for name in ("", " | step 2", " | step 4")}
    assert set(rows) == {*points, "imagestats"}
    early = rows["pruned | step 4"]
    assert (early["reference"], early["departure"], early["pretraining_seeds"]) == ("pruned", {"step": 4}, 2)
    tiles = require(study / "pruned_0", "pretrain").summary["curation_passes"] // 2
    costs = {name: [run["cost"]["forward_equivalents"] for run in rows[name]["runs"]] for name in points}
    assert costs["full | step 2"] == costs["pruned | step 2"] == [48, 48]  # 16 presentations of one view, three times
    assert costs["pruned | step 4"] == [96 + tiles] * 2 and costs["pruned"] == [144 + 2 * tiles] * 2
    assert [run["seed"] for run in rows["full"]["runs"]] == [0, 1]


def test_what_was_kept_takes_no_power_from_comparisons_and_stands_in_no_leaderboard(study: Path) -> None:
    comparisons = json.loads((study / "results" / "comparisons.json").read_text())
    assert {(pair["a"], pair["b"]) for pair in comparisons} == {
        ("full", "pruned"),
        ("full", "imagestats"),
        ("pruned", "imagestats"),
    }
    text = (study / "results" / "leaderboard.md").read_text()
    board = text.split("### fields, knn5")[1].split("###")[0]
    assert "| full [" in board and "step" not in board
    assert "| encoder | after step | forward equivalents |" in text and "| lost |" not in text


def test_contrasts_are_the_differences_of_the_rows(study: Path) -> None:
    rows, found = read_rows(study / "results"), json.loads((study / "results" / "contrasts.json").read_text())
    assert found["plan"] == {**CONTRASTS, "encoders": [], "protocols": [], "at": "end"}
    by = {(row["at"], row["step"]): row for row in found["contrasts"]}
    for key, name in {("end", None): "", ("step", 2): " | step 2", ("step", 4): " | step 4"}.items():
        values = {arm: np.array([run["value"] for run in rows[arm + name]["runs"]]) for arm in ("full", "pruned")}
        assert by[key]["differences"] == pytest.approx((values["pruned"] - values["full"]).tolist())
    assert by["end", None]["family"] == "pruning" and by["compute", None]["compute"] == 144
    # At the compute of the whole run, 144, the pruned arm is still between its steps 2 and 4.
    spent = [run["cost"]["forward_equivalents"] for run in (rows["pruned | step 4"]["runs"])]
    for seed, difference in enumerate(by["compute", None]["differences"]):
        before, after = (rows[f"pruned | step {step}"]["runs"][seed]["value"] for step in (2, 4))
        reached = before + (after - before) * (144 - 48) / (spent[seed] - 48)
        assert difference == pytest.approx(reached - rows["full"]["runs"][seed]["value"])
    (saving,) = found["savings"]
    assert saving["encoder"] == "pruned" and len(saving["shares"]) == 2


def test_tables_and_curves_stand_in_the_results_and_in_the_report(study: Path) -> None:
    text = (study / "results" / "leaderboard.md").read_text()
    for title in ("Seed by seed against full", "Quality against compute", "Compute to the last score of full"):
        assert f"### {title}: fields, knn5, training samples: all" in text
    assert "| pruned | 4 | " in text and "1 difference, corrected together (Holm)" in text
    figure = (study / "results" / "training.svg").read_text()
    assert "forward equivalents" in figure and "points won over full at equal compute" in figure
    files = require(study / "results", "evaluate").files
    assert {"contrasts.json", "training.svg", "leaderboard.md"} <= set(files)
    page = (study / "report" / "index.html").read_text()
    assert "results: seed by seed and along training" in page
    assert 'aria-label="Points won over full at equal compute' in page
    assert page.count("Quality against compute") >= 2


def judge_again(study: Path, capsys: pytest.CaptureFixture[str], /, **changes: Any) -> tuple[int, str]:
    encoders = [f"{arm}={study}/{arm}_0,{study}/{arm}_1" for arm in ("full", "pruned")]
    common = {key: value for key, value in JUDGE.items() if key != "data"} | {"data": str(study / "corpus")}
    path = study.parent / "again.yaml"
    path.write_text(yaml.safe_dump({**common, "encoders": encoders, "out": str(study / "results"), **changes}))
    status = main(["evaluate", "--config", str(path)])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_a_later_evaluation_keeps_the_plan_and_the_points(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in (study / "results").glob("*.*")}
    status, said = judge_again(study, capsys)  # of the last steps alone, without contrasts
    assert status == 0 and "nothing to do" in said and "Seed by seed against full" in said
    assert {path.name: path.read_bytes() for path in (study / "results").glob("*.*")} == before
    assert not (study / "results" / "superseded").exists()
    status, said = judge_again(study, capsys, contrasts={**CONTRASTS, "against": "ful"})
    assert status == 2 and "expected contrasts of full, pruned, got ful; correct their names" in said
    status, said = judge_again(study, capsys, contrasts={"against": "pruned", "at": "compute"})
    assert status == 0 and "Seed by seed against pruned" in said
    found = json.loads((study / "results" / "contrasts.json").read_text())
    assert {(row["encoder"], row["at"]) for row in found["contrasts"] if row["family"]} == {("full", "compute")}


def test_a_study_of_training_needs_a_run_that_kept_something(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lonely = {"encoders": ["imagestats"], "study": "training", "out": str(study.parent / "other")}
    status, said = judge_again(study, capsys, **lonely)
    assert status == 2 and "expected a run that kept encoders along its training for the study training" in said
    assert not (study.parent / "other").exists()


def test_a_study_stopped_in_its_first_seed_compares_what_it_has(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [f"{arm}={study}/{arm}_0" for arm in ("full", "pruned")]
    changes = {"encoders": alone, "out": str(study.parent / "one"), "study": "training", "contrasts": CONTRASTS}
    assert judge_again(study, capsys, **changes)[0] == 0
    found = json.loads((study.parent / "one" / "contrasts.json").read_text())["contrasts"]
    assert all(row["seeds"] == [0] and row["low"] is None and row["p"] is None for row in found)
    assert not any(math.isnan(row["difference"]) for row in found)

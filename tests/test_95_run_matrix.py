"""The matrix of a run: which stages come out, in which order, with which options; and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from eo_ssl.cli import main
from eo_ssl.errors import UserError
from eo_ssl.evaluation.seeds import parse_entry
from eo_ssl.stage_plan import PlannedStage, plan_stages
from eo_ssl.workflows import run

NAMES = {"out": "o", "data": "d"}
SOFT = {"prune": {"warmup": 10, "interval": 100, "method": {"Density": {"gamma": 0.5}}}, "steps": 9}
MATRIX: dict[str, Any] = {"arm": {"full": {}, "soft": SOFT}, "seed": [0, 1, 2]}
INGEST = {"ingest": {"card": "c", "data": "{data}/x", "out": "{out}/corpus"}}
PRETRAIN = {
    "pretrain": {"with": "arm", "corpus": "{out}/corpus", "steps": 5, "seed": "{seed}", "out": "{out}/{arm}_{seed}"}
}
EVALUATE = {"evaluate": {"encoders": ["{matrix}", "rcf"], "out": "{out}/results"}}


def planned(*stages: dict[str, Any], matrix: dict[str, Any] | None = MATRIX, **changes: Any) -> list[PlannedStage]:
    return plan_stages(stages, matrix, names=NAMES, **changes)


def test_a_stage_runs_once_or_for_each_cell_seed_by_seed_and_is_joined():
    made = planned(INGEST, PRETRAIN, EVALUATE)
    assert [(stage.command, stage.options["out"]) for stage in made] == [
        ("ingest", "o/corpus"),
        *(("pretrain", f"o/{arm}_{seed}") for seed in range(3) for arm in ("full", "soft")),
        ("evaluate", "o/results"),
    ]
    assert made[0].options["data"] == "d/x" and made[0].label == ""
    full, soft = made[1], made[4]
    assert full.options == {"corpus": "o/corpus", "steps": 5, "seed": 0, "out": "o/full_0"}
    assert soft.options == {"corpus": "o/corpus", "steps": 9, "seed": 1, "out": "o/soft_1", "prune": SOFT["prune"]}
    assert (full.label, soft.cell) == ("arm=full seed=0", {"arm": "soft", "seed": 1})
    assert made[-1].options["encoders"] == ["full=o/full_0,o/full_1,o/full_2", "soft=o/soft_0,o/soft_1,o/soft_2", "rcf"]
    assert made[-1].label == "6 of 6 cells"
    entry = parse_entry(made[-1].options["encoders"][1])
    assert (entry.name, entry.runs) == ("soft", (("o/soft_0",), ("o/soft_1",), ("o/soft_2",)))


def test_the_matrix_alone_is_a_list_and_an_arm_may_be_asked_for_with_options_behind_its_folders():
    whole = planned(PRETRAIN, {"evaluate": {"encoders": "{matrix}"}}, matrix={**MATRIX, "seed": [4, 7]})
    assert whole[-1].options["encoders"] == ["full=o/full_4,o/full_7", "soft=o/soft_4,o/soft_7"]
    some = planned(PRETRAIN, {"evaluate": {"encoders": ["{matrix.soft}?missing=zero"], "name": "{out}"}})
    wanted = "soft=o/soft_0?missing=zero,o/soft_1?missing=zero,o/soft_2?missing=zero"
    assert some[-1].options == {"encoders": [wanted], "name": "o"}


def test_without_seeds_every_cell_is_an_encoder_and_two_axes_name_it_together():
    matrix = {"lr": [0.001, 0.01], "model": {"vit": {"model": "Vit"}, "resnet": {"model": "ResNet"}}}
    train = {"pretrain": {"with": ["model"], "lr": "{lr}", "out": "{out}/{model}_{lr}"}}
    made = planned(train, EVALUATE, {"report": {"inputs": ["{out}"]}}, matrix=matrix)
    assert [stage.options["out"] for stage in made[:4]] == [
        "o/vit_0.001",
        "o/resnet_0.001",
        "o/vit_0.01",
        "o/resnet_0.01",
    ]
    assert [stage.options["lr"] for stage in made[:4]] == [0.001, 0.001, 0.01, 0.01]  # numbers, not texts
    assert made[1].options["model"] == "ResNet"
    assert made[4].options["encoders"] == [
        "0.001-vit=o/vit_0.001",
        "0.001-resnet=o/resnet_0.001",
        "0.01-vit=o/vit_0.01",
        "0.01-resnet=o/resnet_0.01",
        "rcf",
    ]
    both = planned(train, {"evaluate": {"encoders": ["{matrix.vit}", "{matrix.0.01-resnet}"]}}, matrix=matrix)
    assert both[-1].options["encoders"] == ["0.001-vit=o/vit_0.001", "0.01-vit=o/vit_0.01", "0.01-resnet=o/resnet_0.01"]


def test_a_stage_of_fewer_axes_runs_before_the_first_cell_that_needs_it():
    curate = {"curate": {"seed": "{seed}", "out": "{out}/subset_{seed}"}}
    embed = {"embed": {"encoder": "{out}/{arm}_{seed}", "out": "{out}/vectors_{arm}_{seed}"}}
    made = planned(curate, PRETRAIN, embed, matrix={**MATRIX, "seed": [0, 1]})
    assert [(stage.command, stage.label) for stage in made] == [
        (command, label)
        for seed in (0, 1)
        for command, label in [
            ("curate", f"seed={seed}"),
            *(("pretrain", f"arm={arm} seed={seed}") for arm in ("full", "soft")),
            *(("embed", f"arm={arm} seed={seed}") for arm in ("full", "soft")),
        ]
    ]


def test_the_nearest_pretrain_is_joined_and_a_seed_that_is_not_finished_is_left_out():
    second = {"pretrain": {"init": "{out}/{arm}_{seed}", "out": "{out}/{arm}_{seed}_more"}}
    made = planned(PRETRAIN, second, EVALUATE)
    assert made[-1].options["encoders"][0] == "full=o/full_0_more,o/full_1_more,o/full_2_more"
    some = planned(PRETRAIN, EVALUATE, is_there=lambda folder: folder in ("o/full_0", "o/full_1", "o/soft_0"))
    assert some[-1].options["encoders"] == ["full=o/full_0,o/full_1", "soft=o/soft_0", "rcf"]
    assert some[-1].label == "3 of 6 cells"
    with pytest.raises(
        UserError, match=r"encoders of the matrix for \{matrix\}, got none that is finished; run without"
    ):
        planned(PRETRAIN, EVALUATE, is_there=lambda folder: False)


def test_without_a_matrix_stages_are_as_they_were_written():
    (stage,) = planned(
        {"pretrain": {"corpus": "{out}/a{data}", "seed": 1, "views": {"tile": [1, "{out}"]}}}, matrix=None
    )
    assert stage.options == {"corpus": "o/ad", "seed": 1, "views": {"tile": [1, "o"]}} and stage.label == ""
    (again,) = plan_stages([{"report": {"out": "{out}"}}], None, names={"out": "{data}", "data": "d"})
    assert again.options == {"out": "{data}"}  # what was put in is not looked at again


@pytest.mark.parametrize(
    ("stages", "matrix", "words"),
    [
        ([INGEST], MATRIX, "a stage for each axis of the matrix, got none that uses arm, seed; write {arm} into"),
        (
            [{"pretrain": {"out": "{out}/{arm}_{seed}"}}],
            MATRIX,
            "expected a stage that takes the options of the axis arm, got none; write `with: arm` into the stage",
        ),
        (
            [{"pretrain": {"with": "arm", "seed": "{seed}", "out": "{out}/{arm}"}}],
            MATRIX,
            "a folder of its own for each cell of pretrain, got o/full for arm=full seed=0 and for arm=full seed=1; put"
            " {arm} and {seed} into its out",
        ),
        (
            [{"pretrain": {"with": "arm", "out": "{out}/{arm}_{sed}"}}],
            MATRIX,
            "placeholders out of {out}, {data}, {arm}, {seed}, {matrix} in the options of pretrain, got {sed}; did you"
            " mean 'seed'",
        ),
        (
            [{"report": {"inputs": ["{ot}"]}}],
            None,
            "placeholders out of {out}, {data} in the options of report, got {ot}",
        ),
        (
            [{"pretrain": {"with": "seed", "out": "{out}/{arm}"}}],
            MATRIX,
            "to name axes of the matrix that have options",
        ),
        ([{"pretrain": {"with": "arms"}}], MATRIX, "have options, got arms; the axes are arm, seed"),
        ([{"pretrain": {"with": 3}}], MATRIX, "have options, got 3; the axes"),
        ([EVALUATE, PRETRAIN], MATRIX, "got no pretrain before it that uses an axis; put it behind the stage"),
        (
            [PRETRAIN, {"evaluate": {"encoders": ["{matrix.sofd}"]}}],
            MATRIX,
            "expected an arm of the matrix out of full, soft, got {matrix.sofd}",
        ),
        ([PRETRAIN, {"evaluate": {"encoders": ["x{matrix}"]}}], MATRIX, "at the beginning of an item of a list"),
        ([PRETRAIN, {"evaluate": {"name": "{arm.full}", "out": "{seed}"}}], MATRIX, "got {arm.full}; correct it"),
        (
            [{"pretrain": {"with": ["a", "b"], "out": "{a}{b}"}}],
            {"a": {"x": {"steps": 1}}, "b": {"y": {"steps": 2}}},
            "each option of pretrain from one axis, got steps from a and b",
        ),
        ([PRETRAIN], {"data": [1]}, "other than out, data, matrix, with, got 'data'"),
        ([PRETRAIN], {"two words": [1]}, "a word of letters"),
        ([PRETRAIN], {"seed": []}, "different numbers or names on the axis seed, or names with options each, got []"),
        ([PRETRAIN], {"seed": [1, 1]}, "different numbers or names"),
        ([PRETRAIN], {"seed": [1, "1"]}, "different numbers or names"),
        ([PRETRAIN], {"seed": [True]}, "different numbers or names"),
        ([PRETRAIN], {"seed": 3}, "different numbers or names"),
        ([PRETRAIN], {"arm": ["a/b"]}, "values of the axis arm that can name folders and encoders, got 'a/b'"),
        ([PRETRAIN], {"arm": {"a": 3}}, "a mapping of options for each name of the axis arm, got 3 for a"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(stages, matrix, words):
    with pytest.raises(UserError) as refused:
        planned(*stages, matrix=matrix)
    assert words in str(refused.value)


def written(folder: Path, **changes: Any) -> Path:
    config = folder / "run.yaml"
    train = {"pretrain": {**PRETRAIN["pretrain"], "objective": "Mae"}}
    (folder / "x").mkdir(exist_ok=True)
    asked = {"out": str(folder / "out"), "data": str(folder), "matrix": MATRIX, "stages": [INGEST, train]}
    config.write_text(yaml.safe_dump({**asked, **changes}))
    return config


def test_an_unknown_option_of_one_arm_is_found_before_anything_runs(tmp_path, capsys):
    arms = {**MATRIX["arm"], "hard": {"prune": {"warmup": 1, "interval": 1, "method": {"Density": {"gama": 2}}}}}
    assert main(["run", "--config", str(written(tmp_path, matrix={**MATRIX, "arm": arms}))]) == 2
    said = capsys.readouterr().err
    assert "gama" in said and "in `pretrain` of arm=hard seed=0 of the run" in said
    assert not (tmp_path / "out").exists()


def test_cells_run_in_order_with_their_names_and_a_stopped_run_goes_on(tmp_path, monkeypatch, capsys):
    ran: list[str] = []

    def stage(command: str, options: dict[str, Any], config: Path) -> dict[str, Any]:
        ran.append(Path(options["out"]).name)
        if ran[-1] == "soft_1" and ran.count("soft_1") == 1:
            raise UserError("stopped on purpose")
        return {"command": command, "out": options["out"], "wall_s": 0.0, "cpu_s": 0.0, "peak_mb": 0}

    monkeypatch.setattr(run, "_stage", stage)
    monkeypatch.setattr(run, "check_stages", lambda planned: None)
    config = str(written(tmp_path))
    assert main(["run", "--config", config]) == 2
    rows = json.loads((tmp_path / "out" / "stages.json").read_text())
    assert [row.get("cell") for row in rows[1:]] == [
        {"arm": arm, "seed": seed} for seed, arm in [(0, "full"), (0, "soft"), (1, "full")]
    ]
    said = capsys.readouterr().out
    assert "1/7 ingest corpus ─" in said and "5/7 pretrain soft_1  arm=soft seed=1 ─" in said
    assert main(["run", "--config", config]) == 0  # each command finds its own product done or unfinished
    cells = [f"{arm}_{seed}" for seed in range(3) for arm in ("full", "soft")]
    assert ran == ["corpus", *cells[:4], "corpus", *cells]


def test_only_joins_what_is_finished(tmp_path, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(run, "_stage", lambda command, options, config: asked.append(options) or {"command": "x"})
    monkeypatch.setattr(run, "_print", lambda *_: None)
    monkeypatch.setattr(run, "check_stages", lambda planned: None)
    for name in ("full_0", "soft_0"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "manifest.json").write_text("{}")
    config = str(written(tmp_path, stages=[INGEST, PRETRAIN, EVALUATE]))
    assert main(["run", "--config", config, "--only", "evaluate"]) == 0
    (options,) = asked
    assert options["encoders"] == [f"full={tmp_path}/out/full_0", f"soft={tmp_path}/out/soft_0", "rcf"]

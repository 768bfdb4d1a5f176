"""What the benchmarks and studies of training make of what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import study_decoder


@pytest.mark.parametrize("turned", [False, True])
def test_the_cross_decoder_is_compared_with_the_full_one_whichever_stands_first(tmp_path: Path, turned: bool) -> None:
    row = {"a": "cross", "b": "full", "difference": -0.04, "low": -0.07, "high": -0.01, "verdict": "b"}
    if turned:
        row |= {"a": "full", "b": "cross", "difference": 0.04, "low": 0.01, "high": 0.07, "verdict": "a"}
    other = {**row, "a": "random_init", "difference": 0.3, "verdict": "not separable"}
    rows = [{**one, "protocol": protocol} for one in (other, row) for protocol in ("knn5", "linear")]
    (tmp_path / "comparisons.json").write_text(json.dumps(rows))
    assert study_decoder.read_difference(tmp_path, "knn5") == (-0.07, -0.04, -0.01, "full")


def test_both_decoders_are_trained_alike_but_for_what_is_compared() -> None:
    stages = study_decoder.list_stages(seeds=2, steps=40)
    runs = [stage["pretrain"] for stage in stages if "pretrain" in stage]
    assert [run.pop("out").removeprefix("{out}/") for run in runs] == ["full_0", "cross_0", "full_1", "cross_1"]
    full, cross = (run["objective"].pop("Mae") for run in runs[:2])
    assert cross == {**full, "decoder": "cross", "predicted": 1 / 3} and runs[0] == runs[1]
    (judge,) = [stage["evaluate"] for stage in stages if "evaluate" in stage]
    assert judge["encoders"][:2] == ["full={out}/full_0,{out}/full_1", "cross={out}/cross_0,{out}/cross_1"]

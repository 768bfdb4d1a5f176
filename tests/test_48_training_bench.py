"""What the benchmarks and studies of training make of what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from bench import crop_labels, race, study_decoder, study_objectives
from eo_ssl.cards import load_card
from eo_ssl.scene import list_products
from eo_ssl.stage_plan import plan_stages


@pytest.mark.parametrize("turned", [False, True])
def test_the_cross_decoder_is_compared_with_the_full_one_whichever_stands_first(tmp_path: Path, turned: bool) -> None:
    row = {"a": "cross", "b": "full", "difference": -0.04, "low": -0.07, "high": -0.01, "verdict": "b"}
    if turned:
        row |= {"a": "full", "b": "cross", "difference": 0.04, "low": 0.01, "high": 0.07, "verdict": "a"}
    other = {**row, "a": "random_init", "difference": 0.3, "verdict": "not separable"}
    rows = [{**one, "protocol": protocol} for one in (other, row) for protocol in ("knn5", "linear")]
    (tmp_path / "comparisons.json").write_text(json.dumps(rows))
    found = study_objectives.read_difference(tmp_path, "knn5", "cross", less="full")
    assert (found.low, found.middle, found.high, found.verdict) == (-0.07, -0.04, -0.01, "full")


def test_both_decoders_are_trained_alike_but_for_what_is_compared() -> None:
    matrix = study_decoder.make_matrix(seeds=2)
    planned = plan_stages(study_decoder.list_stages(steps=40), matrix, names={"out": "{out}", "data": "{data}"})
    runs = [stage.options for stage in planned if stage.command == "pretrain"]
    assert [run.pop("out").removeprefix("{out}/") for run in runs] == ["full_0", "cross_0", "full_1", "cross_1"]
    full, cross = (run["objective"].pop("Mae") for run in runs[:2])
    assert cross == {**full, "decoder": "cross", "predicted": 1 / 3} and runs[0] == runs[1]
    (judge,) = [stage.options for stage in planned if stage.command == "evaluate"]
    assert judge["encoders"][:2] == ["full={out}/full_0,{out}/full_1", "cross={out}/cross_0,{out}/cross_1"]


@pytest.mark.parametrize(("gains", "ratio"), [((0.01, 0.02), 0.2), ((-0.01, 0.0), 0.4), ((-0.02, -0.01), None)])
def test_the_smallest_part_of_the_time_in_which_no_score_is_lower_counts(
    tmp_path: Path, gains: tuple[float, float], ratio: float | None
) -> None:
    given = {"sixth": gains[0], "third": gains[1], "random_init": 0.5}
    rows = [
        {"a": race.OLD, "b": name, "protocol": protocol, "difference": -(0.1 if protocol == "linear" else gain)}
        | {"low": -0.2, "high": 0.3, "verdict": "not separable"}
        for name, gain in given.items()
        for protocol in study_objectives.PROTOCOLS
    ]
    (tmp_path / "comparisons.json").write_text(json.dumps(rows))
    (tmp_path / "leaderboard.csv").write_text("encoder,protocol,value\ndata2vec,knn5,0.5\ndata2vec,linear,0.6\n")
    row = race.describe(tmp_path, {"sixth": 0.2, "third": 0.4}, seconds=10.0, steps=7, seeds=2)
    assert row["ratio"] == ratio and row["value"] == (None if ratio is None else 10 * ratio)
    assert "data2vec: knn5 50.0%, linear 60.0%;" in row["note"]
    assert f"in 0.20 of the time: {100 * gains[0]:+.1f} (-30.0 to +20.0), +10.0" in row["note"]


def test_crops_of_worldcereal_are_those_of_its_files(real_data: Path, tmp_path: Path) -> None:
    """Every pixel of 20 m has the class of one of the four pixels of 10 m below it."""
    card = load_card(
        crop_labels.write_labelled_card(
            study_objectives.ROOT / "datasets" / "worldcereal_s2_20m.yaml", real_data, tmp_path
        )
    )
    products = {product.product_id.split("/")[1]: product for product in list_products(card, real_data).products}
    assert len(products) == 4
    for place, product in products.items():
        (file,) = (real_data / "worldcereal_timeseries" / place).glob("OUTPUT_*.nc")
        with netCDF4.Dataset(file) as stored:
            cover = stored["LC"][:].filled(0).reshape(32, 2, 32, 2)
        found = product.open()["label"].values
        known = found >= 0
        assert set(np.unique(found[known])) <= set(crop_labels.CLASSES) and 0.2 < known.mean() < 1
        below = cover.transpose(0, 2, 1, 3)[known].reshape(-1, 4)  # of each labelled pixel
        assert (below == found[known][:, None]).any(axis=1).all()

"""Archives of the study of curation: what is in them, and that nothing that is judged on is trained on."""

from __future__ import annotations

import csv
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.clutter import CORNERS, cut_chip, make_clutter, make_judged_clutter
from bench.study_curation import ARMS, BATCH, OBJECTIVES, ROWS, Study
from bench.textures import SHARES, make_judged_textures, make_textures
from eo_ssl.cards import load_card


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "chips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_pixels(folder: Path) -> list[bytes]:
    with tarfile.open(folder / "chips.tar") as archive:
        return [np.asarray(Image.open(archive.extractfile(entry))).tobytes() for entry in archive]


def test_textures_have_their_shares_and_those_that_are_judged_all_kinds_alike(tmp_path: Path) -> None:
    card = make_textures(tmp_path / "long", seed=1, rows=400)
    assert load_card(str(card)).bands == ("SAR",)
    counts = Counter(row["kind"] for row in read_table(tmp_path / "long"))
    assert sum(counts.values()) == 400
    assert [counts[f"kind_{kind}"] for kind in range(1, 10)] == [max(1, round(400 * share)) for share in SHARES[1:]]
    make_judged_textures(tmp_path / "judged", seed=[1, 1], each=3, tested=2)
    judged = Counter((row["kind"], row["split"]) for row in read_table(tmp_path / "judged"))
    assert set(judged.values()) == {3, 2} and len(judged) == 20
    make_textures(tmp_path / "again", seed=1, rows=400)
    assert read_pixels(tmp_path / "again") == read_pixels(tmp_path / "long")


def test_a_chip_is_a_corner_or_the_middle_with_its_power_averaged() -> None:
    image = np.zeros((128, 130))
    image[:48, :48], image[:48, -48:], image[-48:, :48], image[-48:, -48:] = 1, 2, 3, 4
    assert [float(cut_chip(image, place).mean()) for place in CORNERS] == [1, 2, 3, 4]
    spot = np.zeros((128, 128))
    spot[64, 64] = 2.0
    middle = cut_chip(spot, "middle")
    assert middle.shape == (24, 24)
    assert (middle[12, 12], np.count_nonzero(middle)) == (1.0, 1)  # the root of a quarter of 4


def test_vehicles_that_probes_learn_from_are_not_in_the_clutter_that_is_trained_on(
    tmp_path: Path, real_data: Path
) -> None:
    make_clutter(tmp_path / "train", real_data, seed=0, rows=1000, reserved=60)
    make_judged_clutter(tmp_path / "judged", real_data, each=60, tested=10)
    trained = read_table(tmp_path / "train")
    counts = Counter(row["kind"] for row in trained)
    assert counts.pop("clutter") == 970
    assert set(counts.values()) == {3} and len(counts) == 10
    assert not set(read_pixels(tmp_path / "train")) & set(read_pixels(tmp_path / "judged"))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_ends_at_the_compute_of_the_run_without_curation(arm: str, objective: str) -> None:
    steps = 1000
    selection, events = ARMS[arm]
    options = Study("textures", objective, steps=steps, warmup=0.2).choose_options(arm)
    _, views = OBJECTIVES[objective]
    embedded = (ROWS + 2 * 512) * (min(events, 1) if selection.get("features") == "first" else events)
    spent = options["steps"] * BATCH * views * 3 + embedded
    assert 0 <= steps * BATCH * views * 3 - spent < BATCH * views * 3
    assert "label_name" not in str(selection) or arm == "oracle"
    if "prune" in options:  # as many events as were charged: the next one would come after the end
        mark = options["prune"]["warmup"] + (events - 1) * options["prune"]["interval"]
        assert mark < options["steps"] * BATCH <= mark + options["prune"]["interval"]

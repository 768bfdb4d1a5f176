"""A copy that lacks a class in a split is told so, by class and split, and not that its lists are absent."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import load_benchmark
from worlds.benchmarks import EUROSAT_CLASSES, make_eurosat, make_resisc45, make_ucmerced
from worlds.benchmarks.eurosat import EUROSAT_FOLDER


@pytest.fixture
def eurosat(tmp_path: Path) -> Path:
    return make_eurosat(tmp_path / "eurosat", seed=2, per_class=3)


def keep(path: Path, wanted: Callable[[str], bool]) -> None:
    path.write_text("".join(f"{line}\n" for line in path.read_text().split() if wanted(line)))


def test_a_list_of_one_class_is_not_an_absent_split(eurosat: Path) -> None:
    for split in ("train", "val", "test"):
        keep(eurosat / f"eurosat-{split}.txt", lambda line: line.startswith("Forest"))
    said = "got none of AnnualCrop, HerbaceousVegetation, Highway and 6 more in eurosat-train.txt; none of AnnualCrop"
    with pytest.raises(UserError, match=re.escape(said)) as error:
        load_benchmark("eurosat", eurosat)
    assert "each of the 10 classes in every split" in str(error.value) and "no train split" not in str(error.value)


def test_a_class_without_a_test_image_is_named(eurosat: Path) -> None:
    keep(eurosat / "eurosat-test.txt", lambda line: not line.startswith(("River", "Pasture")))
    with pytest.raises(
        UserError, match=r"got none of Pasture, River in eurosat-test\.txt; the copy is incomplete, get"
    ):
        load_benchmark("eurosat", eurosat)


def test_images_that_are_listed_but_not_there_are_none(eurosat: Path) -> None:
    for path in (eurosat / EUROSAT_FOLDER / "SeaLake").glob("*.tif"):
        path.unlink()
    with pytest.raises(UserError, match=r"none of SeaLake in eurosat-train\.txt; none of SeaLake in eurosat-val\.txt"):
        load_benchmark("eurosat", eurosat)


def test_what_is_absent_is_still_called_so(eurosat: Path) -> None:
    assert len(EUROSAT_CLASSES) == 10
    (eurosat / "eurosat-val.txt").unlink()
    with pytest.raises(UserError, match=r"got no eurosat-val\.txt; get it from"):
        load_benchmark("eurosat", eurosat)
    shutil.rmtree(eurosat / EUROSAT_FOLDER)
    (eurosat / "eurosat-val.txt").write_text("Forest_1.jpg\n")
    with pytest.raises(UserError, match=r"got no folder of a class in ds/images/remote_sensing"):
        load_benchmark("eurosat", eurosat)


@pytest.mark.parametrize(
    ("name", "make", "lists"),
    [("ucmerced", make_ucmerced, "uc_merced-{}.txt"), ("resisc45", make_resisc45, "resisc45-{}.txt")],
)
def test_colour_images_of_no_class_are_named_too(
    name: str, make: Callable[..., Path], lists: str, tmp_path: Path
) -> None:
    root = make(tmp_path / name, seed=2, per_class=3)
    lost = load_benchmark(name, root).class_names[1]
    keep(root / lists.format("val"), lambda line: not re.fullmatch(rf"{lost}_?\d+\.\w+", line))
    with pytest.raises(UserError, match=rf"got none of {lost} in {lists.format('val')}; the copy is incomplete"):
        load_benchmark(name, root)

"""No image is in two splits of a benchmark, whatever its lists say."""

from __future__ import annotations

from pathlib import Path

import pytest

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import load_benchmark
from eo_ssl.evaluation.benchmarks.images import make_consecutive_fold
from worlds.benchmarks import make_eurosat


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("abcdea", "a in train and again in test"),
        ("abacde", "a in train and again in validation"),
        ("abcdcf", "c in validation and again in test"),
        ("aacdef", "a in train and again in train"),
    ],
)
def test_an_image_named_twice_is_refused(names: str, said: str) -> None:
    with pytest.raises(UserError, match=f"got {said}"):
        make_consecutive_fold(2, 2, 2, names=list(names))
    fold = make_consecutive_fold(2, 2, 2, names=list("abcdef"))
    assert [part.tolist() for part in (fold.train, fold.validation, fold.test)] == [[0, 1], [2, 3], [4, 5]]


def test_a_training_image_in_eurosats_test_list_is_refused(tmp_path: Path) -> None:
    root = make_eurosat(tmp_path / "eurosat", per_class=5)
    assert len(load_benchmark("eurosat", root).folds[0].test) == 10
    train, test = (root / f"eurosat-{split}.txt" for split in ("train", "test"))
    stolen = train.read_text().splitlines()[3]
    test.write_text(test.read_text().rstrip("\n") + f"\n{stolen}\n")
    with pytest.raises(UserError, match=rf"got {Path(stolen).stem}\.tif in train and again in test; fetch the lists"):
        load_benchmark("eurosat", root)

"""A row has the amount of training samples that it is named after: what no class has is refused, what some lack is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from eo_ssl.errors import UserError
from eo_ssl.evaluation.draws import Amount, describe_shortage, draw
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.sensors import Quantity


@dataclass(frozen=True)
class Nothing:
    """Images that nobody reads."""

    count: int
    sensor: str = "sentinel2_l1c"
    quantity: Quantity = Quantity.TOA_REFLECTANCE
    bands: tuple[str, ...] = ("B02",)
    gsd_m: float = 10.0
    shape: tuple[int, int, int] = (1, 8, 8)
    fingerprint: str = "f" * 64

    def __len__(self) -> int:
        return self.count

    def read(self, positions: np.ndarray, out: np.ndarray) -> None:
        raise AssertionError


def task_with(*folds: tuple[int, ...], kind: Any = "classification") -> Task:
    """A task with so many training samples of each class in each fold, and one test item per fold."""
    parts, labels, start = [], [], 0
    for counts in folds:
        own = np.repeat(np.arange(len(counts)), counts)
        parts.append(Fold(start + np.arange(len(own)), np.array([start + len(own)]), np.empty(0, dtype=np.int64)))
        labels += [*own.tolist(), 0]
        start += len(own) + 1
    values = np.array(labels) if kind == "classification" else np.array(labels, dtype=np.float32)
    names = tuple("abcdef"[: len(folds[0])]) if kind == "classification" else ()
    metric: Any = "accuracy" if kind == "classification" else "r2"
    return Task(
        "planted", (Nothing(start),), values, names, np.arange(start), tuple(parts), "planted", metric, kind=kind
    )


def test_more_shots_than_any_class_has_are_refused_with_the_largest_number() -> None:
    task = task_with((18, 12))
    with pytest.raises(UserError, match=r"expected at most 18 shots for planted, .* got 500; give fewer, or 0 for all"):
        draw(task, Amount(shots=500), draws=2, seed=0)
    (rows,) = draw(task, Amount(shots=18), draws=1, seed=0)[0]
    assert np.bincount(task.labels[rows]).tolist() == [18, 12]  # the number that the sentence names is taken


def test_a_fraction_of_less_than_a_sample_is_refused_with_one_that_is_not() -> None:
    task = task_with((18, 18, 18))
    with pytest.raises(UserError, match=r"got 0\.0001 of the 18 training samples of its largest class; give 0\.056 or"):
        draw(task, Amount(fraction=0.0001), draws=2, seed=0)
    (rows,) = draw(task, Amount(fraction=0.056), draws=1, seed=0)[0]
    assert np.bincount(task.labels[rows]).tolist() == [1, 1, 1]
    values = task_with((180,), kind="regression")
    with pytest.raises(UserError, match=r"of the 180 training samples of the task; give 0\.0056 or more"):
        draw(values, Amount(fraction=0.0001), draws=2, seed=0)


def test_the_fraction_that_is_named_takes_a_sample() -> None:
    assert all(round(float(f"{1 / most:.2g}") * most) == 1 for most in range(1, 2000))


def test_classes_that_are_short_are_said_and_taken_whole() -> None:
    task = task_with((30, 20, 4, 9))
    assert (
        describe_shortage(task, Amount(shots=4))
        == describe_shortage(task, Amount())
        == describe_shortage(task, Amount(fraction=0.5))
        == ()
    )
    assert describe_shortage(task, Amount(shots=5)) == (
        "1 of 4 classes have fewer than 5 training samples (4), all of which are taken",
    )
    assert describe_shortage(task, Amount(shots=25)) == (
        "3 of 4 classes have fewer than 25 training samples (4 to 20), all of which are taken",
    )
    assert describe_shortage(task, Amount(fraction=0.05)) == (
        "2 of 4 classes have too few training samples (4 to 9) for 5 %: one of each is taken",
    )
    (rows,) = draw(task, Amount(fraction=0.05), draws=1, seed=0)[0]
    assert np.bincount(task.labels[rows]).tolist() == [2, 1, 1, 1]


def test_folds_are_counted_one_by_one() -> None:
    task = task_with((10, 10), (10, 3))
    assert describe_shortage(task, Amount(shots=10)) == (
        "1 of 4 classes (over all folds) have fewer than 10 training samples (3), all of which are taken",
    )
    assert (
        describe_shortage(task_with((5, 0), (5, 5)), Amount(shots=5)) == ()
    )  # a class that a fold does not teach lacks nothing


def test_draws_of_one_and_the_same_samples_are_one_draw() -> None:
    task = task_with((6, 6), (6, 6))
    whole = draw(task, Amount(shots=6), draws=5, seed=0)
    assert len(whole) == 1 and all(
        np.array_equal(rows, fold.train) for rows, fold in zip(whole[0], task.folds, strict=True)
    )
    assert len(draw(task, Amount(shots=3), draws=5, seed=0)) == 5
    both = draw(task_with((2, 1)), Amount(shots=1), draws=20, seed=0)  # two sets are all that there are
    assert sorted(rows.tolist() for (rows,) in both) == [[0, 2], [1, 2]]

"""Where validation tells no penalty from another, none was chosen: the probe takes the documented one and the words say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from eo_ssl.evaluation import linear, sgd
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.protocols import PROTOCOLS, predict_frozen
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Kind, Task
from eo_ssl.evaluation.tuning import Tuning
from eo_ssl.sensors import Quantity

TRAIN, VALIDATION, TEST = (np.arange(a, b) for a, b in ((0, 150), (150, 200), (200, 300)))


@dataclass(frozen=True)
class Nothing:
    """Images that nobody reads: the features are given."""

    sensor: str = "sentinel2_l1c"
    quantity: Quantity = Quantity.TOA_REFLECTANCE
    bands: tuple[str, ...] = ("B02",)
    gsd_m: float = 10.0
    shape: tuple[int, int, int] = (1, 8, 8)
    fingerprint: str = "f" * 64

    def __len__(self) -> int:
        return 300

    def read(self, positions: np.ndarray, out: np.ndarray) -> None:
        raise AssertionError


def task_of(kind: Kind, labels: np.ndarray, *, validation: np.ndarray = VALIDATION) -> Task:
    names = {"classification": ("a", "b"), "multilabel": ("a", "b")}.get(kind, ())
    metric: Any = {"classification": "accuracy", "multilabel": "micro_ap", "regression": "r2"}[kind]
    fold = Fold(TRAIN, TEST, validation)
    return Task("planted", (Nothing(),), labels, names, np.arange(300), (fold,), "planted", metric, kind=kind)


def planted(rng: np.random.Generator, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Features [300, 20] and what two of them tell, with noise."""
    x = rng.normal(size=(300, 20)).astype(np.float32)
    score = x[:, :2] + 0.3 * rng.normal(size=(300, 2))
    labels: dict[Kind, np.ndarray] = {
        "classification": (score[:, 0] > 0).astype(np.int64),
        "multilabel": (score > 1).astype(np.uint8),
        "regression": score[:, 0].astype(np.float32),
    }
    return x, labels[kind]


def answered(task: Task, x: np.ndarray, protocol: str = "linear") -> np.ndarray:
    found: np.ndarray = predict_frozen(task, [x], [[TRAIN]], protocol=protocol, amount=Amount(), seed=0)[0]
    return found


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_a_validation_split_that_says_nothing_leaves_the_documented_penalty(
    rng: np.random.Generator, kind: Kind
) -> None:
    x, labels = planted(rng, kind)
    labels[VALIDATION] = 0  # no positive, or one value
    fit = linear.fit_labels if kind == "multilabel" else linear.fit_values
    default, strongest = (fit(x[TRAIN], labels[TRAIN], penalties=(c,))[0].predict(x[TEST]) for c in (1.0, 1e-4))  # type: ignore[operator]
    found = answered(task_of(kind, labels), x)
    assert np.array_equal(found.reshape(default.shape), default) and not np.allclose(default, strongest, atol=0.1)


def test_one_validation_item_that_all_get_right_chooses_nothing(rng: np.random.Generator) -> None:
    x, labels = planted(rng, "classification")
    x[150, 0], labels[150] = 10.0, 1  # far on its side under any penalty
    found = answered(task_of("classification", labels, validation=VALIDATION[:1]), x)
    default, strongest = (linear.fit(x[TRAIN], labels[TRAIN], penalties=(c,))[0].predict(x[TEST]) for c in (1.0, 1e-4))
    assert np.array_equal(found, default) and not np.array_equal(default, strongest)


def test_a_rate_that_nothing_chose_is_the_documented_one(rng: np.random.Generator) -> None:
    x, labels = planted(rng, "regression")
    labels[VALIDATION] = 0
    (fitted,) = sgd.fit(x[TRAIN], labels[TRAIN], sgd.Problem("regression", 1), rates=(0.01,), seed=0)
    found = answered(task_of("regression", labels), x, "linear-sgd")
    np.testing.assert_allclose(found, fitted.predict(x[TEST])[:, 0], rtol=1e-6)


def test_a_split_that_tells_options_apart_still_chooses(rng: np.random.Generator) -> None:
    x, labels = planted(rng, "regression")
    scores = [
        1 - np.square(one.predict(x[VALIDATION])[:, 0] - labels[VALIDATION]).sum()
        for one in linear.fit_values(x[TRAIN], labels[TRAIN], penalties=linear.PENALTIES)
    ]
    best = linear.PENALTIES[int(np.argmax(scores))]
    assert best != 1.0
    expected = linear.fit_values(x[TRAIN], labels[TRAIN], penalties=(best,))[0].predict(x[TEST])[:, 0]
    np.testing.assert_allclose(answered(task_of("regression", labels), x), expected, rtol=1e-6)


@pytest.mark.parametrize(("protocol", "name"), [("linear", "C"), ("linear-sgd", "rate")])
def test_the_words_name_what_is_taken_where_nothing_was_chosen(protocol: str, name: str) -> None:
    value = {"C": "1", "rate": "0.01"}[name]
    for amount in (Amount(), Amount(shots=5), Amount(fraction=0.5)):
        words = PROTOCOLS[protocol].describe(kind="classification", amount=amount, has_validation=True, tuning=Tuning())
        assert f"{name} chosen " in words and words.endswith(f"({value} where all score alike there)")

"""Labels, values and masks are judged as classes are: rows with intervals, paired comparisons, nothing computed twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, r2_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from eo_ssl.errors import UserError
from eo_ssl.evaluation.draws import Amount, draw
from eo_ssl.evaluation.encoder_candidates import TrainedCandidate
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.protocols import (
    FROZEN,
    PROTOCOLS,
    NeighbourVote,
    check_protocols,
    list_protocols,
    predict_frozen,
)
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning import Tuning
from eo_ssl.sensors import Quantity
from planted import Images, planted, vit


def labelled(rng: np.random.Generator) -> Task:
    """Two labels that lift the blue and the near-infrared band, and one that nothing tells."""
    truth = (rng.random((160, 3)) < 0.5).astype(np.uint8)
    x = 0.2 + 0.02 * rng.normal(size=(160, 4, 16, 16))
    x[:, 0] += 0.1 * truth[:, 0, None, None]
    x[:, 3] += 0.1 * truth[:, 1, None, None]
    rows = np.arange(160)
    fold = Fold(rows[:80], rows[120:], rows[80:120])
    return Task(
        "labels",
        (Images(x.astype(np.float32)),),
        truth,
        ("blue", "near infrared", "coin"),
        rows,
        (fold,),
        "thirds",
        "micro_ap",
        kind="multilabel",
    )


def measured(rng: np.random.Generator) -> Task:
    """A value that is the brightness of the red band."""
    task = labelled(rng)
    x = task.sources[0].x.copy()  # type: ignore[attr-defined]
    truth = rng.uniform(0, 1, 160).astype(np.float32)
    x[:, 2] += 0.3 * truth[:, None, None]
    return replace(
        task, name="values", sources=(Images(x),), labels=truth, class_names=(), metric="r2", kind="regression"
    )


@dataclass(frozen=True)
class Masked(Images):
    """Bright pixels are of class 1; the first column is of none."""

    def read_masks(self, positions: np.ndarray, out: np.ndarray) -> None:
        out[...] = self.x[positions, 3] > 0.3
        out[:, :, 0] = -1


def masked(rng: np.random.Generator) -> Task:
    x = 0.2 + 0.01 * rng.normal(size=(48, 4, 16, 16))
    for image, (row, col) in zip(x, rng.integers(0, 2, (48, 2)) * 8, strict=True):
        image[3, row : row + 8, col : col + 8] += 0.3
    rows = np.arange(48)
    return Task(
        "masks",
        (Masked(x.astype(np.float32)),),
        np.empty((48, 0), np.int64),
        ("dark", "bright"),
        rows,
        (Fold(rows[:24], rows[24:], rows[:0]),),
        "halves",
        "miou",
        kind="segmentation",
    )


def test_neighbours_of_labels_and_values_are_scikit_learns(rng: np.random.Generator) -> None:
    for task, oracle in ((labelled(rng), KNeighborsClassifier(5)), (measured(rng), KNeighborsRegressor(5))):
        x = load_candidates(["imagestats"])[0].features(task)
        fold = task.folds[0]
        found = predict_frozen(
            task, x, draw(task, Amount(), draws=1, seed=0), protocol="knn5", amount=Amount(), seed=0
        )[0]
        oracle.fit(x[0][fold.train], task.labels[fold.train])
        if task.kind == "regression":
            expected = oracle.predict(x[0][fold.test])
        else:
            expected = np.stack([share[:, 1] for share in oracle.predict_proba(x[0][fold.test])], axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_every_frozen_protocol_sees_what_is_planted(rng: np.random.Generator, tmp_path: Path, kind: str) -> None:
    task = labelled(rng) if kind == "multilabel" else measured(rng)
    frozen = [name for name in list_protocols(task.kind) if name not in ("finetune", "lora")]
    settings = Settings.of(frozen, kind=task.kind, shots=[0], fractions=[0.5], draws=3, seed=0)
    rows, comparisons = judge(
        task, load_candidates(["imagestats", "random_init"]), settings, tmp_path, computing=Computing()
    )
    assert len(rows) == 2 * 5 * 2 and len(comparisons) == 5 * 2
    truth = task.labels[task.tested]
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"] and row["metric"] == task.metric
        assert (row["amount"], row["n_train"], row["eval_seeds"]) in (("all", 80, 1), ("50 %", 40, 3))
    best = max(row["value"] for row in rows if row["encoder"] == "imagestats")
    assert best > (0.85 if kind == "multilabel" else 0.95)  # a third of the labels is a coin
    chance = average_precision_score(truth, np.zeros(truth.shape), average="micro") if kind == "multilabel" else 0.0
    assert chance < 0.6 and min(row["value"] for row in rows) > (chance if kind == "multilabel" else -1.0)
    done: list[int] = []
    again = judge(
        task,
        load_candidates(["imagestats", "random_init"]),
        settings,
        tmp_path,
        computing=Computing(progress=done.append),
    )
    assert again == (rows, comparisons) and not done


def test_a_ridge_row_is_its_closed_form(rng: np.random.Generator, tmp_path: Path) -> None:
    task = measured(rng)
    settings = Settings.of(["linear"], kind="regression", shots=[0], draws=1, seed=0)
    ((row,), _) = judge(task, load_candidates(["imagestats"]), settings, tmp_path, computing=Computing())
    x, fold = load_candidates(["imagestats"])[0].features(task)[0], task.folds[0]
    mean, std = x[fold.train].mean(axis=0), x[fold.train].std(axis=0)
    train, test = ((x[rows] - mean) / std for rows in (fold.train, fold.test))
    scores = []
    for penalty in 10.0 ** np.arange(-4, 3):
        y = task.labels[fold.train]
        w = np.linalg.solve(train.T @ train + np.eye(train.shape[1]) / penalty, train.T @ (y - y.mean()))
        scores.append(r2_score(task.labels[fold.test], test @ w + y.mean()))
    assert min(abs(row["value"] - score) for score in scores) < 1e-4 and "validation split" in row["protocol_words"]


def test_two_sensors_are_judged_by_both_encoders(rng: np.random.Generator, tmp_path: Path) -> None:
    """What neither sensor tells alone: the class is the sum of two bits, one seen by each."""
    bits = rng.integers(0, 2, (120, 2))
    optical = 0.2 + 0.01 * rng.normal(size=(120, 4, 16, 16)) + 0.2 * bits[:, 0, None, None, None]
    power = rng.gamma(20.0, 0.002, size=(120, 2, 16, 16)) * (1 + 4 * bits[:, 1, None, None, None])
    radar = Images(power.astype(np.float32), ("VV", "VH"), "sentinel1_rtc", Quantity.GAMMA0)
    rows = np.arange(120)
    fold = Fold(rows[:60], rows[60:], rows[:0])
    one = Task(
        "both",
        (Images(optical.astype(np.float32)),),
        2 * bits[:, 0] + bits[:, 1],
        tuple("abcd"),
        rows,
        (fold,),
        "halves",
        "accuracy",
    )
    both = replace(one, partners=(radar,))
    settings = Settings.of(["knn5-standardised"], shots=[0], draws=1, seed=0)
    value = {}
    for name, task in (("one", one), ("both", both)):
        ((row,), _) = judge(task, load_candidates(["imagestats"]), settings, tmp_path, computing=Computing())
        value[name] = row["value"]
    assert value["one"] < 0.7 < 0.95 < value["both"] and row["bands"] == ["B02", "B03", "B04", "B08", "VV", "VH"]
    assert one.fingerprint != both.fingerprint and one.kept is not both.kept
    ((mixed, _), _) = judge(both, load_candidates(["imagestats+rcf"]), settings, tmp_path, computing=Computing())
    assert mixed["encoder"] == "imagestats+rcf" and mixed["value"] > 0.9
    ours = vit()
    with pytest.raises(
        UserError,
        match=r"each of the two sensors of both, got ours; join two by \+, in the order sentinel2_l1c\+sentinel1_rtc",
    ):
        TrainedCandidate("ours", ours).features(both)
    with pytest.raises(UserError, match="has one sensor, got imagestats\\+rcf"):
        load_candidates(["imagestats+rcf"])[0].features(one)


def test_masks_are_judged_by_heads_and_not_by_neighbours(rng: np.random.Generator, tmp_path: Path) -> None:
    task, ours = masked(rng), vit()
    quick = Tuning(steps=60, rates=(1e-2,), augment="none", selection="last", batch_size=8)
    settings = Settings.of(["seg-linear"], kind="segmentation", shots=[0], draws=1, seed=0, tuning=quick)
    compared = (TrainedCandidate("ours", ours), *load_candidates(["imagestats"]))
    rows, comparisons = judge(task, compared, settings, tmp_path, computing=Computing())
    assert [row["encoder"] for row in rows] == ["ours"] and not comparisons  # statistics have no maps to put a head on
    assert rows[0]["value"] > 0.8 and rows[0]["n_test"] == 24 and "1 x 1 convolution" in rows[0]["protocol_words"]
    with pytest.raises(UserError, match=r"for a segmentation task out of seg-linear.*got 'knn5'"):
        check_protocols(["knn5"], "segmentation")
    with pytest.raises(UserError, match=r"for a classification task out of .*got 'seg-dpt'"):
        check_protocols(["seg-dpt"], "classification")


def test_fine_tuning_stands_beside_frozen_protocols(rng: np.random.Generator, tmp_path: Path) -> None:
    task, ours = planted(rng, 64), vit()
    quick = Tuning(steps=80, rates=(1e-3,), augment="none", selection="last", batch_size=16, drop_path=0.0)
    settings = Settings.of(["knn5", "finetune", "lora"], shots=[0], draws=1, seed=0, tuning=quick)
    compared = (TrainedCandidate("ours", ours), *load_candidates(["imagestats"]))
    rows, _ = judge(task, compared, settings, tmp_path, computing=Computing())
    found = {(row["encoder"], row["protocol"]): row for row in rows}
    assert set(found) == {("ours", "knn5"), ("imagestats", "knn5"), ("ours", "finetune"), ("ours", "lora")}
    assert found["ours", "finetune"]["value"] > 0.9 and found["ours", "lora"]["value"] > 0.9
    assert len({row["encoder_fingerprint"] for key, row in found.items() if key[0] == "ours"}) == 1


def test_a_new_protocol_is_one_entry_of_the_table(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in (FROZEN, PROTOCOLS):
        monkeypatch.setitem(table, "knn1", NeighbourVote(name="knn1", k=1))  # type: ignore[arg-type]
    task = planted(rng, 60)
    settings = Settings.of(["knn1"], shots=[0], draws=1, seed=0)
    ((row,), _) = judge(task, load_candidates(["imagestats"]), settings, tmp_path, computing=Computing())
    (x,), fold = load_candidates(["imagestats"])[0].features(task), task.folds[0]
    oracle = KNeighborsClassifier(1).fit(x[fold.train], task.labels[fold.train])
    assert row["value"] == oracle.score(x[fold.test], task.labels[fold.test])
    assert row["protocol_words"].startswith("k nearest neighbours, k = min(1, samples), L2")


def test_tasks_check_what_they_are_made_of(rng: np.random.Generator) -> None:
    task = labelled(rng)
    with pytest.raises(UserError, match=r"labels \[160, 3\] and a metric out of micro_ap.*got \[160, 3\] and accuracy"):
        replace(task, metric="accuracy")
    with pytest.raises(UserError, match=r"labels \[160\] and a metric out of r2"):
        replace(task, kind="regression", metric="r2")
    with pytest.raises(UserError, match="expected sources with masks"):
        replace(task, kind="segmentation", metric="miou", labels=np.empty((160, 0), np.int64))
    with pytest.raises(UserError, match="use --fractions"):
        draw(task, Amount(shots=1), draws=1, seed=0)
    changed = task.labels.copy()
    changed[0, 0] ^= 1
    assert replace(task, labels=changed).fingerprint != task.fingerprint

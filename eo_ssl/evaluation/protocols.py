"""The table of protocols: nearest neighbours and linear probes on frozen features, and those that train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import expect, suggest_nearest
from eo_ssl.evaluation import knn, linear, sgd
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.sources import Matrix, Rows
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.task_metrics import PredictionArray, measure
from eo_ssl.evaluation.tasks import Kind, Task
from eo_ssl.evaluation.tuning import TUNED, VECTOR_KINDS, TunedProtocol, Tuning

VALIDATION_FOLDS = 5  # cross-validation inside a training draw, where the benchmark has no validation split
_VOTES: dict[Kind, str] = {
    "classification": "votes",
    "multilabel": "share of votes of each label",
    "regression": "mean value",
}
_LINEAR: dict[Kind, str] = {
    "classification": "logistic regression",
    "multilabel": "a logistic regression per label",
    "regression": "ridge regression",
}


@dataclass(frozen=True, slots=True)
class TaughtFold:
    """One fold of a task with the training samples of one draw."""

    task: Task
    fold: Fold
    train: Rows
    "positions that teach"
    amount: Amount
    seed: int
    "of stochastic gradient descent"

    @property
    def labels(self) -> npt.NDArray[Any]:
        """Of the training samples."""
        return self.task.labels[self.train]


@dataclass(frozen=True, kw_only=True)
class FrozenProtocol(ABC):
    """A way to judge features of an encoder that stays as it is."""

    name: str
    kinds: tuple[Kind, ...] = VECTOR_KINDS
    trains: ClassVar[bool] = False

    @abstractmethod
    def predict(self, given: TaughtFold, x: Matrix) -> npt.NDArray[Any]:
        """Return the predictions on the test items of a fold.

        Args:
            given: fold and training samples.
            x: [n, D] float32, features of all images of the task.

        Returns:
            classification: int64 classes [m]; multilabel: float32 scores [m, K]; regression: float32 values [m].
        """

    @abstractmethod
    def describe(self, *, kind: Kind, amount: Amount, has_validation: bool, tuning: Tuning) -> str:
        """Return the protocol in words, with how a penalty or learning rate was chosen."""


@dataclass(frozen=True, kw_only=True)
class NeighbourVote(FrozenProtocol):
    """k nearest neighbours: uniform votes by L2, or votes weighted by cosine."""

    k: int
    standardise: bool = False
    "by the training draw"
    cosine: bool = False

    def predict(self, given: TaughtFold, x: Matrix) -> npt.NDArray[Any]:
        """Return votes, or their mean, of the nearest training samples of each test item."""
        k = min(self.k, len(given.train), given.amount.shots or self.k)
        train, test, weights = x[given.train], x[given.fold.test], None
        if self.cosine:
            rows, weights = knn.find_similar(train, test, k=k)
        else:
            if self.standardise:
                shift, scale = linear.fit_standardiser(train)
                train, test = (((vectors - shift) / scale).astype(np.float32) for vectors in (train, test))
            rows = knn.find_neighbours(train, test, k=k)
        near = given.labels[rows]  # [m, k, ...]
        if given.task.kind == "classification":
            return knn.vote(near, weights)
        return knn.mean_of(near, weights).astype(np.float32)

    def describe(self, *, kind: Kind, amount: Amount, has_validation: bool, tuning: Tuning) -> str:
        """Return k, distance and votes."""
        nearest = f"k = min({self.k}, {'samples' if amount.shots is None else 'shots'})"
        if self.cosine:
            votes = f"{_VOTES[kind]} weighted by exp(cosine / {knn.TEMPERATURE})"
            return f"k nearest neighbours by cosine, {nearest}, {votes}"
        how = "standardised by the training draw" if self.standardise else "as they are"
        return f"k nearest neighbours, {nearest}, L2 on features {how}, uniform {_VOTES[kind]}"


Predictor = Callable[[Matrix], npt.NDArray[Any]]
Fit = Callable[[TaughtFold, Matrix, npt.NDArray[Any], Sequence[float]], list[Predictor]]
"""Fits a predictor to features and labels for each of several penalties or learning rates."""


@dataclass(frozen=True, kw_only=True)
class LinearProbe(FrozenProtocol):
    """Linear scores on standardised features, their penalty or learning rate chosen by validation."""

    fit: Fit
    parameter: str
    "what is chosen, as it is called"
    options: tuple[float, ...]
    fallback: float
    "where nothing can choose"
    method: Callable[[Kind], str]
    "what is fitted, in words"

    def predict(self, given: TaughtFold, x: Matrix) -> npt.NDArray[Any]:
        """Return the predictions of the model whose option did best on the validation split, else by cross-validation.

        A split that says nothing of any option (without a positive, of one value, of one item) leaves the fallback.
        """
        labels, option = given.task.labels, self.fallback
        if given.amount.shots != 1 and len(given.train) > 1:
            score = np.zeros(len(self.options))
            for known, held in _split_validation(given):
                models = self.fit(given, x[known], labels[known], self.options)
                score += [_score(given.task, model(x[held]), labels[held]) for model in models]
            option = linear.choose_penalty(score, self.options, fallback=self.fallback)
        (model,) = self.fit(given, x[given.train], given.labels, (option,))
        return model(x[given.fold.test])

    def describe(self, *, kind: Kind, amount: Amount, has_validation: bool, tuning: Tuning) -> str:
        """Return what is fitted, and on what its penalty or rate is chosen."""
        alike = f" ({self.fallback:g} where all score alike there)"
        if amount.shots == 1:
            chosen = f"{self.parameter} = {self.fallback:g}: one sample per class leaves nothing to validate on"
        elif amount.whole and has_validation:
            chosen = f"{self.parameter} chosen on the validation split{alike}"
        else:
            parts = _count_folds(amount)
            chosen = f"{self.parameter} chosen by {parts}-fold validation inside the training samples{alike}"
        return f"{self.method(kind)} on features standardised by the training draw; {chosen}"


def fit_convex(given: TaughtFold, x: Matrix, y: npt.NDArray[Any], penalties: Sequence[float]) -> list[Predictor]:
    """Return logistic or ridge regressions, one per penalty."""
    kind = given.task.kind
    if kind == "classification":
        return [probe.predict for probe in linear.fit(x, y, penalties=penalties)]
    fit = linear.fit_labels if kind == "multilabel" else linear.fit_values
    return [_decide(kind, scorer) for scorer in fit(x, y, penalties=penalties)]


def fit_descent(given: TaughtFold, x: Matrix, y: npt.NDArray[Any], rates: Sequence[float]) -> list[Predictor]:
    """Return linear scores fitted by stochastic gradient descent, one per learning rate."""
    problem = sgd.Problem(given.task.kind, max(1, len(given.task.class_names)))
    return [_decide(given.task.kind, scorer) for scorer in sgd.fit(x, y, problem, rates=rates, seed=given.seed)]


FROZEN: dict[str, FrozenProtocol] = {
    protocol.name: protocol
    for protocol in (
        NeighbourVote(name="knn5", k=5),
        NeighbourVote(name="knn5-standardised", k=5, standardise=True),
        NeighbourVote(name="knn20-cosine", k=20, cosine=True),
        LinearProbe(
            name="linear",
            fit=fit_convex,
            parameter="C",
            options=linear.PENALTIES,
            fallback=1.0,  # scikit-learn's own
            method=_LINEAR.__getitem__,
        ),
        LinearProbe(
            name="linear-sgd",
            fit=fit_descent,
            parameter="rate",
            options=sgd.RATES,
            fallback=0.01,  # in the middle of those tried
            method=lambda _: "linear scores fitted by SGD",
        ),
    )
}
PROTOCOLS: dict[str, FrozenProtocol | TunedProtocol] = {**FROZEN, **TUNED}
DEFAULT: dict[Kind, tuple[str, ...]] = {
    **dict.fromkeys(VECTOR_KINDS, ("knn5", "knn5-standardised", "linear")),
    "segmentation": ("seg-linear",),
}
"""Protocols that a task of each kind is judged by unless others are named."""


def list_protocols(kind: Kind) -> tuple[str, ...]:
    """Return the protocols that a task of ``kind`` can be judged by."""
    return tuple(name for name, protocol in PROTOCOLS.items() if kind in protocol.kinds)


def check_protocols(names: Sequence[str], kind: Kind) -> tuple[str, ...]:
    """Return ``names`` in the order of `PROTOCOLS`.

    Raises:
        UserError: an unknown or repeated name, none, or one for another kind of task.
    """
    known = list_protocols(kind)
    for name in names:
        expect(
            name in known,
            expected=f"protocols for a {kind} task out of {', '.join(known)}",
            got=repr(name),
            remedy=suggest_nearest(name, known).removeprefix("; ") or "choose out of those",
        )
    expect(
        names and len(set(names)) == len(names),
        expected="each protocol once and at least one",
        got=", ".join(names) or "none",
        remedy=f"choose out of {', '.join(known)}",
    )
    return tuple(name for name in PROTOCOLS if name in names)


def predict_frozen(
    task: Task, x: Sequence[Matrix], draws: Sequence[Sequence[Rows]], *, protocol: str, amount: Amount, seed: int
) -> PredictionArray:
    """Return what a protocol on frozen features predicts for the test items of ``task.tested``, [draws, items, ...].

    Args:
        task: labels and folds; no segmentation.
        x: features of all images of the task for each fold, [n, D] float32; the same array where an encoder does not
            depend on the fold.
        draws: training positions per draw and fold.
        protocol: out of `FROZEN`.
        amount: of training samples.
        seed: of stochastic gradient descent.

    Returns:
        classification: int64 classes [D, n]; multilabel: float32 scores [D, n, K]; regression: float32 values [D, n].
    """
    rows = []
    for drawn in draws:
        folds = [TaughtFold(task, fold, train, amount, seed) for fold, train in zip(task.folds, drawn, strict=True)]
        rows.append(
            np.concatenate([FROZEN[protocol].predict(fold, vectors) for fold, vectors in zip(folds, x, strict=True)])
        )
    return np.stack(rows)


def _decide(kind: Kind, scorer: linear.Scorer) -> Predictor:
    """Turn scores [m, K] into an answer of the task's kind."""
    if kind == "classification":
        return lambda x: scorer.predict(x).argmax(axis=1).astype(np.int64)
    return scorer.predict if kind == "multilabel" else lambda x: scorer.predict(x)[:, 0]


def _count_folds(amount: Amount) -> int:
    return VALIDATION_FOLDS if amount.shots is None else min(VALIDATION_FOLDS, amount.shots)


def _split_validation(given: TaughtFold) -> list[tuple[Rows, Rows]]:
    """Pairs of fitted and validated positions: whole blocks are held out where there are enough."""
    task, train = given.task, given.train
    if given.amount.whole and len(given.fold.validation):
        return [(train, given.fold.validation)]
    labels = given.labels if task.kind == "classification" else np.zeros(len(train), dtype=np.int64)
    blocks = task.blocks[train] if given.amount.shots is None else None
    part = _assign_folds(labels, blocks, _count_folds(given.amount))
    pairs = [(train[part != number], train[part == number]) for number in np.unique(part)]
    return [(known, held) for known, held in pairs if len(known) and len(held)]


def _assign_folds(labels: Rows, blocks: Rows | None, count: int) -> Rows:
    """Fold 0 ... count - 1 of each sample: whole blocks, the largest first, or every count-th sample of each class."""
    names, block = (
        np.unique(blocks, return_inverse=True) if blocks is not None else (np.empty(0), np.empty(0, dtype=np.int64))
    )
    if 2 <= len(names) < len(labels):
        order = np.argsort(-np.bincount(block), kind="stable")
        of = np.empty(len(names), dtype=np.int64)
        of[order] = np.arange(len(names)) % count
        folds: Rows = of[block]
        return folds
    fold = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        fold[rows] = np.arange(len(rows)) % count
    return fold


def _score(task: Task, predictions: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """The task's metric on validation samples; the worst where it is undefined there, or where a descent diverged."""
    if not np.isfinite(predictions).all():
        return -np.inf
    if (task.kind == "multilabel" and not truth.any()) or (task.kind == "regression" and np.ptp(truth) == 0):
        return 0.0  # says nothing of any option
    return measure(task.metric, predictions[None], truth).value

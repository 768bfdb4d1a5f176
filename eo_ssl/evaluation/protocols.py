"""Protocols on frozen features: from vectors and a division to what was answered on the test items, one row per training draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError, nearest
from eo_ssl.evaluation import knn, linear, sgd
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.features import Matrix, Rows
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.task_metrics import Answers, measure
from eo_ssl.evaluation.tasks import Kind, Task

Protocol = Literal["knn5", "knn5-standardised", "knn20-cosine", "linear", "linear-sgd"]
PROTOCOLS: tuple[Protocol, ...] = ("knn5", "knn5-standardised", "knn20-cosine", "linear", "linear-sgd")
DEFAULT: tuple[Protocol, ...] = ("knn5", "knn5-standardised", "linear")
NEIGHBOURS, COSINE_NEIGHBOURS = 5, 20
VALIDATION_FOLDS = 5  # cross-validation inside a training draw, where the benchmark has no validation split
_VOTES: dict[Kind, str] = {
    "classification": "votes", "multilabel": "share of votes of each label", "regression": "mean value",
}  # fmt: skip
_LINEAR: dict[Kind, str] = {
    "classification": "logistic regression", "multilabel": "a logistic regression per label", "regression": "ridge regression",
}  # fmt: skip


def check_protocols(names: Sequence[str]) -> tuple[Protocol, ...]:
    """Return ``names`` as protocols.

    Raises:
        UserError: an unknown or repeated name, or none.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise UserError(f"expected protocols out of {', '.join(PROTOCOLS)}, got {name!r}{nearest(name, PROTOCOLS)}")
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"expected each protocol once and at least one, got {', '.join(names) or 'none'}; choose out of {', '.join(PROTOCOLS)}"
        )
    return tuple(protocol for protocol in PROTOCOLS if protocol in names)


def describe(protocol: Protocol, *, kind: Kind, amount: Amount, has_validation: bool) -> str:
    """Return the protocol in words, with how a penalty or learning rate was chosen."""
    fewer = "" if amount.shots is None else ", shots"
    if protocol == "knn20-cosine":
        return (
            f"k nearest neighbours by cosine, k = min({COSINE_NEIGHBOURS}{fewer or ', samples'}), "
            f"{_VOTES[kind]} weighted by exp(cosine / {knn.TEMPERATURE})"
        )
    if protocol in ("knn5", "knn5-standardised"):
        how = "as they are" if protocol == "knn5" else "standardised by the training draw"
        return f"k nearest neighbours, k = min({NEIGHBOURS}{fewer or ', samples'}), L2 on features {how}, uniform {_VOTES[kind]}"
    name, first = ("C", _LINEAR[kind]) if protocol == "linear" else ("rate", "linear scores fitted by SGD")
    alike = f" ({_fallback(protocol):g} where all score alike there)"
    if amount.shots == 1:
        chosen = f"{name} = {_fallback(protocol):g}: one sample per class leaves nothing to validate on"
    elif amount.whole and has_validation:
        chosen = f"{name} chosen on the validation split{alike}"
    else:
        parts = VALIDATION_FOLDS if amount.shots is None else min(VALIDATION_FOLDS, amount.shots)
        chosen = f"{name} chosen by {parts}-fold validation inside the training samples{alike}"
    return f"{first} on features standardised by the training draw; {chosen}"


def answer(
    task: Task, x: Sequence[Matrix], draws: Sequence[Sequence[Rows]], *, protocol: Protocol, amount: Amount, seed: int
) -> Answers:
    """Return what was answered on the test items, [draws, items, ...], items in the order of ``task.tested``.

    Args:
        task: labels and folds; no segmentation.
        x: features of all images of the task for each fold, [n, D] float32; the same array where an encoder does not depend on the fold.
        draws: training positions per draw and fold.
        protocol: how an answer is found.
        amount: of training samples.
        seed: of stochastic gradient descent.

    Returns:
        classification: int64 classes [D, n]; multilabel: float32 scores [D, n, K]; regression: float32 values [D, n].
    """
    rows = []
    for drawn in draws:
        parts = [
            _predict(task, fold, features, train, protocol=protocol, amount=amount, seed=seed)
            for fold, train, features in zip(task.folds, drawn, x, strict=True)
        ]
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def _predict(
    task: Task, fold: Fold, x: Matrix, train: Rows, *, protocol: Protocol, amount: Amount, seed: int
) -> npt.NDArray[Any]:
    """Answers on the test items of ``fold``."""
    if protocol == "linear":
        return _chosen(task, fold, x, train, _linear(task.kind), linear.PENALTIES, _fallback(protocol), amount)
    if protocol == "linear-sgd":
        outputs = max(1, len(task.class_names))

        def descend(a: Matrix, b: npt.NDArray[Any], rates: Sequence[float]) -> list[_Model]:
            fitted = sgd.fit(a, b, sgd.Problem(task.kind, outputs), rates=rates, seed=seed)
            return [_scored(task.kind, one) for one in fitted]

        return _chosen(task, fold, x, train, descend, sgd.RATES, _fallback(protocol), amount)
    wanted = COSINE_NEIGHBOURS if protocol == "knn20-cosine" else NEIGHBOURS
    k = min(wanted, len(train), amount.shots or wanted)
    known, asked = x[train], x[fold.test]
    weights = None
    if protocol == "knn20-cosine":
        rows, weights = knn.similar(known, asked, k=k)
    else:
        if protocol == "knn5-standardised":
            shift, scale = linear.fit_standardiser(known)
            known, asked = (((one - shift) / scale).astype(np.float32) for one in (known, asked))
        rows = knn.neighbours(known, asked, k=k)
    near = task.labels[train][rows]  # [m, k, ...]
    return knn.vote(near, weights) if task.kind == "classification" else knn.mean_of(near, weights).astype(np.float32)


_Model = Callable[[Matrix], npt.NDArray[Any]]
_Fit = Callable[[Matrix, npt.NDArray[Any], Sequence[float]], list[_Model]]


def _linear(kind: Kind) -> _Fit:
    if kind == "classification":
        return lambda x, y, penalties: [probe.predict for probe in linear.fit(x, y, penalties=penalties)]
    fit = linear.fit_labels if kind == "multilabel" else linear.fit_values
    return lambda x, y, penalties: [_scored(kind, one) for one in fit(x, y, penalties=penalties)]


def _scored(kind: Kind, scorer: linear.Scorer) -> _Model:
    """Turn scores [m, K] into an answer of the task's kind."""
    if kind == "classification":
        return lambda x: scorer.predict(x).argmax(axis=1).astype(np.int64)
    return scorer.predict if kind == "multilabel" else lambda x: scorer.predict(x)[:, 0]


def _fallback(protocol: Protocol) -> float:
    """C, or learning rate, where nothing can choose it: scikit-learn's own C, and a rate in the middle of those tried."""
    return 1.0 if protocol == "linear" else 0.01


def _chosen(
    task: Task, fold: Fold, x: Matrix, train: Rows, fit: _Fit, options: Sequence[float], fallback: float, amount: Amount
) -> npt.NDArray[Any]:
    """Answers of the model whose option did best on the validation split, else on folds inside the training samples.

    A split that says nothing of any option (without a positive, of one value, of one item) leaves the fallback.
    """
    option = fallback
    if amount.shots != 1 and len(train) > 1:
        score = np.zeros(len(options))
        for known, held in _divisions(task, fold, train, amount):
            models = fit(x[known], task.labels[known], options)
            score += [_score(task, model(x[held]), task.labels[held]) for model in models]
        option = linear.choose_penalty(score, options, fallback=fallback)
    return fit(x[train], task.labels[train], (option,))[0](x[fold.test])


def _divisions(task: Task, fold: Fold, train: Rows, amount: Amount) -> list[tuple[Rows, Rows]]:
    """What is fitted and what is validated on: whole blocks are held out where there are enough."""
    if amount.whole and len(fold.validation):
        return [(train, fold.validation)]
    labels = task.labels[train] if task.kind == "classification" else np.zeros(len(train), dtype=np.int64)
    part = _parts(
        labels,
        task.blocks[train] if amount.shots is None else None,
        VALIDATION_FOLDS if amount.shots is None else min(VALIDATION_FOLDS, amount.shots),
    )
    pairs = [(train[part != one], train[part == one]) for one in np.unique(part)]
    return [(known, held) for known, held in pairs if len(known) and len(held)]


def _parts(labels: Rows, blocks: Rows | None, count: int) -> Rows:
    """Part 0 ... count - 1 of each sample: whole blocks, the largest first, or every count-th sample of each class."""
    names, block = (
        np.unique(blocks, return_inverse=True) if blocks is not None else (np.empty(0), np.empty(0, dtype=np.int64))
    )
    if 2 <= len(names) < len(labels):
        order = np.argsort(-np.bincount(block), kind="stable")
        of = np.empty(len(names), dtype=np.int64)
        of[order] = np.arange(len(names)) % count
        parts: Rows = of[block]
        return parts
    part = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        part[rows] = np.arange(len(rows)) % count
    return part


def _score(task: Task, answers: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """The task's metric on validation samples; the worst where it is undefined there, or where a descent diverged."""
    if not np.isfinite(answers).all():
        return -np.inf
    if (task.kind == "multilabel" and not truth.any()) or (task.kind == "regression" and np.ptp(truth) == 0):
        return 0.0  # says nothing of any option
    return measure(task.metric, answers[None], truth).value

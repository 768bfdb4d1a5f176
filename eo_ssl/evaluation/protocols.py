"""Protocols: from features and a division to which test items were right, one row per training draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError, nearest
from eo_ssl.evaluation import knn, linear
from eo_ssl.evaluation.features import Matrix, Rows
from eo_ssl.evaluation.intervals import Metric
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task

Protocol = Literal["knn5", "knn5-standardised", "linear"]
PROTOCOLS: tuple[Protocol, ...] = ("knn5", "knn5-standardised", "linear")
NEIGHBOURS = 5
VALIDATION_FOLDS = 5  # cross-validation inside a training draw, where the benchmark has no validation split
_WORDS = {
    "knn5": "k nearest neighbours, k = min(5, shots), L2 on features as they are, uniform votes",
    "knn5-standardised": "k nearest neighbours, k = min(5, shots), L2 on features standardised by the training draw, uniform votes",
    "linear": "logistic regression on features standardised by the training draw",
}


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


def describe(protocol: Protocol, *, shots: int | None, has_validation: bool) -> str:
    """Return the protocol in words, with how C was chosen."""
    if protocol != "linear":
        return _WORDS[protocol]
    if shots == 1:
        chosen = "C = 1: one sample per class leaves nothing to validate on"
    elif shots is None and has_validation:
        chosen = "C chosen on the validation split"
    else:
        chosen = f"C chosen by {VALIDATION_FOLDS if shots is None else min(VALIDATION_FOLDS, shots)}-fold validation inside the training samples"
    return f"{_WORDS[protocol]}; {chosen}"


def right(
    task: Task, x: Sequence[Matrix], draws: Sequence[Sequence[Rows]], *, protocol: Protocol, shots: int | None
) -> npt.NDArray[np.bool_]:
    """Return which test items were classified rightly, bool [draws, items], items in the order of ``task.tested``.

    Args:
        task: labels and folds.
        x: features of all images of the task for each fold, [n, D] float32; the same array where an encoder does not depend on the fold.
        draws: training positions per draw and fold.
        protocol: how a class is told.
        shots: per class; None for all training samples.
    """
    rows = []
    for drawn in draws:
        parts = []
        for fold, train, features in zip(task.folds, drawn, x, strict=True):
            predicted = _predict(task, fold, features, train, protocol=protocol, shots=shots)
            parts.append(predicted == task.labels[fold.test])
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def _predict(task: Task, fold: Fold, x: Matrix, train: Rows, *, protocol: Protocol, shots: int | None) -> Rows:
    """Class of each test item of ``fold``, int64 [items]."""
    y = task.labels[train]
    if protocol == "linear":
        penalty = _penalty(task, fold, x, train, shots=shots)
        return linear.fit(x[train], y, penalties=(penalty,))[0].predict(x[fold.test])
    k = min(NEIGHBOURS, len(train), NEIGHBOURS if shots is None else shots)
    if protocol == "knn5":
        return knn.predict(x[train], y, x[fold.test], k=k)
    shift, scale = linear.standardiser(x[train])
    standard = [((x[rows] - shift) / scale).astype(np.float32) for rows in (train, fold.test)]
    return knn.predict(standard[0], y, standard[1], k=k)


def _penalty(task: Task, fold: Fold, x: Matrix, train: Rows, *, shots: int | None) -> float:
    """C of the linear probe: from the validation split, else from folds inside the training samples, whole blocks where there are enough."""
    if shots == 1:
        return 1.0
    if shots is None and len(fold.validation):
        divisions = [(train, fold.validation)]
    else:
        part = _parts(
            task.labels[train],
            task.blocks[train] if shots is None else None,
            VALIDATION_FOLDS if shots is None else min(VALIDATION_FOLDS, shots),
        )
        divisions = [(train[part != one], train[part == one]) for one in np.unique(part)]
    accuracy = np.zeros(len(linear.PENALTIES))
    for known, held in divisions:
        if not len(known) or not len(held):
            continue
        probes = linear.fit(x[known], task.labels[known], penalties=linear.PENALTIES)
        accuracy += [_score(probe.predict(x[held]), task.labels[held], task.metric) for probe in probes]
    return linear.choose_penalty(accuracy, linear.PENALTIES)


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


def _score(predicted: Rows, labels: Rows, metric: Metric) -> float:
    """Share of right answers, or its mean over the classes that occur."""
    hit = predicted == labels
    if metric == "accuracy":
        return float(hit.mean())
    return float(np.mean([hit[labels == label].mean() for label in np.unique(labels)]))

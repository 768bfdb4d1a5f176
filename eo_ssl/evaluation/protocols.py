"""The table of protocols, on frozen features and trained: a new one is an entry in `FROZEN` or in `TUNED`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eo_ssl.errors import expect, nearest
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.frozen_protocols import FROZEN, FrozenProtocol, TaughtFold
from eo_ssl.evaluation.sources import Matrix, Rows
from eo_ssl.evaluation.task_metrics import PredictionArray
from eo_ssl.evaluation.tasks import Kind, Task
from eo_ssl.evaluation.tuning import TUNED, TunedProtocol

PROTOCOLS: dict[str, FrozenProtocol | TunedProtocol] = {**FROZEN, **TUNED}
_VECTORS = ("knn5", "knn5-standardised", "linear")
DEFAULT: dict[Kind, tuple[str, ...]] = {
    "classification": _VECTORS,
    "multilabel": _VECTORS,
    "regression": _VECTORS,
    "segmentation": ("seg-linear",),
}


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
            remedy=nearest(name, known).removeprefix("; ") or "choose out of those",
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

"""All ways to judge an encoder by one name: protocols on frozen features and protocols that train, for each kind of task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from eo_ssl.errors import UserError, nearest
from eo_ssl.evaluation import protocols, tuning
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.features import Rows
from eo_ssl.evaluation.task_metrics import Answers
from eo_ssl.evaluation.tasks import Kind, Task

METHODS = (*protocols.PROTOCOLS, *tuning.TUNED)
DEFAULT: dict[Kind, tuple[str, ...]] = {
    "classification": protocols.DEFAULT,
    "multilabel": protocols.DEFAULT,
    "regression": protocols.DEFAULT,
    "segmentation": ("seg-linear",),
}


def of_kind(kind: Kind) -> tuple[str, ...]:
    """Return the methods that a task of ``kind`` can be judged by."""
    frozen = () if kind == "segmentation" else protocols.PROTOCOLS
    return (*frozen, *(name for name in tuning.TUNED if kind in tuning.KINDS[name]))


def check_methods(names: Sequence[str], kind: Kind) -> tuple[str, ...]:
    """Return ``names`` in the order of `METHODS`.

    Raises:
        UserError: an unknown or repeated name, none, or one for another kind of task.
    """
    known = of_kind(kind)
    for name in names:
        if name not in known:
            raise UserError(
                f"expected protocols for a {kind} task out of {', '.join(known)}, got {name!r}{nearest(name, known)}"
            )
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"expected each protocol once and at least one, got {', '.join(names) or 'none'}; choose out of {', '.join(known)}"
        )
    return tuple(name for name in METHODS if name in names)


def trains(method: str) -> bool:
    """Whether ``method`` trains a network, rather than reads its features."""
    return method in tuning.TUNED


def trainable(candidate: Candidate, task: Task) -> bool:
    """Whether ``candidate`` has a network to train."""
    encoder = candidate.encoder(task, task.folds[0])
    return isinstance(getattr(encoder, "model", None), nn.Module)


def words(method: str, *, kind: Kind, amount: Amount, has_validation: bool, config: tuning.Tuning) -> str:
    """Return ``method`` in words."""
    if trains(method):
        return tuning.describe(tuning.check_tuned(method, kind), config)
    (protocol,) = protocols.check_protocols([method])
    return protocols.describe(protocol, kind=kind, amount=amount, has_validation=has_validation)


def trained_answers(
    task: Task,
    candidate: Candidate,
    draws: Sequence[Sequence[Rows]],
    *,
    method: str,
    config: tuning.Tuning,
    device: str,
    progress: Callable[[int], None] | None,
    parts: Path | None = None,
) -> Answers:
    """Return what networks trained on each draw answer on the test items, [draws, items, ...], items in the order of ``task.tested``.

    Every finished training of a draw, fold and rate is kept in the folder ``parts``, which must be of these arguments alone.

    Raises:
        UserError: test images that are perturbed, or what `tuning.predict_tuned` refuses.
    """
    if candidate.perturbation is not None:
        raise UserError(
            f"expected a protocol on frozen features for the study robustness, got {method}; choose out of {', '.join(protocols.PROTOCOLS)}, "
            "or another study"
        )
    rows = []
    for number, drawn in enumerate(draws):
        of_folds = []
        for index, (fold, train) in enumerate(zip(task.folds, drawn, strict=True)):
            own = None if parts is None else parts / f"draw{number}-fold{index}"
            encoder = candidate.encoder(task, fold)
            of_folds.append(
                tuning.predict_tuned(
                    task, fold, encoder, train, protocol=method, config=config, device=device, progress=progress, parts=own
                )
            )  # fmt: skip
        rows.append(np.concatenate(of_folds))
    return np.stack(rows)

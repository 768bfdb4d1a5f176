"""From a task and an encoder to answers on the test items: the rate is chosen by validation, then the network is fitted and asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from eo_ssl.encoder import Encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.features import Rows
from eo_ssl.evaluation.linear import choose_penalty
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning.fitting import Job, answers, fit
from eo_ssl.evaluation.tuning.losses import Answered
from eo_ssl.evaluation.tuning.network import check_network
from eo_ssl.evaluation.tuning.training_results import Part, kept
from eo_ssl.evaluation.tuning.tuning_config import Tuning, check_tuned

PARTS = 5  # a fifth of the training samples is held out where there is no validation split


def predict_tuned(
    task: Task,
    fold: Fold,
    encoder: Encoder,
    train: Rows,
    *,
    protocol: str,
    config: Tuning,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    parts: Path | None = None,
) -> Answered:
    """Return what a network trained on ``train`` answers on the test items of ``fold``.

    All of ``fold.train`` and a declared validation split: every rate is fitted once, and the split chooses rate and state. Otherwise a
    fifth of ``train`` is held out in whole blocks to choose the rate, with which all of ``train`` is fitted anew, to the last state.
    Where nothing can be held out, or all score alike there, the middle rate is taken. Neither test items nor, for fewer samples, the
    validation split are looked at. Equal seeds give equal bits on a CPU with the same number of threads.

    Args:
        task: images and what they are.
        fold: its test items are answered; its validation split may choose.
        encoder: stays as it is; a copy is trained. Its contract is applied to the images each time.
        train: positions that teach, all or some of ``fold.train``.
        protocol: out of `TUNED`.
        config: the recipe.
        device: torch device.
        progress: called with the number of images that passed through a network.
        parts: folder for what each finished training found, which one that was stopped goes on from; of these arguments alone.

    Returns:
        classification: int64 [m]; multilabel: float32 scores [m, K]; regression: float32 [m]; segmentation: int64 [m, K, K] pixels of
        each image by true and predicted class, ignored ones left out.

    Raises:
        UserError: a protocol for another kind of task, an encoder without a network, a second sensor, a contract that cuts masks, no
            training sample, a loss that is not finite at any rate, or a damaged part.
    """
    known = check_tuned(protocol, task.kind)
    check_network(encoder)
    _check_task(task, encoder, train)
    job = Job(task, encoder, known, config, device, progress)
    found = kept(parts, "answers", partial(_answered, job, fold, train, parts)).answers
    if not np.isfinite(found).all():
        raise UserError(
            f"expected a finite loss of {encoder.name} on {task.name}, got NaN or infinity at a rate of "
            f"{', '.join(f'{rate:g}' for rate in config.tried(known))}; give lower rates"
        )
    return found


def _answered(job: Job, fold: Fold, train: Rows, parts: Path | None) -> Part:
    """Answers on the test items by the rate that validation chose."""
    rates, choice = job.config.tried(job.protocol), split_validation(job.task, fold, train, job.config)
    middle = rates[len(rates) // 2]
    tried = []
    if choice.states or (len(choice.held) and len(rates) > 1):
        for rate in rates:
            made = partial(_tried, job, choice, fold.test, rate)
            tried.append(kept(parts, f"rate-{rate!r}", made))
        chosen = choose_penalty(np.array([one.score for one in tried]), rates, fallback=middle)
        if choice.states:
            return tried[rates.index(chosen)]
        return _tried(job, Choice(train, choice.held[:0], states=False), fold.test, chosen)
    return _tried(job, Choice(train, choice.held[:0], states=False), fold.test, middle)


def _tried(job: Job, choice: Choice, test: Rows, rate: float) -> Part:
    """One training: what it scores on the held-out samples, or, where there are none or they chose its state, what it answers."""
    fitted = fit(job, choice.taught, rate=rate, chosen_by=choice.held if choice.states else None)
    asked = test if choice.states or not len(choice.held) else choice.held
    found = answers(job, fitted.network, fitted.objective, asked) if fitted.finite else np.full(1, np.nan)
    if asked is test:
        return Part(fitted.score, found)
    return Part(fitted.objective.score(job.task, choice.held, found))


@dataclass(frozen=True, slots=True)
class Choice:
    """What is fitted to choose a rate."""

    taught: Rows
    held: Rows
    "what scores each rate; none where nothing can be held out"
    states: bool
    "whether it also chooses among the states of a training, which then answers itself"


def split_validation(task: Task, fold: Fold, train: Rows, config: Tuning) -> Choice:
    """Return what chooses the rate: the declared validation split for all training samples, else a part of these."""
    if len(fold.validation) and len(train) == len(fold.train):
        return Choice(train, fold.validation, states=config.selection == "best")
    return Choice(*hold_out(task, train), states=False)


def hold_out(task: Task, train: Rows) -> tuple[Rows, Rows]:
    """Return ``train`` without about a fifth, and that fifth: whole blocks, or a fifth of each class where blocks do not serve.

    Blocks serve where some can be left out without a class losing all it is taught with. Nothing is held out of a class with one
    sample.
    """
    labels = task.labels[train] if task.kind == "classification" else np.zeros(len(train), dtype=np.int64)
    blocks, sizes = np.unique(task.blocks[train], return_counts=True)
    if 2 <= len(blocks) < len(train):
        order = blocks[np.argsort(-sizes, kind="stable")]
        held = np.isin(task.blocks[train], order[PARTS - 1 :: PARTS] if len(order) >= PARTS else order[-1:])
        if np.array_equal(np.unique(labels[~held]), np.unique(labels)):
            return train[~held], train[held]
    held = np.zeros(len(train), dtype=bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        count = max(1, len(own) // PARTS) if len(own) > 1 else 0
        held[own[::PARTS][:count] if len(own) >= PARTS else own[:count]] = True
    return train[~held], train[held]


def _check_task(task: Task, encoder: Encoder, train: Rows) -> None:
    """Refuse what cannot be trained on."""
    if not len(train):
        raise UserError(f"expected samples to train on in {task.name}, got none; draw more")
    if task.partners:
        raise UserError(
            f"expected images of one sensor to train on, got two in {task.name}; take the variant of the benchmark with one"
        )
    contract = encoder.preprocessing
    cut = [source.shape[1:] for source in task.sources if source.shape[1:] != (contract.size_px, contract.size_px)]
    if task.kind == "segmentation" and contract.resize == "crop" and cut:
        raise UserError(
            f"expected a contract that keeps whole images for the masks of {task.name}, got a crop of {contract.size_px} px out of {cut[0][0]} x "
            f"{cut[0][1]}; use resize = to_size"
        )

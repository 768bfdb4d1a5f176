"""Predictions of trained protocols: the learning rate is chosen by validation, then the network is fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from eo_ssl.encoder import Encoder
from eo_ssl.errors import expect
from eo_ssl.evaluation.linear import choose_penalty
from eo_ssl.evaluation.npz_files import ArrayFile, Arrays
from eo_ssl.evaluation.sources import Rows
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.task_metrics import PredictionArray
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning.fitting import TrainingJob, fit, predict
from eo_ssl.evaluation.tuning.network import check_network
from eo_ssl.evaluation.tuning.stacked_encoder import StackedEncoder, list_contracts
from eo_ssl.evaluation.tuning.tuning_config import Tuning, check_tuned

PARTS = 5  # a fifth of the training samples is held out where there is no validation split


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Score and predictions of one training."""

    score: float
    "on the samples that choose; NaN where none did"
    predictions: PredictionArray = field(default_factory=lambda: np.empty(0))
    "for the test items; empty where only the score was wanted"

    @classmethod
    def read_or_train(cls, folder: Path | None, name: str, train: Callable[[], TrainingResult]) -> TrainingResult:
        """Return the result ``name`` out of ``folder``, trained and written first where it is not there.

        Hours of training that are stopped go on from the last one that was finished.

        Raises:
            UserError: the file is damaged.
        """
        if folder is None:
            return train()
        file = ArrayFile(folder / f"{name}.npz", ("score", "answers"), "a finished training")
        arrays = file.read_or_compute(lambda: train()._arrays())
        return cls(float(arrays["score"]), arrays["answers"])

    def _arrays(self) -> Arrays:
        return {"score": np.array(self.score), "answers": self.predictions}


@dataclass(frozen=True, slots=True)
class ValidationSplit:
    """Training samples to fit and samples held out to choose a rate."""

    taught: Rows
    held: Rows
    "what scores each rate; none where nothing can be held out"
    chooses_state: bool
    "whether it also chooses among the states of a training, which then predicts itself"


def predict_tuned(
    task: Task,
    fold: Fold,
    encoder: Encoder | StackedEncoder,
    train: Rows,
    *,
    protocol: str,
    config: Tuning,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    parts: Path | None = None,
) -> PredictionArray:
    """Return what a network trained on ``train`` predicts for the test items of ``fold``.

    All of ``fold.train`` and a declared validation split: every rate is fitted once, and the split chooses rate and
    state. Otherwise a fifth of ``train`` is held out in whole blocks to choose the rate, with which all of ``train`` is
    fitted anew, to the last state. Where nothing can be held out, or all score alike there, the middle rate is taken.
    Neither test items nor, for fewer samples, the validation split are looked at. Equal seeds give equal bits on a CPU
    with the same number of threads.

    Args:
        task: images and what they are.
        fold: its test items are predicted; its validation split may choose.
        encoder: stays as it is; a copy is trained. Its contract is applied to the images each time; one of two sensors
            as a `StackedEncoder`.
        train: positions that teach, all or some of ``fold.train``.
        protocol: out of `TUNED`.
        config: the recipe.
        device: torch device.
        progress: called with the number of images that passed through a network.
        parts: folder for what each finished training found, which one that was stopped goes on from; of these arguments
            alone.

    Returns:
        classification: int64 [m]; multilabel: float32 scores [m, K]; regression: float32 [m]; segmentation: int64 [m,
            K, K] pixels of
        each image by true and predicted class, ignored ones left out.

    Raises:
        UserError: a protocol for another kind of task, an encoder without a network, another number of sensors, a
            contract that
            cuts masks, no training sample, a loss that is not finite at any rate, or a damaged part.
    """
    known = check_tuned(protocol, task.kind)
    check_network(encoder)
    _check_task(task, encoder, train)
    job = TrainingJob(task, encoder, known, config, device, progress)
    found = TrainingResult.read_or_train(
        parts, "answers", partial(_choose_and_train, job, fold, train, parts)
    ).predictions
    expect(
        np.isfinite(found).all(),
        expected=f"a finite loss of {encoder.name} on {task.name}",
        got=f"NaN or infinity at a rate of {', '.join(f'{rate:g}' for rate in known.list_rates(config))}",
        remedy="give lower rates",
    )
    return found


def split_validation(task: Task, fold: Fold, train: Rows, config: Tuning) -> ValidationSplit:
    """Return what chooses the rate: the declared validation split for all training samples, else a part of these."""
    if len(fold.validation) and len(train) == len(fold.train):
        return ValidationSplit(train, fold.validation, chooses_state=config.selection == "best")
    return ValidationSplit(*reserve_validation(task, train), chooses_state=False)


def reserve_validation(task: Task, train: Rows) -> tuple[Rows, Rows]:
    """Return ``train`` without about a fifth, and that fifth: whole blocks, or of each class where blocks do not serve.

    Blocks serve where some can be left out without a class losing all it is taught with. Nothing is held out of a class
    with one sample.
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


def _choose_and_train(job: TrainingJob, fold: Fold, train: Rows, parts: Path | None) -> TrainingResult:
    """Predictions for the test items by the rate that validation chose."""
    rates, split = job.protocol.list_rates(job.config), split_validation(job.task, fold, train, job.config)
    rate = middle = rates[len(rates) // 2]
    if split.chooses_state or (len(split.held) and len(rates) > 1):
        tried = [
            TrainingResult.read_or_train(parts, f"rate-{rate!r}", partial(_train, job, split, fold.test, rate))
            for rate in rates
        ]
        rate = choose_penalty(np.array([result.score for result in tried]), rates, fallback=middle)
        if split.chooses_state:
            return tried[rates.index(rate)]
    return _train(job, ValidationSplit(train, split.held[:0], chooses_state=False), fold.test, rate)


def _train(job: TrainingJob, split: ValidationSplit, test: Rows, rate: float) -> TrainingResult:
    """One training: its score on held-out samples, or, without any or where they chose the state, its predictions."""
    fitted = fit(job, split.taught, rate=rate, chosen_by=split.held if split.chooses_state else None)
    rows = test if split.chooses_state or not len(split.held) else split.held
    found = predict(job, fitted.network, fitted.criterion, rows) if fitted.finite else np.full(1, np.nan)
    if rows is test:
        return TrainingResult(fitted.score, found)
    return TrainingResult(fitted.criterion.score(job.task, split.held, found))


def _check_task(task: Task, encoder: Encoder | StackedEncoder, train: Rows) -> None:
    """Refuse what cannot be trained on."""
    expect(len(train), expected=f"samples to train on in {task.name}", got="none", remedy="draw more")
    contract, *second = list_contracts(encoder)
    expect(
        len(second) == bool(task.partners),
        expected=f"images of {'two sensors' if second else 'one sensor'} to train {encoder.name} on",
        got=f"{'two' if task.partners else 'one'} in {task.name}",
        remedy="take the other variant of the benchmark",
    )
    expect(
        not (second and task.kind == "segmentation"),
        expected=f"a task with an answer for each image to train {encoder.name} on",
        got=f"the masks of {task.name}",
        remedy="train the encoder of one sensor on them",
    )
    cut = [source.shape[1:] for source in task.sources if source.shape[1:] != (contract.size_px, contract.size_px)]
    sizes = f"{cut[0][0]} x {cut[0][1]}" if cut else ""
    expect(
        not (task.kind == "segmentation" and contract.resize == "crop" and cut),
        expected=f"a contract that keeps whole images for the masks of {task.name}",
        got=f"a crop of {contract.size_px} px out of {sizes}",
        remedy="use resize = to_size",
    )

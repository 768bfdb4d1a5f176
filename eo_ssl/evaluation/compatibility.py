"""Compatibility of encoders with a task, and the cost of training, both known before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eo_ssl.errors import expect
from eo_ssl.evaluation.candidates import Candidate, SingleCandidate
from eo_ssl.evaluation.draws import draw
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.protocols import PROTOCOLS
from eo_ssl.evaluation.sources import ImageSource, read_images
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning import TrainingCost, estimate_fold_cost


def check_compatibility(task: Task, compared: Sequence[Candidate], settings: Settings) -> Task:
    """Return ``task`` with a note on encoders that a protocol leaves out, for want of a network to train.

    Each trained encoder is shown one image of each source under its contract, so that bands, quantity, sensor, values
    and sizes are judged.

    Raises:
        UserError: an encoder, or an amount of training samples, that does not fit the task, or nobody is left.
    """
    task = replace(task, notes=(*task.notes, *_note_left_out(task, compared, settings)))
    for amount in settings.amounts:
        draw(task, amount, draws=1, seed=settings.seed)
    for candidate in compared:
        if candidate.parts[0].made_for_task and candidate.baseline and not task.partners:
            continue  # its contract is made of the task's own images
        candidate.describe(task)
        for run in candidate.runs:
            for part, sources in zip(run.parts, (task.sources, task.partners), strict=False):
                if not part.made_for_task:
                    _check_images(part, task, sources)
    return task


def estimate_training_cost(task: Task, compared: Sequence[Candidate], settings: Settings) -> TrainingCost:
    """Return the cost of the trained protocols: every run that can be trained, amount, draw, fold and rate.

    Nothing is subtracted for results that are there already.
    """
    cost, trained = TrainingCost(), [name for name in settings.protocols if PROTOCOLS[name].trains]
    if not trained:
        return cost
    for amount in settings.amounts:
        for drawn in draw(task, amount, draws=settings.draws, seed=settings.seed):
            for fold, train in zip(task.folds, drawn, strict=True):
                for name in trained:
                    cost += estimate_fold_cost(task, fold, train, protocol=name, config=settings.tuning)
    return cost * sum(run.has_network(task) for candidate in compared for run in candidate.runs)


def _note_left_out(task: Task, compared: Sequence[Candidate], settings: Settings) -> list[str]:
    """Sentences on encoders that have no network to train."""
    trained = [name for name in settings.protocols if PROTOCOLS[name].trains]
    plain = [candidate for candidate in compared if not candidate.baseline]
    left = [candidate.name for candidate in plain if trained and not candidate.has_network(task)]
    expect(
        len(left) < len(plain) or len(trained) < len(settings.protocols),
        expected=f"an encoder with a network to train for {', '.join(trained)}",
        got=", ".join(left),
        remedy="add a trained one, or random_init",
    )
    return [f"{', '.join(trained)}: without {', '.join(left)}, which have no network to train"] if left else []


def _check_images(candidate: SingleCandidate, task: Task, sources: Sequence[ImageSource]) -> None:
    """Prepare the first image of each of ``sources`` as ``candidate`` does."""
    encoder = candidate.encoder(task, task.folds[0])
    for source in sources:
        image = read_images(source, np.zeros(1, dtype=np.int64))
        encoder.preprocessing(image, bands=source.bands, quantity=source.quantity, sensor=source.sensor)

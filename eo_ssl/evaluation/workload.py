"""How much training an evaluation asks for, to be said before it starts: hours that nobody expects look like a hang."""

from __future__ import annotations

from collections.abc import Sequence

from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.draws import draw
from eo_ssl.evaluation.methods import trainable, trains
from eo_ssl.evaluation.settings import Settings
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning import Work, estimate_fold_cost


def estimate_training_cost(task: Task, compared: Sequence[Candidate], settings: Settings) -> Work:
    """Return all that the trained protocols of ``settings`` do: every run that can be trained, amount, draw, fold and rate.

    Nothing is subtracted for results that are there already.
    """
    found, methods = Work(), [protocol for protocol in settings.protocols if trains(protocol)]
    if not methods:
        return found
    for amount in settings.amounts:
        for drawn in draw(task, amount, draws=settings.draws, seed=settings.seed):
            for fold, train in zip(task.folds, drawn, strict=True):
                for method in methods:
                    found += estimate_fold_cost(task, fold, train, protocol=method, config=settings.tuning)
    return found * sum(trainable(run, task) for one in compared for run in one.runs)

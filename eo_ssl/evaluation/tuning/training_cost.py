"""How much training lies ahead, known from the sizes before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from eo_ssl.evaluation.features import Rows
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning.fitting import checked, length
from eo_ssl.evaluation.tuning.prediction import split_validation
from eo_ssl.evaluation.tuning.tuning_config import Tuning, check_tuned


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be trained."""

    trainings: int = 0
    steps: int = 0
    "of the optimizer, all trainings together"
    images: int = 0
    "that pass through a network, to teach, to choose and to be answered"

    def __add__(self, other: Work) -> Work:
        """Both."""
        return Work(self.trainings + other.trainings, self.steps + other.steps, self.images + other.images)

    def __mul__(self, times: int) -> Work:
        """The same so many times."""
        return Work(self.trainings * times, self.steps * times, self.images * times)

    @property
    def words(self) -> str:
        """For one line before the start."""
        return f"{self.steps:,} steps in {self.trainings:,} trainings, {self.images:,} images through a network"


def estimate_fold_cost(task: Task, fold: Fold, train: Rows, *, protocol: str, config: Tuning) -> Work:
    """Return what `predict_tuned` will do with these arguments, if nothing diverges.

    Raises:
        UserError: no trained protocol, or one for another kind of task.
    """
    rates = config.tried(check_tuned(protocol, task.kind))
    choice = split_validation(task, fold, train, config)
    if choice.states:
        seen = len(checked(length(config, len(train))[1])) * len(choice.held)
        return _training(config, len(train), answered=seen + len(fold.test)) * len(rates)
    last = _training(config, len(train), answered=len(fold.test))
    if len(rates) == 1 or not len(choice.held):
        return last
    return _training(config, len(choice.taught), answered=len(choice.held)) * len(rates) + last


def _training(config: Tuning, count: int, *, answered: int) -> Work:
    size, steps = length(config, count)
    return Work(1, steps, steps * size + answered)

"""Cost of trained protocols in steps and images, known from the sizes before training begins."""

from __future__ import annotations

from dataclasses import dataclass

from eo_ssl.evaluation.sources import Rows
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning.fitting import count_steps, list_checks
from eo_ssl.evaluation.tuning.prediction import split_validation
from eo_ssl.evaluation.tuning.tuning_config import Tuning, check_tuned


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """Trainings, steps and images."""

    trainings: int = 0
    steps: int = 0
    "of the optimizer, all trainings together"
    images: int = 0
    "that pass through a network, to teach, to choose and to be answered"

    def __add__(self, other: TrainingCost) -> TrainingCost:
        """Both."""
        return TrainingCost(self.trainings + other.trainings, self.steps + other.steps, self.images + other.images)

    def __mul__(self, times: int) -> TrainingCost:
        """The same so many times."""
        return TrainingCost(self.trainings * times, self.steps * times, self.images * times)

    @property
    def label(self) -> str:
        """For one line before the start."""
        return f"{self.steps:,} steps in {self.trainings:,} trainings, {self.images:,} images through a network"


def estimate_fold_cost(task: Task, fold: Fold, train: Rows, *, protocol: str, config: Tuning) -> TrainingCost:
    """Return what `predict_tuned` will do with these arguments, if nothing diverges.

    Raises:
        UserError: no trained protocol, or one for another kind of task.
    """
    rates = check_tuned(protocol, task.kind).list_rates(config)
    split = split_validation(task, fold, train, config)
    if split.chooses_state:
        seen = len(list_checks(count_steps(config, len(train))[1])) * len(split.held)
        return _training(config, len(train), answered=seen + len(fold.test)) * len(rates)
    last = _training(config, len(train), answered=len(fold.test))
    if len(rates) == 1 or not len(split.held):
        return last
    return _training(config, len(split.taught), answered=len(split.held)) * len(rates) + last


def _training(config: Tuning, count: int, *, answered: int) -> TrainingCost:
    size, steps = count_steps(config, count)
    return TrainingCost(1, steps, steps * size + answered)

"""How many training samples, and which ones: few shots per class, or a share of them, drawn again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.features import Rows
from eo_ssl.evaluation.tasks import Task


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of the training split teaches; neither field: all of it."""

    shots: int | None = None
    "samples per class"
    fraction: float | None = None
    "share of all samples, of each class alike where samples have one"

    def __post_init__(self) -> None:
        """Refuse both, and what is no amount."""
        if self.shots is not None and self.fraction is not None:
            raise UserError(
                f"expected shots or a fraction, got {self.shots} and {self.fraction}; choose one of the two"
            )
        if self.shots is not None and self.shots < 1:
            raise UserError(f"expected at least one shot, got {self.shots}; give a positive number, or 0 for all")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise UserError(f"expected a fraction between 0 and 1, got {self.fraction:g}; use 0 shots for all samples")

    @property
    def whole(self) -> bool:
        """Whether all training samples teach."""
        return self.shots is None and self.fraction is None

    @property
    def words(self) -> str:
        """For a table."""
        if self.shots is not None:
            return f"{self.shots} per class"
        return "all" if self.fraction is None else f"{100 * self.fraction:g} %"


def draw(task: Task, amount: Amount, *, draws: int, seed: int) -> list[list[Rows]]:
    """Return the training positions of each draw and fold, ascending: ``amount`` without replacement, or all (then one draw).

    A class with fewer samples than shots gives what it has; a fraction takes at least one sample of a class.

    Raises:
        UserError: no draw, or shots where an image has no single class.
    """
    if draws < 1:
        raise UserError(f"expected at least one draw, got {draws}; give a positive number")
    if amount.whole:
        return [[fold.train for fold in task.folds]]
    if amount.shots is not None and task.kind != "classification":
        raise UserError(
            f"expected a fraction for the {task.kind} task {task.name}, whose images have no single class, got {amount.shots} shots; use --fractions"
        )
    one_class = np.zeros(sum(len(source) for source in task.sources), dtype=np.int64)
    labels = task.labels if task.kind == "classification" else one_class
    rank = np.arange(len(labels)) if task.rank is None else task.rank
    chosen = []
    for number in range(draws):
        of_folds = []
        for index, fold in enumerate(task.folds):
            key = [seed, amount.shots] if amount.shots is not None else [seed, 0, round(1e6 * (amount.fraction or 0))]
            rng = np.random.default_rng([*key, number, index])
            ordered = fold.train[np.argsort(rank[fold.train], kind="stable")]
            classes = [ordered[labels[ordered] == label] for label in range(int(labels.max()) + 1)]
            of_folds.append(np.sort(np.concatenate([_taken(rows, amount, rng) for rows in classes])))
        chosen.append(of_folds)
    return chosen


def _taken(rows: Rows, amount: Amount, rng: np.random.Generator) -> Rows:
    count = amount.shots if amount.fraction is None else max(1, round(amount.fraction * len(rows)))
    shuffled: Rows = rng.permutation(rows)
    return shuffled[:count]

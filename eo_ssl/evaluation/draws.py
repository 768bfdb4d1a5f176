"""Draws of training samples: few shots per class, or a share of them, several times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.sources import Rows
from eo_ssl.evaluation.tasks import Task


@dataclass(frozen=True, slots=True)
class Amount:
    """Amount of training samples: shots, a fraction, or all where neither is set."""

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
    """Return the training positions of each draw and fold, ascending: ``amount`` without replacement, or all.

    A class with fewer samples than shots gives what it has; a fraction takes at least one sample of a class
    (`describe_shortage`). Draws of one and the same samples are one draw.

    Raises:
        UserError: no draw, shots where an image has no single class, or an amount that no class has.
    """
    if draws < 1:
        raise UserError(f"expected at least one draw, got {draws}; give a positive number")
    if amount.whole:
        return [[fold.train for fold in task.folds]]
    if amount.shots is not None and task.kind != "classification":
        raise UserError(
            f"expected a fraction for the {task.kind} task {task.name}, whose images have no single class, got "
            f"{amount.shots} shots; use --fractions"
        )
    _check_amount(task, amount)
    labels = _classes(task)
    rank = np.arange(len(labels)) if task.rank is None else task.rank
    chosen: dict[bytes, list[Rows]] = {}
    for number in range(draws):
        of_folds = []
        for index, fold in enumerate(task.folds):
            key = [seed, amount.shots] if amount.shots is not None else [seed, 0, round(1e6 * (amount.fraction or 0))]
            rng = np.random.default_rng([*key, number, index])
            ordered = fold.train[np.argsort(rank[fold.train], kind="stable")]
            classes = [ordered[labels[ordered] == label] for label in range(int(labels.max()) + 1)]
            of_folds.append(np.sort(np.concatenate([_take(rows, amount, rng) for rows in classes])))
        chosen.setdefault(b"|".join(rows.tobytes() for rows in of_folds), of_folds)
    return list(chosen.values())


def describe_shortage(task: Task, amount: Amount) -> tuple[str, ...]:
    """Return what must be said beside a number where some classes cannot give ``amount``; nothing where all can.

    Classes are counted in each fold that has training samples of them.
    """
    counts = [] if amount.whole else _counts(task)
    lacking = [count for count in counts if _count_taken(amount, count) < (amount.shots or 1)]
    if not lacking:
        return ()
    of = f"{len(lacking)} of {len(counts)} classes" + (" (over all folds)" if len(task.folds) > 1 else "")
    sizes = " to ".join(map(str, dict.fromkeys((min(lacking), max(lacking)))))
    if amount.shots is not None:
        return (f"{of} have fewer than {amount.shots} training samples ({sizes}), all of which are taken",)
    return (f"{of} have too few training samples ({sizes}) for {amount.words}: one of each is taken",)


def _classes(task: Task) -> Rows:
    """Class of each image; one for all where an image has no single class."""
    return task.labels if task.kind == "classification" else np.zeros(len(task.labels), dtype=np.int64)


def _counts(task: Task) -> list[int]:
    """Training samples of each class in each fold that has some."""
    labels = _classes(task)
    return [count for fold in task.folds for count in np.bincount(labels[fold.train]).tolist() if count]


def _check_amount(task: Task, amount: Amount) -> None:
    """Refuse an amount that no class has: its name would be that of another amount."""
    most = max(_counts(task))
    most_taken = _count_taken(amount, most)
    if amount.shots is not None and most_taken < amount.shots:
        raise UserError(
            f"expected at most {most} shots for {task.name}, the training samples of its largest class, got "
            f"{amount.shots}; give fewer, or 0 for all"
        )
    if amount.fraction is not None and most_taken < 1:
        each = "its largest class" if task.kind == "classification" else "the task"
        raise UserError(
            f"expected a fraction that takes a sample of {task.name}, got {amount.fraction:g} of the {most} training "
            f"samples of {each}; give {1 / most:.2g} or more"
        )


def _count_taken(amount: Amount, count: int) -> int:
    """Samples out of ``count`` that the amount asks for, as far as they are there."""
    return min(amount.shots, count) if amount.shots is not None else round((amount.fraction or 0) * count)


def _take(rows: Rows, amount: Amount, rng: np.random.Generator) -> Rows:
    shuffled: Rows = rng.permutation(rows)
    return shuffled[: max(1, _count_taken(amount, len(rows)))]

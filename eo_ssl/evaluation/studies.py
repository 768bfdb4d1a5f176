"""Studies of an encoder against its contract: the size x normalisation grid (Corley et al. 2024, arXiv 2305.13456) and perturbed test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.perturbations import Perturbation, perturbations
from eo_ssl.evaluation.preprocessing_variants import NORMALISATIONS, PreprocessingVariant
from eo_ssl.evaluation.tasks import Task

Study = Literal["compare", "grid", "robustness"]


@dataclass(frozen=True, slots=True)
class Grid:
    """Which sizes, normalisations and resizers are tried, every one with every other."""

    treatments: tuple[PreprocessingVariant, ...]

    @classmethod
    def of(
        cls, sizes: Sequence[int] | None, normalisations: Sequence[str] | None, resizers: Sequence[str] | None
    ) -> Grid:
        """Return the grid; None: the contract's size, all normalisations, the contract's resizer.

        Raises:
            UserError: a name that does not exist.
        """
        chosen: list[Any] = [[None, *(sizes or ())], normalisations or NORMALISATIONS, resizers or ("contract",)]
        return cls(tuple(PreprocessingVariant(*one) for one in product(*chosen)))

    def departures(self, candidate: Candidate) -> tuple[Candidate, ...]:
        """Return ``candidate`` under its contract, then under each treatment."""
        others = [
            replace(candidate, name=f"{candidate.name} | {one.words}", treatment=one, reference=candidate.name)
            for one in self.treatments
            if one != PreprocessingVariant()
        ]
        return (candidate, *others)


def perturbed(candidate: Candidate, task: Task, *, seed: int) -> tuple[Candidate, ...]:
    """Return ``candidate`` on untouched images, then under each perturbation of the test images."""
    contract = candidate.encoder(task, task.folds[0]).preprocessing
    tried = (*perturbations(task.sources[0], contract, seed=seed), *again(task))
    others = [
        replace(candidate, name=f"{candidate.name} | {one.name}", perturbation=one, reference=candidate.name)
        for one in tried
    ]
    return (candidate, *others)


def again(task: Task) -> tuple[Perturbation, ...]:
    """Return the perturbations that show the same ground again (`revisits`), where every source has such tiles."""
    names = [name for name in ("season", "orbit") if all(name in [revisit.name for revisit in own] for own in task.revisits)]
    found = []
    for name in names if task.revisits else ():
        chosen = [next(revisit for revisit in own if revisit.name == name) for own in task.revisits]
        about = "; ".join(dict.fromkeys(revisit.about for revisit in chosen))
        tested = [len(positions) for _, positions in task.by_source(task.tested)]
        share = np.average([revisit.share for revisit in chosen], weights=tested)
        shown = f"other {name}" if share == 1 else f"other {name} ({100 * share:.0f} % of the tiles)"
        found.append(Perturbation(shown, about, instead=tuple(revisit.source for revisit in chosen)))
    return tuple(found)


def expand_study(
    compared: Sequence[Candidate], task: Task, study: Study, *, grid: Grid, seed: int
) -> tuple[Candidate, ...]:
    """Return what is judged: the candidates, or each of them followed by its departures.

    Raises:
        UserError: robustness on masks, whose heads are trained and would be trained anew for each perturbation.
    """
    if study == "compare":
        return tuple(compared)
    if study == "robustness" and task.kind == "segmentation":
        raise UserError(
            f"expected a task of classes, labels or values for the study robustness, got {task.name}, a task of masks; its studies are "
            "compare and grid"
        )
    if study == "grid":
        return tuple(variant for candidate in compared for variant in grid.departures(candidate))
    return tuple(variant for candidate in compared for variant in perturbed(candidate, task, seed=seed))

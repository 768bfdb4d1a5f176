"""Studies: size x normalisation of a contract (Corley et al. 2024, arXiv 2305.13456), robustness, bands, training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import numpy as np

from eo_ssl.errors import expect
from eo_ssl.evaluation.band_subsets import BandSubset, SubsetCandidate, list_band_subsets
from eo_ssl.evaluation.candidates import Candidate, SingleCandidate
from eo_ssl.evaluation.input_variants import PerturbedCandidate, PreprocessedCandidate
from eo_ssl.evaluation.perturbations import Perturbation, list_perturbations
from eo_ssl.evaluation.preprocessing_variants import NORMALISATIONS, PreprocessingVariant
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.training_points import expand_training

Study = Literal["compare", "grid", "robustness", "bands", "training"]


@dataclass(frozen=True, slots=True)
class VariantGrid:
    """Sizes, normalisations and resizers to try, every one with every other."""

    variants: tuple[PreprocessingVariant, ...] = ()

    @classmethod
    def of(
        cls, sizes: Sequence[int] | None, normalisations: Sequence[str] | None, resizers: Sequence[str] | None
    ) -> VariantGrid:
        """Return the grid; None: the contract's size, all normalisations, the contract's resizer.

        Raises:
            UserError: a name that does not exist.
        """
        chosen: list[Any] = [[None, *(sizes or ())], normalisations or NORMALISATIONS, resizers or ("contract",)]
        return cls(tuple(PreprocessingVariant(*values) for values in product(*chosen)))

    def expand(self, candidate: Candidate) -> tuple[Candidate, ...]:
        """Return ``candidate`` under its contract, then under each variant of it."""
        tried = [variant for variant in self.variants if variant != PreprocessingVariant()]
        return (candidate, *(candidate.vary(variant.name, partial(_preprocess, variant)) for variant in tried))


def expand_study(
    compared: Sequence[Candidate],
    task: Task,
    study: Study,
    *,
    grid: VariantGrid,
    seed: int,
    subsets: Sequence[str] | None = None,
) -> tuple[Candidate, ...]:
    """Return what is judged: the candidates, or each of them followed by its variants.

    Raises:
        UserError: robustness or bands on masks, whose heads are trained and would be trained anew for each variant, or
            on two sensors; subsets that the task does not have, or for another study; a training that kept nothing.
    """
    expect(
        subsets is None or study == "bands",
        expected="subsets for the study bands alone",
        got=f"study {study}",
        remedy="leave out --subsets",
    )
    if study == "compare":
        return tuple(compared)
    if study == "training":
        return expand_training(compared)
    if study == "grid":
        return tuple(variant for candidate in compared for variant in grid.expand(candidate))
    expect(
        task.kind != "segmentation",
        expected=f"a task of classes, labels or values for the study {study}",
        got=f"{task.name}, a task of masks",
        remedy="its studies are compare and grid",
    )
    expect(
        not task.partners,
        expected=f"a task of one sensor for the study {study}",
        got=task.name,
        remedy="choose a variant with one",
    )
    if study == "bands":
        tried = list_band_subsets(task.sources[0], subsets)
        return tuple(
            variant
            for candidate in compared
            for variant in (candidate, *(candidate.vary(one.name, partial(_narrow_single, one)) for one in tried))
        )
    return tuple(variant for candidate in compared for variant in _perturb(candidate, task, seed=seed))


def list_revisit_perturbations(task: Task) -> tuple[Perturbation, ...]:
    """Return the perturbations that show the same ground again (`revisits`), where every source has such tiles."""
    names = [name for name in ("season", "orbit") if all(name in [r.name for r in own] for own in task.revisits)]
    perturbations = []
    for name in names if task.revisits else ():
        chosen = [next(revisit for revisit in own if revisit.name == name) for own in task.revisits]
        about = "; ".join(dict.fromkeys(revisit.about for revisit in chosen))
        tested = [len(positions) for _, positions in task.by_source(task.tested)]
        share = np.average([revisit.share for revisit in chosen], weights=tested)
        shown = f"other {name}" if share == 1 else f"other {name} ({100 * share:.0f} % of the tiles)"
        perturbations.append(Perturbation(shown, about, instead=tuple(revisit.source for revisit in chosen)))
    return tuple(perturbations)


def _perturb(candidate: Candidate, task: Task, *, seed: int) -> tuple[Candidate, ...]:
    """The candidate on untouched images, then under each perturbation of the test images."""
    contract = candidate.encoder(task, task.folds[0]).preprocessing
    tried = (*list_perturbations(task.sources[0], contract, seed=seed), *list_revisit_perturbations(task))
    return (candidate, *(candidate.vary(one.name, partial(_perturb_single, one)) for one in tried))


def _preprocess(variant: PreprocessingVariant, base: SingleCandidate) -> SingleCandidate:
    return PreprocessedCandidate(base.name, base, variant)


def _narrow_single(subset: BandSubset, base: SingleCandidate) -> SingleCandidate:
    return SubsetCandidate(base.name, base, subset)


def _perturb_single(perturbation: Perturbation, base: SingleCandidate) -> SingleCandidate:
    return PerturbedCandidate(base.name, base, perturbation)

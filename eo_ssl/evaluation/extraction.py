"""Features of a task's images by a candidate: fold by fold where training images decide them, of two sensors, of perturbed test images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.features import Matrix, Part, Rows, extract
from eo_ssl.evaluation.perturbations import Perturbation, PerturbedSource
from eo_ssl.evaluation.tasks import Control, Task
from eo_ssl.evaluation.training_statistics import check_scale
from eo_ssl.manifest import fingerprint


@dataclass(frozen=True, slots=True)
class Extracted:
    """Features of the images of a task, one matrix per fold, and what stands beside numbers made of them."""

    x: tuple[Matrix, ...]
    "[n, D] float32; NaN for images that the fold neither teaches with nor tests; none where nobody asked for them"
    fingerprint: str
    "of the encoder (all its folds, all its runs)"
    quantity: str
    bands: tuple[str, ...]
    pooling: str
    "how a feature vector is made; empty where there is one way only"
    notes: tuple[str, ...]
    input_px: int | None = None
    "side of what the encoder is given, pixels; None where images of the task, or of its sensors, differ in it"


Used = list[tuple[int, Rows]]
"for each source of a task: place of its first image in the task, and the positions of the images that are used"


def passes(candidate: Candidate, task: Task) -> list[Used]:
    """Return which images each pass of ``candidate`` looks at: those of any fold for a trained encoder, else those of each fold."""
    of_folds = [np.concatenate([fold.train, fold.test, fold.validation]) for fold in task.folds]
    chosen = of_folds if candidate.of_each_fold else [np.concatenate(of_folds)]
    return [task.by_source(rows) for rows in chosen]


def images(candidate: Candidate, task: Task) -> int:
    """Return the number of images that `features_of` says are finished, over all runs of ``candidate``."""
    if candidate.repeats:
        return sum(images(run, task) for run in candidate.runs)
    if candidate.perturbation is not None:
        return images(replace(candidate, perturbation=None), task) + len(task.tested)
    if task.partners:
        first, second = _sensors(candidate, task)
        return images(*first) + images(*second)
    return sum(len(rows) for used in passes(candidate, task) for _, rows in used)


def features_of(
    candidate: Candidate,
    task: Task,
    *,
    batch_size: int = 64,
    cache: Path | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Extracted:
    """Return the features of ``task`` by a single run: one pass of a trained encoder; of a weight-free one a pass per fold over its images."""
    how: dict[str, Any] = {"batch_size": batch_size, "cache": cache, "device": device, "progress": progress}
    described = about(candidate, task)  # refuses what does not fit first
    if candidate.perturbation is not None:
        x = _on_perturbed(replace(candidate, perturbation=None), task, candidate.perturbation, **how)
    elif task.partners:
        first, second = (features_of(*one, **how).x for one in _sensors(candidate, task))
        x = [np.concatenate(pair, axis=1) for pair in zip(first, second, strict=True)]
    else:
        x = []
        for fold, used in zip(task.folds, passes(candidate, task), strict=False):  # one pass may serve all folds
            encoder = candidate.encoder(task, fold)
            rows = np.full((len(task.labels), encoder.dim), np.nan, dtype=np.float32)  # NaN: nobody may ask for them
            for source, (first_row, positions) in zip(task.sources, used, strict=True):
                rows[first_row + positions] = extract(encoder, Part(source, positions), **how).x
            x.append(rows)
    return replace(described, x=tuple(x) if len(x) == len(task.folds) else (x[0],) * len(task.folds))


def about(one: Candidate | Control, task: Task) -> Extracted:
    """Return what stands beside a number of ``one`` on ``task``, without features.

    Raises:
        UserError: as many encoders as the task has no sensors for, or too few.
    """
    if isinstance(one, Control):
        first = task.sources[0]
        return Extracted((), one.fingerprint, first.quantity.value, first.bands, "", (one.note,))
    if one.repeats:
        each = [about(run, task) for run in one.runs]
        return _renamed(each[0], one, [run.fingerprint for run in each])
    if one.perturbation is not None:
        if task.partners:
            raise UserError(
                f"expected a task of one sensor for a study of perturbations, got {task.name}; choose a variant with one"
            )
        clean = about(replace(one, perturbation=None), task)
        return _renamed(clean, one, [clean.fingerprint, one.perturbation.name, one.perturbation.about])
    if task.partners or one.second is not None:
        return _of_both(*(about(*each) for each in _sensors(one, task)))
    encoders = [one.encoder(task, fold) for fold in (task.folds if one.of_each_fold else task.folds[:1])]
    contract, prints = encoders[0].preprocessing, [encoder.fingerprint for encoder in encoders]
    if one.pretrained and one.treatment is None:
        check_scale(task, task.folds[0].train, contract)
    notes, (low, high) = [one.note], contract.gsd_m
    outside = sorted({source.gsd_m for source in task.sources if not low <= source.gsd_m <= high})
    if outside:
        notes.append(
            f"pixel size {', '.join(f'{g:g}' for g in outside)} m lies outside the {low:g} ... {high:g} m of its training"
        )
    whole = prints[0] if len(prints) == 1 else fingerprint(prints)
    pooling = str(getattr(encoders[0], "pooling", ""))
    sides = {contract.effective(*source.shape[1:]).size_px for source in task.sources}
    side = sides.pop() if len(sides) == 1 else None
    return Extracted((), whole, contract.quantity.value, contract.bands, pooling, tuple(notes), side)


def _renamed(extracted: Extracted, candidate: Candidate, identity: list[str]) -> Extracted:
    """The same of other images, or of more runs: the fingerprint and the first note are the candidate's own."""
    return replace(extracted, fingerprint=fingerprint(identity), notes=(candidate.note, *extracted.notes[1:]))


def _of_both(first: Extracted, second: Extracted) -> Extracted:
    """What stands beside the features of two sensors."""
    note = "features of two sensors, one after the other"
    return Extracted(
        (),
        fingerprint([first.fingerprint, second.fingerprint]),
        f"{first.quantity} and {second.quantity}",
        (*first.bands, *second.bands),
        " and ".join(dict.fromkeys((first.pooling, second.pooling))),
        tuple(dict.fromkeys((*first.notes, *second.notes, note))),
    )


def _sensors(candidate: Candidate, task: Task) -> tuple[tuple[Candidate, Task], tuple[Candidate, Task]]:
    """The encoder of each sensor of a task with partners, and the task of that sensor alone."""
    if not task.partners:
        raise UserError(
            f"expected one encoder for {task.name}, which has one sensor, got {candidate.name}; name encoders one by one"
        )
    if candidate.second is None and candidate.trained is not None:
        raise UserError(
            f"expected an encoder for each of the two sensors of {task.name}, got {candidate.name}; join two by +, in the order "
            f"{task.sources[0].sensor}+{task.partners[0].sensor}"
        )
    if "sensors" not in task.kept:  # once: each has statistics of its own to keep
        task.kept["sensors"] = replace(task, partners=()), replace(task, sources=task.partners, partners=())
    first, other = task.kept["sensors"]
    return (replace(candidate, second=None), first), (candidate.second or candidate, other)


def _on_perturbed(plain: Candidate, task: Task, perturbation: Perturbation, **how: Any) -> list[Matrix]:
    """Features of untouched training images and of perturbed test images."""
    x = []
    for fold, clean in zip(task.folds, features_of(plain, task, **how).x, strict=True):
        encoder = plain.encoder(task, fold)
        if perturbation.contract is not None:
            encoder = encoder.with_preprocessing(perturbation.contract(encoder.preprocessing))
        changed = clean.copy()
        sources = perturbation.instead or task.sources
        for source, (first, positions) in zip(sources, task.by_source(fold.test), strict=True):
            part = Part(PerturbedSource(source, perturbation), positions)
            changed[first + positions] = extract(encoder, part, **how).x
        x.append(changed)
    return x

"""Features of a task's images by a candidate: fold by fold where training images decide them, of two sensors, of perturbed test images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.features import Matrix, Part, Rows, extract
from eo_ssl.evaluation.perturbations import Perturbation, PerturbedSource
from eo_ssl.evaluation.tasks import Task
from eo_ssl.manifest import fingerprint


@dataclass(frozen=True, slots=True)
class Extracted:
    """Features of the images of a task, one matrix per fold."""

    x: tuple[Matrix, ...]
    "[n, D] float32; NaN for images that the fold neither teaches with nor tests"
    fingerprint: str
    "of the encoder (all its folds)"
    quantity: str
    bands: tuple[str, ...]
    pooling: str
    "how a feature vector is made; empty where there is one way only"
    notes: tuple[str, ...]


Used = list[tuple[int, Rows]]
"for each source of a task: place of its first image in the task, and the positions of the images that are used"


def passes(candidate: Candidate, task: Task) -> list[Used]:
    """Return which images each pass of ``candidate`` looks at: those of any fold for a trained encoder, else those of each fold."""
    of_folds = [np.concatenate([fold.train, fold.test, fold.validation]) for fold in task.folds]
    chosen = of_folds if candidate.of_each_fold else [np.concatenate(of_folds)]
    starts = np.cumsum([0, *(len(source) for source in task.sources)])
    return [[(int(a), np.unique(rows[(rows >= a) & (rows < b)]) - a) for a, b in pairwise(starts)] for rows in chosen]


def features_of(
    candidate: Candidate,
    task: Task,
    *,
    batch_size: int = 64,
    cache: Path | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Extracted:
    """Return the features of ``task``: one pass for a trained encoder; for a weight-free one a pass per fold over its images alone."""
    if candidate.perturbation is not None:
        return _on_perturbed(candidate, task, candidate.perturbation, batch_size=batch_size, cache=cache, device=device)
    if task.partners or candidate.second is not None:
        return _on_both(candidate, task, batch_size=batch_size, cache=cache, device=device, progress=progress)
    x, prints = [], []
    for fold, used in zip(task.folds, passes(candidate, task), strict=False):  # one pass may serve all folds
        encoder = candidate.encoder(task, fold)
        rows = np.full((len(task.labels), encoder.dim), np.nan, dtype=np.float32)  # NaN: nobody may ask for them
        for source, (first, positions) in zip(task.sources, used, strict=True):
            part = Part(source, positions)
            rows[first + positions] = extract(
                encoder, part, batch_size=batch_size, cache=cache, device=device, progress=progress
            ).x
        x.append(rows)
        prints.append(encoder.fingerprint)
    features = tuple(x) if candidate.of_each_fold else (x[0],) * len(task.folds)
    whole = prints[0] if len(prints) == 1 else fingerprint(prints)
    return replace(about(candidate, task), x=features, fingerprint=whole)


def about(candidate: Candidate, task: Task) -> Extracted:
    """Return what stands beside a number of ``candidate`` on ``task``, without features."""
    folds = task.folds if candidate.of_each_fold else task.folds[:1]
    encoders = [candidate.encoder(task, fold) for fold in folds]
    contract, prints = encoders[0].preprocessing, [one.fingerprint for one in encoders]
    notes, (low, high) = [candidate.note], contract.gsd_m
    outside = sorted({source.gsd_m for source in task.sources if not low <= source.gsd_m <= high})
    if outside:
        notes.append(
            f"pixel size {', '.join(f'{g:g}' for g in outside)} m lies outside the {low:g} ... {high:g} m of its training"
        )
    whole = prints[0] if len(prints) == 1 else fingerprint(prints)
    pooling = str(getattr(encoders[0], "pooling", ""))
    return Extracted((), whole, contract.quantity.value, contract.bands, pooling, tuple(notes))


def _on_both(candidate: Candidate, task: Task, **how: Any) -> Extracted:
    """Features of both sensors of a task with partners, one after the other."""
    if not task.partners:
        raise UserError(
            f"expected one encoder for {task.name}, which has one sensor, got {candidate.name}; name encoders one by one"
        )
    if candidate.second is None and candidate.trained is not None:
        raise UserError(
            f"expected an encoder for each of the two sensors of {task.name}, got {candidate.name}; join two by +, in the order "
            f"{task.sources[0].sensor}+{task.partners[0].sensor}"
        )
    first = features_of(
        replace(candidate, second=None, name=candidate.name.partition("+")[0]), replace(task, partners=()), **how
    )
    other = replace(task, sources=task.partners, partners=())
    second = features_of(candidate.second or candidate, other, **how)
    x = tuple(np.concatenate(pair, axis=1) for pair in zip(first.x, second.x, strict=True))
    note = "features of two sensors, one after the other"
    return Extracted(
        x,
        fingerprint([first.fingerprint, second.fingerprint]),
        f"{first.quantity} and {second.quantity}",
        (*first.bands, *second.bands),
        " and ".join(dict.fromkeys((first.pooling, second.pooling))),
        tuple(dict.fromkeys((*first.notes, *second.notes, note))),
    )


def _on_perturbed(
    candidate: Candidate, task: Task, perturbation: Perturbation, *, batch_size: int, cache: Path | None, device: str
) -> Extracted:
    """Features of untouched training images and of perturbed test images."""
    if task.partners:
        raise UserError(
            f"expected a task of one sensor for a study of perturbations, got {task.name}; choose a variant with one"
        )
    plain = replace(candidate, perturbation=None)
    clean = features_of(plain, task, batch_size=batch_size, cache=cache, device=device)
    starts = np.cumsum([0, *(len(source) for source in task.sources)])
    x = []
    for fold, rows in zip(task.folds, clean.x, strict=True):
        encoder = plain.encoder(task, fold)
        if perturbation.contract is not None:
            encoder = encoder.with_preprocessing(perturbation.contract(encoder.preprocessing))
        changed = rows.copy()
        for source, (a, b) in zip(perturbation.instead or task.sources, pairwise(starts), strict=True):
            asked = np.sort(fold.test[(fold.test >= a) & (fold.test < b)])
            part = Part(PerturbedSource(source, perturbation), asked - a)
            changed[asked] = extract(encoder, part, batch_size=batch_size, cache=cache, device=device).x
        x.append(changed)
    whole = fingerprint([clean.fingerprint, perturbation.name, perturbation.about])
    return replace(clean, x=tuple(x), fingerprint=whole, notes=(candidate.note, *clean.notes[1:]))

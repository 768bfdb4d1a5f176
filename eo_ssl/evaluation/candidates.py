"""Candidates: the encoders that are compared on a task, trained ones as they are, weight-free ones normalised by training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eo_ssl.encoder import ENCODER_FILE, WEIGHT_FREE, Encoder, VitEncoder, load_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.features import Matrix, Part, Rows, extract, moments
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.manifest import fingerprint
from eo_ssl.models.vit import VitConfig
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import FLOOR_DB, Quantity, sensor


@dataclass(frozen=True, slots=True)
class Candidate:
    """One encoder to compare."""

    name: str
    "unique among the candidates"
    trained: Encoder | None
    "None for a weight-free encoder, which is made for each fold"
    architecture: VitConfig | None
    "of random_init"
    seed: int
    "of random weights"

    def encoder(self, task: Task, fold: Fold) -> Encoder:
        """Return the encoder to use in ``fold``: a weight-free one is normalised by the fold's training images alone."""
        if self.trained is not None:
            return self.trained
        contract = train_contract(task, fold)
        fits = self.architecture is not None and (self.architecture.in_chans, self.architecture.img_size) == (
            len(contract.bands),
            contract.size_px,
        )
        return load_encoder(
            self.name,
            preprocessing=contract,
            architecture=self.architecture if fits and self.name == "random_init" else None,
            seed=self.seed,
        )

    @property
    def pretraining_seeds(self) -> int:
        """Number of pretraining runs behind the number: one per weights file, none without weights."""
        return 0 if self.trained is None else 1

    @property
    def note(self) -> str:
        """What must be said beside a number of this candidate."""
        if self.trained is not None:
            return "one pretraining run: its spread over seeds is not in the interval"
        if self.name == "imagestats":
            return "normalised by the training images"
        return f"one draw of random weights (seed {self.seed}), normalised by the training images"


@dataclass(frozen=True, slots=True)
class Extracted:
    """Features of the images of a task, one matrix per fold."""

    x: tuple[Matrix, ...]
    "[n, D] float32; NaN for images that the fold neither teaches with nor tests"
    fingerprint: str
    "of the encoder (all its folds)"
    quantity: str
    bands: tuple[str, ...]
    notes: tuple[str, ...]


def candidates(encoders: Sequence[str], *, seed: int = 0) -> tuple[Candidate, ...]:
    """Return the candidates named by folders, weights files or weight-free names, in the order given.

    ``random_init`` takes the architecture of the first trained encoder where that fits, so that training alone is compared.

    Raises:
        UserError: none, one twice, or an encoder that cannot be loaded.
    """
    if not encoders or len(set(encoders)) < len(encoders):
        raise UserError(
            f"expected encoders, each once, got {', '.join(encoders) or 'none'}; give folders or names out of {', '.join(WEIGHT_FREE)}"
        )
    loaded = {name: load_encoder(name) for name in encoders if name not in WEIGHT_FREE}
    architecture = next((one.architecture for one in loaded.values() if isinstance(one, VitEncoder)), None)
    if len({one.fingerprint for one in loaded.values()}) < len(loaded):
        raise UserError(f"expected different encoders, got equal ones among {', '.join(loaded)}; give each once")
    names = [one.name for one in loaded.values()]
    made = []
    for name in encoders:
        trained = loaded.get(name)
        shown = name
        if trained is not None:
            ambiguous = names.count(trained.name) > 1 or trained.name in WEIGHT_FREE
            shown = str(Path(name).parent if name.endswith(ENCODER_FILE) else name) if ambiguous else trained.name
        made.append(Candidate(shown, trained, architecture, seed))
    return tuple(made)


Used = list[tuple[int, Rows]]
"for each source of a task: place of its first image in the task, and the positions of the images that are used"


def passes(candidate: Candidate, task: Task) -> list[Used]:
    """Return which images each pass of ``candidate`` looks at: those of any fold for a trained encoder, else those of each fold."""
    of_folds = [np.concatenate([fold.train, fold.test, fold.validation]) for fold in task.folds]
    chosen = of_folds if candidate.trained is None else [np.concatenate(of_folds)]
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
    x, prints, notes = [], [], [candidate.note]
    encoder: Encoder | None = None
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
    assert encoder is not None  # a task has a fold
    low, high = encoder.preprocessing.gsd_m
    outside = sorted({source.gsd_m for source in task.sources if not low <= source.gsd_m <= high})
    if outside:
        notes.append(
            f"pixel size {', '.join(f'{g:g}' for g in outside)} m lies outside the {low:g} ... {high:g} m of its training"
        )
    features = tuple(x) if candidate.trained is None else (x[0],) * len(task.folds)
    whole = prints[0] if len(prints) == 1 else fingerprint(prints)
    return Extracted(features, whole, encoder.preprocessing.quantity.value, encoder.preprocessing.bands, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Stream:
    sensor: str
    quantity: Quantity
    bands: tuple[str, ...]
    gsd_m: float
    size_px: int


@dataclass(frozen=True, slots=True)
class _Stats:
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]


def train_contract(task: Task, fold: Fold) -> Preprocessing:
    """Return a contract from the training images of ``fold``: mean and standard deviation per band, power in dB.

    Test images never enter; bands that are constant or never valid in training are left out.
    """
    first = task.sources[0]
    starts = np.cumsum([0, *(len(source) for source in task.sources)])
    chosen: list[Rows] = [fold.train[(fold.train >= a) & (fold.train < b)] - a for a, b in pairwise(starts)]
    known = sensor(first.sensor)
    bands = known.resolve_all(first.bands)
    orders = []
    for source in task.sources:
        have = known.resolve_all(source.bands)
        absent = [band for band in bands if band not in have]
        if absent or source.quantity != first.quantity:
            raise UserError(
                f"expected the same bands and quantity in all sources of task {task.name}, got one without {', '.join(absent) or first.quantity.value}; "
                "choose streams that agree"
            )
        orders.append([have.index(band) for band in bands])
    in_db = first.quantity.is_power
    found = moments(task.sources, chosen, orders=orders, convert=_decibel if in_db else _unchanged)
    usable = [
        i for i in range(len(bands)) if found["count"][i] > 0 and found["std"][i] > 1e-6 * abs(found["mean"][i])
    ]  # rounding
    gsd = [source.gsd_m for source in task.sources]
    contract = Preprocessing.from_stats(
        _Stream(first.sensor, first.quantity, tuple(bands[i] for i in usable), min(gsd), first.shape[1]),
        _Stats(found["mean"][usable], found["std"][usable]),
        convert=(f"{first.quantity.value}->{first.quantity.in_db.value}",) if in_db else (),
    )
    return replace(contract, gsd_m=(min(gsd), max(gsd)))


def _decibel(x: Tensor) -> Tensor:
    return torch.where(torch.isfinite(x), x.clamp(min=10 ** (FLOOR_DB / 10)).log10() * 10, x)


def _unchanged(x: Tensor) -> Tensor:
    return x


def summary(candidate: Candidate) -> dict[str, Any]:
    """Return what a manifest keeps of a candidate."""
    trained = candidate.trained
    return {
        "name": candidate.name,
        "fingerprint": None if trained is None else trained.fingerprint,
        "seed": candidate.seed,
    }

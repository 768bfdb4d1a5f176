"""Candidates: the encoders that are compared on a task, trained ones as they are, weight-free ones normalised by training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eo_ssl.encoder import (
    ENCODER_FILE,
    FITTED,
    WEIGHT_FREE,
    Encoder,
    VitEncoder,
    by_training,
    is_spec,
    load_encoder,
)
from eo_ssl.errors import UserError
from eo_ssl.evaluation.perturbations import Perturbation
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.trainstats import contract_order, train_stats
from eo_ssl.evaluation.treatments import Treatment
from eo_ssl.models.vit import VitConfig
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity

BASELINES = (*WEIGHT_FREE, *FITTED)
"""Encoders that nobody trained, by name."""
_FITTING = 1024  # training images that the patches of a fitted encoder are cut out of


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
    second: Candidate | None = None
    "encoder of the second sensor, for a task with partners; a weight-free one serves both"
    treatment: Treatment | None = None
    "departure from the contract; None for none"
    perturbation: Perturbation | None = None
    "what is done to the test images; None for nothing"
    reference: str = ""
    "name of the same encoder under its contract on untouched images, with which alone a departure is compared"

    def encoder(self, task: Task, fold: Fold) -> Encoder:
        """Return the encoder to use in ``fold``: a weight-free one is normalised by the fold's training images alone."""
        found = self._plain(task, fold)
        if self.treatment is None:
            return found
        contract = found.preprocessing
        percentiles = self.treatment.normalisation == "percentile"
        stats = train_stats(task, fold.train, contract.bands, convert=contract.convert, percentiles=percentiles)
        treated = self.treatment.of(contract, stats)
        if treated.resize == "to_size" and treated.size_px != contract.size_px:
            found = found.at_size(treated.size_px)
        return found.with_preprocessing(treated)

    def _plain(self, task: Task, fold: Fold) -> Encoder:
        """Under its own contract."""
        if self.trained is not None:
            return self.trained
        contract = train_contract(task, fold)
        fits = self.architecture is not None and (self.architecture.in_chans, self.architecture.img_size) == (
            len(contract.bands),
            contract.size_px,
        )
        name = self.reference or self.name
        foreign = by_training(name)
        if foreign is not None:
            return load_encoder(foreign, preprocessing=contract, seed=self.seed)
        return load_encoder(
            name,
            preprocessing=contract,
            architecture=self.architecture if fits and name == "random_init" else None,
            seed=self.seed,
            images=_some(task, fold, contract, seed=self.seed) if name in FITTED else None,
        )

    @property
    def departure(self) -> dict[str, Any] | None:
        """What differs from the contract and from untouched images, as plain values."""
        if self.perturbation is not None:
            return {"perturbation": self.perturbation.name, "about": self.perturbation.about}
        return None if self.treatment is None else asdict(self.treatment)

    @property
    def of_each_fold(self) -> bool:
        """Whether the training images of a fold decide the features, so that each fold needs a pass of its own."""
        by_contract = self.treatment is None or self.treatment.normalisation in ("contract", "divide")
        return self.trained is None or not by_contract

    @property
    def pretraining_seeds(self) -> int:
        """Number of pretraining runs behind the number: one per weights file, none without trained weights."""
        if self.trained is None:
            return int(by_training(self.reference or self.name) is not None and "@random" not in self.name)
        return int(self.trained.provenance.get("weights") != "random")

    @property
    def note(self) -> str:
        """What must be said beside a number of this candidate."""
        if self.perturbation is not None:
            return f"test images perturbed: {self.perturbation.about}"
        if self.treatment is not None and self.treatment != Treatment():
            return f"not as its contract says: {self.treatment.words}"
        if by_training(self.reference or self.name) is not None:
            return "normalised by the training images, whatever its weights were trained with"
        if self.pretraining_seeds:
            return "one pretraining run: its spread over seeds is not in the interval"
        if self.trained is not None:
            return "random weights of this architecture behind the contract of its weights"
        if (self.reference or self.name) == "imagestats":
            return "normalised by the training images"
        return f"one draw of random weights (seed {self.seed}), normalised by the training images"


def candidates(encoders: Sequence[str], *, seed: int = 0) -> tuple[Candidate, ...]:
    """Return the candidates named by folders, weights files, specs or weight-free names, in the order given.

    ``random_init`` takes the architecture of the first trained encoder where that fits, so that training alone is compared. Two names
    joined by ``+`` are the encoders of the two sensors of a task with partners.

    Raises:
        UserError: none, one twice, or an encoder that cannot be loaded.
    """
    if not encoders or len(set(encoders)) < len(encoders):
        raise UserError(
            f"expected encoders, each once, got {', '.join(encoders) or 'none'}; give folders, torchgeo: or timm: weights, or {', '.join(BASELINES)}"
        )
    pairs = [_pair(name) for name in encoders]
    loaded = {
        name: load_encoder(name, seed=seed) if is_spec(name) else load_encoder(name)
        for name in dict.fromkeys(name for pair in pairs for name in pair)
        if name not in BASELINES and by_training(name) is None
    }
    architecture = next((one.architecture for one in loaded.values() if isinstance(one, VitEncoder)), None)
    if len({one.fingerprint for one in loaded.values()}) < len(loaded):
        raise UserError(f"expected different encoders, got equal ones among {', '.join(loaded)}; give each once")
    names = [one.name for one in loaded.values()]

    def made(name: str) -> Candidate:
        trained = loaded.get(name)
        shown = name
        if trained is not None:
            ambiguous = names.count(trained.name) > 1 or trained.name in BASELINES
            shown = str(Path(name).parent if name.endswith(ENCODER_FILE) else name) if ambiguous else trained.name
        return Candidate(shown, trained, architecture, seed)

    found = []
    for first, *rest in pairs:
        one, second = made(first), made(rest[0]) if rest else None
        found.append(one if second is None else replace(one, name=f"{one.name}+{second.name}", second=second))
    return tuple(found)


def _pair(name: str) -> list[str]:
    """The one or two encoders that ``name`` stands for; a file whose name has a + is one."""
    parts = name.split("+")
    return parts if len(parts) == 2 and all(parts) and not Path(name).exists() else [name]


def _some(task: Task, fold: Fold, contract: Preprocessing, *, seed: int) -> Tensor:
    """Training images of ``fold``, prepared, to cut patches out of: [n, C, H, W]."""
    chosen = np.sort(np.random.default_rng(seed).permutation(fold.train)[:_FITTING])
    starts = np.cumsum([0, *(len(source) for source in task.sources)])
    parts = []
    for source, (a, b) in zip(task.sources, pairwise(starts), strict=True):
        own = chosen[(chosen >= a) & (chosen < b)] - a
        if len(own):
            image = torch.empty((len(own), *source.shape), dtype=torch.float32)
            source.read(own, image.numpy())
            parts.append(contract(image, bands=source.bands, quantity=source.quantity, sensor=source.sensor)[0])
    return torch.cat(parts)


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
    first, bands = task.sources[0], contract_order(task)
    convert = (f"{first.quantity.value}->{first.quantity.in_db.value}",) if first.quantity.is_power else ()
    found = train_stats(task, fold.train, bands, convert=convert)
    usable = [
        i for i in range(len(bands)) if found.count[i] > 0 and found.std[i] > 1e-6 * abs(found.mean[i])
    ]  # rounding
    gsd = [source.gsd_m for source in task.sources]
    contract = Preprocessing.from_stats(
        _Stream(first.sensor, first.quantity, tuple(bands[i] for i in usable), min(gsd), first.shape[1]),
        _Stats(found.mean[usable], found.std[usable]),
        convert=convert,
    )
    return replace(contract, gsd_m=(min(gsd), max(gsd)))


def summary(candidate: Candidate) -> dict[str, Any]:
    """Return what a manifest keeps of a candidate."""
    trained = candidate.trained
    return {
        "name": candidate.name,
        "fingerprint": None if trained is None else trained.fingerprint,
        "seed": candidate.seed,
    }

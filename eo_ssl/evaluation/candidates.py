"""Candidates: the encoders that are compared on a task, trained ones as they are, weight-free ones normalised by training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
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
from eo_ssl.evaluation.preprocessing_variants import PreprocessingVariant
from eo_ssl.evaluation.seeds import check_alike, check_seeds, parse_entry, read_pretraining_seed
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.training_statistics import compute_train_stats, list_task_bands
from eo_ssl.models.vit import VitConfig
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity

BASELINES = (*WEIGHT_FREE, *FITTED)
"""Encoders that nobody trained, by name."""
_FITTING = 1024  # training images that the patches of a fitted encoder are cut out of


@dataclass(frozen=True, slots=True)
class Candidate:
    """One encoder to compare, or one recipe of which several runs differ in their seed."""

    name: str
    "unique among the candidates"
    trained: Encoder | None
    "None for a weight-free encoder, which is made for each fold"
    architecture: VitConfig | None
    "of random_init"
    seed: int
    "of random weights"
    source: str = ""
    "what it is made of: a path, a spec, or the name of a weight-free one"
    second: Candidate | None = None
    "encoder of the second sensor, for a task with partners; a weight-free one serves both"
    treatment: PreprocessingVariant | None = None
    "departure from the contract; None for none"
    perturbation: Perturbation | None = None
    "what is done to the test images; None for nothing"
    reference: str = ""
    "name of the same encoder under its contract on untouched images, with which alone a departure is compared"
    repeats: tuple[Candidate, ...] = ()
    "all runs of the recipe, by seed, the first of which stands here; none where there is one only"

    @property
    def runs(self) -> tuple[Candidate, ...]:
        """Every run by itself, used as this candidate is."""
        used = [replace(one, treatment=self.treatment, perturbation=self.perturbation) for one in self.repeats]
        return tuple(used) or (self,)

    def encoder(self, task: Task, fold: Fold) -> Encoder:
        """Return the encoder to use in ``fold``: a weight-free one is normalised by the fold's training images alone."""
        found = self._plain(task, fold)
        if self.treatment is None:
            return found
        contract = found.preprocessing
        percentiles = self.treatment.normalisation == "percentile"
        stats = compute_train_stats(task, fold.train, contract.bands, convert=contract.convert, percentiles=percentiles)
        treated = self.treatment.of(contract, stats)
        if treated.resize == "to_size" and treated.size_px != contract.size_px:
            found = found.at_size(treated.size_px)
        return found.with_preprocessing(treated)

    def _plain(self, task: Task, fold: Fold) -> Encoder:
        """Under its own contract."""
        if self.trained is not None:
            return self.trained
        contract = make_train_contract(task, fold)
        fits = self.architecture is not None and (self.architecture.in_chans, self.architecture.img_size) == (
            len(contract.bands),
            contract.size_px,
        )
        foreign = by_training(self.source)
        if foreign is not None:
            return load_encoder(foreign, preprocessing=contract, seed=self.seed)
        return load_encoder(
            self.source,
            preprocessing=contract,
            architecture=self.architecture if fits and self.source == "random_init" else None,
            seed=self.seed,
            images=_some(task, fold, contract, seed=self.seed) if self.source in FITTED else None,
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
    def pretrained(self) -> bool:
        """Whether somebody trained the weights."""
        if self.trained is None:
            return by_training(self.source) is not None and "@random" not in self.source
        return self.trained.provenance.get("weights") != "random"

    @property
    def pretraining_seeds(self) -> int:
        """Number of pretraining runs behind the number: none without trained weights."""
        return len(self.runs) if self.pretrained else 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the weights of each run, where there are several."""
        return tuple(one.of_seed for one in self.repeats)

    @property
    def of_seed(self) -> int:
        """Seed of the weights."""
        return self.seed if self.trained is None else read_pretraining_seed(self.name, self.trained)

    @property
    def weights(self) -> dict[str, str]:
        """Fingerprints of the trained weights by what they are called in a manifest."""
        named = {}
        for run in self.runs:
            name = f"{self.name}, {run.name}" if self.repeats else self.name
            for place, one in ((name, run), (f"{name}, second sensor", run.second)):
                if one is not None and one.trained is not None:
                    named[place] = one.trained.fingerprint
        return named

    @property
    def note(self) -> str:
        """What must be said beside a number of this candidate."""
        if self.perturbation is not None:
            return f"test images perturbed: {self.perturbation.about}"
        if self.treatment is not None and self.treatment != PreprocessingVariant():
            return f"not as its contract says: {self.treatment.words}"
        if by_training(self.source) is not None:
            return "normalised by the training images, whatever its weights were trained with"
        seeds = ", ".join(map(str, self.seeds))
        if self.pretrained and self.repeats:
            return f"{len(self.runs)} pretraining runs (seeds {seeds}): their spread is in the interval"
        if self.pretrained:
            return "one pretraining run: its spread over seeds is not in the interval"
        if self.trained is not None:
            return "random weights of this architecture behind the contract of its weights"
        if self.source == "imagestats":
            return "normalised by the training images"
        if self.repeats:
            return f"{len(self.runs)} draws of random weights (seeds {seeds}), normalised by the training images"
        return f"one draw of random weights (seed {self.seed}), normalised by the training images"


def candidates(encoders: Sequence[str], *, seed: int = 0) -> tuple[Candidate, ...]:
    """Return the candidates named by folders, weights files, specs or weight-free names, in the order given.

    ``random_init`` takes the architecture of the first trained encoder where that fits, so that training alone is compared. Two names
    joined by ``+`` are the encoders of the two sensors of a task with partners; runs joined by commas differ in their seed alone and
    are one candidate, as in ``mae=runs/0,runs/1`` or ``random=rcf@0,rcf@1`` (``recipes.parse_entry``).

    Raises:
        UserError: none, one twice, an encoder that cannot be loaded, or runs that differ in more than their seed.
    """
    entries = [parse_entry(text) for text in encoders]
    runs = [run for entry in entries for run in entry.runs]
    if not runs or len(set(runs)) < len(runs):
        raise UserError(
            f"expected encoders, each once, got {', '.join(encoders) or 'none'}; give folders, torchgeo: or timm: weights, or {', '.join(BASELINES)}"
        )
    loaded = {
        name: load_encoder(name, seed=seed) if is_spec(name) else load_encoder(name)
        for name in dict.fromkeys(name for run in runs for name in run)
        if _drawn(name) is None and by_training(name) is None
    }
    if len({one.fingerprint for one in loaded.values()}) < len(loaded):
        raise UserError(f"expected different encoders, got equal ones among {', '.join(loaded)}; give each once")
    architecture = next((one.architecture for one in loaded.values() if isinstance(one, VitEncoder)), None)
    names = [one.name for one in loaded.values()]

    def made(name: str) -> Candidate:
        trained = loaded.get(name)
        if trained is None:
            source, drawn = _drawn(name) or (name, None)
            return Candidate(name, None, architecture, seed if drawn is None else drawn, source)
        ambiguous = names.count(trained.name) > 1 or trained.name in BASELINES
        path = str(Path(name).parent if name.endswith(ENCODER_FILE) else name)
        return Candidate(
            path if ambiguous else trained.name, trained, architecture, seed, name if is_spec(name) else path
        )

    found = [_recipe(entry.name, [[made(name) for name in run] for run in entry.runs]) for entry in entries]
    shown = [one.name for one in found]
    if len(set(shown)) < len(shown):
        raise UserError(f"expected a name of its own for each encoder, got {', '.join(shown)}; write NAME=FOLDER")
    return tuple(found)


def _recipe(name: str | None, runs: Sequence[Sequence[Candidate]]) -> Candidate:
    """One candidate of runs that differ in their seed; each run is one encoder, or one for each of two sensors."""
    if len(runs) > 1:
        for same in zip_longest(*runs):
            _check_runs(same)
    joined = [
        replace(run[0], name="+".join(one.name for one in run), second=run[1] if len(run) > 1 else None) for run in runs
    ]
    if len(joined) > 1:
        joined.sort(key=lambda run: run.of_seed)
    shown = name or ",".join(run.name for run in joined)
    if shown in BASELINES and joined[0].source != shown:
        raise UserError(f"expected a name that is no other encoder's for {joined[0].name}, got {shown}; choose another")
    return replace(joined[0], name=shown, repeats=tuple(joined) if len(joined) > 1 else ())


def _check_runs(runs: Sequence[Candidate | None]) -> None:
    """Refuse runs that differ in more than their seed."""
    found = [run for run in runs if run is not None]
    trained = {run.name: run.trained for run in found if run.trained is not None}
    sources = {run.source for run in found}
    if len(trained) == len(runs):
        seeds = {name: read_pretraining_seed(name, encoder) for name, encoder in trained.items()}
        check_alike(trained)
        check_seeds(seeds)
    elif len(found) == len(runs) and len(sources) == 1 and sources <= set(BASELINES):
        check_seeds({run.name: run.seed for run in found})
    else:
        names = ", ".join(run.name for run in found)
        raise UserError(
            f"expected runs of one recipe, each of as many sensors, got {names}; give them as encoders of their own, with a space between"
        )


def _drawn(name: str) -> tuple[str, int | None] | None:
    """A weight-free encoder and the seed of its random weights, where ``name@seed`` gives one; None for an encoder with weights."""
    source, at, seed = name.partition("@")
    if source not in BASELINES or (at and (not seed.isdecimal() or source == "imagestats")):
        return None
    return source, int(seed) if at else None


def _some(task: Task, fold: Fold, contract: Preprocessing, *, seed: int) -> Tensor:
    """Training images of ``fold``, prepared, to cut patches out of: [n, C, H, W]."""
    chosen = np.random.default_rng(seed).permutation(fold.train)[:_FITTING]
    parts = []
    for source, (_, own) in zip(task.sources, task.by_source(chosen), strict=True):
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


def make_train_contract(task: Task, fold: Fold) -> Preprocessing:
    """Return a contract from the training images of ``fold``: mean and standard deviation per band, power in dB.

    Test images never enter; bands that are constant or never valid in training are left out.
    """
    first, bands = task.sources[0], list_task_bands(task)
    convert = (f"{first.quantity.value}->{first.quantity.in_db.value}",) if first.quantity.is_power else ()
    found = compute_train_stats(task, fold.train, bands, convert=convert)
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

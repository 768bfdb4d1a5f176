"""Single encoders as candidates, trained ones as they are, others made for each fold; and the controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eo_ssl.encoder import FITTED, Encoder, has_task_contract, load_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate, Description, SingleCandidate, Wrap
from eo_ssl.evaluation.features import ON_CPU, Computing
from eo_ssl.evaluation.sources import Matrix, read_images
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Control, Task
from eo_ssl.evaluation.training_statistics import make_train_contract
from eo_ssl.preprocessing import Preprocessing

_FITTING = 1024  # training images that the patches of a fitted encoder are cut out of


@dataclass(frozen=True)
class TrainedCandidate(SingleCandidate):
    """An encoder with weights and a contract of its own, used as it is."""

    trained: Encoder

    @property
    def weights_key(self) -> Any | None:
        """Fingerprint of the encoder."""
        return self.trained.fingerprint

    @property
    def pretrained(self) -> bool:
        """Whether the weights are not random."""
        return bool(self.trained.provenance.get("weights") != "random")

    @property
    def seed(self) -> int:
        """Of the pretraining."""
        return read_pretraining_seed(self.name, self.trained)

    @property
    def cost(self) -> Mapping[str, int] | None:
        """As its provenance says it; earlier versions did not."""
        said = self.trained.provenance.get("cost")
        return said if isinstance(said, dict) and {"step", "forward_equivalents"} <= set(said) else None

    @property
    def note(self) -> str:
        """How often it was trained."""
        if self.pretrained:
            return "one pretraining run: its spread over seeds is not in the interval"
        return "random weights of this architecture behind the contract of its weights"

    def encoder(self, task: Task, fold: Fold) -> Encoder:
        """Return the encoder, whatever the fold."""
        return self.trained


@dataclass(frozen=True)
class FoldCandidate(SingleCandidate):
    """An encoder that is normalised by the training images of each fold, its weights random or from elsewhere."""

    weights_seed: int
    "of random weights and patches"
    model: Encoder | None = None
    "trained encoder whose architecture random_init takes where it fits, so that training alone is compared"

    @property
    def made_for_task(self) -> bool:
        """It is."""
        return True

    @property
    def seed(self) -> int:
        """Of random weights and patches."""
        return self.weights_seed

    @property
    def weights_key(self) -> Any | None:
        """Name, seed and architecture; None for weights that are loaded for each task."""
        if has_task_contract(self.origin):
            return None
        shape = self._architecture.to_json() if self.origin == "random_init" and self.model is not None else None
        return [self.origin, self.seed, shape]

    @property
    def pretrained(self) -> bool:
        """Whether weights are loaded."""
        return has_task_contract(self.origin) and "@random" not in self.origin

    @property
    def note(self) -> str:
        """Where normalisation and weights come from."""
        if has_task_contract(self.origin):
            return "normalised by the training images, whatever its weights were trained with"
        if self.origin == "imagestats":
            return "normalised by the training images"
        return f"one draw of random weights (seed {self.seed}), normalised by the training images"

    @property
    def _architecture(self) -> Any:
        return getattr(self.model, "architecture", None)

    def encoder(self, task: Task, fold: Fold) -> Encoder:
        """Return the encoder behind a contract of the fold's training images."""
        contract = make_train_contract(task, fold)
        if has_task_contract(self.origin):
            return load_encoder(self.origin, preprocessing=contract, seed=self.seed)
        return load_encoder(
            self.origin,
            preprocessing=contract,
            architecture=self._architecture if self.origin == "random_init" and self._fits(contract) else None,
            seed=self.seed,
            images=_sample_images(task, fold, contract, seed=self.seed) if self.origin in FITTED else None,
        )

    def _fits(self, contract: Preprocessing) -> bool:
        """Whether the trained encoder takes as many bands and pixels."""
        if self.model is None:
            return False
        trained = self.model.preprocessing
        return (len(trained.bands), trained.size_px) == (len(contract.bands), contract.size_px)


@dataclass(frozen=True)
class ControlCandidate(Candidate):
    """A control of a task: features that need no encoder."""

    control: Control

    @property
    def parts(self) -> tuple[SingleCandidate, ...]:
        """None."""
        return ()

    @property
    def note(self) -> str:
        """What the features are."""
        return self.control.note

    @property
    def pretrained(self) -> bool:
        """Nothing is."""
        return False

    def identity(self, task: Task) -> str:
        """Return the fingerprint of the features."""
        return self.control.fingerprint

    def describe(self, task: Task) -> Description:
        """Return what stands beside a number of the control."""
        first = task.sources[0]
        return Description(self.control.fingerprint, first.quantity.value, first.bands, "", (self.note,))

    def features(self, task: Task, computing: Computing = ON_CPU) -> tuple[Matrix, ...]:
        """Return the control's own features, the same for every fold."""
        return (self.control.x,) * len(task.folds)

    def count_images(self, task: Task) -> int:
        """Return 0: no image is looked at."""
        return 0

    def has_network(self, task: Task) -> bool:
        """It has none."""
        return False

    def vary(self, label: str, wrap: Wrap) -> Candidate:
        """Refuse: there is no input to change."""
        raise UserError(f"expected an encoder for a study of its input, got {self.name}; leave the control out")


def read_pretraining_seed(name: str, encoder: Encoder) -> int:
    """Return the seed that ``encoder`` was pretrained with.

    Raises:
        UserError: it does not say.
    """
    seed = encoder.provenance.get("config", {}).get("seed")
    if not isinstance(seed, int):
        raise UserError(
            f"expected runs of eo-ssl pretrain, which say configuration and seed, got none in {name}; give it as an "
            "encoder of its own"
        )
    return seed


def _sample_images(task: Task, fold: Fold, contract: Preprocessing, *, seed: int) -> Tensor:
    """Training images of ``fold``, prepared, to cut patches out of: [n, C, H, W]."""
    chosen = np.random.default_rng(seed).permutation(fold.train)[:_FITTING]
    prepared = []
    for source, (_, own) in zip(task.sources, task.by_source(chosen), strict=True):
        if len(own):
            image = read_images(source, own)
            prepared.append(contract(image, bands=source.bands, quantity=source.quantity, sensor=source.sensor)[0])
    return torch.cat(prepared)

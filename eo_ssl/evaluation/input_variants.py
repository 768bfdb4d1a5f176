"""Candidates whose input is changed on purpose: another preprocessing than the contract's, or perturbed test images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from eo_ssl.encoder import Encoder
from eo_ssl.evaluation.candidates import Description, SingleCandidate
from eo_ssl.evaluation.features import ON_CPU, Computing
from eo_ssl.evaluation.perturbations import Perturbation, PerturbedSource
from eo_ssl.evaluation.preprocessing_variants import PreprocessingVariant
from eo_ssl.evaluation.sources import Matrix, SourceSubset
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.training_statistics import compute_train_stats


@dataclass(frozen=True)
class WrappedCandidate(SingleCandidate):
    """An encoder with another input; its weights are those of the encoder."""

    base: SingleCandidate

    @property
    def weights_key(self) -> Any | None:
        """That of the encoder."""
        return self.base.weights_key

    @property
    def plain(self) -> SingleCandidate:
        """The encoder."""
        return self.base.plain

    @property
    def seed(self) -> int:
        """That of the encoder."""
        return self.base.seed

    @property
    def pretrained(self) -> bool:
        """Whether the encoder is."""
        return self.base.pretrained

    @property
    def made_for_task(self) -> bool:
        """Whether the encoder is."""
        return self.base.made_for_task

    @property
    def per_fold(self) -> bool:
        """Whether the encoder is."""
        return self.base.per_fold

    def identity(self, task: Task) -> str:
        """Return the fingerprint of the encoder's weights."""
        return self.base.identity(task)

    def encoder(self, task: Task, fold: Fold) -> Encoder:
        """Return the encoder."""
        return self.base.encoder(task, fold)


@dataclass(frozen=True)
class PreprocessedCandidate(WrappedCandidate):
    """An encoder behind another preprocessing than its contract's."""

    variant: PreprocessingVariant

    @property
    def note(self) -> str:
        """What is not as the contract says."""
        return f"not as its contract says: {self.variant.name}"

    @property
    def input_variant(self) -> dict[str, Any] | None:
        """Size, normalisation and resizer."""
        return asdict(self.variant)

    @property
    def per_fold(self) -> bool:
        """Also where the training images give the statistics."""
        return self.base.per_fold or self.variant.normalisation not in ("contract", "divide")

    def encoder(self, task: Task, fold: Fold) -> Encoder:
        """Return the encoder under the variant of its contract, with the statistics of the fold's training images."""
        encoder = self.base.encoder(task, fold)
        contract = encoder.preprocessing
        percentiles = self.variant.normalisation == "percentile"
        stats = compute_train_stats(task, fold.train, contract.bands, convert=contract.convert, percentiles=percentiles)
        changed = self.variant.apply(contract, stats)
        if changed.resize == "to_size" and changed.size_px != contract.size_px:
            encoder = encoder.at_size(changed.size_px)
        return encoder.with_preprocessing(changed)


@dataclass(frozen=True)
class PerturbedCandidate(WrappedCandidate):
    """An encoder that is taught with untouched images and tested on perturbed ones."""

    perturbation: Perturbation

    @property
    def note(self) -> str:
        """What is done to the test images."""
        return f"test images perturbed: {self.perturbation.about}"

    @property
    def input_variant(self) -> dict[str, Any] | None:
        """Name and words of the perturbation."""
        return {"perturbation": self.perturbation.name, "about": self.perturbation.about}

    def describe(self, task: Task) -> Description:
        """Return what stands beside a number of the encoder, of perturbed images."""
        clean = self.base.describe(task)
        return clean.relabel(self.note, [clean.fingerprint, self.perturbation.name, self.perturbation.about])

    def features(self, task: Task, computing: Computing = ON_CPU) -> tuple[Matrix, ...]:
        """Return the features of untouched training images and of perturbed test images."""
        x = []
        for fold, clean in zip(task.folds, self.base.features(task, computing), strict=True):
            encoder = self.base.encoder(task, fold)
            if self.perturbation.contract is not None:
                encoder = encoder.with_preprocessing(self.perturbation.contract(encoder.preprocessing))
            changed = clean.copy()
            sources = self.perturbation.instead or task.sources
            for source, (first, positions) in zip(sources, task.by_source(fold.test), strict=True):
                perturbed = SourceSubset(PerturbedSource(source, self.perturbation), positions)
                changed[first + positions] = computing.extract(encoder, perturbed)
            x.append(changed)
        return tuple(x)

    def count_images(self, task: Task) -> int:
        """Return the images of the encoder's own passes, and the test images once more."""
        return self.base.count_images(task) + len(task.tested)

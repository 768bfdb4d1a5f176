"""Candidates: the encoders that are compared on a task, each with its features, its identity and its note.

A trained encoder is used as it is, one without weights is normalised by the training images of each fold. A pair for
two sensors, runs that differ in their seed, another preprocessing and perturbed test images are candidates around
candidates (`seeds`, `input_variants`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from torch import nn

from eo_ssl.encoder import Encoder
from eo_ssl.errors import expect
from eo_ssl.evaluation.features import ON_CPU, Computing
from eo_ssl.evaluation.sources import Matrix, Rows, SourceSubset
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.training_statistics import check_scale
from eo_ssl.evaluation.tuning import StackedEncoder
from eo_ssl.fingerprints import fingerprint

Wrap = Callable[["SingleCandidate"], "SingleCandidate"]


@dataclass(frozen=True, slots=True)
class Description:
    """Fingerprint, quantity, bands, pooling and notes of a candidate on a task."""

    fingerprint: str
    "of the encoder (all its folds, all its runs)"
    quantity: str
    bands: tuple[str, ...]
    pooling: str
    "how a feature vector is made; empty where there is one way only"
    notes: tuple[str, ...]
    input_px: int | None = None
    "side of what the encoder is given, pixels; None where images of the task, or of its sensors, differ in it"

    def relabel(self, note: str, identity: Sequence[str]) -> Description:
        """Return the same of other images, or of more runs: with their own fingerprint and first note."""
        return replace(self, fingerprint=fingerprint(list(identity)), notes=(note, *self.notes[1:]))


@dataclass(frozen=True)
class Candidate(ABC):
    """An encoder, a pair of encoders, several seeds or a control: one name in the results."""

    name: str
    "unique among the candidates"
    baseline: str = field(default="", kw_only=True)
    """name of the same candidate on unchanged input, with which alone a variant is compared; empty for one that is
    no variant"""

    @property
    @abstractmethod
    def note(self) -> str:
        """What must be said beside a number of this candidate."""

    @property
    @abstractmethod
    def parts(self) -> tuple[SingleCandidate, ...]:
        """The encoder, or one for each of two sensors; those of the first run where there are several."""

    @property
    def runs(self) -> tuple[Candidate, ...]:
        """Every training of the recipe by itself."""
        return (self,)

    @property
    def input_variant(self) -> dict[str, Any] | None:
        """What differs from the contract and from untouched images, as plain values; None for nothing."""
        return None

    @abstractmethod
    def describe(self, task: Task) -> Description:
        """Return what stands beside a number on ``task``, without features.

        Raises:
            UserError: more encoders than the task has sensors, or fewer, or images that an encoder refuses.
        """

    @abstractmethod
    def features(self, task: Task, computing: Computing = ON_CPU) -> tuple[Matrix, ...]:
        """Return the features of the images of ``task`` for each fold, [n, D] float32; NaN where it has no use."""

    @abstractmethod
    def count_images(self, task: Task) -> int:
        """Return the number of images that `features` reports as finished, over all runs."""

    @abstractmethod
    def vary(self, label: str, wrap: Wrap) -> Candidate:
        """Return this candidate with each single encoder wrapped, named after the ``label`` of what is changed."""

    def identity(self, task: Task) -> str:
        """Return a fingerprint of the weights on ``task``, whatever is done to the input.

        A name is no such thing: another file may come to lie at its path.
        """
        keys = [part.weights_key for part in self.parts]
        return self._describe_plain(task).fingerprint if None in keys else fingerprint(keys)

    def _describe_plain(self, task: Task) -> Description:
        """What stands beside a number of unchanged input."""
        return self.describe(task)

    @property
    def seed(self) -> int:
        """Of the weights."""
        return self.parts[0].seed

    @property
    def pretrained(self) -> bool:
        """Whether somebody trained the weights."""
        return self.parts[0].pretrained

    @property
    def pretraining_seeds(self) -> int:
        """Number of pretraining runs behind the number: none without trained weights."""
        return len(self.runs) if self.pretrained else 0

    @property
    def own_weights(self) -> bool:
        """Whether its weights are not those of its baseline."""
        return False

    @property
    def root(self) -> str:
        """Name under which its weights are known, whatever is done to its input."""
        return self.name if self.own_weights else self.baseline or self.name

    @property
    def cost(self) -> Mapping[str, int] | None:
        """What its training took, as `eo-ssl pretrain` says it; None where nobody says."""
        return None

    @property
    def origins(self) -> list[str]:
        """What all runs are made of: paths, specs and names."""
        return [part.plain.origin for run in self.runs for part in run.parts]

    @property
    def weights(self) -> dict[str, str]:
        """Fingerprints of the trained weights by what they are called in a manifest."""
        named = {}
        for run in self.runs:
            name = f"{self.name}, {run.name}" if len(self.runs) > 1 else self.name
            for place, part in zip((name, f"{name}, second sensor"), run.parts, strict=False):
                if isinstance(part.weights_key, str):
                    named[place] = part.weights_key
        return named

    def encoder(self, task: Task, fold: Fold) -> Encoder:
        """Return the (first) encoder to use in ``fold``."""
        return self.parts[0].encoder(task, fold)

    def network(self, task: Task, fold: Fold) -> Encoder | StackedEncoder:
        """Return what the protocols that train are given in ``fold``."""
        return self.encoder(task, fold)

    def has_network(self, task: Task) -> bool:
        """Whether there is a network to train."""
        return isinstance(getattr(self.encoder(task, task.folds[0]), "model", None), nn.Module)

    def fingerprint_inputs(self, task: Task) -> str:
        """Return a fingerprint of network and prepared images: equal ones are answered alike by a trained protocol."""
        prints = []
        for fold in task.folds if self.parts[0].per_fold else task.folds[:1]:
            encoder = self.encoder(task, fold)
            contracts = [encoder.preprocessing.effective(*source.shape[1:]) for source in task.sources]
            prints.append([encoder.with_preprocessing(contract).fingerprint for contract in contracts])
        return fingerprint(prints)


@dataclass(frozen=True)
class SingleCandidate(Candidate):
    """One encoder, which looks at one sensor at a time."""

    origin: str = field(default="", kw_only=True)
    "what it is made of: a path, a spec, or the name of one without weights"

    @property
    def parts(self) -> tuple[SingleCandidate, ...]:
        """Itself."""
        return (self,)

    @property
    def plain(self) -> SingleCandidate:
        """The encoder on unchanged input."""
        return self

    @property
    @abstractmethod
    def weights_key(self) -> Any | None:
        """What tells its weights from others: a fingerprint of trained ones, None for those loaded for each task."""

    @property
    def made_for_task(self) -> bool:
        """Whether its contract is made of the task's own training images."""
        return False

    @property
    def per_fold(self) -> bool:
        """Whether the training images of a fold decide the features, so that each fold needs a pass of its own."""
        return self.made_for_task

    @abstractmethod
    def encoder(self, task: Task, fold: Fold) -> Encoder:
        """Return the encoder to use in ``fold``; of the task it may know the fold's training images alone."""

    def describe(self, task: Task) -> Description:
        """Return what stands beside a number on ``task``."""
        if task.partners:
            return self._for_both(task).describe(task)
        encoders = [self.encoder(task, fold) for fold in (task.folds if self.per_fold else task.folds[:1])]
        contract, prints = encoders[0].preprocessing, [encoder.fingerprint for encoder in encoders]
        if self.pretrained and self.input_variant is None:
            check_scale(task, task.folds[0].train, contract)
        notes, (low, high) = [self.note], contract.gsd_m
        if "remark" in encoders[0].provenance:  # what was done to foreign weights
            notes.append(str(encoders[0].provenance["remark"]))
        if contract.metadata:
            notes.append(f"told {', '.join(contract.metadata)} of each image where known, unless it is tuned")
        outside = sorted({source.gsd_m for source in task.sources if not low <= source.gsd_m <= high})
        if outside:
            sizes = ", ".join(f"{gsd:g}" for gsd in outside)
            notes.append(f"pixel size {sizes} m lies outside the {low:g} ... {high:g} m of its training")
        whole = prints[0] if len(prints) == 1 else fingerprint(prints)
        pooling = str(getattr(encoders[0], "pooling", ""))
        sides = {contract.effective(*source.shape[1:]).size_px for source in task.sources}
        side = sides.pop() if len(sides) == 1 else None
        return Description(whole, contract.quantity.value, contract.bands, pooling, tuple(notes), side)

    def features(self, task: Task, computing: Computing = ON_CPU) -> tuple[Matrix, ...]:
        """Return the features of the images: one pass, or one per fold where its training images decide them."""
        if task.partners:
            return self._for_both(task).features(task, computing)
        self.describe(task)  # refuses what does not fit first
        x = []
        for fold, used in zip(task.folds, self._passes(task), strict=False):  # one pass may serve all folds
            encoder = self.encoder(task, fold)
            rows = np.full((len(task.labels), encoder.dim), np.nan, dtype=np.float32)  # NaN: nobody may ask for them
            for source, (first, positions) in zip(task.sources, used, strict=True):
                rows[first + positions] = computing.extract(encoder, SourceSubset(source, positions))
            x.append(rows)
        return tuple(x) if len(x) == len(task.folds) else (x[0],) * len(task.folds)

    def count_images(self, task: Task) -> int:
        """Return the number of images of all passes."""
        if task.partners:
            return self._for_both(task).count_images(task)
        return sum(len(rows) for used in self._passes(task) for _, rows in used)

    def vary(self, label: str, wrap: Wrap) -> Candidate:
        """Return this encoder wrapped."""
        return replace(wrap(self), name=f"{self.name} | {label}", baseline=self.name)

    def _passes(self, task: Task) -> list[list[tuple[int, Rows]]]:
        """For each pass and source: place of its first image in the task, and positions of the images that are used."""
        of_folds = [np.concatenate([fold.train, fold.test, fold.validation]) for fold in task.folds]
        return [task.by_source(rows) for rows in (of_folds if self.per_fold else [np.concatenate(of_folds)])]

    def _for_both(self, task: Task) -> SensorPair:
        """The same encoder for both sensors of ``task``, which only one that is made of its images can be."""
        expect(
            self.made_for_task,
            expected=f"an encoder for each of the two sensors of {task.name}",
            got=self.name,
            remedy=f"join two by +, in the order {task.sources[0].sensor}+{task.partners[0].sensor}",
        )
        return SensorPair(self.name, self, self)


@dataclass(frozen=True)
class SensorPair(Candidate):
    """Two encoders for the two sensors of a task: their features stand one after the other."""

    first: SingleCandidate
    second: SingleCandidate

    @property
    def parts(self) -> tuple[SingleCandidate, ...]:
        """Both."""
        return self.first, self.second

    @property
    def note(self) -> str:
        """That of the first."""
        return self.first.note

    @property
    def input_variant(self) -> dict[str, Any] | None:
        """That of the first."""
        return self.first.input_variant

    def describe(self, task: Task) -> Description:
        """Return what stands beside a number of both."""
        one, two = self._tasks(task)
        first, second = self.first.describe(one), self.second.describe(two)
        return Description(
            fingerprint([first.fingerprint, second.fingerprint]),
            f"{first.quantity} and {second.quantity}",
            (*first.bands, *second.bands),
            " and ".join(dict.fromkeys((first.pooling, second.pooling))),
            tuple(dict.fromkeys((*first.notes, *second.notes, "features of two sensors, one after the other"))),
        )

    def features(self, task: Task, computing: Computing = ON_CPU) -> tuple[Matrix, ...]:
        """Return the features of both sensors, one after the other."""
        self.describe(task)
        one, two = self._tasks(task)
        pairs = zip(self.first.features(one, computing), self.second.features(two, computing), strict=True)
        return tuple(np.concatenate(pair, axis=1) for pair in pairs)

    def count_images(self, task: Task) -> int:
        """Return the images of both sensors."""
        one, two = self._tasks(task)
        return self.first.count_images(one) + self.second.count_images(two)

    def vary(self, label: str, wrap: Wrap) -> Self:
        """Return the pair with its first encoder wrapped."""
        return replace(self, name=f"{self.name} | {label}", baseline=self.name, first=wrap(self.first))

    def _describe_plain(self, task: Task) -> Description:
        return replace(self, first=self.first.plain, second=self.second.plain).describe(task)

    def _tasks(self, task: Task) -> tuple[Task, Task]:
        """The task of each sensor alone."""
        expect(
            task.partners,
            expected=f"one encoder for {task.name}, which has one sensor",
            got=self.name,
            remedy="name encoders one by one",
        )
        return task.sensor_tasks

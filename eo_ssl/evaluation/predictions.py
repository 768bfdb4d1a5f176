"""Predictions of one run of a candidate for the test items: computed once per protocol and amount, kept as a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from eo_ssl.errors import expect
from eo_ssl.evaluation.band_subsets import SubsetCandidate
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.input_variants import PerturbedCandidate
from eo_ssl.evaluation.npz_files import ArrayFile, Arrays
from eo_ssl.evaluation.protocols import FROZEN, PROTOCOLS, check_protocols, predict_frozen
from eo_ssl.evaluation.sources import Matrix, Rows
from eo_ssl.evaluation.task_metrics import PredictionArray
from eo_ssl.evaluation.tasks import Kind, Task
from eo_ssl.evaluation.tuning import Tuning, predict_tuned
from eo_ssl.fingerprints import fingerprint

FORMAT = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """Protocols, amounts of training samples, draws and seed that a task is judged by."""

    protocols: tuple[str, ...]
    "out of `protocols.PROTOCOLS`, in their order"
    amounts: tuple[Amount, ...]
    "of training samples"
    draws: int
    "draws per amount"
    seed: int
    "of draws, descent and bootstrap"
    tuning: Tuning = field(default_factory=Tuning)
    "recipe of protocols that train"

    @classmethod
    def of(
        cls,
        protocols: Sequence[str],
        *,
        kind: Kind = "classification",
        shots: Sequence[int],
        fractions: Sequence[float] = (),
        draws: int,
        seed: int,
        tuning: Tuning | None = None,
    ) -> Settings:
        """Return checked settings; 0 shots are all training samples, and ``tuning`` takes the seed where none is given.

        Raises:
            UserError: an unknown protocol, repeated or impossible amounts, no draw.
        """
        amounts = (*(Amount(shots=count or None) for count in shots), *(Amount(fraction=share) for share in fractions))
        expect(
            amounts and len(set(amounts)) == len(amounts) and draws > 0,
            expected="different numbers of shots or fractions and at least one draw",
            got=f"{[*shots, *fractions]} and {draws}",
            remedy="give 1 5 10 20, or 0 for all",
        )
        return cls(check_protocols(protocols, kind), amounts, draws, seed, tuning or Tuning(seed=seed))


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of one run, and a fingerprint of what they were made of."""

    values: PredictionArray
    "[draws, items, ...]"
    inputs: str
    "fingerprint of the features, or of network and input where it is trained: equal ones are answered alike"

    @classmethod
    def read(cls, folder: Path, key: str) -> Predictions:
        """Return the predictions that the results ``folder`` holds under ``key``.

        Raises:
            UserError: the file is absent or damaged.
        """
        return cls._of(locate_predictions(folder, key).read())

    @classmethod
    def _of(cls, arrays: Arrays) -> Predictions:
        return cls(arrays["answers"], str(arrays["inputs"]))


def locate_predictions(folder: Path, key: str) -> ArrayFile:
    """Return the file of the predictions under ``key`` in the results ``folder``."""
    path = folder / "answers" / f"{key}.npz"
    return ArrayFile(path, ("answers", "inputs"), "a finished result", "remove the results folder and run again")


@dataclass
class PredictionRun:
    """One run of a candidate on a task; its features are computed when the first protocol needs them."""

    task: Task
    candidate: Candidate
    settings: Settings
    computing: Computing
    x: tuple[Matrix, ...] = ()
    "features, one matrix per fold"

    def applies(self, protocol: str) -> bool:
        """Whether the protocol can be used: only a network can be trained."""
        return not PROTOCOLS[protocol].trains or self.candidate.has_network(self.task)

    @cached_property
    def identity(self) -> str:
        """Of the weights, whatever is done to the input."""
        return self.candidate.identity(self.task)

    def key(self, protocol: str, amount: Amount) -> str:
        """Return a name for everything that decides the predictions."""
        return fingerprint(
            {
                "format": FORMAT,
                "task": self.task.fingerprint,
                "weights": self.identity,
                "departure": self.candidate.input_variant,
                "protocol": protocol,
                "shots": amount.shots,
                "fraction": amount.fraction,
                "draws": 1 if amount.whole else self.settings.draws,
                "seed": self.settings.seed,
                "tuning": asdict(self.settings.tuning) if PROTOCOLS[protocol].trains else None,
            }
        )[:32]

    def predict(self, folder: Path, protocol: str, amount: Amount, *, drawn: Sequence[Sequence[Rows]]) -> None:
        """Write what is predicted for the test items to the results ``folder``, unless it is there.

        Raises:
            UserError: the file is damaged, or the protocol refuses task or encoder.
        """
        key = self.key(protocol, amount)
        compute = self._predict_trained if PROTOCOLS[protocol].trains else self._predict_frozen
        parts = folder / "parts" / key
        locate_predictions(folder, key).read_or_compute(partial(compute, protocol, amount, drawn, parts))

    def _predict_frozen(self, protocol: str, amount: Amount, drawn: Sequence[Sequence[Rows]], _: Path) -> Arrays:
        self.x = self.x or self.candidate.features(self.task, self.computing)
        values = predict_frozen(self.task, self.x, drawn, protocol=protocol, amount=amount, seed=self.settings.seed)
        inputs = fingerprint([hashlib.sha256(x.tobytes()).hexdigest() for x in self.x])
        return {"answers": values, "inputs": np.array(inputs)}

    def _predict_trained(self, protocol: str, _: Amount, drawn: Sequence[Sequence[Rows]], parts: Path) -> Arrays:
        values = predict_trained(
            self.task,
            self.candidate,
            drawn,
            protocol=protocol,
            config=self.settings.tuning,
            computing=self.computing,
            parts=parts,
        )
        return {"answers": values, "inputs": np.array(self.candidate.fingerprint_inputs(self.task))}


def predict_trained(
    task: Task,
    candidate: Candidate,
    draws: Sequence[Sequence[Rows]],
    *,
    protocol: str,
    config: Tuning,
    computing: Computing,
    parts: Path | None = None,
) -> PredictionArray:
    """Return what networks trained on each draw predict for the test items of ``task.tested``, [draws, items, ...].

    Every finished training of a draw, fold and rate is kept in the folder ``parts``, which must be of these arguments
    alone.

    Raises:
        UserError: images that are perturbed or lack bands, or what `tuning.predict_tuned` refuses.
    """
    expect(
        not isinstance(candidate, PerturbedCandidate | SubsetCandidate),
        expected="a protocol on frozen features for the study "
        + ("bands" if isinstance(candidate, SubsetCandidate) else "robustness"),
        got=protocol,
        remedy=f"choose out of {', '.join(FROZEN)}, or another study",
    )
    rows = []
    for number, drawn in enumerate(draws):
        of_folds = [
            predict_tuned(
                task,
                fold,
                candidate.network(task, fold),
                train,
                protocol=protocol,
                config=config,
                device=computing.device,
                progress=computing.progress,
                parts=None if parts is None else parts / f"draw{number}-fold{index}",
            )
            for index, (fold, train) in enumerate(zip(task.folds, drawn, strict=True))
        ]
        rows.append(np.concatenate(of_folds))
    return np.stack(rows)

"""What one run of an encoder, or a control, answered on a task: computed once per protocol and amount, then kept as a file."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.encoder import by_training
from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.extraction import about, features_of
from eo_ssl.evaluation.features import Matrix, Rows
from eo_ssl.evaluation.methods import trainable, trained_answers, trains
from eo_ssl.evaluation.protocols import answer, check_protocols
from eo_ssl.evaluation.settings import Computing, Settings
from eo_ssl.evaluation.task_metrics import Answers
from eo_ssl.evaluation.tasks import Control, Task
from eo_ssl.manifest import commit, fingerprint

FORMAT = 3


@dataclass(frozen=True, slots=True)
class Answered:
    """What one run answered, and out of what."""

    answers: Answers
    "[draws, items, ...]"
    inputs: str
    "fingerprint of the features, or of network and input where it is trained: equal ones are answered alike"


@dataclass
class Asked:
    """One run or control on the task; its features are computed when the first protocol needs them."""

    task: Task
    one: Candidate | Control
    settings: Settings
    computing: Computing
    x: tuple[Matrix, ...] = ()
    "features, one matrix per fold"

    def can(self, protocol: str) -> bool:
        """Whether the protocol applies: only a network can be trained."""
        return not trains(protocol) or (isinstance(self.one, Candidate) and trainable(self.one, self.task))

    @cached_property
    def weights(self) -> str:
        """Of what is asked, whatever is done to its input."""
        return weights_of(self.one, self.task)

    def key(self, protocol: str, amount: Amount) -> str:
        """Return a name for everything that decides the answers."""
        return fingerprint(
            {
                "format": FORMAT,
                "task": self.task.fingerprint,
                "weights": self.weights,
                "departure": self.one.departure if isinstance(self.one, Candidate) else None,
                "protocol": protocol,
                "shots": amount.shots,
                "fraction": amount.fraction,
                "draws": 1 if amount.whole else self.settings.draws,
                "seed": self.settings.seed,
                "tuning": asdict(self.settings.tuning) if trains(protocol) else None,
            }
        )[:32]

    def answers(self, folder: Path, protocol: str, amount: Amount, *, drawn: Sequence[Sequence[Rows]]) -> Answered:
        """Return what is answered on the test items, from ``folder/answers`` where it is there.

        Raises:
            UserError: the file is damaged.
        """
        key = self.key(protocol, amount)
        if (folder / "answers" / f"{key}.npz").is_file():
            return read_answers(folder, key)
        parts = folder / "parts" / key
        found = Answered(self._found(protocol, amount, drawn, parts), self._inputs(protocol))
        data = io.BytesIO()
        np.savez_compressed(data, answers=found.answers, inputs=np.array(found.inputs))
        commit(folder / "answers" / f"{key}.npz", data.getvalue())
        return found

    def _found(self, protocol: str, amount: Amount, drawn: Sequence[Sequence[Rows]], parts: Path) -> Answers:
        if trains(protocol):
            assert isinstance(self.one, Candidate)  # `can`
            return trained_answers(
                self.task, self.one, drawn, method=protocol, config=self.settings.tuning, device=self.computing.device,
                progress=self.computing.progress, parts=parts,
            )  # fmt: skip
        self.x = self.x or self._features()
        (frozen,) = check_protocols([protocol])
        return answer(self.task, self.x, drawn, protocol=frozen, amount=amount, seed=self.settings.seed)

    def _inputs(self, protocol: str) -> str:
        if self.x and not trains(protocol):
            return fingerprint([hashlib.sha256(x.tobytes()).hexdigest() for x in self.x])
        assert isinstance(self.one, Candidate)
        prints = []
        for fold in self.task.folds if self.one.of_each_fold else self.task.folds[:1]:
            encoder = self.one.encoder(self.task, fold)
            contracts = [encoder.preprocessing.effective(*source.shape[1:]) for source in self.task.sources]
            prints.append([encoder.with_preprocessing(contract).fingerprint for contract in contracts])
        return fingerprint(prints)

    def _features(self) -> tuple[Matrix, ...]:
        if isinstance(self.one, Control):
            return (self.one.x,) * len(self.task.folds)
        return features_of(
            self.one,
            self.task,
            batch_size=self.computing.batch_size,
            cache=self.computing.cache,
            device=self.computing.device,
            progress=self.computing.progress,
        ).x


def weights_of(one: Candidate | Control, task: Task) -> str:
    """Return a fingerprint of the weights that ``one`` has on ``task``, whatever is done to its input.

    A name is no such thing: another file may come to lie at its path.
    """
    if isinstance(one, Control):
        return one.fingerprint
    if one.repeats:
        return fingerprint([weights_of(run, task) for run in one.repeats])
    parts = [one] if one.second is None else [one, one.second]
    if any(by_training(part.source) is not None for part in parts):  # loaded for each task
        return about(replace(one, treatment=None, perturbation=None), task).fingerprint
    return fingerprint([_weights(part) for part in parts])


def _weights(one: Candidate) -> Any:
    if one.trained is not None:
        return one.trained.fingerprint
    shape = one.architecture.to_json() if one.source == "random_init" and one.architecture is not None else None
    return [one.source, one.seed, shape]


def read_answers(folder: Path, key: str) -> Answered:
    """Return the answers that ``folder`` holds under ``key``.

    Raises:
        UserError: the file is absent or damaged.
    """
    path = folder / "answers" / f"{key}.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return Answered(arrays["answers"], str(arrays["inputs"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UserError:
    """Return the error of a result that cannot be read."""
    return UserError(
        f"expected a finished result in {path}, got {type(error).__name__}; remove the results folder and run again"
    )

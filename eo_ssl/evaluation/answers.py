"""What one run of an encoder, or a control, answered on a task: computed once per protocol and amount, then kept as a file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.extraction import features_of
from eo_ssl.evaluation.features import Matrix, Rows
from eo_ssl.evaluation.methods import trainable, trained_answers, trains
from eo_ssl.evaluation.metrics import Answers
from eo_ssl.evaluation.protocols import answer, check_protocols
from eo_ssl.evaluation.settings import Computing, Settings
from eo_ssl.evaluation.tasks import Control, Task
from eo_ssl.manifest import commit, fingerprint

FORMAT = 2


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

    def answers(self, folder: Path, protocol: str, amount: Amount, *, drawn: Sequence[Sequence[Rows]]) -> Answers:
        """Return what is answered on the test items, [draws, items, ...], from ``folder/answers`` where it is there.

        Raises:
            UserError: the file is damaged.
        """
        path = folder / "answers" / f"{answers_key(self.task, self.one, protocol, amount, settings=self.settings)}.npz"
        if path.is_file():
            return _read(path)
        found = self._found(protocol, amount, drawn)
        data = io.BytesIO()
        np.savez_compressed(data, answers=found)
        commit(path, data.getvalue())
        return found

    def _found(self, protocol: str, amount: Amount, drawn: Sequence[Sequence[Rows]]) -> Answers:
        if trains(protocol):
            assert isinstance(self.one, Candidate)  # `can`
            return trained_answers(
                self.task, self.one, drawn, method=protocol, config=self.settings.tuning, device=self.computing.device,
                progress=self.computing.progress,
            )  # fmt: skip
        self.x = self.x or self._features()
        (frozen,) = check_protocols([protocol])
        return answer(self.task, self.x, drawn, protocol=frozen, amount=amount, seed=self.settings.seed)

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


def answers_key(task: Task, one: Candidate | Control, protocol: str, amount: Amount, *, settings: Settings) -> str:
    """Return a name for everything that decides what ``one`` answers; of a recipe, for what all its runs answer."""
    who: Mapping[str, Any] = {"name": one.name}
    if isinstance(one, Candidate):
        architecture = None if one.trained is not None or one.architecture is None else one.architecture.to_json()
        who = {
            "name": one.name,
            "trained": one.trained and one.trained.fingerprint,
            "seed": one.seed,
            "architecture": architecture,
            "second": one.second and answers_key(task, one.second, protocol, amount, settings=settings),
            "departure": one.departure,
        }
        if one.repeats:
            who = {
                "name": one.name,
                "runs": [answers_key(task, run, protocol, amount, settings=settings) for run in one.runs],
            }
    return fingerprint(
        {
            "format": FORMAT,
            "task": task.fingerprint,
            "encoder": who,
            "protocol": protocol,
            "shots": amount.shots,
            "fraction": amount.fraction,
            "draws": settings.draws,
            "seed": settings.seed,
            "tuning": asdict(settings.tuning) if trains(protocol) else None,
        }
    )[:32]


def _read(path: Path) -> Answers:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            answers: Answers = arrays["answers"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error
    return answers


def damaged(path: Path, error: Exception) -> UserError:
    """Return the error of a result that cannot be read."""
    return UserError(
        f"expected a finished result in {path}, got {type(error).__name__}; remove the results folder and run again"
    )

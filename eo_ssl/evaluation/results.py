"""Results: one row per task, encoder, protocol and amount of training samples, and the paired comparisons of all encoders.

A row that exists already is not computed again; what each encoder answered is kept beside it, so that encoders judged at different
times are still compared on the same draws and items.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.draws import Amount, draw
from eo_ssl.evaluation.extraction import Extracted, about, features_of
from eo_ssl.evaluation.features import Rows
from eo_ssl.evaluation.intervals import REPLICATES, Bootstrap, Interval, holm, verdict
from eo_ssl.evaluation.methods import check_methods, trainable, trained_answers, trains, words
from eo_ssl.evaluation.metrics import Answers, Measured, measure
from eo_ssl.evaluation.protocols import answer, check_protocols
from eo_ssl.evaluation.tasks import Control, Kind, Task
from eo_ssl.evaluation.tuning import Tuning
from eo_ssl.manifest import canonical_json, commit, fingerprint

FORMAT = 2
Row = dict[str, Any]
Judged = tuple[Row, Answers]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a task is judged."""

    protocols: tuple[str, ...]
    "`methods`, in their order"
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
        if not amounts or len(set(amounts)) < len(amounts) or draws < 1:
            raise UserError(
                f"expected different numbers of shots or fractions and at least one draw, got {[*shots, *fractions]} and {draws}; "
                "give 1 5 10 20, or 0 for all"
            )
        return cls(check_methods(protocols, kind), amounts, draws, seed, tuning or Tuning(seed=seed))


@dataclass(frozen=True, slots=True)
class Computing:
    """Where and how features are computed."""

    batch_size: int = 64
    cache: Path | None = None
    device: str = "cpu"
    progress: Callable[[int], None] | None = None
    "called with the number of images finished"


def judge(
    task: Task, compared: Sequence[Candidate], settings: Settings, folder: Path, *, computing: Computing
) -> tuple[list[Row], list[Row]]:
    """Judge candidates and the task's controls, write their rows, and return all rows and all comparisons.

    Each finished row is ``folder/rows/<hash>.json``; comparisons are returned only (`write_comparisons`).

    Raises:
        UserError: an encoder refuses the task's images, or a row on disk is damaged.
    """
    draws = {amount: draw(task, amount, draws=settings.draws, seed=settings.seed) for amount in settings.amounts}
    bootstraps = {
        amount: Bootstrap(task.blocks[task.tested], draws=len(drawn), seed=settings.seed)
        for amount, drawn in draws.items()
    }
    judged: dict[tuple[str, Amount], list[Judged]] = {
        (protocol, amount): [] for protocol in settings.protocols for amount in settings.amounts
    }
    everyone: list[Candidate | Control] = [*compared, *task.controls]
    for one in everyone:
        asked = _Asked(task, one, settings, computing)
        for protocol, amount in judged:
            if not asked.can(protocol):
                continue
            key = _key(task, one, protocol, amount, settings)
            found = _read(folder, key)
            if found is None:
                answers = asked.answers(protocol, amount, draws[amount])
                found = _row(asked, protocol, amount, answers, bootstraps[amount]), answers
                _write(folder, key, found)
            judged[protocol, amount].append(found)
    rows = [row for group in judged.values() for row, _ in group]
    comparisons = [
        comparison for (_, amount), group in judged.items() for comparison in _compared(task, group, bootstraps[amount])
    ]
    return rows, comparisons


def write_comparisons(folder: Path, comparisons: Sequence[Row]) -> None:
    """Write ``folder/comparisons.json``.

    Raises:
        UserError: another one is there.
    """
    path = folder / "comparisons.json"
    data = json.dumps(comparisons, indent=1, sort_keys=True).encode()
    if not commit(path, data) and path.read_bytes() != data:
        raise UserError(
            f"expected {path} to be absent or the same, got other comparisons; give another output folder or --overwrite"
        )


@dataclass
class _Asked:
    """One candidate or control on the task; its features are computed when the first protocol needs them."""

    task: Task
    one: Candidate | Control
    settings: Settings
    computing: Computing
    extracted: Extracted | None = None

    def can(self, protocol: str) -> bool:
        """Whether the protocol applies: only a network can be trained."""
        return not trains(protocol) or (isinstance(self.one, Candidate) and trainable(self.one, self.task))

    def answers(self, protocol: str, amount: Amount, drawn: Sequence[Sequence[Rows]]) -> Answers:
        """What is answered on the test items."""
        if trains(protocol):
            assert isinstance(self.one, Candidate)  # `can`
            self.extracted = self.extracted or about(self.one, self.task)
            return trained_answers(
                self.task, self.one, drawn, method=protocol, config=self.settings.tuning, device=self.computing.device,
                progress=self.computing.progress,
            )  # fmt: skip
        if self.extracted is None or not self.extracted.x:
            self.extracted = self._features()
        (frozen,) = check_protocols([protocol])
        return answer(self.task, self.extracted.x, drawn, protocol=frozen, amount=amount, seed=self.settings.seed)

    def _features(self) -> Extracted:
        if isinstance(self.one, Control):
            first = self.task.sources[0]
            x = (self.one.x,) * len(self.task.folds)
            return Extracted(x, self.one.fingerprint, first.quantity.value, first.bands, "", (self.one.note,))
        return features_of(
            self.one,
            self.task,
            batch_size=self.computing.batch_size,
            cache=self.computing.cache,
            device=self.computing.device,
            progress=self.computing.progress,
        )


def _measured(task: Task, answers: Answers) -> Measured:
    return measure(task.metric, answers, task.labels[task.tested])


def _key(task: Task, one: Candidate | Control, protocol: str, amount: Amount, settings: Settings) -> str:
    who: Mapping[str, Any] = {"name": one.name}
    if isinstance(one, Candidate):
        architecture = None if one.trained is not None or one.architecture is None else one.architecture.to_json()
        who = {
            "name": one.name,
            "trained": one.trained and one.trained.fingerprint,
            "seed": one.seed,
            "architecture": architecture,
            "second": one.second and _key(task, one.second, protocol, amount, settings),
            "departure": one.departure,
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


def _row(asked: _Asked, protocol: str, amount: Amount, answers: Answers, bootstrap: Bootstrap) -> Row:
    task, one, extracted, settings = asked.task, asked.one, asked.extracted, asked.settings
    assert extracted is not None  # the answers came first
    interval = bootstrap.interval(_measured(task, answers))
    drawn = "one training set" if amount.whole else f"{bootstrap.draws} draws of training samples"
    taught = [len(rows) for rows in draw(task, amount, draws=1, seed=0)[0]]
    has_validation = any(len(fold.validation) for fold in task.folds)
    return {
        "task": task.name,
        "encoder": one.name,
        "reference": one.reference if isinstance(one, Candidate) else "",
        "departure": one.departure if isinstance(one, Candidate) else None,
        "encoder_fingerprint": extracted.fingerprint,
        "protocol": protocol,
        "protocol_words": words(
            protocol, kind=task.kind, amount=amount, has_validation=has_validation, config=settings.tuning
        ),
        "shots": amount.shots,
        "fraction": amount.fraction,
        "amount": amount.words,
        "metric": task.metric,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "interval": _interval_words(interval, bootstrap, drawn),
        "n_test": int(answers.shape[1]),
        "n_train": round(float(np.mean(taught))),
        "n_blocks": bootstrap.n_blocks,
        "eval_seeds": bootstrap.draws,
        "seed": settings.seed,
        "pretraining_seeds": one.pretraining_seeds if isinstance(one, Candidate) else 0,
        "split": task.split,
        "quantity": extracted.quantity,
        "bands": list(extracted.bands),
        "pooling": extracted.pooling,
        "classes": list(task.class_names),
        "notes": [*task.notes, *extracted.notes],
        "task_fingerprint": task.fingerprint,
    }


def _interval_words(interval: Interval, bootstrap: Bootstrap, drawn: str) -> str:
    if interval.low is None:
        return "none: all test items are in one block"
    if interval.value in (0.0, 1.0):
        return f"95% exact binomial bound over {bootstrap.n_blocks} blocks of test items: all answers alike, nothing to resample"
    return (
        f"95% bootstrap ({REPLICATES} replicates) over {drawn} and {bootstrap.n_blocks} blocks of test items together"
    )


def _compared(task: Task, group: Sequence[Judged], bootstrap: Bootstrap) -> list[Row]:
    """Paired comparisons of all rows of one protocol and amount: one family, whose verdicts are corrected for their number."""
    measured = [(row, _measured(task, answers)) for row, answers in group]
    pairs = [
        (a, b, bootstrap.compare(first, second))
        for (a, first), (b, second) in combinations(measured, 2)
        if a["reference"] == b["reference"] == "" or b["reference"] == a["encoder"]
    ]
    chances = holm([paired.p for *_, paired in pairs])
    return [
        {key: a[key] for key in ("task", "protocol", "shots", "fraction", "amount", "metric")}
        | {"a": a["encoder"], "b": b["encoder"]}
        | {"difference": paired.difference, "low": paired.low, "high": paired.high, "p": paired.p, "p_holm": chance}
        | {"verdict": verdict(paired, chance), "family": len(pairs)}
        for (a, b, paired), chance in zip(pairs, chances, strict=True)
    ]


def _write(folder: Path, key: str, judged: Judged) -> None:
    row, answers = judged
    data = io.BytesIO()
    np.savez_compressed(data, answers=answers)
    commit(folder / "answers" / f"{key}.npz", data.getvalue())  # before the row that stands for it
    commit(
        folder / "rows" / f"{key}.json", json.dumps(json.loads(canonical_json(row)), indent=1, sort_keys=True).encode()
    )


def _read(folder: Path, key: str) -> Judged | None:
    path = folder / "rows" / f"{key}.json"
    if not path.is_file():
        return None
    try:
        row: Row = json.loads(path.read_bytes())
        with np.load(io.BytesIO((folder / "answers" / f"{key}.npz").read_bytes()), allow_pickle=False) as arrays:
            answers: Answers = arrays["answers"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"expected a finished result in {path}, got {type(error).__name__}; remove the results folder and run again"
        ) from error
    return row, answers

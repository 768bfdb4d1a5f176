"""Results: one row per task, encoder, protocol and number of shots, and the paired comparisons of all encoders.

A row that exists already is not computed again; what each encoder got right is kept beside it, so that encoders judged at different
times are still compared on the same draws and items.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate, Extracted, features_of
from eo_ssl.evaluation.intervals import REPLICATES, Bootstrap, Interval
from eo_ssl.evaluation.protocols import Protocol, check_protocols, describe, right
from eo_ssl.evaluation.tasks import Control, Task, draw
from eo_ssl.manifest import canonical_json, commit, fingerprint

FORMAT = 1
Row = dict[str, Any]
Judged = tuple[Row, npt.NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a task is judged."""

    protocols: tuple[Protocol, ...]
    shots: tuple[int | None, ...]
    "training samples per class; None for all"
    draws: int
    "shot draws per number of shots"
    seed: int
    "of draws and bootstrap"

    @classmethod
    def of(cls, protocols: Sequence[str], *, shots: Sequence[int], draws: int, seed: int) -> Settings:
        """Return checked settings; 0 shots are all training samples.

        Raises:
            UserError: an unknown protocol, repeated or negative shots, no draw.
        """
        if not shots or len(set(shots)) < len(shots) or min(shots) < 0 or draws < 1:
            raise UserError(
                f"expected different numbers of shots and at least one draw, got {list(shots)} and {draws}; give 1 5 10 20, or 0 for all"
            )
        return cls(check_protocols(protocols), tuple(count or None for count in shots), draws, seed)


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
    draws = {shots: draw(task, shots=shots, draws=settings.draws, seed=settings.seed) for shots in settings.shots}
    bootstraps = {shots: _bootstrap(task, len(drawn), settings.seed) for shots, drawn in draws.items()}
    judged: dict[tuple[Protocol, int | None], list[Judged]] = {
        (p, s): [] for p in settings.protocols for s in settings.shots
    }
    everyone: list[Candidate | Control] = [*compared, *task.controls]
    for one in everyone:
        extracted: Extracted | None = None
        for protocol, shots in judged:
            key = _key(task, one, protocol, shots, settings)
            found = _read(folder, key)
            if found is None:
                extracted = extracted or _features(one, task, computing)
                scores = right(task, extracted.x, draws[shots], protocol=protocol, shots=shots)
                found = _row(task, one, extracted, protocol, shots, scores, bootstraps[shots]), scores
                _write(folder, key, found)
            judged[protocol, shots].append(found)
    rows = [row for group in judged.values() for row, _ in group]
    comparisons = [
        _compared(a, b, bootstraps[shots])
        for (_, shots), group in judged.items()
        for a, b in combinations(group, 2)
    ]  # fmt: skip
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


def _features(one: Candidate | Control, task: Task, computing: Computing) -> Extracted:
    if isinstance(one, Control):
        return Extracted(
            (one.x,) * len(task.folds),
            one.fingerprint,
            task.sources[0].quantity.value,
            task.sources[0].bands,
            (one.note,),
        )
    return features_of(
        one,
        task,
        batch_size=computing.batch_size,
        cache=computing.cache,
        device=computing.device,
        progress=computing.progress,
    )


def _bootstrap(task: Task, draws: int, seed: int) -> Bootstrap:
    tested = task.tested
    return Bootstrap(task.blocks[tested], draws=draws, labels=task.labels[tested], metric=task.metric, seed=seed)


def _key(task: Task, one: Candidate | Control, protocol: str, shots: int | None, settings: Settings) -> str:
    who: Mapping[str, Any] = {"name": one.name}
    if isinstance(one, Candidate):
        architecture = None if one.trained is not None or one.architecture is None else one.architecture.to_json()
        who = {
            "name": one.name,
            "trained": one.trained and one.trained.fingerprint,
            "seed": one.seed,
            "architecture": architecture,
        }
    return fingerprint(
        {
            "format": FORMAT,
            "task": task.fingerprint,
            "encoder": who,
            "protocol": protocol,
            "shots": shots,
            "draws": settings.draws,
            "seed": settings.seed,
        }
    )[:32]


def _row(
    task: Task,
    one: Candidate | Control,
    extracted: Extracted,
    protocol: Protocol,
    shots: int | None,
    scores: npt.NDArray[np.bool_],
    bootstrap: Bootstrap,
) -> Row:
    interval = bootstrap.interval(scores)
    drawn = "one training set" if shots is None else f"{bootstrap.draws} shot draws"
    per_fold = [
        len(fold.train) if shots is None else min(shots * len(task.class_names), len(fold.train)) for fold in task.folds
    ]
    return {
        "task": task.name,
        "encoder": one.name,
        "encoder_fingerprint": extracted.fingerprint,
        "protocol": protocol,
        "protocol_words": describe(
            protocol, shots=shots, has_validation=any(len(fold.validation) for fold in task.folds)
        ),
        "shots": shots,
        "metric": task.metric,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "interval": _interval_words(interval, bootstrap, drawn),
        "n_test": int(scores.shape[1]),
        "n_train": round(float(np.mean(per_fold))),
        "n_blocks": bootstrap.n_blocks,
        "eval_seeds": bootstrap.draws,
        "pretraining_seeds": one.pretraining_seeds if isinstance(one, Candidate) else 0,
        "split": task.split,
        "quantity": extracted.quantity,
        "bands": list(extracted.bands),
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


def _compared(a: Judged, b: Judged, bootstrap: Bootstrap) -> Row:
    """One paired comparison of two rows of the same protocol and shots."""
    row, found = a[0], bootstrap.compare(a[1], b[1])
    same = {key: row[key] for key in ("task", "protocol", "shots", "metric")}
    bounds = {"difference": found.difference, "low": found.low, "high": found.high, "verdict": found.verdict}
    return {**same, "a": row["encoder"], "b": b[0]["encoder"], **bounds}


def _write(folder: Path, key: str, judged: Judged) -> None:
    row, scores = judged
    data = io.BytesIO()
    np.savez(data, right=np.packbits(scores, axis=1), items=np.int64(scores.shape[1]))
    commit(folder / "scores" / f"{key}.npz", data.getvalue())  # before the row that stands for it
    commit(
        folder / "rows" / f"{key}.json", json.dumps(json.loads(canonical_json(row)), indent=1, sort_keys=True).encode()
    )


def _read(folder: Path, key: str) -> Judged | None:
    path = folder / "rows" / f"{key}.json"
    if not path.is_file():
        return None
    try:
        row: Row = json.loads(path.read_bytes())
        with np.load(io.BytesIO((folder / "scores" / f"{key}.npz").read_bytes()), allow_pickle=False) as arrays:
            scores = np.unpackbits(arrays["right"], axis=1, count=int(arrays["items"])).astype(np.bool_)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"expected a finished result in {path}, got {type(error).__name__}; remove the results folder and run again"
        ) from error
    return row, scores

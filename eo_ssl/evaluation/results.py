"""Results: one row per task, encoder, protocol and amount of training samples, and the paired comparisons of all encoders.

A row that exists already is not computed again; what each encoder answered is kept beside it, so that encoders judged at different
times are still compared on the same draws and items.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.answers import Asked, answers_key, damaged
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.draws import Amount, draw
from eo_ssl.evaluation.extraction import Extracted, about
from eo_ssl.evaluation.features import Rows
from eo_ssl.evaluation.intervals import REPLICATES, Bootstrap, Interval, holm, verdict
from eo_ssl.evaluation.methods import words
from eo_ssl.evaluation.metrics import Answers, Measured, Runs, measure
from eo_ssl.evaluation.settings import Computing, Settings
from eo_ssl.evaluation.tasks import Control, Task
from eo_ssl.manifest import canonical_json, commit

Row = dict[str, Any]
Judged = tuple[Row, Measured]


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
        described = _Described(task, one, settings)
        for (protocol, amount), of_runs in _answered(described, list(judged), draws, folder, computing).items():
            key, boot = answers_key(task, one, protocol, amount, settings=settings), bootstraps[amount]
            measured = _measured(task, one, of_runs)
            row = _read(folder, key)
            if row is None:
                row = described.row(protocol, amount, measured=measured, bootstrap=boot)
                _write(folder, key, row)
            judged[protocol, amount].append((row, measured))
    rows = [row for group in judged.values() for row, _ in group]
    comparisons = [
        comparison for (_, amount), group in judged.items() for comparison in _compared(group, bootstraps[amount])
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
class _Described:
    """One candidate or control on the task, in words and numbers."""

    task: Task
    one: Candidate | Control
    settings: Settings

    @cached_property
    def about(self) -> Extracted:
        """What stands beside every number."""
        return about(self.one, self.task)

    @property
    def runs(self) -> tuple[Candidate, ...] | tuple[Control]:
        """What is asked, one after the other."""
        return self.one.runs if isinstance(self.one, Candidate) else (self.one,)

    def row(self, protocol: str, amount: Amount, *, measured: Measured, bootstrap: Bootstrap) -> Row:
        """Return everything that is to be known of one number."""
        task, one, settings, extracted = self.task, self.one, self.settings, self.about
        interval = bootstrap.interval(measured)
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
            "interval": _interval_words(interval, bootstrap, self._resampled(amount, bootstrap)),
            "n_test": int(measured.terms.shape[1]),
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
        } | self._by_run(measured)

    def _resampled(self, amount: Amount, bootstrap: Bootstrap) -> str:
        """What is resampled together with the test items, in words."""
        drawn = "one training set" if amount.whole else f"{bootstrap.draws} draws of training samples"
        if not isinstance(self.one, Candidate) or not self.one.repeats:
            return drawn
        kind = "pretraining seeds" if self.one.pretrained else "seeds of random weights"
        return f"{len(self.runs)} {kind}, {drawn}"

    def _by_run(self, measured: Measured) -> Row:
        """What each run of a recipe reached alone; nothing where there is one."""
        if not isinstance(self.one, Candidate) or not self.one.repeats:
            return {}
        by_run = measured.terms.reshape(len(self.runs), -1, measured.terms.shape[1])  # [S, D, n]
        values = measured.value + by_run.sum(axis=2).mean(axis=1)
        return {
            "runs": [
                {"seed": seed, "encoder_fingerprint": about(run, self.task).fingerprint, "value": value}
                for run, seed, value in zip(self.one.runs, self.one.seeds, values.tolist(), strict=True)
            ]
        }


def _answered(
    described: _Described, places: list[tuple[str, Amount]], draws: dict[Amount, list[list[Rows]]], folder: Path, computing: Computing
) -> dict[tuple[str, Amount], list[Answers]]:  # fmt: skip
    """What every run answers, [draws, items, ...], by protocol and amount; the features of one run are held at a time."""
    found: dict[tuple[str, Amount], list[Answers]] = {}
    for run in described.runs:
        asked = Asked(described.task, run, described.settings, computing)
        for protocol, amount in places:
            if asked.can(protocol):
                answers = asked.answers(folder, protocol, amount, drawn=draws[amount])
                found.setdefault((protocol, amount), []).append(answers)
    return found


def _measured(task: Task, one: Candidate | Control, of_runs: Sequence[Answers]) -> Measured:
    """The metric over all runs; an encoder and its departures are of the same runs."""
    runs = Runs(len(of_runs), (isinstance(one, Candidate) and one.reference) or one.name)
    return measure(task.metric, np.concatenate(of_runs), task.labels[task.tested], runs=runs)


def _interval_words(interval: Interval, bootstrap: Bootstrap, drawn: str) -> str:
    if interval.low is None:
        return "none: all test items are in one block"
    if interval.value in (0.0, 1.0):
        return f"95% exact binomial bound over {bootstrap.n_blocks} blocks of test items: all answers alike, nothing to resample"
    return (
        f"95% bootstrap ({REPLICATES} replicates) over {drawn} and {bootstrap.n_blocks} blocks of test items together"
    )


def _compared(group: Sequence[Judged], bootstrap: Bootstrap) -> list[Row]:
    """Paired comparisons of all rows of one protocol and amount: one family, whose verdicts are corrected for their number."""
    pairs = [
        (a, b, bootstrap.compare(first, second))
        for (a, first), (b, second) in combinations(group, 2)
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


def _write(folder: Path, key: str, row: Row) -> None:
    commit(
        folder / "rows" / f"{key}.json", json.dumps(json.loads(canonical_json(row)), indent=1, sort_keys=True).encode()
    )


def _read(folder: Path, key: str) -> Row | None:
    path = folder / "rows" / f"{key}.json"
    if not path.is_file():
        return None
    try:
        row: Row = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    return row

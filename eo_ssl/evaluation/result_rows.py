"""Results: one row per task, encoder, protocol and amount of training samples, and the paired comparisons of all encoders.

A folder holds the rows of one task and seed, and what each encoder answered beside them: a row that exists is not computed again, and
encoders judged at different times are compared on the same draws and items.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.draws import Amount, draw, short
from eo_ssl.evaluation.extraction import Extracted, about
from eo_ssl.evaluation.intervals import REPLICATES, Bootstrap, Comparison, Interval, correct_by_holm, verdict
from eo_ssl.evaluation.methods import METHODS, trains, words
from eo_ssl.evaluation.predictions import FORMAT as FORMAT
from eo_ssl.evaluation.predictions import Asked, damaged, read_answers
from eo_ssl.evaluation.settings import Computing, Settings
from eo_ssl.evaluation.task_metrics import Measured, Runs, measure
from eo_ssl.evaluation.tasks import Control, Task
from eo_ssl.manifest import canonical_json, commit, fingerprint

Row = dict[str, Any]
Place = tuple[str, Amount]
"""Protocol and amount of training samples."""
Pair = tuple[Row, Row, Comparison]
SUPERSEDED = "superseded"
"""Folder of rows whose encoder has other weights by now."""


def judge(
    task: Task, compared: Sequence[Candidate], settings: Settings, folder: Path, *, computing: Computing
) -> tuple[list[Row], list[Row]]:
    """Judge candidates and the task's controls, write their rows, and return all rows of ``folder`` and all comparisons.

    Each finished row is ``folder/rows/<hash>.json``. Rows of the same task and seed that are there already stand beside those that are
    asked for, and are compared with them; rows of an encoder that has other weights by now go to ``folder/superseded``.

    Raises:
        UserError: an encoder refuses the task's images or has the name of another one, or a row on disk is damaged.
    """
    draws = {amount: draw(task, amount, draws=settings.draws, seed=settings.seed) for amount in settings.amounts}
    bootstraps: dict[int, Bootstrap] = {}

    def bootstrap(count: int) -> Bootstrap:
        if count not in bootstraps:
            bootstraps[count] = Bootstrap(task.blocks[task.tested], draws=count, seed=settings.seed)
        return bootstraps[count]

    asked: list[Candidate | Control] = [*compared, *task.controls]
    everyone = [_Described(task, one, settings, computing) for one in asked]
    _check_names(everyone, _rows(folder, task, settings.seed).values())
    for described in everyone:
        missing = [place for place in described.places if not described.finished(folder, place)]
        for run in described.runs:  # the features of one run are held at a time
            for protocol, amount in missing:
                run.answers(folder, protocol, amount, drawn=draws[amount])
            run.x = ()
        for place in missing:
            described.write(folder, place, bootstrap(len(draws[place[1]])))
    rows = _current(folder, everyone)
    rows.sort(key=lambda row: _order(row, everyone))
    pairs = [
        pair
        for _, group in groupby(rows, key=_place)
        for pair in _pairs([(row, _measured(task, folder, row)) for row in group], bootstrap)
    ]
    return rows, _corrected(pairs)


@dataclass
class _Described:
    """One candidate or control on the task, in words and numbers."""

    task: Task
    one: Candidate | Control
    settings: Settings
    computing: Computing

    @cached_property
    def about(self) -> Extracted:
        """What stands beside every number."""
        return about(self.one, self.task)

    @cached_property
    def runs(self) -> list[Asked]:
        """What is asked, one after the other."""
        runs = self.one.runs if isinstance(self.one, Candidate) else (self.one,)
        return [Asked(self.task, run, self.settings, self.computing) for run in runs]

    @property
    def root(self) -> str:
        """Name of the encoder, whatever is done to its input."""
        return (isinstance(self.one, Candidate) and self.one.reference) or self.one.name

    @property
    def given(self) -> list[str]:
        """What the encoder was made of."""
        runs = [run.one for run in self.runs if isinstance(run.one, Candidate)]
        return [part.source for run in runs for part in (run, run.second) if part is not None]

    @cached_property
    def weights(self) -> str:
        """Of all runs."""
        return _joined([run.weights for run in self.runs])

    @cached_property
    def places(self) -> list[Place]:
        """Protocols that apply, with every amount."""
        return [
            (protocol, amount)
            for protocol in self.settings.protocols
            if all(run.can(protocol) for run in self.runs)
            for amount in self.settings.amounts
        ]

    def finished(self, folder: Path, place: Place) -> bool:
        """Whether the row is there, with the answers it rests on."""
        answers = [folder / "answers" / f"{run.key(*place)}.npz" for run in self.runs]
        return all(path.is_file() for path in (self._path(folder, place), *answers))

    def _path(self, folder: Path, place: Place) -> Path:
        key = fingerprint([self.one.name, *(run.key(*place) for run in self.runs)])[:32]
        return folder / "rows" / f"{key}.json"

    def write(self, folder: Path, place: Place, bootstrap: Bootstrap) -> None:
        """Write the row from the answers of all runs."""
        keys = [run.key(*place) for run in self.runs]
        inputs = _joined([read_answers(folder, key).inputs for key in keys])
        rests = {"answers": keys, "inputs": inputs, "weights": self.weights, "root": self.root, "given": self.given}
        measured = _measured(self.task, folder, {**rests, "metric": self.task.metric})
        row = self._row(*place, measured=measured, bootstrap=bootstrap) | rests
        data = json.dumps(json.loads(canonical_json(row)), indent=1, sort_keys=True)
        commit(self._path(folder, place), data.encode())

    def _row(self, protocol: str, amount: Amount, *, measured: Measured, bootstrap: Bootstrap) -> Row:
        """Everything that is to be known of one number."""
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
            "input_px": extracted.input_px,
            "tuning": asdict(settings.tuning) if trains(protocol) else None,
            "classes": list(task.class_names),
            "notes": [*task.notes, *extracted.notes, *short(task, amount)],
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


def _joined(prints: Sequence[str]) -> str:
    """One fingerprint for those of all runs."""
    return prints[0] if len(prints) == 1 else fingerprint(list(prints))


def _measured(task: Task, folder: Path, row: Row) -> Measured:
    """The metric over all runs; an encoder and its departures are of the same runs."""
    answers = [read_answers(folder, key).answers for key in row["answers"]]
    runs = Runs(len(answers), row["root"])
    return measure(row["metric"], np.concatenate(answers), task.labels[task.tested], runs=runs)


def _rows(folder: Path, task: Task, seed: int) -> dict[Path, Row]:
    """All rows of a task and seed."""
    found = {path: _read(path) for path in sorted((folder / "rows").glob("*.json"))}
    return {p: row for p, row in found.items() if (row["task_fingerprint"], row["seed"]) == (task.fingerprint, seed)}


def _check_names(asked: Sequence[_Described], rows: Iterable[Row]) -> None:
    """Refuse an encoder with the name of another one that comes from elsewhere."""
    named = {one.root: one for one in asked}
    for row in rows:
        one = named.get(row["root"])
        if (
            one is not None
            and set(row["given"]).isdisjoint(one.given or row["given"])
            and row["weights"] != one.weights
        ):
            raise UserError(
                f"expected a name of its own for {', '.join(one.given)}, got {one.root}, of which there are results from "
                f"{', '.join(row['given'])}; write NAME={one.given[0]}"
            )


def _current(folder: Path, asked: Sequence[_Described]) -> list[Row]:
    """All rows of the task and seed; those of an encoder, by name, that has other weights now are put aside."""
    weights = {one.root: one.weights for one in asked}
    rows = []
    for path, row in _rows(folder, asked[0].task, asked[0].settings.seed).items() if asked else ():
        if weights.get(row["root"], row["weights"]) == row["weights"]:
            rows.append(row)
        else:
            (folder / SUPERSEDED).mkdir(exist_ok=True)
            path.replace(folder / SUPERSEDED / path.name)
    return rows


def _place(row: Row) -> tuple[Any, ...]:
    """What rows that may be compared have in common, in the order of tables: shots, shares, all."""
    amount = row["shots"] is None, row["fraction"] is None, row["shots"] or 0, row["fraction"] or 0.0
    return METHODS.index(row["protocol"]), *amount, row["eval_seeds"], canonical_json(row["tuning"])


def _order(row: Row, asked: Sequence[_Described]) -> tuple[Any, ...]:
    """Rows of a place: encoders that are asked for, in their order, then the others; each followed by its departures."""
    roots, names = [one.root for one in asked], [one.one.name for one in asked]
    at, own = (
        listed.index(name) if name in listed else len(listed)
        for listed, name in ((roots, row["root"]), (names, row["encoder"]))
    )
    return *_place(row), at, row["root"], bool(row["reference"]), own, row["encoder"]


def _interval_words(interval: Interval, bootstrap: Bootstrap, drawn: str) -> str:
    if bootstrap.n_blocks < 2:
        return "none: all test items are in one block"
    if interval.low is None:
        return "none: all answers alike, nothing to resample"
    if interval.value in (0.0, 1.0):
        return f"95% exact binomial bound over {bootstrap.n_blocks} blocks of test items: all answers alike, nothing to resample"
    return (
        f"95% bootstrap ({REPLICATES} replicates) over {drawn} and {bootstrap.n_blocks} blocks of test items together"
    )


def _pairs(group: Sequence[tuple[Row, Measured]], bootstrap: Callable[[int], Bootstrap]) -> list[Pair]:
    """Paired comparisons of all rows of one place: encoders with each other, departures with what they depart from."""
    return [
        (a, b, bootstrap(a["eval_seeds"]).compare(first, second))
        for (a, first), (b, second) in combinations(group, 2)
        if a["reference"] == b["reference"] == "" or b["reference"] == a["encoder"]
    ]


def _corrected(pairs: Sequence[Pair]) -> list[Row]:
    """All comparisons of a folder as one family, whose verdicts are corrected for the number of distinct ones.

    What has the same input answers alike: it is one side of one comparison, and none with itself.
    """
    sides = [(_place(a), frozenset((a["inputs"], b["inputs"]))) for a, b, _ in pairs]
    distinct = {side: paired.p for side, (*_, paired) in zip(sides, pairs, strict=True) if len(side[1]) > 1}
    chances = dict(zip(distinct, correct_by_holm(list(distinct.values())), strict=True))
    return [
        {key: a[key] for key in ("task", "protocol", "shots", "fraction", "amount", "metric")}
        | {"a": a["encoder"], "b": b["encoder"]}
        | {"difference": paired.difference, "low": paired.low, "high": paired.high, "p": paired.p}
        | {
            "p_holm": chances.get(side, paired.p),
            "verdict": verdict(paired, chances.get(side)),
            "family": len(distinct),
        }
        for side, (a, b, paired) in zip(sides, pairs, strict=True)
    ]


def _read(path: Path) -> Row:
    try:
        row: Row = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    return row

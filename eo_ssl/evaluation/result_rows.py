"""Result rows: one per task, encoder, protocol and amount of training samples; paired comparisons of all encoders.

A folder holds the rows of one task and seed, and what each encoder answered beside them: a row that exists is not
computed again, and encoders judged at different times are compared on the same draws and items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.commits import commit, explain_read_error
from eo_ssl.documents import read_json, sign_json
from eo_ssl.errors import UserError, expect
from eo_ssl.evaluation.candidates import Candidate, Description
from eo_ssl.evaluation.draws import Amount, describe_shortage, draw
from eo_ssl.evaluation.encoder_candidates import ControlCandidate
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.intervals import REPLICATES, Bootstrap, Comparison, Interval, correct_by_holm, decide_verdict
from eo_ssl.evaluation.predictions import FORMAT as FORMAT
from eo_ssl.evaluation.predictions import PredictionRun, Predictions, Settings, locate_predictions
from eo_ssl.evaluation.protocols import PROTOCOLS
from eo_ssl.evaluation.task_metrics import Measured, Runs, measure
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import dump_canonical_json, fingerprint

Row = dict[str, Any]
Place = tuple[str, Amount]
"""Protocol and amount of training samples."""
Pair = tuple[Row, Row, Comparison]
_NEEDED: dict[str, Any] = {
    **dict.fromkeys(("task", "task_fingerprint", "encoder", "reference", "root", "weights", "inputs", "metric"), str),
    **dict.fromkeys(("protocol", "amount"), str),
    **dict.fromkeys(("seed", "eval_seeds"), int),
    **dict.fromkeys(("given", "answers"), list),
    "shots": int | None,
    "fraction": float | None,
    "value": float,
}
"""What a row cannot do without, and its types."""
SUPERSEDED = "superseded"
"""Folder of rows whose encoder has other weights by now."""


def judge(
    task: Task, compared: Sequence[Candidate], settings: Settings, folder: Path, *, computing: Computing
) -> tuple[list[Row], list[Row]]:
    """Judge candidates and the task's controls, write their rows, and return all rows of ``folder`` and comparisons.

    Each finished row is ``folder/rows/<hash>.json``. Rows of the same task and seed that are there already stand beside
    those that are asked for, and are compared with them; rows of an encoder that has other weights by now go to
    ``folder/superseded``.

    Raises:
        UserError: an encoder refuses the task's images or has the name of another one, or a row on disk is damaged.
    """
    draws = {amount: draw(task, amount, draws=settings.draws, seed=settings.seed) for amount in settings.amounts}
    bootstraps: dict[int, Bootstrap] = {}

    def bootstrap(count: int) -> Bootstrap:
        if count not in bootstraps:
            bootstraps[count] = Bootstrap(task.blocks[task.tested], draws=count, seed=settings.seed)
        return bootstraps[count]

    controls = (ControlCandidate(control.name, control) for control in task.controls)
    judged = [_Judged(task, candidate, settings, computing) for candidate in (*compared, *controls)]
    _check_names(judged, _read_rows(folder, task, settings.seed).values())
    for candidate in judged:
        missing = [place for place in candidate.places if not candidate.finished(folder, place)]
        for run in candidate.runs:  # the features of one run are held at a time
            for protocol, amount in missing:
                run.predict(folder, protocol, amount, drawn=draws[amount])
            run.x = ()
        for place in missing:
            candidate.write(folder, place, bootstrap(len(draws[place[1]])))
    rows = _read_current(folder, judged)
    rows.sort(key=lambda row: _order(row, judged))
    pairs = [
        pair
        for _, group in groupby(rows, key=_place)
        for pair in _pairs([(row, _measured(task, folder, row)) for row in group], bootstrap)
    ]
    return rows, _corrected(pairs)


@dataclass
class _Judged:
    """One candidate or control on the task, in words and numbers."""

    task: Task
    candidate: Candidate
    settings: Settings
    computing: Computing

    @cached_property
    def description(self) -> Description:
        """What stands beside every number."""
        return self.candidate.describe(self.task)

    @cached_property
    def runs(self) -> list[PredictionRun]:
        """What is judged, one after the other."""
        return [PredictionRun(self.task, run, self.settings, self.computing) for run in self.candidate.runs]

    @property
    def root(self) -> str:
        """Name of the encoder, whatever is done to its input."""
        return self.candidate.root

    @cached_property
    def weights(self) -> str:
        """Of all runs."""
        return _joined([run.identity for run in self.runs])

    @cached_property
    def places(self) -> list[Place]:
        """Protocols that apply, with every amount."""
        return [
            (protocol, amount)
            for protocol in self.settings.protocols
            if all(run.applies(protocol) for run in self.runs)
            for amount in self.settings.amounts
        ]

    def finished(self, folder: Path, place: Place) -> bool:
        """Whether the row is there, with the predictions it rests on."""
        predictions = [locate_predictions(folder, run.key(*place)).path for run in self.runs]
        return all(path.is_file() for path in (self._path(folder, place), *predictions))

    def _path(self, folder: Path, place: Place) -> Path:
        key = fingerprint([self.candidate.name, *(run.key(*place) for run in self.runs)])[:32]
        return folder / "rows" / f"{key}.json"

    def write(self, folder: Path, place: Place, bootstrap: Bootstrap) -> None:
        """Write the row from the predictions of all runs."""
        keys = [run.key(*place) for run in self.runs]
        inputs = _joined([Predictions.read(folder, key).inputs for key in keys])
        rests = {
            "answers": keys,
            "inputs": inputs,
            "weights": self.weights,
            "root": self.root,
            "given": self.candidate.origins,
        }
        measured = _measured(self.task, folder, {**rests, "metric": self.task.metric})
        row = self._row(*place, measured=measured, bootstrap=bootstrap) | rests
        commit(self._path(folder, place), sign_json(row, indent=1))

    def _row(self, protocol: str, amount: Amount, *, measured: Measured, bootstrap: Bootstrap) -> Row:
        """Everything that is to be known of one number."""
        task, candidate, settings, description = self.task, self.candidate, self.settings, self.description
        interval = bootstrap.interval(measured)
        taught = [len(rows) for rows in draw(task, amount, draws=1, seed=0)[0]]
        has_validation = any(len(fold.validation) for fold in task.folds)
        return {
            "task": task.name,
            "encoder": candidate.name,
            "reference": candidate.baseline,
            "departure": candidate.input_variant,
            "encoder_fingerprint": description.fingerprint,
            "protocol": protocol,
            "protocol_words": PROTOCOLS[protocol].describe(
                kind=task.kind, amount=amount, has_validation=has_validation, tuning=settings.tuning
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
            "pretraining_seeds": candidate.pretraining_seeds,
            "split": task.split,
            "quantity": description.quantity,
            "bands": list(description.bands),
            "pooling": description.pooling,
            "input_px": description.input_px,
            "tuning": asdict(settings.tuning) if PROTOCOLS[protocol].trains else None,
            "classes": list(task.class_names),
            "notes": [*task.notes, *description.notes, *describe_shortage(task, amount)],
            "task_fingerprint": task.fingerprint,
        } | self._by_run(measured)

    def _resampled(self, amount: Amount, bootstrap: Bootstrap) -> str:
        """What is resampled together with the test items, in words."""
        drawn = "one training set" if amount.whole else f"{bootstrap.draws} draws of training samples"
        if len(self.runs) < 2:
            return drawn
        kind = "pretraining seeds" if self.candidate.pretrained else "seeds of random weights"
        return f"{len(self.runs)} {kind}, {drawn}"

    def _by_run(self, measured: Measured) -> Row:
        """What each run of a recipe reached alone, and what it cost; nothing of a single one that does not say."""
        costs = [run.cost for run in self.candidate.runs]
        if len(self.runs) < 2 and costs == [None]:
            return {}
        by_run = measured.terms.reshape(len(self.runs), -1, measured.terms.shape[1])  # [S, D, n]
        values = measured.value + by_run.sum(axis=2).mean(axis=1)
        return {
            "runs": [
                {"seed": run.seed, "encoder_fingerprint": run.describe(self.task).fingerprint, "value": value}
                | ({"cost": dict(cost)} if cost else {})
                for run, value, cost in zip(self.candidate.runs, values.tolist(), costs, strict=True)
            ]
        }


def _joined(prints: Sequence[str]) -> str:
    """One fingerprint for those of all runs."""
    return prints[0] if len(prints) == 1 else fingerprint(list(prints))


def _measured(task: Task, folder: Path, row: Row) -> Measured:
    """The metric over all runs; an encoder and its variants are of the same runs."""
    predictions = [Predictions.read(folder, key).values for key in row["answers"]]
    runs = Runs(len(predictions), row["root"])
    return measure(row["metric"], np.concatenate(predictions), task.labels[task.tested], runs=runs)


def _read_rows(folder: Path, task: Task, seed: int) -> dict[Path, Row]:
    """All rows of a task and seed."""
    found = {path: _read(path) for path in sorted((folder / "rows").glob("*.json"))}
    return {p: row for p, row in found.items() if (row["task_fingerprint"], row["seed"]) == (task.fingerprint, seed)}


def _check_names(judged: Sequence[_Judged], rows: Iterable[Row]) -> None:
    """Refuse an encoder with the name of another one that comes from elsewhere."""
    named = {candidate.root: candidate for candidate in judged}
    for row in rows:
        judged_now = named.get(row["root"])
        if judged_now is None or row["weights"] == judged_now.weights:
            continue
        origins = judged_now.candidate.origins
        if set(row["given"]).isdisjoint(origins or row["given"]):
            raise UserError(
                f"expected a name of its own for {', '.join(origins)}, got {row['root']}, of which there are results "
                f"from {', '.join(row['given'])}; write NAME={origins[0]}"
            )


def _read_current(folder: Path, judged: Sequence[_Judged]) -> list[Row]:
    """All rows of the task and seed; those of an encoder, by name, that has other weights now are put aside."""
    weights = {candidate.root: candidate.weights for candidate in judged}
    rows = []
    for path, row in _read_rows(folder, judged[0].task, judged[0].settings.seed).items() if judged else ():
        if weights.get(row["root"], row["weights"]) == row["weights"]:
            rows.append(row)
        else:
            (folder / SUPERSEDED).mkdir(exist_ok=True)
            path.replace(folder / SUPERSEDED / path.name)
    return rows


def _place(row: Row) -> tuple[Any, ...]:
    """Key that rows which may be compared have in common, in the order of tables: shots, shares, all."""
    amount = row["shots"] is None, row["fraction"] is None, row["shots"] or 0, row["fraction"] or 0.0
    return list(PROTOCOLS).index(row["protocol"]), *amount, row["eval_seeds"], dump_canonical_json(row["tuning"])


def _order(row: Row, judged: Sequence[_Judged]) -> tuple[Any, ...]:
    """Rows of a place: candidates of this evaluation in their order, then the others; each followed by its variants."""
    roots, names = [one.root for one in judged], [one.candidate.name for one in judged]
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
        return (
            f"95% exact binomial bound over {bootstrap.n_blocks} blocks of test items: all answers alike, nothing "
            "to resample"
        )
    return (
        f"95% bootstrap ({REPLICATES} replicates) over {drawn} and {bootstrap.n_blocks} blocks of test items together"
    )


def _pairs(group: Sequence[tuple[Row, Measured]], bootstrap: Callable[[int], Bootstrap]) -> list[Pair]:
    """Paired comparisons of all rows of one place: encoders with each other, variants with their baseline.

    What an encoder was before its last step is none of them: many points would take the power from the others.
    """
    return [
        (a, b, bootstrap(a["eval_seeds"]).compare(first, second))
        for (a, first), (b, second) in combinations(group, 2)
        if a["reference"] == b["reference"] == "" or (b["reference"] == a["encoder"] and "step" not in b["departure"])
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
            "verdict": decide_verdict(paired, chances.get(side)),
            "family": len(distinct),
        }
        for side, (a, b, paired) in zip(sides, pairs, strict=True)
    ]


def _read(path: Path) -> Row:
    remedy = "remove the results folder and run again"
    try:
        row = read_json(path, remedy=remedy)
    except FileNotFoundError as error:
        raise explain_read_error(error, path, remedy=remedy) from error
    wrong = [name for name, kind in _NEEDED.items() if not isinstance(row.get(name), kind)]
    expect(not wrong, expected=f"a finished result in {path}", got=f"one without {', '.join(wrong)}", remedy=remedy)
    expect(row["protocol"] in PROTOCOLS, expected=f"a protocol in {path}", got=row["protocol"], remedy=remedy)
    return row

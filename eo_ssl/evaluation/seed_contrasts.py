"""Recipes trained with the same seeds, compared seed by seed: at equal steps, at equal compute, and by compute spent.

Two recipes of one seed begin with the same weights and draw in the same order, so their difference varies less from
seed to seed than either score. Its mean has Student's t interval over the seeds (Student 1908, doi:10.2307/2331554), on
the test items as they are. What is compared on purpose is named beforehand, as the primary family, and its p-values are
corrected together (Holm); the others are for looking, with an interval and without a verdict.

Compute is counted in forward equivalents, as `eo-ssl pretrain` says them. Between the points at which encoders were
kept a curve is taken to be straight, seed by seed; nothing is said beyond its ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student

from eo_ssl.documents import read_json
from eo_ssl.errors import UserError, expect
from eo_ssl.evaluation.intervals import LEVEL, Comparison, correct_by_holm, decide_verdict
from eo_ssl.evaluation.task_metrics import Floats

Row = dict[str, Any]
PLACE = ("task", "protocol", "amount", "metric")
"""What rows that may be compared have in common, within a folder."""
CONTRASTS = "contrasts.json"
"""What an evaluation with a plan of contrasts leaves beside its rows."""
_REMEDY = "remove it and evaluate again"
_SAME = 1e-9


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class ContrastPlan:
    """Which recipe the others are compared with, seed by seed, and which differences were asked for beforehand."""

    against: str
    """Name of the encoder that the others are compared with, such as the arm without what is studied."""
    family: str = "primary"
    """Name of the primary family of differences, whose p-values are corrected together."""
    encoders: tuple[str, ...] = ()
    """Encoders of the family; all others when left out."""
    protocols: tuple[str, ...] = ()
    """Protocols of the family; all when left out."""
    at: Literal["end", "compute"] = "end"
    """What the family compares: encoders of the last step, or at the largest compute that both have spent."""

    def __post_init__(self) -> None:
        """Make tuples of lists."""
        for name in ("encoders", "protocols"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def check(self, encoders: Sequence[str], protocols: Sequence[str]) -> None:
        """Refuse names that are none of those that are judged.

        Raises:
            UserError: naming them.
        """
        for wanted, there in (((self.against, *self.encoders), encoders), (self.protocols, protocols)):
            strange = [name for name in wanted if name not in there]
            expect(
                not strange,
                expected=f"contrasts of {', '.join(there) or 'trained encoders'}",
                got=", ".join(strange),
                remedy="correct their names",
            )


@dataclass(frozen=True, slots=True)
class SeedContrasts:
    """Differences seed by seed, and what of the reference's compute each recipe took to its score."""

    plan: ContrastPlan
    rows: list[Row]
    """One for each place, encoder and point (`tabulate_contrasts`), those of the family with p_holm and verdict."""
    savings: list[Row]
    """One for each place and encoder (`measure_saving`)."""

    def to_json(self) -> Row:
        """Plain values."""
        return {"plan": asdict(self.plan), "contrasts": self.rows, "savings": self.savings}

    @classmethod
    def read(cls, folder: Path) -> SeedContrasts | None:
        """Return what an evaluation left in ``folder``; None where it compared nothing so.

        Raises:
            UserError: the file is no such comparison.
        """
        path = folder / CONTRASTS
        if not path.is_file():
            return None
        found = read_json(path, remedy=_REMEDY)
        try:
            return cls(ContrastPlan(**found["plan"]), list(found["contrasts"]), list(found["savings"]))
        except (KeyError, TypeError) as error:
            raise UserError(f"expected contrasts in {path}, got one without {error}; {_REMEDY}") from error


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """What the runs of a recipe reached along their training."""

    encoder: str
    steps: tuple[int | None, ...]
    """Of P points, ascending; None for the last step, which is always there."""
    compute: Mapping[int, Floats]
    """By seed: forward equivalents [P]; NaN where they are not known."""
    values: Mapping[int, Floats]
    """By seed: the metric [P]."""

    @classmethod
    def of(cls, encoder: str, rows: Sequence[Row]) -> TrainingCurve:
        """Return the curve of an encoder from the rows of a place; a seed that lacks a point has none."""
        earlier = [row for row in rows if row["reference"] == encoder and "step" in row["departure"]]
        earlier.sort(key=lambda row: row["departure"]["step"])
        points = [*earlier, *(row for row in rows if row["encoder"] == encoder)]
        runs = [{run["seed"]: run for run in point["runs"]} for point in points]
        seeds = [seed for seed in runs[-1] if all(seed in at for at in runs)]
        spent = {s: np.array([at[s].get("cost", {}).get("forward_equivalents", np.nan) for at in runs]) for s in seeds}
        values = {seed: np.array([at[seed]["value"] for at in runs], dtype=np.float64) for seed in seeds}
        return cls(encoder, (*(row["departure"]["step"] for row in earlier), None), spent, values)

    def read_off(self, seed: int, compute: float) -> float:
        """Return the value of a seed at a compute, between two points on the straight line; NaN beyond the ends."""
        return float(np.interp(compute, self.compute[seed], self.values[seed], left=np.nan, right=np.nan))


def compare_seeds(rows: Sequence[Row], plan: ContrastPlan) -> SeedContrasts:
    """Return all differences of a folder's rows to those of ``plan.against``.

    Raises:
        UserError: names in the plan that no row of a trained encoder has.
    """
    curves = collect_curves(rows)
    known = dict.fromkeys(curve.encoder for of in curves.values() for curve in of)
    plan.check(list(known), list(dict.fromkeys(place[PLACE.index("protocol")] for place in curves)))
    contrasts: list[Row] = []
    savings: list[Row] = []
    for place, of in curves.items():
        head = dict(zip(PLACE, place, strict=True))
        theirs = next((curve for curve in of if curve.encoder == plan.against), None)
        for mine in of if theirs is not None else ():
            if theirs is not None and mine is not theirs and set(mine.values) & set(theirs.values):
                names = {"encoder": mine.encoder, "against": theirs.encoder}
                contrasts += [head | names | row for row in tabulate_contrasts(mine, theirs)]
                savings += [head | names | measure_saving(mine, theirs)] if is_costed(mine, theirs) else []
    return SeedContrasts(plan, _judge_family(contrasts, plan), savings)


def collect_curves(rows: Sequence[Row]) -> dict[tuple[str, ...], list[TrainingCurve]]:
    """Return the curves of all trained encoders by place (`PLACE`), in the order of the rows."""
    ours = [row for row in rows if row["pretraining_seeds"] and row.get("runs")]
    curves = {}
    for place, members in groupby(sorted(ours, key=_place), key=_place):
        here = list(members)
        names = [row["encoder"] for row in here if not row["reference"]]
        curves[place] = [TrainingCurve.of(name, here) for name in dict.fromkeys(names)]
    return curves


def is_costed(*curves: TrainingCurve) -> bool:
    """Whether the compute of every point is known."""
    return not any(np.isnan(spent).any() for curve in curves for spent in curve.compute.values())


def tabulate_contrasts(mine: TrainingCurve, theirs: TrainingCurve) -> Iterator[Row]:
    """Yield the differences of a recipe to another, over the seeds of both.

    `end` compares the last steps; `step` those after which both kept an encoder; `compute` takes each point of the
    reference that lies within the other's curve, read off there seed by seed, and last the largest compute that both
    have spent.
    """
    seeds = [seed for seed in mine.values if seed in theirs.values]
    for i, step in enumerate(mine.steps):
        if step in theirs.steps:
            k = theirs.steps.index(step)
            values = {seed: float(mine.values[seed][i] - theirs.values[seed][k]) for seed in seeds}
            spent = float(np.mean([mine.compute[seed][i] for seed in seeds]))
            yield _describe("end" if step is None else "step", step, spent, values)
    if not is_costed(mine, theirs):
        return
    ends = {seed: float(min(mine.compute[seed][-1], theirs.compute[seed][-1])) for seed in seeds}
    for k, step in enumerate(theirs.steps):
        at = {seed: float(theirs.compute[seed][k]) if step is not None else ends[seed] for seed in seeds}
        values = {seed: mine.read_off(seed, at[seed]) - theirs.read_off(seed, at[seed]) for seed in seeds}
        if np.isfinite(list(values.values())).all() and (step is None or all(at[seed] < ends[seed] for seed in seeds)):
            yield _describe("compute", step, float(np.mean(list(at.values()))), values)


def _describe(at: str, step: int | None, spent: float, values: Mapping[int, float]) -> Row:
    """A difference with its interval."""
    paired = compare_paired(list(values.values()))
    return {
        "at": at,
        "step": step,
        "compute": None if np.isnan(spent) else spent,
        "seeds": list(values),
        "differences": list(values.values()),
        "difference": paired.difference,
        "low": paired.low,
        "high": paired.high,
        "p": paired.p,
    }


def compare_paired(differences: Sequence[float]) -> Comparison:
    """Return the mean of paired differences, its interval at `LEVEL` and its two-sided p, by Student's t.

    Without bounds and p where there is one difference, or where all are equal: a test of few items has scores in steps,
    and equal ones are no proof that seeds do not matter.
    """
    values = np.array(differences, dtype=np.float64)
    mean, n = float(values.mean()), len(values)
    error = float(values.std(ddof=1)) / n**0.5 if n > 1 else 0.0
    if error < _SAME:
        return Comparison(mean, None, None, None)
    half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * error
    return Comparison(mean, mean - half, mean + half, float(2 * student.sf(abs(mean) / error, n - 1)))


def measure_saving(mine: TrainingCurve, theirs: TrainingCurve) -> Row:
    """Return what share of a reference's compute a recipe took to the reference's last score, seed by seed.

    The share is that of the first crossing of a curve, which a noisy curve has early; below 1 is less than the
    reference took. Where every seed gets there, their geometric mean has Student's t interval, of the logarithms.
    ``at_most`` is said where a first point is there already, so that the crossing lies before it.
    """
    seeds = [seed for seed in mine.values if seed in theirs.values]
    crossings = {seed: _find_crossing(mine, seed, float(theirs.values[seed][-1])) for seed in seeds}
    shares = {s: None if at is None else at / float(theirs.compute[s][-1]) for s, (at, _) in crossings.items()}
    reached = [share for share in shares.values() if share is not None]
    logs: tuple[float | None, ...] = (None, None, None)
    if len(reached) == len(seeds) and min(reached) > 0:
        paired = compare_paired(np.log(reached).tolist())
        logs = paired.difference, paired.low, paired.high
    share, low, high = (None if log is None else float(np.exp(log)) for log in logs)
    return {
        "seeds": seeds,
        "shares": list(shares.values()),
        "reached": len(reached),
        "share": share,
        "low": low,
        "high": high,
        "at_most": any(first for _, first in crossings.values()),
    }


def _find_crossing(curve: TrainingCurve, seed: int, goal: float) -> tuple[float | None, bool]:
    """Compute at which a seed first reaches a value, None where it never does; and whether its first point does."""
    spent, values = curve.compute[seed], curve.values[seed]
    there = np.flatnonzero(values >= goal - _SAME)
    if not len(there):
        return None, False
    k = int(there[0])
    if k == 0:
        return float(spent[0]), True
    part = (goal - values[k - 1]) / (values[k] - values[k - 1])
    return float(spent[k - 1] + min(part, 1.0) * (spent[k] - spent[k - 1])), False


def _judge_family(rows: Sequence[Row], plan: ContrastPlan) -> list[Row]:
    """The rows, those of the primary family with its name, their corrected p and verdict."""
    primary = [
        (row["at"], row["step"]) == (plan.at, None)
        and row["encoder"] in (plan.encoders or (row["encoder"],))
        and row["protocol"] in (plan.protocols or (row["protocol"],))
        for row in rows
    ]
    chances = iter(correct_by_holm([row["p"] for row, inside in zip(rows, primary, strict=True) if inside]))
    judged = []
    for row, inside in zip(rows, primary, strict=True):
        told: Row = {"family": None, "p_holm": None, "verdict": None}
        if inside:
            chance = next(chances)
            side = decide_verdict(Comparison(row["difference"], row["low"], row["high"], row["p"]), chance)
            verdict = {"a": "better", "b": "worse"}.get(side, side)
            told = {"family": plan.family, "p_holm": chance, "verdict": verdict}
        judged.append(row | told)
    return judged


def _place(row: Row) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in PLACE)

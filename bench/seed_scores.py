"""Scores of studies that grow seed by seed: one line for each arm, seed, protocol and point of a run, in a file of their own.

A study may take longer than a machine is at hand. What was measured is kept in a small table, to which each part of it
adds, and from which all figures are made.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from eo_ssl.commits import replace
from eo_ssl.evaluation.intervals import Comparison, correct_by_holm
from eo_ssl.evaluation.seed_contrasts import PLACE, TrainingCurve, collect_curves, compare_paired, measure_saving

COLUMNS = ("study", "arm", "seed", "protocol", "step", "forward_equivalents", "value")
Key = tuple[str, str, str, str, str]
Scores = dict[Key, tuple[float, float]]
"""(study, arm, seed, protocol, step) -> forward equivalents and value; the step is empty at the end"""
Curves = dict[str, TrainingCurve]
"""by arm"""


def read_scores(path: Path) -> Scores:
    """The scores of a file, none where it does not exist."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        found = [[row[name] for name in COLUMNS] for row in csv.DictReader(file)]
    return {(a, b, c, d, e): (float(spent), float(value)) for a, b, c, d, e, spent, value in found}


def update_scores(path: Path, study: str, results: Path) -> None:
    """Add the rows of trained encoders in a folder of results to a file, in the place of those of the same runs."""
    rows = [json.loads(file.read_text()) for file in sorted((results / "rows").glob("*.json"))]
    scores = read_scores(path)
    for place, curves in collect_curves(rows).items():
        for curve in curves:
            for seed in curve.values:
                for step, spent, value in zip(curve.steps, curve.compute[seed], curve.values[seed], strict=True):
                    key = study, curve.encoder, str(seed), place[PLACE.index("protocol")], str(step or "")
                    scores[key] = float(spent), float(value)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([*key, f"{spent:.0f}", f"{value:.6f}"] for key, (spent, value) in sorted(scores.items()))
    replace(path, text.getvalue().encode())


def join_curves(scores: Scores, study: str, protocol: str) -> Curves:
    """The curves of all arms of a study."""
    found: dict[str, dict[int, list[tuple[float, float, float]]]] = {}
    for (of, arm, seed, way, step), (spent, value) in scores.items():
        if (of, way) == (study, protocol):
            at = float(step) if step else np.inf
            found.setdefault(arm, {}).setdefault(int(seed), []).append((at, spent, value))
    curves = {}
    for arm, runs in found.items():
        points = {seed: np.array(sorted(run)).T for seed, run in runs.items()}
        steps = tuple(int(at) if at < np.inf else None for at in next(iter(points.values()))[0])
        compute = {seed: run[1] for seed, run in points.items()}
        curves[arm] = TrainingCurve(arm, steps, compute, {seed: run[2] for seed, run in points.items()})
    return curves


def compare_ends(mine: TrainingCurve, theirs: TrainingCurve) -> Comparison:
    """What one arm scores more at the end, in points, over the seeds that both have."""
    seeds = [seed for seed in mine.values if seed in theirs.values]
    return compare_paired([100 * float(mine.values[seed][-1] - theirs.values[seed][-1]) for seed in seeds])


def describe_scores(scores: Scores, *, protocols: Sequence[str], against: str = "full") -> Iterator[str]:
    """A table of each study: scores, what each is above one arm, and the part of its compute that its score took."""
    for study in dict.fromkeys(key[0] for key in scores):
        ways = {protocol: join_curves(scores, study, protocol) for protocol in protocols}
        seeds = sorted({int(key[2]) for key in scores if key[0] == study})
        yield f"`{study}`, {len(seeds)} seeds from {seeds[0]}:"
        yield ""
        yield f"| arm | {' | '.join(f'{way} | less {against} | compute to its score' for way in protocols)} |"
        yield "|---" * (1 + 3 * len(protocols)) + "|"
        for arm in next(iter(ways.values())):
            cells = [cell for curves in ways.values() for cell in _describe_arm(curves[arm], curves[against])]
            yield f"| `{arm}` | {' | '.join(cells)} |"
        yield ""


def _describe_arm(mine: TrainingCurve, theirs: TrainingCurve) -> tuple[str, str, str]:
    mean = f"{100 * np.mean([run[-1] for run in mine.values.values()]):.1f}"
    if mine is theirs:
        return mean, "", ""
    saving = measure_saving(mine, theirs)
    reached = "" if saving["share"] is None else f"{saving['share']:.2f}"
    return mean, format_points(compare_ends(mine, theirs)), reached or f"{saving['reached']} of {len(saving['seeds'])}"


def describe_family(
    scores: Scores, family: Mapping[str, Sequence[tuple[str, str]]], *, protocols: Sequence[str]
) -> Iterator[str]:
    """The differences that were named beforehand, by study, with p-values that are corrected together (Holm)."""
    found = [
        (study, mine, theirs, protocol, compare_ends(curves[mine], curves[theirs]))
        for study, pairs in family.items()
        for protocol in protocols
        for curves in [join_curves(scores, study, protocol)]
        for mine, theirs in pairs
        if mine in curves and theirs in curves
    ]
    yield "| study | difference | protocol | points | p | p, Holm |"
    yield "|---|---|---|---|---|---|"
    corrected = correct_by_holm([compared.p for *_, compared in found])
    for (study, mine, theirs, protocol, compared), p in zip(found, corrected, strict=True):
        chances = ["–" if chance is None else f"{chance:.4f}" for chance in (compared.p, p)]
        cells = [f"`{study}`", f"`{mine}` less `{theirs}`", protocol, format_points(compared), *chances]
        yield f"| {' | '.join(cells)} |"


def format_points(compared: Comparison) -> str:
    """Mean of differences in points and its 95 % interval."""
    if compared.low is None or compared.high is None:
        return f"{compared.difference:+.1f}"
    return f"{compared.difference:+.1f} ({compared.low:+.1f} to {compared.high:+.1f})"

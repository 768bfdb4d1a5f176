"""Results as tables: encoders of a task best first with intervals, and each under other inputs than its contract's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from eo_ssl.evaluation import METRIC_WORDS, Row
from eo_ssl.reporting.formatting import describe_place, format_percent, format_points
from eo_ssl.reporting.published_scores import SOURCE, find_published_score

_CONTRACT = ["contract's", "contract", "contract"]
"""Size, resizer and normalisation of an encoder's own contract, as cells."""


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """A table under its heading."""

    task: str
    "that its numbers are of"
    title: str
    "heading"
    words: str
    "how to read it"
    cells: tuple[tuple[str, ...], ...]
    "a head and rows"
    marks: tuple[tuple[int, ...], ...]
    "numbers of the footnotes of each row"


@dataclass(frozen=True, slots=True)
class TaskTables:
    """All tables of a task."""

    task: str
    "its name"
    words: str
    "metric, test items, seed and split"
    notes: tuple[str, ...]
    "that hold for every number"
    tables: tuple[ScoreTable, ...]
    "by protocol and amount of training samples, each followed by those of other inputs"


def tabulate_scores(rows: Sequence[Row], comparisons: Sequence[Row]) -> tuple[list[TaskTables], list[str]]:
    """Return the tables by task, and the footnotes on single encoders, numbered from 1, to which their marks refer."""
    footnotes: dict[str, int] = {}
    tasks = []
    for task, of_task in groupby(group_rows(rows), key=lambda group: group[0]["task"]):
        groups = list(of_task)
        first = groups[0][0]
        plain = [row for group in groups for row in group if not row["reference"]]
        common = [note for note in first["notes"] if all(note in row["notes"] for row in plain)] if plain else []
        words = (
            f"{METRIC_WORDS[first['metric']].capitalize()} in %, of {first['n_test']} test items in "
            f"{first['n_blocks']} blocks, seed {first['seed']}. Split: {first['split']}."
        )
        tables: list[ScoreTable] = []
        for group in groups:
            tables += _tabulate_group(group, comparisons, common=common, footnotes=footnotes)
        tasks.append(TaskTables(task, words, tuple(common), tuple(tables)))
    return tasks, list(footnotes)


def tabulate_input_variants(rows: Sequence[Row], comparisons: Sequence[Row]) -> list[ScoreTable]:
    """Return a table per encoder and study: its score under its contract, then under other inputs with the loss."""
    tables = []
    for group in group_rows([row for row in rows if "reference" in row]):
        here = _filter_comparisons(group, comparisons)
        for reference in [row for row in group if not row["reference"]]:
            against = {pair["b"]: pair for pair in here if pair["a"] == reference["encoder"]}
            variants = [row for row in group if row["reference"] == reference["encoder"] and row["encoder"] in against]
            for study in (
                sorted((row for row in variants if name_study(row) == "grid"), key=_order_in_grid),
                [row for row in variants if name_study(row) == "images"],
            ):
                if study:
                    tables.append(_tabulate_variants(reference, study, against))
    return tables


def _order_in_grid(row: Row) -> tuple[Any, ...]:
    """Order of a grid: sizes, then what is nearest to the contract."""
    names = [row["departure"][key] for key in ("normalisation", "resizer")]
    return row["departure"]["size_px"] or 0, *((name != "contract", name) for name in names)


def name_study(row: Row) -> Literal["grid", "images", "training"]:
    """Of which study a row with a reference is: other inputs, other test images, or an earlier step of training."""
    return "images" if "perturbation" in row["departure"] else "training" if "step" in row["departure"] else "grid"


def group_rows(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that may be compared, by protocol, then shots, shares, all."""

    def place(row: Row) -> tuple[str | float, ...]:
        amount = row.get("shots") or (1e9 if row.get("fraction") else 2e9), row.get("fraction") or 0.0
        return (*(str(row[key]) for key in ("task", "split", "protocol")), *amount, str(row["amount"]), row["metric"])

    return [list(group) for _, group in groupby(sorted(rows, key=place), key=place)]


def _filter_comparisons(group: Sequence[Row], comparisons: Sequence[Row]) -> list[Row]:
    """Comparisons of the rows of a group."""
    return [pair for pair in comparisons if all(pair[k] == group[0][k] for k in ("task", "protocol", "amount"))]


def sort_best_first(rows: Sequence[Row]) -> list[Row]:
    """Rows by their value, the highest first."""
    return sorted(rows, key=lambda row: -row["value"])


def rank_against_best(group: Sequence[Row], comparisons: Sequence[Row]) -> dict[str, str]:
    """`best`, `not separable` from it or `worse`, by encoder; the grid has verdicts of its own."""
    plain = sort_best_first([row for row in group if not row["reference"]])
    if len(plain) < 2:
        return {}
    best, others = plain[0], plain[1:]
    pairs = _filter_comparisons(group, comparisons)
    separable = {frozenset((pair["a"], pair["b"])) for pair in pairs if pair["verdict"] != "not separable"}
    words = {
        row["encoder"]: "worse" if frozenset((best["encoder"], row["encoder"])) in separable else "not separable"
        for row in others
    }
    return {best["encoder"]: "best", **words}


def _tabulate_group(
    group: Sequence[Row], comparisons: Sequence[Row], *, common: Sequence[str], footnotes: dict[str, int]
) -> list[ScoreTable]:
    """The table of a group, and those of its encoders under other inputs."""
    plain = sort_best_first([row for row in group if not row["reference"]])
    standing = rank_against_best(group, comparisons)
    variants = tabulate_input_variants(group, comparisons)
    if not plain:
        return variants
    first, compared = plain[0], _filter_comparisons(plain, comparisons)
    words = f"{first['protocol_words']}. {first['n_train']} training samples. Intervals: {_describe_intervals(plain)}."
    if compared:
        words += f" Verdicts at 5 %, paired, {_describe_correction(compared[0])}."
    head = ("encoder", "value", "95 % interval", "against the best", "pretraining seeds", "quantity", "pooling")
    lines, marks = [], []
    for row in plain:
        own = [note for note in row["notes"] if note not in common]
        marks.append(tuple(footnotes.setdefault(note, len(footnotes) + 1) for note in own))
        bounds = "none" if row["low"] is None else f"{format_percent(row['low'])} to {format_percent(row['high'])}"
        verdict, seeds = standing.get(row["encoder"], ""), str(row["pretraining_seeds"])
        scored = row["encoder"], format_percent(row["value"]), bounds, verdict, seeds, row["quantity"], row["pooling"]
        lines.append(scored)
    return [ScoreTable(first["task"], describe_place(first), words, (head, *lines), tuple(marks)), *variants]


def _describe_intervals(rows: Sequence[Row]) -> str:
    """What the intervals resampled; where that differs, whose."""
    of: dict[str, list[str]] = {}
    for row in rows:
        of.setdefault(row["interval"], []).append(row["encoder"])
    if len(of) == 1:
        return next(iter(of))
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in of.items())


def _tabulate_variants(reference: Row, variants: Sequence[Row], against: dict[str, Row]) -> ScoreTable:
    """One encoder as it should be used, and otherwise: the value, and what was lost; equal inputs in one line."""
    alike: dict[str, list[Row]] = {}
    for row in (reference, *variants):
        alike.setdefault(row.get("inputs", row["encoder"]), []).append(row)
    grid = name_study(variants[0]) == "grid"
    head, own = (["size", "resized by", "normalisation"], _CONTRACT) if grid else (["test images"], ["untouched"])
    cells = [[*head, "value", "lost", "verdict"]]
    known = []
    for same in alike.values():
        row = same[0]
        scores = [score for equal in same if (score := find_published_score(equal)) is not None]
        known.append(format_percent(scores[0]) if scores else "")
        inputs = _merge_equal([own if equal is reference else _describe_input(equal["departure"]) for equal in same])
        if row is reference:
            cells.append([*inputs, format_percent(row["value"]), "", "reference"])
            continue
        pair = against[row["encoder"]]
        lost = format_points(pair["difference"])
        if pair["low"] is not None:
            lost += f" ({format_points(pair['low'])} to {format_points(pair['high'])})"
        verdict = {"a": "worse", "b": "better", "not separable": "not separable"}[pair["verdict"]]
        cells.append([*inputs, format_percent(row["value"]), lost, verdict])
    words = f"points lost against the first line; verdicts at 5 %, {_describe_correction(next(iter(against.values())))}"
    equal = len(variants) + 1 - len(alike)
    if equal:
        words += f", {len(alike) - 1} of them here, since of {len(variants)} departures {equal} have the same input "
        words += "as others (=)"
    if any(known):
        cells = [[*line, score] for line, score in zip(cells, ["published", *known], strict=True)]
        words += f"; published: {SOURCE}"
    title = f"{reference['encoder']}: {describe_place(reference)}"
    return ScoreTable(reference["task"], title, words, tuple(map(tuple, cells)), ((),) * (len(cells) - 1))


def _describe_correction(comparison: Row) -> str:
    count = comparison["family"]
    return f"corrected for {count} distinct comparison{'' if count == 1 else 's'} (Holm)"


def _merge_equal(same: Sequence[Sequence[str]]) -> list[str]:
    """One line for all ways to one input: `contract's = 64 px`; those that are no product of columns in full."""
    columns = [list(dict.fromkeys(column)) for column in zip(*same, strict=True)]
    if math.prod(map(len, columns)) == len(same):
        return [" = ".join(column) for column in columns]
    *first, last = same[0]
    return [*first, " = ".join([last, *(f"({', '.join(cells)})" for cells in same[1:])])]


def _describe_input(departure: Row) -> list[str]:
    """Cells that say what was done."""
    if "perturbation" in departure:
        return [departure["perturbation"]]
    size = "contract's" if departure["size_px"] is None else f"{departure['size_px']} px"
    return [size, departure["resizer"], departure["normalisation"]]

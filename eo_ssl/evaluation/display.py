"""Results as a person reads them in a terminal: a table per protocol, and whom each encoder beats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from eo_ssl.evaluation.results import Row
from eo_ssl.evaluation.tasks import Task


def show(console: Console, task: Task, rows: Sequence[Row], comparisons: Sequence[Row]) -> None:
    """Print one table per protocol (encoders by shots, with intervals), the notes, and who beats whom."""
    words = f"{task.metric.replace('_', ' ')} in %, 95 % interval over draws and {rows[0]['n_blocks']} blocks of {len(task.tested)} test items"
    console.print(f"{task.name}: {words}\nsplit: {task.split}", soft_wrap=True, highlight=False)
    for protocol, group in groupby(rows, key=lambda row: row["protocol"]):
        of = {(row["encoder"], row["shots"]): row for row in group}
        shots = list(dict.fromkeys(count for _, count in of))
        table = Table(title=protocol, caption=of[next(iter(of))]["protocol_words"].split(";")[0])
        table.add_column("encoder")
        table.add_column("pretraining seeds", justify="right", max_width=11)
        for count in shots:
            table.add_column(
                f"{count or 'all'} shots (x {of[next(iter(of))[0], count]['eval_seeds']})",
                justify="right",
                no_wrap=True,
            )
        for name in dict.fromkeys(name for name, _ in of):
            table.add_row(
                name, str(of[name, shots[0]]["pretraining_seeds"]), *(_number(of[name, count]) for count in shots)
            )
        Console(width=max(console.width, 48 + 22 * len(shots))).print(table)
    for note in dict.fromkeys(note for row in rows for note in row["notes"]):
        console.print(f"note: {note}", soft_wrap=True)
    for (protocol, shots), group in groupby(comparisons, key=lambda one: (one["protocol"], one["shots"])):
        for sentence in _verdicts(
            list(group), [row for row in rows if (row["protocol"], row["shots"]) == (protocol, shots)]
        ):
            console.print(f"{protocol}, {shots or 'all'} shots: {sentence}", soft_wrap=True, highlight=False)


def _number(row: Row) -> str:
    bounds = "no interval" if row["low"] is None else f"{100 * row['low']:.1f}-{100 * row['high']:.1f}"
    return f"{100 * row['value']:.1f} ({bounds})"


def _verdicts(comparisons: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """One sentence per trained encoder (the best other one where none is trained): whom it beats, and who beats it."""
    trained = [row["encoder"] for row in rows if row["pretraining_seeds"]]
    best = max((row for row in rows if not row["encoder"].startswith("control")), key=lambda row: row["value"])[
        "encoder"
    ]
    sentences = []
    for name in trained or [best]:
        outcome: dict[str, list[str]] = {"better than": [], "not separable from": [], "worse than": []}
        for one in comparisons:
            if name in (one["a"], one["b"]):
                other, side = (one["b"], "a") if one["a"] == name else (one["a"], "b")
                key = (
                    "not separable from"
                    if one["verdict"] == "not separable"
                    else "better than"
                    if one["verdict"] == side
                    else "worse than"
                )
                outcome[key].append(other)
        sentences.append(
            f"{name}: " + "; ".join(f"{key} {', '.join(others)}" for key, others in outcome.items() if others)
        )
    return sentences

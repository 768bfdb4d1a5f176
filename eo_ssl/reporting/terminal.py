"""Results in a terminal: a table per protocol with intervals, and whom each encoder beats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from eo_ssl.evaluation import METRIC_WORDS, Row, SeedContrasts, Task
from eo_ssl.printable import make_console
from eo_ssl.reporting.contrast_tables import tabulate_seed_contrasts
from eo_ssl.reporting.leaderboard_tables import tabulate_input_variants


def print_results(
    console: Console,
    task: Task,
    rows: Sequence[Row],
    comparisons: Sequence[Row],
    contrasts: SeedContrasts | None = None,
) -> None:
    """Print a table per protocol (encoders by amount of training samples, with intervals), notes and verdicts."""
    drawn = (
        "pretraining seeds (where there are several), draws"
        if any(len(row.get("runs", ())) > 1 for row in rows)
        else "draws"
    )
    blocks = f"{rows[0]['n_blocks']} blocks of {len(task.tested)} test items"
    words = f"{METRIC_WORDS[task.metric]} in %, 95 % interval over {drawn} and {blocks}"
    console.print(f"{task.name}: {words}\nsplit: {task.split}", soft_wrap=True, highlight=False)
    plain = [row for row in rows if not row["reference"]]
    for protocol, group in groupby(plain, key=lambda row: row["protocol"]):
        of = {(row["encoder"], row["amount"]): row for row in group}
        amounts = list(dict.fromkeys(amount for _, amount in of))
        table = Table(title=protocol, caption=of[next(iter(of))]["protocol_words"].split(";")[0])
        table.add_column("encoder")
        table.add_column("pretraining seeds", justify="right", max_width=11)
        for amount in amounts:
            drawn = next(row["eval_seeds"] for (_, other), row in of.items() if other == amount)
            table.add_column(f"{amount} (x {drawn})", justify="right", no_wrap=True)
        for name in dict.fromkeys(name for name, _ in of):
            table.add_row(
                name,
                next(str(row["pretraining_seeds"]) for (of_name, _), row in of.items() if of_name == name),
                *(_number(of[name, amount]) if (name, amount) in of else "" for amount in amounts),
            )
        make_console(width=max(console.width, 48 + 22 * len(amounts))).print(table)
    for variants in (*tabulate_input_variants(rows, comparisons), *tabulate_seed_contrasts(rows, contrasts)):
        head, *lines = variants.cells
        table = Table(*head, title=variants.title, caption=variants.words)
        for line in lines:
            table.add_row(*line)
        make_console(width=max(console.width, 100)).print(table)
    for note in dict.fromkeys(note for row in plain for note in row["notes"]):
        console.print(f"note: {note}", soft_wrap=True)
    names = {row["encoder"] for row in plain}
    between = [pair for pair in comparisons if {pair["a"], pair["b"]} <= names]
    for (protocol, amount), group in groupby(between, key=lambda pair: (pair["protocol"], pair["amount"])):
        for sentence in _verdicts(
            list(group), [row for row in plain if (row["protocol"], row["amount"]) == (protocol, amount)]
        ):
            console.print(f"{protocol}, training samples {amount}: {sentence}", soft_wrap=True, highlight=False)


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
        for pair in comparisons:
            if name in (pair["a"], pair["b"]):
                other, side = (pair["b"], "a") if pair["a"] == name else (pair["a"], "b")
                key = (
                    "not separable from"
                    if pair["verdict"] == "not separable"
                    else "better than"
                    if pair["verdict"] == side
                    else "worse than"
                )
                outcome[key].append(other)
        sentences.append(
            f"{name}: " + "; ".join(f"{key} {', '.join(others)}" for key, others in outcome.items() if others)
        )
    return sentences

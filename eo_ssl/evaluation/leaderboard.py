"""Results as tables to keep: Markdown and HTML to read, CSV to compute with; the grid of an encoder with its loss against the contract."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from itertools import groupby

from eo_ssl.evaluation.metrics import METRIC_WORDS
from eo_ssl.evaluation.published import SOURCE, published_value
from eo_ssl.evaluation.results import Row

_FIELDS = (
    "task", "encoder", "protocol", "amount", "metric", "value", "low", "high", "n_train", "n_test", "n_blocks", "eval_seeds", "seed",
    "pretraining_seeds", "split", "quantity", "encoder_fingerprint", "task_fingerprint", "published",
)  # fmt: skip
Cells = list[list[str]]
"""A head and rows."""


def csv_text(rows: Sequence[Row]) -> str:
    """Return every row, one line each, best first within its task, protocol and amount."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_FIELDS)
    for group in _groups(rows):
        writer.writerows(
            [(row | {"published": published_value(row)})[field] for field in _FIELDS] for row in _best_first(group)
        )
    return out.getvalue()


def markdown(rows: Sequence[Row], comparisons: Sequence[Row]) -> str:
    """Return a table per task, protocol and amount, best first, and a grid per encoder where its contract was departed from."""
    return "\n".join(
        f"### {title}\n\n{note}\n\n{_markdown(cells)}" for title, note, cells in _tables(rows, comparisons)
    )


def page(rows: Sequence[Row], comparisons: Sequence[Row]) -> str:
    """Return the same tables as a self-contained HTML page."""
    parts = [
        f"<h2>{html.escape(title)}</h2><p>{html.escape(note)}</p>{_html(cells)}"
        for title, note, cells in _tables(rows, comparisons)
    ]
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse}"
        "th,td{padding:.25rem .75rem;border-bottom:1px solid #ccc;text-align:left}td:not(:first-child){font-variant-numeric:tabular-nums}"
    )
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Leaderboard</title><style>{style}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>Leaderboard</h1>{"".join(parts)}</body></html>'


def departures(rows: Sequence[Row], comparisons: Sequence[Row]) -> list[tuple[str, str, str, Cells]]:
    """Return task, title, note and cells (head first) of each table of departures from a contract; none where there are none."""
    found = []
    for group in _groups([row for row in rows if "reference" in row]):
        here = [one for one in comparisons if all(one[k] == group[0][k] for k in ("task", "protocol", "amount"))]
        for reference in [row for row in group if not row["reference"]]:
            departed = [row for row in group if row["reference"] == reference["encoder"]]
            if departed:
                place = f"{reference['task']}, {reference['protocol']}, training samples: {reference['amount']}"
                found.append((reference["task"], *_grid(place, reference, departed, here)))
    return found


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that may be compared, in the order given."""

    def place(row: Row) -> tuple[str, ...]:
        return tuple(str(row[key]) for key in ("task", "split", "protocol", "amount", "metric"))

    return [list(group) for _, group in groupby(sorted(rows, key=place), key=place)]


def _best_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -row["value"])


def _tables(rows: Sequence[Row], comparisons: Sequence[Row]) -> list[tuple[str, str, Cells]]:
    """Title, note and cells of each table."""
    tables = []
    for group in _groups(rows):
        first = group[0]
        place = f"{first['task']}, {first['protocol']}, training samples: {first['amount']}"
        plain = [row for row in group if not row["reference"]]
        words = (
            f"{METRIC_WORDS[first['metric']]} of {first['n_test']} test items in {first['n_blocks']} blocks; {_intervals(plain or group)}; "
            f"split: {first['split']}"
        )
        cells = [["encoder", "value", "95 % interval", "pretraining seeds"]]
        cells += [
            [row["encoder"], _share(row["value"]), _bounds(row), str(row["pretraining_seeds"])]
            for row in _best_first(plain)
        ]
        tables.append((place, words, cells))
        tables += [(title, note, grid) for _, title, note, grid in departures(group, comparisons)]
    return tables


def _intervals(rows: Sequence[Row]) -> str:
    """What the intervals resampled; where that differs, whose."""
    of: dict[str, list[str]] = {}
    for row in rows:
        of.setdefault(row["interval"], []).append(row["encoder"])
    if len(of) == 1:
        return next(iter(of))
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in of.items())


def _grid(place: str, reference: Row, departed: Sequence[Row], comparisons: Sequence[Row]) -> tuple[str, str, Cells]:
    """One encoder as it should be used, and otherwise: the value, and what was lost."""
    against = {one["b"]: one for one in comparisons if one["a"] == reference["encoder"]}
    head, kept = ["size", "resized by", "normalisation"], ["contract's", "contract", "contract"]
    if "perturbation" in departed[0]["departure"]:
        head, kept = ["test images"], ["untouched"]
    cells = [[*head, "value", "lost", "verdict"], [*kept, _share(reference["value"]), "", "reference"]]
    known = [published_value(row) for row in (reference, *departed)]
    for row in departed:
        one = against[row["encoder"]]
        lost = f"{100 * one['difference']:+.1f}"
        if one["low"] is not None:
            lost += f" ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"
        verdict = {"a": "worse", "b": "better", "not separable": "not separable"}[one["verdict"]]
        cells.append([*_differs(row["departure"]), _share(row["value"]), lost, verdict])
    note = f"points lost against the first line; verdicts at 5 %, corrected for {next(iter(against.values()))['family']} comparisons (Holm)"
    if any(value is not None for value in known):
        column = ["published", *("" if value is None else _share(value) for value in known)]
        cells = [[*line, one] for line, one in zip(cells, column, strict=True)]
        note += f"; published: {SOURCE}"
    return f"{reference['encoder']}: {place}", note, cells


def _differs(departure: Row) -> list[str]:
    """Cells that say what was done."""
    if "perturbation" in departure:
        return [departure["perturbation"]]
    size = "contract's" if departure["size_px"] is None else f"{departure['size_px']} px"
    return [size, departure["resizer"], departure["normalisation"]]


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _bounds(row: Row) -> str:
    return "none" if row["low"] is None else f"{_share(row['low'])} to {_share(row['high'])}"


def _markdown(cells: Cells) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:], ""])


def _html(cells: Cells) -> str:
    head, *body = cells
    row = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in one) + "</tr>" for one in body)
    return f"<table><thead><tr>{row}</tr></thead><tbody>{lines}</tbody></table>"

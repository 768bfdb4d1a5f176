"""Results as tables to keep: Markdown and HTML to read, CSV to compute with; the grid of an encoder with its loss against the contract."""

from __future__ import annotations

import base64
import csv
import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from eo_ssl.evaluation.figures import Picture, pictures
from eo_ssl.evaluation.published import SOURCE, published_value
from eo_ssl.evaluation.result_rows import Row
from eo_ssl.evaluation.task_metrics import METRIC_WORDS

_FIELDS = (
    "task", "encoder", "protocol", "amount", "metric", "value", "low", "high", "against_best", "n_train", "n_test", "n_blocks", "eval_seeds",
    "seed", "pretraining_seeds", "pooling", "quantity", "input_px", "split", "interval", "notes", "encoder_fingerprint", "task_fingerprint",
    "published",
)  # fmt: skip
Cells = list[list[str]]
"""A head and rows."""
_STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf6;--card:#fff;--ink:#1c2326;--soft:#4c575c;--rule:#e2dfd6;--wash:#f2efe7;--accent:#0b6e69;--accent-wash:#e0f0ee;
--warn-wash:#fdf1dd;--warn-rule:#e9c583;--dropped:#b4532a}
@media(prefers-color-scheme:dark){:root{--paper:#12171a;--card:#192024;--ink:#e6e9e7;--soft:#b3bdbf;--rule:#2c363b;--wash:#1e272b;--accent:#5cc3b8;
--accent-wash:#17332f;--warn-wash:#33270f;--warn-rule:#6b5122;--dropped:#e8946a}}
body{font:16px/1.55 system-ui,sans-serif;max-width:76rem;margin:0 auto;padding:2rem 1rem 4rem;background:var(--paper);color:var(--ink);overflow-wrap:anywhere}
h1,h2,h3{font-family:"Iowan Old Style",Palatino,Georgia,serif;line-height:1.2;font-weight:600}h1{font-size:2.2rem;margin:.5rem 0}
h2{margin:2.8rem 0 .4rem;padding-top:1.6rem;border-top:1px solid var(--rule)}h3{margin:2rem 0 .3rem}p{max-width:80ch;margin:.4rem 0;color:var(--soft)}
.note{background:var(--warn-wash);border:1px solid var(--warn-rule);border-radius:8px;padding:.6rem 1rem;color:var(--ink)}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--rule);border-radius:8px;margin:.8rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th{text-align:left;color:var(--soft);font-weight:600;background:var(--wash);white-space:nowrap}th,td{padding:.4rem .8rem;border-bottom:1px solid var(--rule)}
td:first-child{min-width:9rem}tbody tr:last-child td{border:0}.n{text-align:right;white-space:nowrap}.best{color:var(--accent);font-weight:600}
tr:has(.best){background:var(--accent-wash)}
.worse{color:var(--dropped)}sup a,a{color:var(--accent);text-decoration:none}ol{color:var(--soft);max-width:80ch}li:target{background:var(--warn-wash)}
figure{margin:1.5rem 0;overflow-x:auto}img{max-width:100%;min-width:42rem}
"""
"""Colours are those of the report."""


_OWN = ["contract's", "contract", "contract"]
_VERDICTS = ("against the best", "verdict")


@dataclass(frozen=True, slots=True)
class _Table:
    """A table under its heading."""

    title: str
    words: str
    cells: Cells


@dataclass(frozen=True, slots=True)
class _Part:
    """All tables of a task."""

    task: str
    words: str
    notes: tuple[str, ...]
    "that hold for every number"
    tables: tuple[_Table, ...]


def files(rows: Sequence[Row], comparisons: Sequence[Row]) -> dict[str, bytes]:
    """Return everything there is to read, by file name: tables in three formats, and the figures of studies as SVG."""
    studies = ([row for row in rows if not row["reference"] or _treated(row) is grid] for grid in (True, False))
    drawn = [picture for study in studies for picture in pictures(study, comparisons)]
    found = {
        "leaderboard.md": markdown(rows, comparisons).encode(),
        "leaderboard.html": page(rows, comparisons, drawn=drawn).encode(),
        "leaderboard.csv": csv_text(rows, comparisons).encode(),
    }
    return found | {f"{picture.name}.svg": picture.svg for picture in drawn}


def csv_text(rows: Sequence[Row], comparisons: Sequence[Row]) -> str:
    """Return every row, one line each, best first within its task, protocol and amount."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_FIELDS)
    for group in _groups(rows):
        standing = _standings(group, comparisons)
        for row in _best_first(group):
            made = {"published": published_value(row), "against_best": standing.get(row["encoder"], "")}
            told = row | made | {"notes": " | ".join(row["notes"])}
            writer.writerow([told[field] for field in _FIELDS])
    return out.getvalue()


def markdown(rows: Sequence[Row], comparisons: Sequence[Row]) -> str:
    """Return a table per task, protocol and amount, best first, and a grid per encoder where its contract was departed from."""
    parts, footnotes = _parts(rows, comparisons)
    lines: list[str] = []
    for part in parts:
        lines += [f"{part.words}\n", *(f"> {note}\n" for note in part.notes)]
        lines += [f"### {table.title}\n\n{table.words}\n\n{_markdown(table.cells)}" for table in part.tables]
    lines += [f"[{number}] {note}\n" for number, note in enumerate(footnotes, 1)]
    return "\n".join(lines)


def page(rows: Sequence[Row], comparisons: Sequence[Row], *, drawn: Sequence[Picture] = ()) -> str:
    """Return the same tables as a self-contained HTML page, under the figures ``drawn``."""
    parts, footnotes = _parts(rows, comparisons)
    body = ["<h1>Leaderboard</h1>", *map(_figure, drawn)]
    for part in parts:
        body += [f"<h2>{html.escape(part.task)}</h2><p>{html.escape(part.words)}</p>"]
        body += [f'<p class="note">{html.escape(note)}</p>' for note in part.notes]
        body += [f"<h3>{html.escape(t.title)}</h3><p>{html.escape(t.words)}</p>{_html(t.cells)}" for t in part.tables]
    if footnotes:
        items = "".join(f'<li id="note-{i}">{html.escape(note)}</li>' for i, note in enumerate(footnotes, 1))
        body.append(f"<h2>Notes</h2><ol>{items}</ol>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Leaderboard</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>'


def departures(rows: Sequence[Row], comparisons: Sequence[Row]) -> list[tuple[str, str, str, Cells]]:
    """Return task, title, note and cells (head first) of each table of departures from a contract; none where there are none."""
    found = []
    for group in _groups([row for row in rows if "reference" in row]):
        here = _here(group, comparisons)
        for reference in [row for row in group if not row["reference"]]:
            against = {one["b"]: one for one in here if one["a"] == reference["encoder"]}
            departed = [row for row in group if row["reference"] == reference["encoder"] and row["encoder"] in against]
            for study in (
                sorted(filter(_treated, departed), key=_tried),
                [row for row in departed if not _treated(row)],
            ):
                if study:
                    found.append((reference["task"], *_grid(_title(reference), reference, study, against)))
    return found


def _tried(row: Row) -> tuple[Any, ...]:
    """Order of a grid: sizes, then what is nearest to the contract."""
    names = [row["departure"][key] for key in ("normalisation", "resizer")]
    return row["departure"]["size_px"] or 0, *((name != "contract", name) for name in names)


def _treated(row: Row) -> bool:
    """Whether a departure is one of a grid, not of the study of perturbed images."""
    return "perturbation" not in row["departure"]


def _title(row: Row) -> str:
    return f"{row['task']}, {row['protocol']}, training samples: {row['amount']}"


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that may be compared, by protocol, then shots, shares, all."""

    def place(row: Row) -> tuple[str | float, ...]:
        amount = row.get("shots") or (1e9 if row.get("fraction") else 2e9), row.get("fraction") or 0.0
        return (*(str(row[key]) for key in ("task", "split", "protocol")), *amount, str(row["amount"]), row["metric"])

    return [list(group) for _, group in groupby(sorted(rows, key=place), key=place)]


def _here(group: Sequence[Row], comparisons: Sequence[Row]) -> list[Row]:
    """Comparisons of the rows of a group."""
    return [one for one in comparisons if all(one[k] == group[0][k] for k in ("task", "protocol", "amount"))]


def _best_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -row["value"])


def _standings(group: Sequence[Row], comparisons: Sequence[Row]) -> dict[str, str]:
    """`best`, `not separable` from it or `worse`, by encoder; the grid has verdicts of its own."""
    plain = _best_first([row for row in group if not row["reference"]])
    if len(plain) < 2:
        return {}
    best, others = plain[0], plain[1:]
    verdicts = {frozenset((one["a"], one["b"])): one["verdict"] for one in _here(group, comparisons)}
    words = {
        row["encoder"]: "not separable"
        if verdicts.get(frozenset((best["encoder"], row["encoder"])), "not separable") == "not separable"
        else "worse"
        for row in others
    }
    return {best["encoder"]: "best", **words}


def _parts(rows: Sequence[Row], comparisons: Sequence[Row]) -> tuple[list[_Part], list[str]]:
    """Tables by task, and what is said of single encoders, to which cells refer as [1]."""
    footnotes: dict[str, int] = {}
    parts = []
    for task, found in groupby(_groups(rows), key=lambda group: group[0]["task"]):
        groups = list(found)
        first = groups[0][0]
        plain = [row for group in groups for row in group if not row["reference"]]
        common = [note for note in first["notes"] if all(note in row["notes"] for row in plain)] if plain else []
        words = (
            f"{METRIC_WORDS[first['metric']].capitalize()} in %, of {first['n_test']} test items in {first['n_blocks']} blocks, seed "
            f"{first['seed']}. Split: {first['split']}."
        )
        tables: list[_Table] = []
        for group in groups:
            tables += _tables(group, comparisons, common=common, footnotes=footnotes)
        parts.append(_Part(task, words, tuple(common), tuple(tables)))
    return parts, list(footnotes)


def _tables(
    group: Sequence[Row], comparisons: Sequence[Row], *, common: Sequence[str], footnotes: dict[str, int]
) -> list[_Table]:
    """The table of a group, and those of its departures."""
    plain, standing = _best_first([row for row in group if not row["reference"]]), _standings(group, comparisons)
    tables = []
    if plain:
        first, compared = plain[0], _here(plain, comparisons)
        words = f"{first['protocol_words']}. {first['n_train']} training samples. Intervals: {_intervals(plain)}."
        if compared:
            words += f" Verdicts at 5 %, paired, {_corrected(compared[0])}."
        cells = [["encoder", "value", "95 % interval", "against the best", "pretraining seeds", "quantity", "pooling"]]
        for row in plain:
            marks = [footnotes.setdefault(note, len(footnotes) + 1) for note in row["notes"] if note not in common]
            cells.append(
                [
                    " ".join([row["encoder"], *(f"[{mark}]" for mark in marks)]),
                    _share(row["value"]),
                    _bounds(row),
                    standing.get(row["encoder"], ""),
                    str(row["pretraining_seeds"]),
                    row["quantity"],
                    row["pooling"],
                ]
            )
        tables.append(_Table(_title(first), words, cells))
    return tables + [_Table(title, note, grid) for _, title, note, grid in departures(group, comparisons)]


def _intervals(rows: Sequence[Row]) -> str:
    """What the intervals resampled; where that differs, whose."""
    of: dict[str, list[str]] = {}
    for row in rows:
        of.setdefault(row["interval"], []).append(row["encoder"])
    if len(of) == 1:
        return next(iter(of))
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in of.items())


def _grid(place: str, reference: Row, departed: Sequence[Row], against: dict[str, Row]) -> tuple[str, str, Cells]:
    """One encoder as it should be used, and otherwise: the value, and what was lost; equal inputs in one line."""
    alike: dict[str, list[Row]] = {}
    for row in (reference, *departed):
        alike.setdefault(row.get("inputs", row["encoder"]), []).append(row)
    grid = _treated(departed[0])
    head, own = (["size", "resized by", "normalisation"], _OWN) if grid else (["test images"], ["untouched"])
    cells = [[*head, "value", "lost", "verdict"]]
    known = []
    for same in alike.values():
        row = same[0]
        known.append(next((value for one in same if (value := published_value(one)) is not None), None))
        done = _merged([own if one is reference else _differs(one["departure"]) for one in same])
        if row is reference:
            cells.append([*done, _share(row["value"]), "", "reference"])
            continue
        one = against[row["encoder"]]
        lost = _points(one["difference"])
        if one["low"] is not None:
            lost += f" ({_points(one['low'])} to {_points(one['high'])})"
        verdict = {"a": "worse", "b": "better", "not separable": "not separable"}[one["verdict"]]
        cells.append([*done, _share(row["value"]), lost, verdict])
    note = f"points lost against the first line; verdicts at 5 %, {_corrected(next(iter(against.values())))}"
    if len(alike) <= len(departed):
        note += f", {len(alike) - 1} of them here, since of {len(departed)} departures {len(departed) + 1 - len(alike)} have the same input as others (=)"
    if any(value is not None for value in known):
        column = ["published", *("" if value is None else _share(value) for value in known)]
        cells = [[*line, one] for line, one in zip(cells, column, strict=True)]
        note += f"; published: {SOURCE}"
    return f"{reference['encoder']}: {place}", note, cells


def _corrected(comparison: Row) -> str:
    count = comparison["family"]
    return f"corrected for {count} distinct comparison{'' if count == 1 else 's'} (Holm)"


def _merged(same: Sequence[Sequence[str]]) -> list[str]:
    """One line for all ways that lead to one input: `contract's = 64 px`; those that are no product of columns in full."""
    columns = [list(dict.fromkeys(column)) for column in zip(*same, strict=True)]
    if math.prod(map(len, columns)) == len(same):
        return [" = ".join(column) for column in columns]
    *first, last = same[0]
    return [*first, " = ".join([last, *(f"({', '.join(one)})" for one in same[1:])])]


def _differs(departure: Row) -> list[str]:
    """Cells that say what was done."""
    if "perturbation" in departure:
        return [departure["perturbation"]]
    size = "contract's" if departure["size_px"] is None else f"{departure['size_px']} px"
    return [size, departure["resizer"], departure["normalisation"]]


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(value: float) -> str:
    """With its sign; no minus where it rounds to nothing."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"


def _bounds(row: Row) -> str:
    return "none" if row["low"] is None else f"{_share(row['low'])} to {_share(row['high'])}"


def _markdown(cells: Cells) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:], ""])


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.svg).decode()
    return f'<figure><img alt="{html.escape(picture.alt)}" src="data:image/svg+xml;base64,{data}"></figure>'


def _html(cells: Cells) -> str:
    head, *body = cells
    row = "".join(f"<th{_class(name, '')}>{html.escape(name)}</th>" for name in head)
    lines = "".join(
        "<tr>" + "".join(f"<td{_class(name, cell)}>{_linked(cell)}</td>" for name, cell in zip(head, one, strict=True)) + "</tr>"
        for one in body
    )  # fmt: skip
    return f'<div class="scroll"><table><thead><tr>{row}</tr></thead><tbody>{lines}</tbody></table></div>'


def _class(column: str, cell: str) -> str:
    found = {"best": "best", "reference": "best", "worse": "worse"}.get(cell) if column in _VERDICTS else None
    numeric = "n" if column in ("value", "95 % interval", "lost", "pretraining seeds", "published") else None
    return f' class="{found or numeric}"' if found or numeric else ""


def _linked(cell: str) -> str:
    """Escaped, the numbers of footnotes as links."""
    return re.sub(r" \[(\d+)\]", r' <sup><a href="#note-\1">\1</a></sup>', html.escape(cell))

"""Leaderboards to keep: Markdown and HTML to read, CSV to compute with, figures of studies beside and inside them."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import replace

from eo_ssl.evaluation import Row, SeedContrasts
from eo_ssl.printable import show_controls
from eo_ssl.reporting.contrast_tables import tabulate_seed_contrasts
from eo_ssl.reporting.leaderboard_tables import (
    ScoreTable,
    TaskTables,
    group_rows,
    name_study,
    rank_against_best,
    sort_best_first,
    tabulate_scores,
)
from eo_ssl.reporting.published_scores import find_published_score
from eo_ssl.reporting.study_figures import StudyFigure, draw_studies
from eo_ssl.reporting.templating import render_template
from eo_ssl.reporting.training_figures import draw_training_studies

_COLUMNS = (
    "task encoder protocol amount metric value low high against_best n_train n_test n_blocks eval_seeds seed "
    "pretraining_seeds pooling quantity input_px split interval notes encoder_fingerprint task_fingerprint published"
)


def render_leaderboard(
    rows: Sequence[Row], comparisons: Sequence[Row], contrasts: SeedContrasts | None = None
) -> dict[str, bytes]:
    """Return everything there is to read, by file name: tables in three formats, and the figures of studies as SVG."""
    studies = ([row for row in rows if not row["reference"] or name_study(row) == name] for name in ("grid", "images"))
    figures = [figure for study in studies for figure in draw_studies(study, comparisons)]
    figures += draw_training_studies(rows, contrasts)
    tables = {
        "leaderboard.md": format_markdown(rows, comparisons, contrasts).encode(),
        "leaderboard.html": render_leaderboard_page(rows, comparisons, contrasts, figures=figures).encode(),
        "leaderboard.csv": format_csv(rows, comparisons).encode(),
    }
    return tables | {f"{figure.name}.svg": figure.svg for figure in figures}


def format_csv(rows: Sequence[Row], comparisons: Sequence[Row]) -> str:
    """Return every row, one line each, best first within its task, protocol and amount."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS.split())
    for group in group_rows(rows):
        standing = rank_against_best(group, comparisons)
        for row in sort_best_first(group):
            made = {"published": find_published_score(row), "against_best": standing.get(row["encoder"], "")}
            told = row | made | {"notes": " | ".join(row["notes"])}
            writer.writerow([told[field] for field in _COLUMNS.split()])
    return out.getvalue()


def format_markdown(rows: Sequence[Row], comparisons: Sequence[Row], contrasts: SeedContrasts | None = None) -> str:
    """Return a table per task, protocol and amount, best first, one per encoder under other inputs, and contrasts."""
    tasks, footnotes = _tabulate_all(rows, comparisons, contrasts)
    lines: list[str] = []
    for task in tasks:
        lines += [f"{show_controls(task.words)}\n", *(f"> {show_controls(note)}\n" for note in task.notes)]
        for table in task.tables:
            title, words = show_controls(table.title), show_controls(table.words)
            lines.append(f"### {title}\n\n{words}\n\n{_format_table(table)}")
    lines += [f"[{number}] {show_controls(note)}\n" for number, note in enumerate(footnotes, 1)]
    return "\n".join(lines)


def _format_table(table: ScoreTable) -> str:
    head, *body = table.cells
    marked = [
        [" ".join([name, *(f"[{mark}]" for mark in marks)]), *others]
        for (name, *others), marks in zip(body, table.marks, strict=True)
    ]
    lines = [
        "| " + " | ".join(show_controls(cell).replace("|", "\\|") for cell in line) + " |" for line in (head, *marked)
    ]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:], ""])


def _tabulate_all(
    rows: Sequence[Row], comparisons: Sequence[Row], contrasts: SeedContrasts | None
) -> tuple[list[TaskTables], list[str]]:
    """All tables by task, those of contrasts and of training at the end."""
    tasks, footnotes = tabulate_scores(rows, comparisons)
    more = tabulate_seed_contrasts(rows, contrasts)
    return [replace(one, tables=(*one.tables, *(t for t in more if t.task == one.task))) for one in tasks], footnotes


def render_leaderboard_page(
    rows: Sequence[Row],
    comparisons: Sequence[Row],
    contrasts: SeedContrasts | None = None,
    *,
    figures: Sequence[StudyFigure] = (),
) -> str:
    """Return the same tables as a self-contained HTML page, under ``figures``."""
    tasks, footnotes = _tabulate_all(rows, comparisons, contrasts)
    pictures = [(figure.alt, base64.b64encode(figure.svg).decode()) for figure in figures]
    return render_template("leaderboard.html", tasks=tasks, footnotes=footnotes, pictures=pictures)

"""Result rows as groups that may be compared: tables, whiskers and curves over shots, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from eo_ssl.errors import UserError
from eo_ssl.reporting.charts import Chart, Series, choose_ticks, draw_lines, make_legend
from eo_ssl.reporting.formatting import (
    describe_protocol,
    format_fingerprint,
    format_interval,
    format_number,
    format_score,
    format_title,
    is_share,
)
from eo_ssl.reporting.leaderboard_tables import ScoreTable, tabulate_input_variants
from eo_ssl.reporting.products import FinishedProduct, read_json, read_list
from eo_ssl.reporting.sections.verdicts import (
    Standing,
    Verdict,
    describe_comparisons,
    summarise_standings,
    summarise_verdicts,
)
from eo_ssl.reporting.svg import render_svg

Kind = Literal["ours", "baseline", "control"]
KINDS: tuple[Kind, ...] = ("ours", "baseline", "control")
REQUIRED = ("task", "encoder", "protocol", "metric", "value")
FACTS = {
    "n_test": "Test items",
    "n_train": "Training items",
    "n_blocks": "Blocks of test items",
    "eval_seeds": "Training draws",
    "pretraining_seeds": "Pretraining seeds",
    "quantity": "Quantity",
}
SENTENCES = {"split": "Split", "interval": "Interval", "bands": "Bands", "classes": "Classes"}
COLUMNS = {
    "protocol": "Protocol",
    "amount": "Training samples",
    "encoder": "Encoder",
    "value": "Value",
    "low": "Low",
    "high": "High",
    "n_train": "n train",
    "n_test": "n test",
    "n_blocks": "Blocks",
    "eval_seeds": "Draws",
    "pretraining_seeds": "Seeds",
    "quantity": "Quantity",
    "encoder_fingerprint": "Fingerprint",
}


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One result with what is needed to show it."""

    data: Mapping[str, Any]
    "the row as it was written"
    kind: Kind
    "whose it is"

    def get(self, key: str) -> Any:
        """A field of the row; None where it has none."""
        return self.data.get(key)

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return str(self.data["encoder"])

    @property
    def text(self) -> str:
        """The value in the unit of its metric."""
        return format_score(self.data["value"], self.data["metric"])

    @property
    def interval(self) -> str:
        """`[low, high]`, or that there is none."""
        return format_interval(self.get("low"), self.get("high"), metric=self.data["metric"]) or "no interval"


@dataclass(frozen=True, slots=True)
class Whisker:
    """A value and its interval on a line; places in per cent of its length."""

    at: float
    "place of the value"
    low: float | None
    "place of the interval's lower end, None = no interval"
    high: float | None
    "place of its upper end"
    words: str
    "the row in words"


@dataclass(frozen=True, slots=True)
class ScoreGroup:
    """Rows that may be compared: one task, protocol, number of shots and metric."""

    title: str
    "protocol and shots"
    words: str
    "the protocol in words"
    rows: tuple[ScoredRow, ...]
    "best first, controls last"
    whiskers: tuple[Whisker, ...]
    "one per row, on the axis of the task"


@dataclass(frozen=True, slots=True)
class TaskScores:
    """All results of one task in one metric."""

    name: str
    "as evaluated"
    anchor: str
    "id in the page"
    metric: str
    "of all its groups"
    groups: tuple[ScoreGroup, ...]
    "by protocol, then shots"
    figures: tuple[Chart, ...]
    "value against shots, where there are at least three numbers of shots"
    ticks: tuple[tuple[float, str], ...]
    "(place on the line, label) of the axis that all groups share"
    facts: tuple[tuple[str, str], ...]
    "short facts that say how far a number may be trusted"
    sentences: tuple[tuple[str, str], ...]
    "long ones"
    notes: tuple[str, ...]
    "what every row says about itself: shown prominently"
    remarks: tuple[tuple[str, str], ...]
    "(encoder, what its rows alone say)"
    standings: tuple[Standing, ...]
    "each trained encoder against all others"
    verdicts: tuple[Verdict, ...]
    "all paired comparisons"
    verdict_words: str
    "how many of them could be told apart"
    columns: tuple[str, ...]
    "head of the full table"
    lines: tuple[tuple[tuple[str, float | None], ...], ...]
    "full table: (text, number to sort by or None)"
    headline: str
    "one sentence for the top of the page"
    variants: tuple[ScoreTable, ...] = ()
    "what each encoder lost under other inputs than its contract's"


def read_rows(products: Sequence[FinishedProduct], encoders: Sequence[FinishedProduct]) -> list[ScoredRow]:
    """Every result row of the given `evaluate` products, in file order.

    Raises:
        UserError: a row lacks a field that no table can do without.
    """
    trained = {encoder.manifest.fingerprint for encoder in encoders}
    rows = []
    for product in products:
        for file in sorted((product.path / "rows").glob("*.json")):
            data = read_json(file)
            missing = [key for key in REQUIRED if data.get(key) is None]
            if missing:
                raise UserError(f"expected the field {missing[0]!r} in the result {file}, got none: evaluate again")
            rows.append(ScoredRow(data, classify_encoder(data, trained)))
    return rows


def classify_encoder(data: Mapping[str, Any], trained: set[str]) -> Kind:
    """Whether a row is of a trained encoder, of a baseline without training, or of a control that must not work."""
    if str(data["encoder"]).lower().startswith("control"):
        return "control"
    return "ours" if data.get("pretraining_seeds") or data.get("encoder_fingerprint") in trained else "baseline"


def group_scores(products: Sequence[FinishedProduct], encoders: Sequence[FinishedProduct]) -> list[TaskScores]:
    """The results by task and metric, ready to be drawn."""
    rows = read_rows(products, encoders)
    comparisons = [c for product in products for c in read_list(product.path / "comparisons.json")]
    variants = tabulate_input_variants([dict(row.data) for row in rows], comparisons)
    rows = sorted(
        (row for row in rows if not row.get("reference")), key=lambda r: (str(r.data["task"]), str(r.data["metric"]))
    )
    plain = {str(row.data["encoder"]) for row in rows}
    comparisons = [c for c in comparisons if {c["a"], c["b"]} <= plain]
    made: list[TaskScores] = []
    for (name, metric), of_task in groupby(rows, key=lambda r: (str(r.data["task"]), str(r.data["metric"]))):
        own = [c for c in comparisons if c.get("task") == name and c.get("metric", metric) == metric]
        task = _task(name, metric, list(of_task), own, len(made))
        made.append(replace(task, variants=tuple(table for table in variants if table.task == name)))
    return made


def _task(
    name: str, metric: str, rows: list[ScoredRow], comparisons: list[dict[str, Any]], position: int
) -> TaskScores:
    axis = _choose_axis(rows, metric)
    rows.sort(key=_place)
    groups = [_group(list(members), metric, axis) for _, members in groupby(rows, key=_place)]
    kinds = {row.encoder: str(row.kind) for row in rows}
    compared = describe_comparisons(comparisons, kinds=kinds, metric=metric)
    notes, remarks = _notes(rows)
    return TaskScores(
        name=name,
        anchor=f"task-{position + 1}",
        metric=metric,
        groups=tuple(groups),
        figures=tuple(_shot_curves(name, metric, rows)),
        ticks=tuple(
            (_place_on(axis, tick), format_score(tick, metric, unit=False)) for tick in choose_ticks(*axis, most=4)
        ),
        facts=tuple(_facts(rows, FACTS)),
        sentences=tuple(_facts(rows, SENTENCES)),
        notes=notes,
        remarks=remarks,
        standings=summarise_standings(compared, kinds),
        verdicts=compared,
        verdict_words=summarise_verdicts(compared),
        columns=tuple(COLUMNS.values()),
        lines=tuple(tuple(_cell(row, key, metric) for key in COLUMNS) for row in rows),
        headline=_headline(name, groups, compared),
    )


def _choose_axis(rows: Sequence[ScoredRow], metric: str) -> tuple[float, float]:
    """Ends of a line that shows all values and intervals with a margin; a share ends where shares do."""
    ends = [float(r.data[k]) for r in rows for k in ("low", "value", "high") if r.data.get(k) is not None]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or abs(low) * 0.1 or 0.5
    low, high = low - margin, high + margin
    return (max(low, -0.02), min(high, 1.02)) if is_share(metric) else (low, high)


def _place_on(axis: tuple[float, float], value: float) -> float:
    """Where a value stands on the line, per cent."""
    return 100 * (value - axis[0]) / (axis[1] - axis[0])


def _group(rows: list[ScoredRow], metric: str, axis: tuple[float, float]) -> ScoreGroup:
    best_first = tuple(sorted(rows, key=lambda r: (r.kind == "control", -float(r.data["value"]))))
    whiskers = []
    for row in best_first:
        low, high = (None if (end := row.get(key)) is None else _place_on(axis, float(end)) for key in ("low", "high"))
        words = f"{row.encoder}: {row.text} {row.interval}"
        whiskers.append(Whisker(_place_on(axis, float(row.data["value"])), low, high, words))
    first = best_first[0]
    return ScoreGroup(
        describe_protocol(first.data), str(first.get("protocol_words") or ""), best_first, tuple(whiskers)
    )


def _place(row: ScoredRow) -> tuple[str, int, float]:
    return str(row.data["protocol"]), int(row.get("shots") or 0), float(row.get("fraction") or 0)


def _notes(rows: Sequence[ScoredRow]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Notes that every row of an encoder carries: those common to all encoders, and the others by encoder."""
    by_encoder: dict[str, dict[str, None]] = {}
    for row in rows:
        said = row.get("notes") or []
        for note in said if isinstance(said, list) else [said]:
            by_encoder.setdefault(row.encoder, {})[str(note)] = None
    everyone = {row.encoder for row in rows}
    all_notes = dict.fromkeys(note for notes in by_encoder.values() for note in notes)
    common = tuple(
        note for note in all_notes if len(everyone) > 1 and all(note in by_encoder.get(e, {}) for e in everyone)
    )
    own = tuple((encoder, note) for encoder, notes in by_encoder.items() for note in notes if note not in common)
    return common, own


def _facts(rows: Sequence[ScoredRow], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Some fields with all values they take in the task."""
    facts = []
    for key, label in labels.items():
        known = [row for row in rows if row.kind == "ours"] if key == "pretraining_seeds" else rows  # others have none
        texts = dict.fromkeys(_plain(row.data[key]) for row in known if row.data.get(key) not in (None, "", []))
        if texts:
            facts.append((label, " · ".join(texts)))
    return facts


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(v) for v in value)
    return format_number(value).replace("toa_", "top-of-atmosphere ").replace("boa_", "surface ")


def _cell(row: ScoredRow, key: str, metric: str) -> tuple[str, float | None]:
    """Text of one cell of the full table and the number to sort it by."""
    value = row.get(key)
    if key in ("value", "low", "high"):
        return format_score(value, metric, unit=False), value
    if key == "amount":
        return str(value or row.get("shots") or "all"), None
    if key == "encoder_fingerprint":
        return format_fingerprint(str(value or "")), None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format_number(value), float(value)
    return ("" if value is None else _plain(value)), None


def _shot_curves(name: str, metric: str, rows: Sequence[ScoredRow]) -> list[Chart]:
    """One chart per protocol: the value of each encoder against the number of labelled examples per class."""
    figures = []
    kinds = {row.encoder: row.kind for row in rows}
    colours = {encoder: i % 8 for i, encoder in enumerate(sorted(kinds, key=lambda e: (KINDS.index(kinds[e]), e)))}
    for protocol in dict.fromkeys(str(row.data["protocol"]) for row in rows):
        own = [row for row in rows if str(row.data["protocol"]) == protocol and row.get("shots")]
        if len({row.data["shots"] for row in own}) < 3:
            continue
        series = []
        for encoder, colour in colours.items():
            points = sorted((float(r.data["shots"]), float(r.data["value"])) for r in own if r.encoder == encoder)
            if points:
                x, y = zip(*points, strict=True)
                series.append(Series(encoder, x, tuple(100 * v for v in y) if is_share(metric) else y, colour))
        label = format_title(metric) + (", %" if is_share(metric) else "")
        names = ", ".join(s.name for s in series)
        alt = f"{format_title(metric)} on {name} against shots per class, {format_title(protocol)}: {names}"
        svg = render_svg(draw_lines(series, x_label="labelled examples per class", y_label=label), alt=alt)
        figures.append(Chart(svg, format_title(protocol), "Intervals are in the rows below.", make_legend(series)))
    return figures


def _headline(name: str, groups: Sequence[ScoreGroup], compared: Sequence[Verdict]) -> str:
    """The best trained encoder against the best baseline, in the group with most shots (none named = all labels)."""
    with_ours = [g for g in groups if any(r.kind == "ours" for r in g.rows)]
    group = max(with_ours or groups, key=lambda g: float(g.rows[0].get("shots") or "inf"))
    ours = next((r for r in group.rows if r.kind == "ours"), None)
    other = next((r for r in group.rows if r.kind == "baseline"), None)
    if ours is None or other is None:
        best = group.rows[0]
        return f"{name}, {group.title}: best {best.encoder} with {best.text} {best.interval}"
    pair = {ours.encoder, other.encoder}
    words = next((f": {v.words}" for v in compared if v.where == group.title and {v.a, v.b} == pair), "")
    # A control that does as well says that the task leaks; whoever reads only this line must see it.
    control = next((r for r in group.rows if r.kind == "control"), None)
    leak = "" if control is None else f"; best {control.encoder} {control.text} {control.interval}"
    baseline = f"best baseline {other.encoder} {other.text} {other.interval}"
    return f"{name}, {group.title}: {ours.encoder} {ours.text} {ours.interval}; {baseline}{words}{leak}"

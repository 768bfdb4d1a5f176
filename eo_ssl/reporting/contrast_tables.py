"""Tables of what was compared seed by seed: at the end of training, along it, and by the compute that it took."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eo_ssl.evaluation import PLACE, Row, SeedContrasts, TrainingCurve, collect_curves
from eo_ssl.reporting.formatting import describe_place, format_count, format_number, format_percent, format_points
from eo_ssl.reporting.leaderboard_tables import ScoreTable

Place = tuple[str, ...]
_NONE = "–"


def tabulate_seed_contrasts(rows: Sequence[Row], contrasts: SeedContrasts | None) -> list[ScoreTable]:
    """Return the tables of each task, protocol and amount: differences, the course of training, compute to a score."""
    tables: list[ScoreTable] = []
    for place, curves in collect_curves(rows).items():
        here = [] if contrasts is None else [row for row in contrasts.rows if _place(row) == place]
        saved = [] if contrasts is None else [row for row in contrasts.savings if _place(row) == place]
        if contrasts is not None and here:
            tables.append(_tabulate_differences(place, here, contrasts))
        if any(len(curve.steps) > 1 for curve in curves):
            tables.append(_tabulate_course(place, curves, here))
        if saved:
            tables.append(_tabulate_savings(place, saved))
    return tables


def _tabulate_differences(place: Place, rows: Sequence[Row], contrasts: SeedContrasts) -> ScoreTable:
    plan = contrasts.plan
    size = sum(row["family"] is not None for row in contrasts.rows)
    cells = [("encoder", "compared", f"won over {plan.against}", "p", "p, Holm", "verdict")]
    for row in (row for row in rows if row["step"] is None):
        compared = "last step" if row["at"] == "end" else f"at {_format_compute(row['compute'])} forward equivalents"
        verdict = "not in the family" if row["verdict"] is None else row["verdict"]
        chances = (_format_chance(row["p"]), _format_chance(row["p_holm"]))
        cells.append((row["encoder"], compared, _format_difference(row), *chances, verdict))
    seeds = max((row["seeds"] for row in rows), key=len)
    words = (
        f"Points won over {plan.against}, seed by seed (seeds {', '.join(map(str, seeds))}), with Student's 95 %"
        f" interval over the seeds, on these test items. Family {plan.family!r}: {format_count(size, 'difference')},"
        " corrected together (Holm), verdicts at 5 %"
    )
    return _make(place, f"Seed by seed against {plan.against}", words, cells)


def _tabulate_course(place: Place, curves: Sequence[TrainingCurve], rows: Sequence[Row]) -> ScoreTable:
    against = {row["against"] for row in rows}
    heads = [f"won over {name} at that step" for name in against]
    cells = [("encoder", "after step", "forward equivalents", "value", *heads)]
    paired = {(row["encoder"], row["step"]): row for row in rows if row["at"] in ("end", "step")}
    for curve in curves:
        for k, step in enumerate(curve.steps):
            value = float(np.mean([values[k] for values in curve.values.values()]))
            spent = float(np.mean([compute[k] for compute in curve.compute.values()]))
            found = paired.get((curve.encoder, step))
            won = [_NONE if found is None else _format_difference(found)] * len(heads)
            cells.append((curve.encoder, _name_step(step), _format_compute(spent), format_percent(value), *won))
    words = (
        "Means over seeds. A forward equivalent is a forward pass of one view: three for each view that is trained on,"
        " one for each tile that is embedded for curation"
    )
    return _make(place, "Quality against compute", words, cells)


def _tabulate_savings(place: Place, rows: Sequence[Row]) -> ScoreTable:
    against = rows[0]["against"]
    cells = [("encoder", "seeds that reach it", f"share of the compute of {against}", "by seed")]
    for row in rows:
        share = _NONE if row["share"] is None else f"{'at most ' * row['at_most']}{row['share']:.2f}"
        bounds = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
        each = ", ".join(_NONE if share is None else f"{share:.2f}" for share in row["shares"])
        cells.append((row["encoder"], f"{row['reached']} of {len(row['seeds'])}", share + bounds, each))
    words = (
        f"Compute at which a curve first reaches the last score of {against} of the same seed; geometric mean with"
        " Student's 95 % interval of the logarithms, where all seeds reach it"
    )
    return _make(place, f"Compute to the last score of {against}", words, cells)


def _make(place: Place, title: str, words: str, cells: Sequence[tuple[str, ...]]) -> ScoreTable:
    task, protocol, amount, _ = place
    where = describe_place({"task": task, "protocol": protocol, "amount": amount})
    return ScoreTable(task, f"{title}: {where}", f"{words}.", tuple(cells), ((),) * (len(cells) - 1))


def _format_difference(row: Row) -> str:
    middle = format_points(row["difference"])
    return middle if row["low"] is None else f"{middle} ({format_points(row['low'])} to {format_points(row['high'])})"


def _format_compute(value: float | None) -> str:
    return _NONE if value is None or np.isnan(value) else format_number(round(value))


def _format_chance(p: float | None) -> str:
    return _NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _name_step(step: int | None) -> str:
    return "last" if step is None else str(step)


def _place(row: Row) -> Place:
    return tuple(str(row[key]) for key in PLACE)

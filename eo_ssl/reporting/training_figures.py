"""Figures of quality against compute: what recipes reach along their training, and what they win seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from eo_ssl.evaluation import METRIC_WORDS, PLACE, Row, SeedContrasts, TrainingCurve, collect_curves
from eo_ssl.reporting.charts import Chart, Series, begin_axes, draw_dots, draw_lines, label_axes, make_legend
from eo_ssl.reporting.figure_layout import STUDY_STYLE, FigureLayout
from eo_ssl.reporting.formatting import describe_place, format_tick
from eo_ssl.reporting.study_figures import StudyFigure, name_figures
from eo_ssl.reporting.svg import PAGE_STYLE, PALETTE, render_svg, use_style

_LOOKS = (
    ("#000000", "o"),
    ("#0072B2", "s"),
    ("#D55E00", "^"),
    ("#009E73", "v"),
    ("#E69F00", "D"),
    ("#CC79A7", "p"),
    ("#56B4E9", "X"),
)
"""Colours that people of every colour vision tell apart (Okabe and Ito 2008), each with a marker of its own."""
_BESIDE = 0.012  # of the x axis, between bars of two recipes


@dataclass(frozen=True, slots=True)
class TrainingStudy:
    """The curves of a task, protocol and amount, with what was compared along them."""

    place: tuple[str, ...]
    "task, protocol, amount, metric"
    curves: tuple[TrainingCurve, ...]
    "of recipes whose compute is known"
    differences: tuple[Row, ...]
    "at equal compute"

    @property
    def metric(self) -> str:
        """In words."""
        return {str(key): words for key, words in METRIC_WORDS.items()}.get(self.place[3], self.place[3])

    @property
    def where(self) -> str:
        """In words."""
        return describe_place(dict(zip(PLACE, self.place, strict=True)))


def list_training_studies(rows: Sequence[Row], contrasts: SeedContrasts | None) -> list[TrainingStudy]:
    """What there is to draw: places where a recipe kept encoders along its training, and says what they cost."""
    studies = []
    for place, curves in collect_curves(rows).items():
        known = tuple(curve for curve in curves if not any(np.isnan(spent).any() for spent in curve.compute.values()))
        if any(len(curve.steps) > 1 for curve in known):
            found = [] if contrasts is None else contrasts.rows
            here = [row for row in found if tuple(str(row[key]) for key in PLACE) == place and row["at"] == "compute"]
            studies.append(TrainingStudy(place, known, tuple(here)))
    return studies


def draw_training_studies(rows: Sequence[Row], contrasts: SeedContrasts | None) -> list[StudyFigure]:
    """Return a figure for each place, named `training`, as files to keep."""
    studies = list_training_studies(rows, contrasts)
    return name_figures([("training", study.place[:3], draw_training(study)) for study in studies])


def draw_training(study: TrainingStudy) -> Figure:
    """Return a panel of quality against compute, and beside it what each recipe wins over the reference.

    Thin lines are seeds, thick ones their means. Bars are Student's 95 % intervals of paired differences over the
    seeds, at equal compute; what is filled differs from the reference within the primary family (Holm), what is hollow
    is not separable, and small dots are outside the family.
    """
    looks = {curve.encoder: _LOOKS[i % len(_LOOKS)] for i, curve in enumerate(study.curves)}
    against = sorted({str(row["against"]) for row in study.differences})
    keys = [
        Line2D([], [], color=colour, marker=marker, markersize=4.5, label=name)
        for name, (colour, marker) in looks.items()
    ]
    panels = [f"{study.metric}, %", *(f"points won over {name} at equal compute" for name in against)]
    caption = (
        "Compute is counted in forward equivalents: three for each view that is trained on, one for each tile that is"
        " embedded for curation. Thin lines: seeds; thick: their means."
    )
    if against:
        caption += " Bars: Student's 95 % interval of the difference seed by seed, on these test items."
    if any(row["family"] is not None for row in study.differences):
        caption += " Large: the primary family, filled where it differs (Holm)."
    with use_style(STUDY_STYLE):
        layout = FigureLayout(len(panels), 4.8 if against else 6.5, 2.6, 0.3)
        page, drawn = layout.draw(f"Quality against compute: {study.where}", caption, keys=keys, panels=panels)
        for axes in drawn:
            axes.grid(axis="y")
            axes.set_xlabel("forward equivalents")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
        for curve in study.curves:
            _plot_curve(drawn[0], curve, *looks[curve.encoder])
        if against:
            _plot_differences(drawn[1], study.differences, looks)
    return page


def _plot_curve(axes: Axes, curve: TrainingCurve, colour: str, marker: str) -> None:
    for seed, values in curve.values.items() if len(curve.values) > 1 else ():
        axes.plot(curve.compute[seed], 100 * values, color=colour, linewidth=0.6, alpha=0.35)
    x, y = (np.mean(list(of.values()), axis=0) for of in (curve.compute, curve.values))
    axes.plot(x, 100 * y, color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=curve.encoder)


def _plot_differences(axes: Axes, rows: Sequence[Row], looks: dict[str, tuple[str, str]]) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    names = list(dict.fromkeys(row["encoder"] for row in rows))
    wide = max(row["compute"] for row in rows) * _BESIDE
    for place, name in enumerate(names):
        colour, marker = looks[name]
        own = [row for row in rows if row["encoder"] == name]
        x = [row["compute"] + (place - (len(names) - 1) / 2) * wide for row in own]
        axes.plot(x, [100 * row["difference"] for row in own], color=colour, linewidth=0.9, label=name)
        for at, row in zip(x, own, strict=True):
            if row["low"] is not None:
                axes.plot([at, at], [100 * row["low"], 100 * row["high"]], color=colour, linewidth=1)
            face = "white" if row["verdict"] == "not separable" else colour
            size = 3 if row["verdict"] is None else 6
            axes.plot([at], [100 * row["difference"]], marker, color=colour, markerfacecolor=face, markersize=size)


def draw_training_charts(study: TrainingStudy) -> list[Chart]:
    """Return the same as drawings of a page: means against compute, and differences with their intervals."""
    series = []
    for number, curve in enumerate(study.curves):
        x, y = (np.mean(list(of.values()), axis=0) for of in (curve.compute, curve.values))
        series.append(Series(curve.encoder, tuple(x), tuple(100 * y), number % 8))
    names = ", ".join(one.name for one in series)
    alt = f"{study.metric} against compute, {study.where}: {names}"
    svg = render_svg(draw_lines(series, x_label="forward equivalents", y_label=f"{study.metric}, %"), alt=alt)
    charts = [Chart(svg, "Quality against compute", f"{study.where}. Means over seeds.", make_legend(series))]
    against = sorted({str(row["against"]) for row in study.differences})
    won = [one for one in series if any(row["encoder"] == one.name for row in study.differences)]
    for name in against:
        alt = f"Points won over {name} at equal compute, {study.where}"
        words = f"{study.where}. Bars: Student's 95 % interval over seeds."
        figure = _draw_won(study.differences, {one.name: one for one in won})
        charts.append(Chart(render_svg(figure, alt=alt), f"Won over {name}", words, make_legend([*won])))
    return charts


def _draw_won(rows: Sequence[Row], series: dict[str, Series]) -> Figure:
    wide = max(row["compute"] for row in rows) * _BESIDE
    with use_style(PAGE_STYLE):
        figure, axes = begin_axes()
        axes.axhline(0, color=PALETTE["faint"], linewidth=1)
        axes.margins(0.04)
        for place, (name, one) in enumerate(series.items()):
            own = [row for row in rows if row["encoder"] == name]
            x = [row["compute"] + (place - (len(series) - 1) / 2) * wide for row in own]
            y = [100 * row["difference"] for row in own]
            axes.plot(x, y, color=one.hue)
            draw_dots(axes, x, y, colour=one.hue)
            for at, row in zip(x, own, strict=True):
                if row["low"] is not None:
                    axes.plot([at, at], [100 * row["low"], 100 * row["high"]], color=one.hue, linewidth=1.2)
        label_axes(axes, x_label="forward equivalents", y_label="points")
    return figure

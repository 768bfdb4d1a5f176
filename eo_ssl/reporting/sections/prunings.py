"""The dynamic schedule over time: entropy, Gini and turnover of each event, and how far its features were trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eo_ssl.curation import CurationReport
from eo_ssl.reporting.charts import Chart, Series, draw_lines, make_legend
from eo_ssl.reporting.formatting import (
    MISSING,
    format_count,
    format_duration,
    format_fixed,
    format_number,
    format_share,
)
from eo_ssl.reporting.products import FinishedProduct, expect_sound, read_list
from eo_ssl.reporting.svg import render_svg

Value = Callable[[CurationReport], float | None]


@dataclass(frozen=True, slots=True)
class PruningView:
    """The events of one training."""

    name: str
    "folder name of the encoder"
    anchor: str
    "id in the page"
    sentence: str
    "how often, how much"
    figures: tuple[Chart, ...]
    "curves over presentations"
    events: tuple[tuple[str, ...], ...]
    "one line per event: number, presentations, effective tiles, entropy, Gini, turnover, trust in features, time"


def describe_prunings(encoders: Sequence[FinishedProduct]) -> list[PruningView]:
    """One view per encoder that was trained with dynamic pruning."""
    views: list[PruningView] = []
    for encoder in encoders:
        with expect_sound(encoder):
            events = [CurationReport.from_json(e) for e in read_list(encoder.path / "pruning" / "events.json")]
            if events:
                views.append(_view(encoder.name, f"pruning-{len(views) + 1}", events))
    return views


def _view(name: str, anchor: str, events: list[CurationReport]) -> PruningView:
    done = [event for event in events if not event.postponed]
    postponed = len(events) - len(done)
    sentence = f"{format_count(len(done), 'pruning event')}"
    if done:
        effective = format_number(round(done[-1].effective_rows or done[-1].n_kept))
        verb = "weighed its tiles as if they were" if done[-1].weighs else "kept"
        sentence += f"; the last {verb} {effective} of {format_count(done[-1].n_rows, 'tile')}"
    if postponed:
        late = format_count(postponed, "event")
        sentence += f"; the readiness gate postponed {late}, because the clusters were not stable yet"
    figures = tuple(
        figure
        for figure in (
            _curve(
                done,
                "Cluster entropy",
                ("pool before", "pool after"),
                (lambda e: e.before.cluster_entropy, lambda e: e.after.cluster_entropy),
                "Higher is more even.",
            ),
            _curve(
                done,
                "Gini of cluster sizes",
                ("pool before", "pool after"),
                (lambda e: e.before.cluster_gini, lambda e: e.after.cluster_gini),
                "Lower is more even.",
            ),
            _curve(
                done,
                "Turnover",
                ("turnover",),
                (lambda e: e.turnover,),
                "Share of the new pool that the old one did not hold.",
            ),
        )
        if figure is not None
    )
    return PruningView(name, anchor, sentence + ".", figures, tuple(_line(event) for event in events))


def _curve(
    events: list[CurationReport], title: str, names: tuple[str, ...], values: tuple[Value, ...], words: str
) -> Chart | None:
    series = []
    for colour, (name, value) in enumerate(zip(names, values, strict=True)):
        points = [(float(e.presentations or 0), v) for e in events if (v := value(e)) is not None and math.isfinite(v)]
        if points:
            x, y = zip(*points, strict=True)
            series.append(Series(name, x, y, colour=5 if len(names) > 1 and colour == 0 else 0))
    if not series:
        return None
    last = series[-1]
    alt = f"{title} over {len(last.x)} events, from {format_number(last.y[0])} to {format_number(last.y[-1])}"
    figure = draw_lines(series, x_label="tiles presented", y_label=title.split(" of ")[0], zero_y=True)
    return Chart(render_svg(figure, alt=alt), title, words, make_legend(series))


def _line(event: CurationReport) -> tuple[str, ...]:
    gate = MISSING
    if event.gate is not None:
        gate = f"{format_share(event.gate.trust)} at {format_fixed(event.gate.agreement)}"
    return (
        format_number(event.event),
        format_number(event.presentations),
        "postponed" if event.postponed else format_number(round(event.effective_rows or event.n_kept)),
        format_fixed(event.after.cluster_entropy),
        format_fixed(event.after.cluster_gini),
        MISSING if event.turnover is None else format_share(event.turnover),
        gate,
        format_duration(event.cost.select_s),
    )

"""The dynamic schedule over time: what each event did, how far its features were trusted, and what all did together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eo_ssl.corpus import Corpus
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
from eo_ssl.reporting.sections.selections import COLUMNS, SelectionView, describe_selection, open_origin
from eo_ssl.reporting.selected_tiles import read_schedule_tiles
from eo_ssl.reporting.svg import render_svg

Value = Callable[[CurationReport], float | None]
# title, y label, how to read it, and the lines: name and value of an event
CURVES: tuple[tuple[str, str, str, tuple[tuple[str, Value], ...]], ...] = (
    (
        "Effective tiles",
        "tiles",
        "Tiles kept, or where they are weighed as many of equal weight as would scatter as much.",
        (("effective", lambda e: e.effective_rows or float(e.n_kept)),),
    ),
    (
        "Cluster entropy",
        "entropy",
        "Higher is more even. The difference of the two lines is what an event evened out.",
        (("all tiles", lambda e: e.before.cluster_entropy), ("as drawn", lambda e: e.after.cluster_entropy)),
    ),
    (
        "Gini of cluster sizes",
        "Gini",
        "Lower is more even.",
        (("all tiles", lambda e: e.before.cluster_gini), ("as drawn", lambda e: e.after.cluster_gini)),
    ),
    (
        "Turnover",
        "turnover",
        "Share of what is drawn that the pool before would not have given. Near 0, an event changes nothing that the "
        "last did not; near 1, it begins anew.",
        (("turnover", lambda e: e.turnover),),
    ),
    (
        "Trust in the features",
        "share",
        "Agreement says how well tiles are found again by another look at them. Trust follows from it: 0 where nothing "
        "is curated, 1 where as much as was asked for.",
        (
            ("agreement", lambda e: None if e.gate is None else e.gate.agreement),
            ("trust", lambda e: None if e.gate is None else e.gate.trust),
        ),
    ),
)


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
    selection: SelectionView | None
    "what the last event left, and all of them together; None where every event was postponed"
    notes: tuple[str, ...]
    "of the selector at the last event, and what this view lacks"
    events: tuple[tuple[str, ...], ...]
    "one line per event: number, presentations, effective tiles, entropy, Gini, turnover, trust in features, time"


def describe_prunings(encoders: Sequence[FinishedProduct], corpora: Sequence[FinishedProduct]) -> list[PruningView]:
    """One view per encoder that was trained with dynamic pruning; its tiles are drawn where its corpus is there."""
    views: list[PruningView] = []
    for encoder in encoders:
        with expect_sound(encoder):
            events = [CurationReport.from_json(e) for e in read_list(encoder.path / "pruning" / "events.json")]
            if events:
                views.append(_view(encoder, f"pruning-{len(views) + 1}", events, corpora))
    return views


def _view(
    encoder: FinishedProduct, anchor: str, events: list[CurationReport], corpora: Sequence[FinishedProduct]
) -> PruningView:
    done = [event for event in events if not event.postponed]
    found = read_schedule_tiles(encoder.path / "pruning", done)
    tiles, never = found or (None, [])
    curves = [_draw_curve(done, title, label, words, lines) for title, label, words, lines in CURVES]
    if never:
        counts = {event.event: float(count) for event, count in zip(done, never, strict=True)}
        words = "Tiles that no event so far let come up. A line that stays high is what this training never sees again."
        curves.append(_draw_curve(done, "Never drawn", "tiles", words, (("", lambda e: counts[e.event]),)))
    selection, notes = None, list(done[-1].notes) if done else []
    if done:
        reader = index = None
        if tiles is None:
            notes.append("The tables of its events are not all there, hence nothing on single tiles.")
        elif (opened := _open_stream(encoder, corpora)) is None:
            notes.append("Pictures and places are shown where items are tiles of one stream whose corpus is an input.")
        else:
            corpus, stream = opened
            reader, index = corpus.stream(stream), corpus.index(stream, columns=list(COLUMNS), rows=tiles.rows)
        selection = describe_selection(done[-1], tiles, reader, index, events=len(done))
        notes += selection.notes
    return PruningView(
        name=encoder.name,
        anchor=anchor,
        sentence=_sentence(events, done),
        figures=tuple(curve for curve in curves if curve),
        selection=selection,
        notes=tuple(notes),
        events=tuple(_line(event) for event in events),
    )


def _sentence(events: list[CurationReport], done: list[CurationReport]) -> str:
    sentence = f"{format_count(len(done), 'pruning event')}"
    if done:
        effective = format_number(round(done[-1].effective_rows or done[-1].n_kept))
        verb = "weighed its tiles as if they were" if done[-1].weighs else "kept"
        sentence += f"; the last {verb} {effective} of {format_count(done[-1].n_rows, 'tile')}"
    if len(done) < len(events):
        late = format_count(len(events) - len(done), "event")
        sentence += f"; the readiness gate postponed {late}, because the clusters were not stable yet"
    return sentence + "."


def _open_stream(encoder: FinishedProduct, corpora: Sequence[FinishedProduct]) -> tuple[Corpus, str] | None:
    """The corpus and stream whose rows the items of a training are; None where they are anything else."""
    config, inputs = encoder.manifest.config, encoder.manifest.inputs
    origins = [value for name, value in inputs.items() if name.startswith("corpus ")]
    streams = config.get("streams")
    if config.get("items") != "tiles" or len(origins) != 1 or not isinstance(streams, list) or len(streams) != 1:
        return None
    corpus = open_origin(corpora, origins)
    return None if corpus is None or streams[0] not in corpus.streams else (corpus, str(streams[0]))


def _draw_curve(
    events: list[CurationReport], title: str, label: str, words: str, lines: tuple[tuple[str, Value], ...]
) -> Chart | None:
    """A figure over the presentations at which events came; None where none knows it."""
    series = []
    for number, (name, value) in enumerate(lines, 1):
        points = [(float(e.presentations or 0), v) for e in events if (v := value(e)) is not None and math.isfinite(v)]
        if points:
            x, y = zip(*points, strict=True)
            is_last = number == len(lines)
            series.append(Series(name, x, y, colour=0 if is_last else 5, dash="solid" if is_last else "dashed"))
    if not series:
        return None
    last = series[-1]
    alt = f"{title} over {len(last.x)} events, from {format_number(last.y[0])} to {format_number(last.y[-1])}"
    figure = draw_lines(series, x_label="tiles presented", y_label=label, zero_y=True)
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

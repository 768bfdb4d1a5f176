"""Figures of studies: the size x normalisation grid as Corley et al. (2024) draw it, and what perturbed images cost.

A page per task, protocol and amount of training samples, a panel per encoder, as SVG whose bytes depend on the results
alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from eo_ssl.evaluation import METRIC_WORDS, NORMALISATIONS, RESIZERS, Normalisation, Resizer, Row
from eo_ssl.reporting.figure_layout import STUDY_STYLE, FigureLayout
from eo_ssl.reporting.formatting import describe_place, trim_middle
from eo_ssl.reporting.svg import save_svg, use_style

PAGE_IN = 12.0  # width of a page with several panels in a row
IN_ROW = 4  # panels, at most
MARK_IN = 0.07  # of the x axis for a marker to be told from its neighbour
NAME = 33  # characters of an encoder's name that fit over a panel
_MARKS: dict[Normalisation, tuple[str, str]] = {
    "contract": ("#000000", "o"),
    "zscore": ("#0072B2", "s"),
    "divide": ("#D55E00", "^"),
    "minmax": ("#009E73", "v"),
    "percentile": ("#E69F00", "D"),
    "imagenet": ("#CC79A7", "p"),
}
"""Colours that people of every colour vision tell apart (Okabe and Ito 2008), each with a marker of its own."""
_DASHES: dict[Resizer, Literal["-", "--", ":", "-."]] = {
    "contract": "-",
    "torchvision": "--",
    "torchvision-no-antialias": ":",
    "kornia": "-.",
}
_CONTRACT_SHADE = "#eeeeee"  # behind the contract's size
_LOST = "#0072B2"


@dataclass(frozen=True, slots=True)
class StudyFigure:
    """A figure as it is kept."""

    name: str
    "of its file, without suffix"
    alt: str
    "what it shows, in a sentence"
    svg: bytes


def draw_studies(rows: Sequence[Row], comparisons: Sequence[Row]) -> list[StudyFigure]:
    """Return the figures of all studies in ``rows``, named `grid` or `robustness` and what differs between several."""
    drawn: list[tuple[str, tuple[str, ...], Figure]] = []
    for place in dict.fromkeys(_place(row) for row in rows if row["reference"]):
        here = [row for row in rows if _place(row) == place]
        against = [pair for pair in comparisons if _place(pair) == place]
        perturbed = any("perturbation" in (row["departure"] or ()) for row in here)
        function = draw_robustness if perturbed else draw_grid
        drawn.append(("robustness" if perturbed else "grid", place, function(here, against)))
    return name_figures(drawn)


def name_figures(drawn: Sequence[tuple[str, tuple[str, ...], Figure]]) -> list[StudyFigure]:
    """Figures as they are kept, each named by its kind and what of task, protocol and amount differs between them."""
    differ = [len({place[i] for _, place, _ in drawn}) > 1 for i in range(3)]
    figures = []
    for kind, place, figure in drawn:
        parts = [re.sub(r"[^\w.]+", "_", part) for part, differs in zip(place, differ, strict=True) if differs]
        alt = figure.texts[0].get_text().replace("\n", " ")
        figures.append(StudyFigure("-".join([kind, *parts]), alt, save_svg(figure, title=alt, own=STUDY_STYLE)))
    return figures


def draw_grid(rows: Sequence[Row], comparisons: Sequence[Row]) -> Figure:
    """Return a panel per encoder, best first: the metric against input size, a line per normalisation and resizer.

    The star is the encoder under its contract, its size shaded; bars are 95 % intervals. What is filled differs from
    the star after Holm's correction, what is hollow is not separable from it. Where one size was tried only,
    normalisations stand side by side. All panels share the y axis.

    Args:
        rows: results of one task, protocol and amount of training samples; encoders that were tried in one way only are
            left out. Rows that say the side of their input (`input_px`) have the contract's size in its place among the
            others, else it comes first.
        comparisons: those of ``rows``.
    """
    families, verdicts = _families(rows), _verdicts(comparisons)
    columns = _Columns.of(families)
    panel_in = MARK_IN * columns.marks + 0.6
    in_row = max(1, min(IN_ROW, len(families), int(PAGE_IN / panel_in)))
    first = families[0][0]
    metric = METRIC_WORDS[first["metric"]]
    low, high = _span([end for family in families for row in family for end in _ends(row)])
    with use_style(STUDY_STYLE):
        layout = FigureLayout(in_row, max(PAGE_IN / IN_ROW if in_row > 1 else 6.5, panel_in), 2.1)
        title = f"{metric.capitalize()} at other sizes and normalisations: {describe_place(first)}"
        caption = _describe(families, comparisons, bars="the values")
        page, panels = layout.draw(title, caption, keys=_grid_legend(columns), panels=_headlines(families))
        for number, (axes, family) in enumerate(zip(panels, families, strict=True)):
            axes.set(xlim=(-0.5, len(columns.labels) - 0.5), ylim=(low, high))
            axes.set_xticks(range(len(columns.labels)), columns.labels, rotation=0 if columns.across else 25)
            axes.grid(axis="y")
            axes.tick_params(labelleft=number % in_row == 0)
            if number % in_row == 0:
                axes.set_ylabel(f"{metric}, %")
            if number >= len(families) - in_row and columns.across:
                axes.set_xlabel("input size, px")
            _draw_grid(axes, family, columns, verdicts)
    return page


def draw_robustness(rows: Sequence[Row], comparisons: Sequence[Row]) -> Figure:
    """Return a panel per encoder, best first: points lost under each perturbation, the largest loss on top.

    Bars are 95 % intervals. What is filled differs from the untouched images after Holm's correction, what is hollow is
    not separable. All panels share the x axis.

    Args:
        rows: results of one task, protocol and amount of training samples; encoders without perturbations are left out.
        comparisons: those of ``rows``.
    """
    families, verdicts = _families(rows), _verdicts(comparisons)
    first = families[0][0]
    lost = [[(row, verdicts[family[0]["encoder"], row["encoder"]]) for row in family[1:]] for family in families]
    low, high = _span([0.0, *(end for family in lost for _, pair in family for end in _ends(pair, "difference"))])
    labels_in = 0.075 * max(len(row["departure"]["perturbation"]) for family in families for row in family[1:])
    in_row = max(1, min(IN_ROW, len(families), int(PAGE_IN / (labels_in + 1.8))))
    with use_style(STUDY_STYLE):
        tall = 0.17 * max(map(len, lost)) + 0.3
        layout = FigureLayout(in_row, PAGE_IN / in_row if in_row > 1 else 6.5, tall, labels_in)
        fewer = all("bands" in row["departure"] for family in families for row in family[1:])
        lost_with = "with some of the bands" if fewer else "on perturbed test images"
        title = f"Points of {METRIC_WORDS[first['metric']]} lost {lost_with}: {describe_place(first)}"
        plain = "all bands" if fewer else "untouched test images"
        keys = [*_verdict_keys(), Line2D([], [], color="black", linewidth=0.8, label=plain)]
        caption = _describe(families, comparisons, bars="paired differences")
        page, panels = layout.draw(title, caption, keys=keys, panels=_headlines(families))
        for number, (axes, family) in enumerate(zip(panels, lost, strict=True)):
            ranked = sorted(family, key=lambda pair: pair[1]["difference"])
            axes.set(xlim=(low, high), ylim=(-0.7, max(map(len, lost)) - 0.3))
            axes.set_yticks(range(len(ranked)), [row["departure"]["perturbation"] for row, _ in ranked])
            axes.grid(axis="x")
            axes.axvline(0, color="black", linewidth=0.8)
            if number >= len(families) - in_row:
                axes.set_xlabel("points lost (negative: gained)")
            for height, (_, pair) in enumerate(ranked):
                at, *bar = _ends(pair, "difference")
                if bar:
                    axes.hlines([height], bar[0], bar[1], color=_LOST, linewidth=1)
                face = "white" if pair["verdict"] == "not separable" else _LOST
                axes.plot([at], [height], "o", color=_LOST, markerfacecolor=face, markersize=4.5)
    return page


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the points of a grid stand on the x axis."""

    sizes: tuple[int | None, ...]
    "pixels, ascending; None: the contract's, where rows do not say how many those are"
    series: tuple[tuple[Normalisation, Resizer], ...]

    @classmethod
    def of(cls, families: Sequence[Sequence[Row]]) -> _Columns:
        """Return those of all panels, which are alike."""
        rows = [row for family in families for row in family]
        known = all(row.get("input_px") for row in rows)
        sizes = {row["input_px"] if known else _treatment(row)[0] for row in rows}
        tried = {_treatment(row)[1:] for row in rows}
        return cls(
            tuple(sorted(sizes, key=lambda size: size or 0)),
            tuple((name, by) for name in NORMALISATIONS for by in RESIZERS if (name, by) in tried),
        )

    @property
    def across(self) -> bool:
        """Whether the axis is that of sizes, not of normalisations."""
        return len(self.sizes) > 1

    @property
    def names(self) -> list[Normalisation]:
        """Normalisations that were tried."""
        return list(dict.fromkeys(name for name, _ in self.series))

    @property
    def resizers(self) -> list[Resizer]:
        """Resizers that were tried."""
        return list(dict.fromkeys(by for _, by in self.series))

    @property
    def labels(self) -> list[str]:
        """Words under the axis."""
        return ["own" if size is None else str(size) for size in self.sizes] if self.across else list(self.names)

    @property
    def marks(self) -> int:
        """Points beside one another."""
        return len(self.sizes) * len(self.series)

    def column(self, row: Row) -> int:
        """Which size is that of ``row``."""
        return self.sizes.index(_treatment(row)[0] if None in self.sizes else row["input_px"])

    def at(self, row: Row) -> float:
        """Where ``row`` stands: beside the others of its column, so that intervals do not lie on one another."""
        _, name, by = _treatment(row)
        if not self.across:
            beside = self.resizers
            return self.names.index(name) + _dodged(beside.index(by), len(beside))
        return self.column(row) + _dodged(self.series.index((name, by)), len(self.series))


def _dodged(place: int, of: int) -> float:
    """Offset of one of so many that share a column one unit wide."""
    return 0.8 * ((place + 0.5) / of - 0.5)


def _draw_grid(axes: Axes, family: Sequence[Row], columns: _Columns, verdicts: dict[tuple[str, str], Row]) -> None:
    """Draw one encoder: the star and its size, then every series, the contract's on top."""
    star = family[0]
    if columns.across:
        axes.axvspan(
            columns.column(star) - 0.5, columns.column(star) + 0.5, color=_CONTRACT_SHADE, linewidth=0, zorder=0
        )
    axes.axhline(_ends(star)[0], color="black", linewidth=0.7, linestyle=(0, (6, 3)), zorder=1)
    for name, by in reversed(columns.series):
        rows = {columns.at(row): row for row in reversed(family) if _treatment(row)[1:] == (name, by)}
        strong = name == "contract"
        colour, marker = _MARKS[name]
        order = 4 if strong else 3
        spots = sorted(rows)
        values = [_ends(rows[x])[0] for x in spots]
        if columns.across:
            width = 1.8 if strong else 0.9
            axes.plot(spots, values, _DASHES[by], color=colour, linewidth=width, label=f"{name}, {by}", zorder=order)
        bars = [(x, *ends) for x in spots if (ends := _ends(rows[x])[1:])]
        if bars:
            dashes = "-" if columns.across else _DASHES[by]
            xs, lows, highs = zip(*bars, strict=True)
            axes.vlines(xs, lows, highs, color=colour, linewidth=1.3 if strong else 0.8, linestyle=dashes, zorder=order)
        for x, value in zip(spots, values, strict=True):
            if rows[x] is star:
                axes.plot([x], [value], "*", color="black", markersize=9, zorder=6)
                continue
            differs = verdicts[star["encoder"], rows[x]["encoder"]]["verdict"] != "not separable"
            face = colour if differs else "white"
            size = 5 if strong else 4.2
            axes.plot([x], [value], marker, color=colour, markerfacecolor=face, markersize=size, zorder=order + 1)


def _grid_legend(columns: _Columns) -> list[Line2D | Patch]:
    """Keys of a grid, once for all panels."""
    keys: list[Line2D | Patch] = [
        Line2D([], [], linestyle="", marker="*", color="black", markersize=9, label="contract at its own size"),
    ]
    if columns.across:
        keys.append(Patch(color=_CONTRACT_SHADE, label="size of the contract"))
    only_star = not columns.across and len(columns.resizers) == 1  # of the contract, which is first
    for name in columns.names[1:] if only_star else columns.names:
        colour, marker = _MARKS[name]
        width = (1.8 if name == "contract" else 0.9) if columns.across else 0
        keys.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=width, label=name))
    if len(columns.resizers) > 1:
        for by in columns.resizers:
            words = "contract's resizing" if by == "contract" else by
            keys.append(Line2D([], [], color="#555555", linestyle=_DASHES[by], label=words))
    return [*keys, *_verdict_keys()]


def _verdict_keys() -> list[Line2D]:
    """What filled and hollow mean."""
    words = {"#555555": "filled: differs (Holm)", "white": "hollow: not separable"}
    return [
        Line2D([], [], linestyle="", marker="o", color="#555555", markerfacecolor=face, markersize=4.5, label=label)
        for face, label in words.items()
    ]


def _place(row: Row) -> tuple[str, ...]:
    """What results or comparisons of one page have in common."""
    return tuple(str(row[key]) for key in ("task", "protocol", "amount"))


def _treatment(row: Row) -> tuple[int | None, Normalisation, Resizer]:
    """Size, normalisation and resizer of a row of a grid."""
    departure = row["departure"] or {"size_px": None, "normalisation": "contract", "resizer": "contract"}
    return departure["size_px"], departure["normalisation"], departure["resizer"]


def _families(rows: Sequence[Row]) -> list[list[Row]]:
    """Each encoder that was departed from, under its contract and then otherwise; best first."""
    plain = sorted((row for row in rows if not row["reference"]), key=lambda row: -row["value"])
    whole = [[own, *(row for row in rows if row["reference"] == own["encoder"])] for own in plain]
    return [family for family in whole if len(family) > 1]


def _verdicts(comparisons: Sequence[Row]) -> dict[tuple[str, str], Row]:
    return {(pair["a"], pair["b"]): pair for pair in comparisons}


def _ends(row: Row, key: str = "value") -> tuple[float, ...]:
    """The number and, where it has one, both ends of its interval; per cent or points."""
    return tuple(100 * float(row[k]) for k in ((key,) if row["low"] is None else (key, "low", "high")))


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that shows all of ``values`` and a margin."""
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _headlines(families: Sequence[Sequence[Row]]) -> list[str]:
    """Names of encoders, numbered where two look alike once shortened, and what each reaches under its contract."""
    short = [trim_middle(family[0]["encoder"], NAME) for family in families]
    names = [name if short.count(name) == 1 else f"{number}. {name}" for number, name in enumerate(short, 1)]
    return [f"{name}: {_ends(family[0])[0]:.1f} %" for name, family in zip(names, families, strict=True)]


def _describe(families: Sequence[Sequence[Row]], comparisons: Sequence[Row], *, bars: str) -> str:
    """Small type: how many, what the intervals are, what was corrected for, the split."""
    first = families[0][0]
    counted = Counter(row["interval"] for family in families for row in family).most_common()
    words = "; ".join(words if len(counted) == 1 else f"{words} ({n} of them)" for words, n in counted)
    return (
        f"{first['n_train']} training samples, {first['n_test']} test items in {first['n_blocks']} blocks. "
        f"Bars, of {bars}: {words}. Verdicts at 5 %, paired, "
        f"corrected for {comparisons[0]['family']} comparisons (Holm). "
        f"Split: {first['split']}."
    )

"""Figures of studies show every number, interval and verdict of the rows, where they belong, in the same bytes each time."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eo_ssl.evaluation.preprocessing_variants import NORMALISATIONS, RESIZERS
from eo_ssl.reporting.study_figures import draw_grid, draw_robustness, draw_studies

Planted = tuple[list[dict[str, Any]], list[dict[str, Any]]]
COLOURS = {"#000000": "contract", "#0072b2": "zscore", "#d55e00": "divide", "#009e73": "minmax"}
COLOURS |= {"#e69f00": "percentile", "#cc79a7": "imagenet"}
ALL = "95% bootstrap over blocks"


def row(
    encoder: str, value: float, *, half: float | None = 0.02, reference: str = "", **changes: Any
) -> dict[str, Any]:
    return {
        "task": "fields",
        "protocol": "knn5",
        "amount": "all",
        "metric": "accuracy",
        "encoder": encoder,
        "reference": reference,
        "departure": None,
        "value": value,
        "low": None if half is None else value - half,
        "high": None if half is None else value + 2 * half,
        "interval": "none: all test items are in one block" if half is None else ALL,
        "n_train": 300,
        "n_test": 100,
        "n_blocks": 25,
        "split": "halves",
    } | changes


def compared(one: dict[str, Any], other: dict[str, Any], *, differs: bool, **changes: Any) -> dict[str, Any]:
    lost = one["value"] - other["value"]
    place = {key: one[key] for key in ("task", "protocol", "amount")}
    bar = {"low": None, "high": None} if other["low"] is None else {"low": lost - 0.03, "high": lost + 0.05}
    verdict = ("a" if lost > 0 else "b") if differs else "not separable"
    return (
        place
        | bar
        | {"a": one["encoder"], "b": other["encoder"], "difference": lost, "verdict": verdict, "family": 7}
        | changes
    )


def grid(
    values: dict[str, dict[tuple[int | None, str, str], float]], differ: Sequence[float] = (), **changes: Any
) -> Planted:
    """Rows of encoders by treatment (size, normalisation, resizer); those whose value is among ``differ`` are separable."""
    rows, comparisons = [], []
    for name, of in values.items():
        reference = row(name, of[None, "contract", "contract"], **changes)
        rows.append(reference)
        for (size, normalisation, by), value in of.items():
            if (size, normalisation, by) != (None, "contract", "contract"):
                departure = {"size_px": size, "normalisation": normalisation, "resizer": by}
                words = f"{name} | {size} {normalisation} {by}"
                rows.append(row(words, value, reference=name, departure=departure, **changes))
                comparisons.append(compared(reference, rows[-1], differs=value in differ))
    return rows, comparisons


def robust(lost: dict[str, float], *, name: str = "ours", half: float | None = 0.02) -> Planted:
    rows, comparisons = [row(name, 0.8, half=half)], []
    for words, points in lost.items():
        departed = row(f"{name} | {words}", 0.8 - points, half=half, reference=name, departure={"perturbation": words})
        rows.append(departed)
        comparisons.append(compared(rows[0], departed, differs=abs(points) > 0.1))
    return rows, comparisons


def markers(axes: Axes) -> Iterator[tuple[str, str, bool, float, float]]:
    """Marker, colour, filled, x and y of each point."""
    for line in axes.lines:
        if line.get_marker() not in ("None", "", None):
            filled = to_hex(line.get_markerfacecolor()) != "#ffffff"
            (x,), (y,) = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            yield str(line.get_marker()), to_hex(line.get_color()), filled, float(x), float(y)


def bars(axes: Axes) -> list[tuple[float, ...]]:
    """x, low and high of each interval."""
    drawn = [one for one in axes.collections if isinstance(one, LineCollection)]
    return sorted((a[0], a[1], b[1]) for one in drawn for a, b in one.get_segments())


def lines(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if not str(line.get_label()).startswith("_")]


def words(figure: Figure) -> str:
    return " ".join(text.get_text().replace("\n", " ") for text in figure.texts)


SWEEP = {
    (size, name, "contract"): 0.8 - 0.11 * i - (0.2 if size == 32 else 0.0) + (0.05 if size == 224 else 0.0)
    for i, name in enumerate(("contract", "zscore", "imagenet"))
    for size in (None, 32, 224)
}


def test_every_number_is_where_its_size_and_normalisation_are() -> None:
    figure = draw_grid(*grid({"ours": SWEEP}))
    (axes,) = figure.axes
    columns = {label.get_text(): place for place, label in enumerate(axes.get_xticklabels())}
    assert list(columns) == ["own", "32", "224"]
    found = {(COLOURS[colour], round(x)): y for _, colour, _, x, y in markers(axes)}
    expected = {(name, columns[str(size or "own")]): 100 * value for (size, name, _), value in SWEEP.items()}
    assert found == pytest.approx(expected)
    drawn = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in lines(axes)}
    assert drawn["imagenet, contract"] == pytest.approx([58, 38, 63])
    assert drawn["contract, contract"] == pytest.approx([80, 60, 85])
    widths = {str(line.get_label()).split(",")[0]: line.get_linewidth() for line in lines(axes)}
    assert max(widths, key=lambda name: widths[name]) == "contract"
    assert [(marker, y) for marker, *_, y in markers(axes) if marker == "*"] == [("*", 80.0)]
    places = [x for *_, x, _ in markers(axes)]
    assert len({round(x, 6) for x in places}) == len(places)  # no two intervals on one another
    assert bars(axes) == pytest.approx(
        np.array(sorted((x, y - 2, y + 4) for *_, x, y in markers(axes)))
    )  # [low, high] as planted


def test_filled_is_what_survives_the_correction() -> None:
    separable = [SWEEP[32, "contract", "contract"], SWEEP[224, "zscore", "contract"]]
    (axes,) = draw_grid(*grid({"ours": SWEEP}, separable)).axes
    filled = {round(y, 6) for marker, _, full, _, y in markers(axes) if full and marker != "*"}
    assert filled == {round(100 * value, 6) for value in separable}
    hollow = [y for marker, _, full, _, y in markers(axes) if not full]
    assert len(hollow) == len(SWEEP) - 3


def test_the_contracts_size_has_its_place_among_the_others_where_rows_say_it() -> None:
    rows, comparisons = grid({"ours": SWEEP, "theirs": {key: value - 0.3 for key, value in SWEEP.items()}})
    for one in rows:
        own = 64 if one["encoder"].startswith("ours") else 224
        one["input_px"] = (one["departure"] or {"size_px": None})["size_px"] or own
    figure = draw_grid(rows, comparisons)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["32", "64", "224"]
    for axes, place, own in zip(figure.axes, (1, 2), ([60, 80, 85], [30, 50]), strict=True):
        ((_, _, _, x, _),) = [one for one in markers(axes) if one[0] == "*"]
        assert round(x) == place
        (shade,) = axes.patches
        assert (shade.get_x(), shade.get_width()) == (place - 0.5, 1.0)  # type: ignore[attr-defined]
        (line,) = [line for line in lines(axes) if line.get_label() == "contract, contract"]
        assert np.asarray(line.get_ydata()) == pytest.approx(own)  # at 224 px the contract itself, not a second point


def test_panels_share_an_axis_that_shows_all_intervals_of_negative_values_too() -> None:
    low = {key: value - 3.0 for key, value in SWEEP.items()}
    figure = draw_grid(*grid({"worst": low, "best": SWEEP}, metric="r2", half=0.3))
    assert [axes.get_title("left").split(":")[0] for axes in figure.axes] == ["best", "worst"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    bottom, top = figure.axes[0].get_ylim()
    ends = [end for axes in figure.axes for _, *both in bars(axes) for end in both]
    assert bottom < min(ends) < -270 and max(ends) < top
    assert min(ends) == pytest.approx(100 * (0.8 - 0.22 - 0.2 - 3.0 - 0.3))


def test_without_intervals_points_stand_alone() -> None:
    rows, comparisons = grid({"ours": SWEEP}, half=None)
    figure = draw_grid(rows, comparisons)
    assert bars(figure.axes[0]) == []
    assert len(list(markers(figure.axes[0]))) == len(SWEEP)
    assert "none: all test items are in one block" in words(figure)
    rows[3] |= {"low": 0.1, "high": 0.9, "interval": ALL}
    figure = draw_grid(rows, comparisons)
    assert [both for _, *both in bars(figure.axes[0])] == [pytest.approx([10, 90])]
    assert f"{ALL} (1 of them)" in words(figure)


def test_with_one_size_normalisations_stand_side_by_side() -> None:
    of = {(None, name, "contract"): 0.9 - 0.1 * i for i, name in enumerate(NORMALISATIONS)}
    (axes,) = draw_grid(*grid({"ours": of})).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == list(NORMALISATIONS)
    assert [(x, y) for *_, x, y in sorted(markers(axes), key=lambda one: one[3])] == [
        (i, pytest.approx(90 - 10 * i)) for i in range(6)
    ]
    assert lines(axes) == []
    by = {(None, name, by): 0.5 for name in ("contract", "zscore") for by in RESIZERS}
    (axes,) = draw_grid(*grid({"ours": by})).axes
    assert sorted(round(x) for *_, x, _ in markers(axes)) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_resizers_are_told_apart_by_their_dashes() -> None:
    by = {(size, "contract", by): 0.5 for size in (None, 32) for by in RESIZERS}
    figure = draw_grid(*grid({"ours": by}))
    dashes = {str(line.get_label()).split(", ")[1]: line.get_linestyle() for line in lines(figure.axes[0])}
    assert set(dashes) == set(RESIZERS) and len(set(dashes.values())) == len(RESIZERS)
    keys = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"contract's resizing", "torchvision", "torchvision-no-antialias", "kornia"} <= keys


def test_a_large_grid_wraps_and_its_texts_keep_apart() -> None:
    sizes: tuple[int | None, ...] = (None, 32, 64, 96, 224)
    of = {(size, name, "contract"): 0.5 for size in sizes for name in NORMALISATIONS}
    names = [f"timm:vit_small_patch{px}_224.augreg_in21k?contract=training" for px in range(12)]
    figure = draw_grid(*grid(dict.fromkeys(names, of)))
    corners = [(round(axes.get_position().x0, 3), round(axes.get_position().y0, 3)) for axes in figure.axes]
    assert len({x for x, _ in corners}) == 4 and len({y for _, y in corners}) == 3 and len(set(corners)) == 12
    titles = [axes.get_title("left") for axes in figure.axes]
    same = "timm:vit_small_p…ontract=training: 50.0 %"  # shortened in the middle, all look alike
    assert titles == [f"{number}. {same}" for number in range(1, 13)]
    figure.draw_without_rendering()
    boxes = [axes._left_title.get_window_extent() for axes in figure.axes[:4]]  # type: ignore[attr-defined]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    legend = figure.legends[0].get_window_extent()
    small, page = figure.texts[1].get_window_extent(), figure.bbox
    assert (
        legend.x1 < page.x1 and small.x1 < page.x1 and max(box.y1 for box in boxes) < legend.y0 < legend.y1 < small.y0
    )


def test_what_the_words_say() -> None:
    figure = draw_grid(*grid({"ours": SWEEP, "control": {(None, "contract", "contract"): 0.9}}))
    said = words(figure)
    for fact in ("Accuracy at", "fields, knn5, training samples: all", "300 training", "100 test items in 25 blocks"):
        assert fact in said
    for fact in (ALL, "7 comparisons (Holm)", "Split: halves"):
        assert fact in said
    assert len(figure.axes) == 1  # what was tried in one way only has no panel


def test_losses_are_ranked_and_filled_where_separable() -> None:
    lost = {"noise": 0.05, "without B04": 0.3, "gain 10 %": -0.02, "offset +0.1": 0.15}
    (axes,) = draw_robustness(*robust(lost)).axes
    found = [(y, x, full) for _, _, full, x, y in sorted(markers(axes), key=lambda one: one[4])]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert ticks == ["gain 10 %", "noise", "offset +0.1", "without B04"]
    assert found == [(i, pytest.approx(100 * lost[name]), lost[name] > 0.1) for i, name in enumerate(ticks)]
    segments = [pair for one in axes.collections if isinstance(one, LineCollection) for pair in one.get_segments()]
    assert [(a[1], a[0], b[0]) for a, b in segments] == [
        pytest.approx((i, 100 * lost[name] - 3, 100 * lost[name] + 5)) for i, name in enumerate(ticks)
    ]
    left, right = axes.get_xlim()
    assert left < -5 and right > 35


def test_losses_without_intervals_and_of_several_encoders() -> None:
    first, second = robust({"noise": 0.05, "gain": 0.2}, half=None), robust({"noise": 0.4}, name="theirs")
    figure = draw_robustness(first[0] + second[0], first[1] + second[1])
    assert [len(list(markers(axes))) for axes in figure.axes] == [2, 1]
    assert [len(bars(axes)) for axes in figure.axes] == [0, 1]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1


def test_pictures_are_named_by_what_differs_and_equal_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, comparisons = grid({"ours $x$ <b>": SWEEP})
    (one,) = draw_studies(rows, comparisons)
    assert one.name == "grid" and one.alt.startswith("Accuracy at other sizes")
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20.0)
    monkeypatch.setitem(matplotlib.rcParams, "svg.hashsalt", "other")
    assert draw_studies(rows, comparisons) == [one]  # whatever the reader's own style is
    assert matplotlib.rcParams["font.size"] == 20.0
    drawing = ElementTree.fromstring(one.svg)
    texts = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "ours $x$ <b>: 80.0 %" in texts
    assert b"dc:date" not in one.svg
    shots = [row_ | {"amount": "10 per class"} for row_ in rows], [c | {"amount": "10 per class"} for c in comparisons]
    assert [one.name for one in draw_studies(rows + shots[0], comparisons + shots[1])] == [
        "grid-all",
        "grid-10_per_class",
    ]
    assert [one.name for one in draw_studies(*robust({"noise": 0.1}))] == ["robustness"]
    assert draw_studies([row("alone", 0.5)], []) == []

"""Tables and figures of quality against compute show every number of the rows, where it belongs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from eo_ssl.evaluation import ContrastPlan, compare_seeds
from eo_ssl.reporting.contrast_tables import tabulate_seed_contrasts
from eo_ssl.reporting.training_figures import (
    draw_training,
    draw_training_charts,
    draw_training_studies,
    list_training_studies,
)
from test_85_evaluation_contrasts import row

FULL = {0: 0.50, 1: 0.56, 2: 0.62}
SOFT = {0: 0.56, 1: 0.63, 2: 0.685}


def planted() -> list[dict[str, Any]]:
    """Two recipes at two points; the second spends 50 more on each."""
    return [
        row("full", {seed: (100, value - 0.1) for seed, value in FULL.items()}, step=5),
        row("full", {seed: (200, value) for seed, value in FULL.items()}),
        row("soft", {seed: (150, value - 0.1) for seed, value in SOFT.items()}, step=5),
        row("soft", {seed: (250, value) for seed, value in SOFT.items()}),
    ]


def of_colour(lines: list[Line2D], colour: str) -> list[Line2D]:
    return [line for line in lines if to_hex(line.get_color()).upper() == colour]


def test_tables_hold_differences_course_and_savings() -> None:
    rows = planted()
    contrasts = compare_seeds(rows, ContrastPlan("full", family="one"))
    differences, course, savings = tabulate_seed_contrasts(rows, contrasts)
    assert differences.title == "Seed by seed against full: fields, knn5, training samples: all"
    assert "(seeds 0, 1, 2)" in differences.words and "Family 'one': 1 difference, corrected" in differences.words
    last, equal = differences.cells[1:]
    assert last[:3] == ("soft", "last step", "+6.5 (+5.3 to +7.7)") and last[5] == "better"
    # At 200 the second recipe is half way between its points: 5 points less than at its end.
    assert equal[:3] == ("soft", "at 200 forward equivalents", "+1.5 (+0.3 to +2.7)")
    assert equal[4:] == ("–", "not in the family")
    assert course.cells == (
        ("encoder", "after step", "forward equivalents", "value", "won over full at that step"),
        ("full", "5", "100", "46.0", "–"),
        ("full", "last", "200", "56.0", "–"),
        ("soft", "5", "150", "52.5", "+6.5 (+5.3 to +7.7)"),
        ("soft", "last", "250", "62.5", "+6.5 (+5.3 to +7.7)"),
    )
    # Seed 0 has to reach 50, and does so on a line from 46 at 150 to 56 at 250: at 190 of 200. So for the others.
    assert savings.cells[1][:2] == ("soft", "3 of 3") and savings.cells[1][2].startswith("0.92 (0.")
    assert savings.cells[1][3] == "0.95, 0.90, 0.92"
    alone = tabulate_seed_contrasts(rows, None)
    assert [table.title.split(":")[0] for table in alone] == ["Quality against compute"]
    assert alone[0].cells[1] == ("full", "5", "100", "46.0")
    assert tabulate_seed_contrasts([row("full", {0: (1, 0.5)})], None) == []
    unequal = [row("a", {0: (100, 0.4), 1: (200, 0.6)}, step=1), row("a", {0: (300, 0.5), 1: (401, 0.5)})]
    (course,) = tabulate_seed_contrasts(unequal, None)
    assert [cells[2:4] for cells in course.cells[1:]] == [("150", "50.0"), ("350", "50.0")]


def test_a_figure_has_seeds_means_and_intervals() -> None:
    rows = planted()
    contrasts = compare_seeds(rows, ContrastPlan("full", at="compute"))
    (study,) = list_training_studies(rows, contrasts)
    quality, won = draw_training(study).axes
    black, blue = "#000000", "#0072B2"
    thick = {line.get_label(): line for line in quality.lines if line.get_linewidth() > 1}
    np.testing.assert_allclose(thick["full"].get_xydata(), [[100, 46], [200, 56]])
    np.testing.assert_allclose(thick["soft"].get_xydata(), [[150, 52.5], [250, 62.5]])
    assert len(of_colour(quality.lines, black)) == len(of_colour(quality.lines, blue)) == 4  # three seeds and a mean
    dots = [line for line in of_colour(won.lines, blue) if line.get_marker() == "s"]
    ((x, y),) = [line.get_xydata()[0] for line in dots]
    row_of = next(one for one in contrasts.rows if one["at"] == "compute")
    assert (x, y) == pytest.approx((200, 100 * row_of["difference"]))
    assert to_hex(dots[0].get_markerfacecolor()).upper() == blue and row_of["verdict"] == "better"
    bars = [
        line for line in of_colour(won.lines, blue) if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert bars[0].get_ydata() == pytest.approx([100 * row_of["low"], 100 * row_of["high"]])


def test_figures_are_named_and_the_same_each_time_and_none_is_drawn_of_nothing() -> None:
    rows = planted() + [one | {"protocol": "linear"} for one in planted()]
    contrasts = compare_seeds(rows, ContrastPlan("full"))
    figures = draw_training_studies(rows, contrasts)
    assert [figure.name for figure in figures] == ["training-knn5", "training-linear"]
    assert figures[0].svg == draw_training_studies(rows, contrasts)[0].svg
    (alone,) = draw_training_studies(planted(), None)
    assert alone.name == "training" and b"won over" not in alone.svg
    for none in ([], [row("full", {0: (100, 0.5)})], [row("a", {0: (None, 0.4)}, step=1), row("a", {0: (None, 0.5)})]):
        assert draw_training_studies(none, None) == []


def test_a_page_shows_the_same() -> None:
    rows = planted()
    (study,) = list_training_studies(rows, compare_seeds(rows, ContrastPlan("full")))
    quality, won = draw_training_charts(study)
    assert quality.title == "Quality against compute" and [text for _, text in quality.legend] == ["full", "soft"]
    assert won.title == "Won over full" and "Student" in won.caption
    assert "var(--s1)" in won.svg and "#" not in won.svg
    assert len(draw_training_charts(list_training_studies(rows, None)[0])) == 1

"""Windows and their weights: every cell is covered, weights sum to one, blocks cover each cell once and know who contributes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eo_ssl.embedding.windows import WindowAxis, plan_windows
from eo_ssl.errors import UserError

AXES = st.builds(
    lambda length, side, share, group: WindowAxis(length, side, max(1, round(side * share)), group),
    st.integers(1, 60),
    st.integers(1, 12),
    st.floats(0.1, 1.0),
    st.integers(1, 5),
)


@settings(max_examples=200)
@given(AXES)
def test_weights_of_each_cell_sum_to_one(axis: WindowAxis) -> None:
    total = np.zeros(max(axis.length, axis.side))
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        total[start : start + axis.side] += weight
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)
    assert (axis.weights > 0).all()


@settings(max_examples=200)
@given(AXES)
def test_blocks_cover_each_cell_once_and_name_every_window_that_reaches_them(axis: WindowAxis) -> None:
    times = np.zeros(axis.length, dtype=int)
    for group in range(axis.groups):
        low, high = axis.block(group)
        times[low:high] += 1
        reaching = {k // axis.group for k, start in enumerate(axis.starts) if start < high and start + axis.side > low}
        assert set(axis.contributors(group)) >= reaching
    assert (times == 1).all()
    assert sorted(k for group in range(axis.groups) for k in axis.windows(group)) == list(range(len(axis.starts)))


def test_no_window_is_padded_where_the_scene_is_long_enough() -> None:
    # 7 cells, windows of 4 every 2: the drawing of the module.
    axis = plan_windows(7 * 8, patch_px=8, side=4, overlap=0.5, group=2)
    assert (axis.length, axis.starts) == (7, (0, 2, 3))
    assert plan_windows(7 * 8 - 3, patch_px=8, side=4, overlap=0.5, group=2).starts == (
        0,
        2,
        3,
    )  # the last cell partly beyond
    assert plan_windows(3, patch_px=8, side=4, overlap=0.5, group=2).starts == (0,)


def test_weights_without_overlap_are_one_and_with_half_are_the_raised_cosine() -> None:
    assert (plan_windows(32, patch_px=1, side=8, overlap=0.0, group=3).weights == 1).all()
    inner = plan_windows(64, patch_px=1, side=8, overlap=0.5, group=3).weights[3]
    np.testing.assert_allclose(inner, np.sin(np.pi * (np.arange(8) + 0.5) / 8) ** 2)  # half-overlapping ones add to one


@pytest.mark.parametrize("overlap", [1.0, -0.1, float("nan")])
def test_an_overlap_outside_its_range_is_refused(overlap: float) -> None:
    with pytest.raises(UserError, match="expected an overlap from 0 to below 1"):
        plan_windows(64, patch_px=8, side=4, overlap=overlap, group=2)

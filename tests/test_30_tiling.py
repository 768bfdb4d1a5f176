"""Plans of tiles: each pixel once, names without floats, every block read once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eo_ssl.errors import UserError
from eo_ssl.tiling import (
    Region,
    TilePlan,
    locate_cells,
    name_location,
    place_windows,
    plan_grid,
    plan_groups,
    plan_native,
    plan_regions,
    tile_id,
)

SIDES = st.integers(1, 90)


def cover(height: int, width: int, plan: np.ndarray) -> np.ndarray:
    """How many tiles hold each pixel."""
    count = np.zeros((height, width), dtype=int)
    for row, col, high, wide in plan:
        assert row >= 0 and col >= 0 and row + high <= height and col + wide <= width
        count[row : row + high, col : col + wide] += 1
    return count


@given(SIDES, SIDES, st.integers(1, 20))
def test_pad_holds_each_pixel_exactly_once(height: int, width: int, size: int) -> None:
    assert (cover(height, width, plan_native(height, width, size_px=size, edge="pad")) == 1).all()


@given(SIDES, SIDES, st.integers(1, 20))
def test_drop_holds_each_pixel_of_whole_tiles_once_and_no_other(height: int, width: int, size: int) -> None:
    plan = plan_native(height, width, size_px=size, edge="drop")
    expected = np.zeros((height, width), dtype=int)
    expected[: height // size * size, : width // size * size] = 1
    assert (cover(height, width, plan) == expected).all()
    assert (plan[:, 2:] == size).all()


@given(st.integers(10, 90), st.integers(10, 90), st.integers(1, 10))
def test_shift_reaches_every_pixel_with_whole_tiles(height: int, width: int, size: int) -> None:
    plan = plan_native(height, width, size_px=size, edge="shift")
    assert (cover(height, width, plan) >= 1).all()
    assert (plan[:, 2:] == size).all()


def test_windows_are_ordered_row_by_row() -> None:
    assert plan_native(5, 4, size_px=2, edge="pad").tolist() == [
        [0, 0, 2, 2],
        [0, 2, 2, 2],
        [2, 0, 2, 2],
        [2, 2, 2, 2],
        [4, 0, 1, 2],
        [4, 2, 1, 2],
    ]


def test_an_image_smaller_than_a_tile_has_tiles_only_with_pad() -> None:
    assert len(plan_native(10, 100, size_px=16, edge="drop")) == 0
    assert len(plan_native(10, 100, size_px=16, edge="shift")) == 0
    assert len(plan_native(10, 100, size_px=16, edge="pad")) == 7


@given(
    st.integers(-50, 50),
    st.integers(-50, 50),
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([10.0, 30.0, 0.3]),
)
def test_grid_cells_with_pad_cover_the_bounds_and_with_drop_stay_inside(
    x: int, y: int, wide: int, high: int, gsd: float
) -> None:
    left, bottom, right, top = x * gsd, y * gsd, (x + wide) * gsd, (y + high) * gsd
    cell = 8 * gsd
    for edge in ("pad", "drop"):
        plan = plan_grid((left, bottom, right, top), size_px=8, gsd_m=gsd, edge=edge)
        assert len(np.unique(plan, axis=0)) == len(plan)
        rows, cols = plan[:, 0], plan[:, 1]
        if edge == "drop":
            inside = (cols * cell >= left - 1e-5) & ((cols + 1) * cell <= right + 1e-5)
            assert (inside & (rows * cell >= bottom - 1e-5) & ((rows + 1) * cell <= top + 1e-5)).all()
        else:
            assert cols.min() * cell <= left + 1e-5 and (cols.max() + 1) * cell >= right - 1e-5
            assert rows.min() * cell <= bottom + 1e-5 and (rows.max() + 1) * cell >= top - 1e-5
            assert len(plan) == (np.ptp(cols) + 1) * (np.ptp(rows) + 1)


def test_products_of_one_zone_share_grid_cells() -> None:
    one = plan_grid((500000, 4990000, 505000, 5000000), size_px=64, gsd_m=10, edge="pad")
    two = plan_grid((504000, 4990000, 509000, 5000000), size_px=64, gsd_m=10, edge="pad")
    shared = set(map(tuple, one.tolist())) & set(map(tuple, two.tolist()))
    assert {col for _, col in shared} == {787, 788, 789}  # 503,680 m <= x < 505,600 m


def test_a_point_lies_in_the_cell_that_spans_it() -> None:
    rows, cols = locate_cells([0.0, 639.9, 640.0, -0.1], [0.0, 0.0, 640.0, -640.1], cell_m=640.0)
    assert cols.tolist() == [0, 0, 1, -1]
    assert rows.tolist() == [0, 0, 1, -2]
    assert name_location(32632, 3, -4) == "32632:3:-4"


def test_tile_ids_are_16_bytes_of_exactly_product_stream_and_integers() -> None:
    # golden: a change of this value orphans every corpus
    assert tile_id("a/b", "s2_boa_12b_10m_64px", (0, 64, 64, 64)).hex() == GOLDEN
    ids = {
        tile_id(product, stream, place)
        for product in ("a", "ab")
        for stream in ("bc", "c")
        for place in ((1, 23), (12, 3), (1, 2, 3))
    }
    assert len(ids) == 12
    assert tile_id("a", "s", np.array([1, 2], dtype=np.int32)) == tile_id("a", "s", (1, 2))


GOLDEN = "c23d19e5fc35ac67be68ea4d2792ba0c"


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(4, 24),
    st.sampled_from([(1, 400), (32, 32), (64, 128), (400, 400)]),
    st.integers(200, 9000),
    st.integers(1, 4),
)
def test_regions_hold_each_tile_once_in_bounded_memory(
    height: int, width: int, size: int, block: tuple[int, int], budget: int, cells: int
) -> None:
    plan = plan_native(height, width, size_px=size, edge="pad")
    period = (block[0] * cells, block[1] * cells)
    regions = plan_regions(plan, block=block, period=period, budget_px=budget)
    assert sorted(np.concatenate([region.tiles for region in regions]).tolist()) == list(range(len(plan)))
    order = [region.cell for region in regions]
    assert [cell for cell, before in zip(order, [None, *order], strict=False) if cell != before] == sorted(set(order))
    for region in regions:
        box = plan[region.tiles]
        high, wide = (box[:, :2] + box[:, 2:]).max(axis=0) - box[:, :2].min(axis=0)
        assert high * wide <= max(5 * budget, size * size * 2 + size * (size + max(block)))


@pytest.mark.parametrize(
    ("shape", "block", "budget"),
    [
        ((1024, 1024), (256, 256), 256 * 1024),  # strips: a row of blocks fits
        ((1024, 1024), (256, 256), 256 * 512),  # two blocks at a time
        ((1024, 1024), (1, 1024), 200_000),  # rows of pixels, as plain GeoTIFF has them
        ((1000, 700), (128, 700), 128 * 700),  # last strip shorter
    ],
)
def test_every_block_is_decoded_once(shape: tuple[int, int], block: tuple[int, int], budget: int) -> None:
    plan = plan_native(*shape, size_px=64, edge="pad")
    decoded: dict[tuple[int, int], int] = {}
    for region in plan_regions(plan, block=block, period=block, budget_px=budget):
        box = plan[region.tiles]
        (row0, col0), (row1, col1) = box[:, :2].min(axis=0), (box[:, :2] + box[:, 2:]).max(axis=0)
        for r in range(row0 // block[0], -(-row1 // block[0])):
            for c in range(col0 // block[1], -(-col1 // block[1])):
                decoded[r, c] = decoded.get((r, c), 0) + 1
    assert set(decoded.values()) == {1}
    assert len(decoded) == -(-shape[0] // block[0]) * -(-shape[1] // block[1])


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 20), st.integers(1, 4))
def test_groups_hold_each_region_once_in_order_and_whole_cells(sizes: list[int], tiles: int, together: int) -> None:
    regions = [Region(np.arange(size), number // together) for number, size in enumerate(sizes)]
    groups = plan_groups(regions, least=tiles, most=2 * tiles)
    assert [number for first, last in groups for number in range(first, last)] == list(range(len(sizes)))
    assert all(sum(sizes[first:last]) >= tiles for first, last in groups[:-1])
    assert all(first % together == 0 for first, _ in groups)
    for first, last in groups:  # joined up to the limit, or because one of the two is too small for a run
        cells = [sum(sizes[k : k + together]) for k in range(first, last, together)]
        assert sum(cells) <= 2 * tiles or len(cells) == 1 or sum(cells[:-1]) < tiles


def test_tasks_of_a_sentinel2_product_share_no_block_of_10_and_20_m() -> None:
    """Blocks of 1,024 px at 10 m, 640 px at 20 m and 192 px at 60 m: workers that share none but the last decode less than 1 % of the pixels twice."""
    plan = plan_native(10980, 10980, size_px=64, edge="drop")
    regions = plan_regions(plan, block=(1280, 1280), period=(5120, 5120), budget_px=48_000_000 // 52)
    groups = plan_groups(regions, least=512, most=2437)
    busy = [0, 0]
    for group in groups:  # each to the worker that is free first, in order
        busy[busy.index(min(busy))] += sum(len(regions[k].tiles) for k in range(*group))
    assert sum(busy) == 171**2 and max(busy) / sum(busy) < 0.51
    for side, most in ((1024, 1.0), (1280, 1.0), (1152, 1.5)):
        decoded: Counter[tuple[int, int]] = Counter()
        for first, last in groups:
            box = plan[np.concatenate([region.tiles for region in regions[first:last]])]
            touched = {
                (r, c)
                for row, col, height, width in box.tolist()
                for r in range(row // side, -(-(row + height) // side))
                for c in range(col // side, -(-(col + width) // side))
            }
            decoded.update(touched)
        assert len(decoded) == (-(-10944 // side)) ** 2
        assert decoded.total() / len(decoded) <= most


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plan_native(9, 9, size_px=4, edge="cut"), "drop, shift or pad, got 'cut'"),
        (lambda: plan_native(9, 9, size_px=0, edge="drop"), "size_px of at least 1, got 0"),
        (lambda: plan_grid((0, 0, 9, 9), size_px=4, gsd_m=1, edge="shift"), "cells of a fixed grid cannot shift"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_words(call, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()


def test_a_plan_of_tiles_is_what_its_numbers_say_for_both_tilings() -> None:
    native = TilePlan((70, 90), 16, "pad", block=(32, 32), period=(32, 32), budget_px=4000)
    assert (native.windows == plan_native(70, 90, size_px=16, edge="pad")).all() and native.places is native.windows
    assert len(native.regions) > 1
    held = np.concatenate([region.tiles for region in native.regions])
    assert sorted(held.tolist()) == list(range(len(native.windows)))
    grid = TilePlan(
        (64, 48), 16, "pad", (16, 48), (16, 48), 4000, bounds=(500005.0, 4999005.0, 500405.0, 4999555.0), gsd_m=10.0
    )
    cells = plan_grid(grid.bounds, size_px=16, gsd_m=10.0, edge="pad")
    assert (grid.places == cells).all()
    top, left = cells[:, 0].max(), cells[:, 1].min()
    assert (grid.windows[:, 0] == (top - cells[:, 0]) * 16).all() and (
        grid.windows[:, 1] == (cells[:, 1] - left) * 16
    ).all()
    assert (grid.windows[:, 2:] == 16).all() and not place_windows(cells[:0], size_px=16).size
    with pytest.raises(ValueError, match="read-only"):
        native.windows[0] = 0  # shared by all products of one shape

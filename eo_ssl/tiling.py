"""Plans of tiles: where they lie, what they are called and in which order pixels are read. Pure arithmetic on integers.

Two tilings. ``native`` windows lie on the product's own grid and nothing is resampled::

    drop             shift            pad                 a product of 10 px, tiles of 4 px
    |----|----|..    |----|----|      |----|----|----|
                        |----|                  `- 2 px of data, 2 px invalid

``grid`` cells are snapped to multiples of ``size_px * gsd_m`` in a UTM zone, so that every product of that zone shares
them. With ``drop`` and ``pad`` each pixel belongs to at most one tile (exactly one with ``pad``); ``shift`` moves the
last tile inwards, so its pixels overlap its neighbour's.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError

Edge = Literal["drop", "shift", "pad"]
_SNAP = 1e-6  # of a cell; coordinates this close to a cell border lie on it (float noise of geotransforms)


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels; row and column count from the upper left corner."""

    row: int
    col: int
    height: int
    width: int


def plan_native(height: int, width: int, *, size_px: int, edge: Edge) -> npt.NDArray[np.int32]:
    """Return the windows of the tiles of a ``height`` x ``width`` image, row by row.

    Returns:
        int32 [n, 4]: row, col, height, width. Height and width are ``size_px`` except at the lower and right border
        with ``pad``, where they count the pixels that exist. ``drop`` and ``shift`` give no window to an image smaller
        than a tile.

    Raises:
        UserError: unknown edge policy or size below 1.
    """
    if size_px < 1:
        raise UserError(f"expected size_px of at least 1, got {size_px}; give the side of a tile in pixels")
    rows, heights = _spans(height, size_px, edge)
    cols, widths = _spans(width, size_px, edge)
    plan = np.empty((len(rows), len(cols), 4), dtype=np.int32)
    plan[..., 0], plan[..., 2] = rows[:, None], heights[:, None]
    plan[..., 1], plan[..., 3] = cols[None, :], widths[None, :]
    return plan.reshape(-1, 4)


def _spans(length: int, size: int, edge: Edge) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return starts and lengths of the tiles along one axis of ``length`` pixels."""
    whole = length // size
    starts = np.arange(whole, dtype=np.int64) * size
    lengths = np.full(whole, size, dtype=np.int64)
    rest = length - whole * size
    if edge == "drop" or rest == 0:
        return starts, lengths
    if edge == "shift":
        if whole == 0:
            return starts, lengths
        return np.append(starts, length - size), np.append(lengths, size)
    if edge == "pad":
        return np.append(starts, whole * size), np.append(lengths, rest)
    raise UserError(f"expected the edge policy drop, shift or pad, got {edge!r}; name one of them")


def plan_grid(
    bounds: tuple[float, float, float, float], *, size_px: int, gsd_m: float, edge: Edge
) -> npt.NDArray[np.int32]:
    """Return the cells of the zone's grid that a product with ``bounds`` fills, north to south, then west to east.

    Args:
        bounds: left, bottom, right, top in metres of the UTM zone.
        size_px: side of a tile in pixels.
        gsd_m: pixel size of the grid in metres.
        edge: ``drop`` keeps cells that lie wholly inside the bounds, ``pad`` every cell that touches them.

    Returns:
        int32 [n, 2]: cell row and cell column; the cell spans ``[col, col + 1) * size_px * gsd_m`` eastwards and
        ``[row, row + 1) * size_px * gsd_m`` northwards.

    Raises:
        UserError: for ``shift``, which would leave the grid.
    """
    if edge not in ("drop", "pad"):
        raise UserError(
            f"expected the edge policy drop or pad with the grid tiling, got {edge!r}; cells of a fixed grid cannot "
            "shift"
        )
    cell_m = size_px * gsd_m
    left, bottom, right, top = (value / cell_m for value in bounds)
    low, high = (_floor, _ceil) if edge == "pad" else (_ceil, _floor)
    cols = np.arange(low(left), high(right), dtype=np.int32)
    rows = np.arange(low(bottom), high(top), dtype=np.int32)[::-1]
    plan = np.empty((len(rows), len(cols), 2), dtype=np.int32)
    plan[..., 0], plan[..., 1] = rows[:, None], cols[None, :]
    return plan.reshape(-1, 2)


def _floor(value: float) -> int:
    return math.floor(value + _SNAP)


def _ceil(value: float) -> int:
    return math.ceil(value - _SNAP)


def locate_cells(
    x: npt.ArrayLike, y: npt.ArrayLike, *, cell_m: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return row and column (int64, shape of ``x``) of the cells that hold points (x, y), metres of a UTM zone."""
    rows = np.floor(np.asarray(y, dtype=np.float64) / cell_m + _SNAP).astype(np.int64)
    cols = np.floor(np.asarray(x, dtype=np.float64) / cell_m + _SNAP).astype(np.int64)
    return rows, cols


def name_location(zone: int, row: int, col: int) -> str:
    """Return the name of a place on Earth: EPSG code of the UTM zone, cell row and cell column."""
    return f"{zone}:{row}:{col}"


def tile_id(product_id: str, stream: str, place: Iterable[int]) -> bytes:
    """Return the 16 bytes that name a tile: a BLAKE2b hash of exactly product, stream and its integer window or cell.

    No float enters, so that the same tile has the same name on every machine and a second ingest adds nothing.
    """
    numbers = ",".join(str(int(number)) for number in place)
    parts = [part.encode() for part in (product_id, stream, numbers)]
    framed = b"".join(
        len(part).to_bytes(4, "little") + part for part in parts
    )  # lengths first: no two triples share a text
    return hashlib.blake2b(framed, digest_size=16).digest()


class Region(NamedTuple):
    """Tiles that are cut from one read."""

    tiles: npt.NDArray[np.intp]
    "positions in the plan"
    cell: int
    "which cell of blocks they lie in; two cells share no block"


def plan_regions(
    windows: npt.NDArray[np.int32], *, block: tuple[int, int], period: tuple[int, int], budget_px: int
) -> list[Region]:
    """Return the tiles to cut from one read each: every block of the file is decoded once, memory stays bounded.

    Args:
        windows: int32 [n, 4] of :func:`plan_native`.
        block: height and width of the file's blocks in pixels.
        period: rows and columns after which blocks of all files of the product begin anew: cells of that size can be
            read by different workers without decoding a block twice. ``block`` where there is one size of block.
        budget_px: pixels of one band that may be in memory at a time.

    Returns:
        Regions, cell by cell; together they hold each tile exactly once. A region is as wide as the image when a row of
        blocks fits the budget (strips), else a few blocks.
    """
    if len(windows) == 0:
        return []
    size = int(windows[:, 2].max())
    width = int((windows[:, 1] + windows[:, 3]).max())
    tall = max(min(block[0], period[0]), size)
    if tall * size > budget_px:  # blocks too tall to hold (whole image in one block): the reader has to decode again
        tall = size
    if tall * width <= budget_px:
        tall, wide = tall * max(budget_px // (tall * width), 1), width
    else:
        step = max(min(block[1], period[1], width), size)
        wide = max(budget_px // tall // step * step, step if step * tall <= 4 * budget_px else size)
    cell = max(period[0], tall), max(period[1], wide)
    down, right = windows[:, 0] // cell[0], windows[:, 1] // cell[1]
    cells = down.astype(np.int64) * (width + 1) + right
    inside = (windows[:, 0] % cell[0] // tall).astype(np.int64) * (width + 1) + windows[:, 1] % cell[1] // wide
    order = np.lexsort((np.arange(len(windows)), inside, cells))
    cells, inside = cells[order], inside[order]
    starts = np.flatnonzero((np.diff(cells) != 0) | (np.diff(inside) != 0)) + 1
    return [
        Region(tiles, int(cells[first])) for tiles, first in zip(np.split(order, starts), [0, *starts], strict=True)
    ]


def plan_groups(regions: Sequence[Region], *, least: int, most: int) -> list[tuple[int, int]]:
    """Return runs ``[first, last)`` of regions, the unit of work of one task.

    Whole cells, together at least ``least`` tiles but in the last run.

    Cells are joined up to ``most`` tiles; one that holds more is a run of its own, so that workers that take runs in
    order finish together.
    """
    starts = [0, *(k for k in range(1, len(regions)) if regions[k].cell != regions[k - 1].cell), len(regions)]
    groups: list[tuple[int, int]] = []
    first, held = 0, 0
    for start, end in itertools.pairwise(starts):
        tiles = sum(len(region.tiles) for region in regions[start:end])
        if held >= least and held + tiles > most:
            groups.append((first, start))
            first, held = start, 0
        held += tiles
    if held:
        groups.append((first, len(regions)))
    return groups


@dataclass(frozen=True, slots=True)
class TilePlan:
    """The tiles of one product as the few numbers they all follow from.

    It prints, and is as small for a million tiles as for one.
    """

    shape: tuple[int, int]
    "height and width in pixels of the raster that the tiles are cut from"
    size_px: int
    edge: Edge
    block: tuple[int, int]
    "height and width of the file's blocks in pixels"
    period: tuple[int, int]
    "rows and columns after which the blocks of all files begin anew"
    budget_px: int
    "pixels of one band that may be in memory at a time"
    bounds: tuple[float, float, float, float] | None = None
    "grid: left, bottom, right, top in metres of the UTM zone; None for the native tiling"
    gsd_m: float = 0.0
    "grid: size of a pixel"

    @property
    def places(self) -> npt.NDArray[np.int32]:
        """What names each tile: its window, or its grid cell; int32 [n, 4 or 2], read only."""
        return _lay_out(self)[0]

    @property
    def windows(self) -> npt.NDArray[np.int32]:
        """Window of each tile on the raster, int32 [n, 4]: row, col, height, width.

        Of a grid from the upper left cell. Read only.
        """
        return _lay_out(self)[1]

    @property
    def regions(self) -> list[Region]:
        """Tiles that are cut from one read each, as `plan_regions`."""
        return _lay_out(self)[2]


@lru_cache(maxsize=16)  # remade in milliseconds, so that no product of an archive holds a table of its tiles
def _lay_out(plan: TilePlan) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], list[Region]]:
    if plan.bounds is None:
        windows = places = plan_native(*plan.shape, size_px=plan.size_px, edge=plan.edge)
    else:
        places = plan_grid(plan.bounds, size_px=plan.size_px, gsd_m=plan.gsd_m, edge=plan.edge)
        windows = place_windows(places, size_px=plan.size_px)
    for table in (places, windows):
        table.flags.writeable = False
    return places, windows, plan_regions(windows, block=plan.block, period=plan.period, budget_px=plan.budget_px)


def place_windows(cells: npt.NDArray[np.int32], *, size_px: int) -> npt.NDArray[np.int32]:
    """Return the windows of grid ``cells`` (int32 [n, 2] of `plan_grid`) from the upper left one: int32 [n, 4]."""
    if not len(cells):
        return np.empty((0, 4), dtype=np.int32)
    rows = (cells[:, 0].max() - cells[:, 0]) * size_px
    cols = (cells[:, 1] - cells[:, 1].min()) * size_px
    side = np.full_like(rows, size_px)
    return np.stack([rows, cols, side, side], axis=1).astype(np.int32)

"""Sliding windows of an encoder over a scene, and the weights that blend them where they overlap, axis by axis.

Windows are laid on a grid of tokens (patches of the encoder), so that the tokens of all windows fall on common cells::

    cells    0   1   2   3   4   5   6      a scene of 7 cells, windows of 4, every 2 cells
    window   [0   1   2   3]
                     [2   3   4   5]
                         [3   4   5   6]    the last is moved inwards: no window is padded where the scene is long
                         enough

The weight of a window along an axis is a raised cosine divided by the sum of the raised cosines of all windows there:
the weights of a cell sum to one. Windows and weights of the plane are products of those of the two axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import expect

Range = tuple[int, int]
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)  # no slots: what is derived is kept
class WindowAxis:
    """Windows along one axis of a scene, in cells."""

    length: int
    "cells of the scene, the last perhaps beyond its edge"
    side: int
    "cells of a window"
    stride: int
    "cells from one window to the next"
    group: int
    "windows encoded in one task"

    def __post_init__(self) -> None:
        """Check that every cell is covered."""
        expect(
            min(self.length, self.group) >= 1 and 1 <= self.stride <= self.side,
            expected=f"windows every 1 ... {self.side} cells and groups of at least one",
            got=f"every {self.stride} in groups of {self.group}",
            remedy="choose an overlap from 0 to below 1",
        )

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First cell of each window, ascending."""
        last = max(self.length - self.side, 0)
        return (*range(0, last, self.stride), last)

    @cached_property
    def weights(self) -> Weights:
        """Weight of each window's cells, float64 [windows, side]; over each cell of the scene they sum to one."""
        bump = np.sin(np.pi * (np.arange(self.side) + 0.5) / self.side) ** 2
        total = np.zeros(max(self.length, self.side))
        for start in self.starts:
            total[start : start + self.side] += bump
        return np.stack([bump / total[start : start + self.side] for start in self.starts])

    @property
    def groups(self) -> int:
        """Number of groups."""
        return -(-len(self.starts) // self.group)

    def windows(self, group: int) -> range:
        """Windows of a group."""
        return range(group * self.group, min((group + 1) * self.group, len(self.starts)))

    def footprint(self, group: int) -> Range:
        """Cells, [first, end), that the windows of a group cover; a scene shorter than a window may end before them."""
        windows = self.windows(group)
        return self.starts[windows[0]], self.starts[windows[-1]] + self.side

    def block(self, group: int) -> Range:
        """Cells that are finished together; the blocks of all groups cover each cell once."""
        first = self.starts[self.windows(group)[0]]
        return first, self.length if group + 1 == self.groups else self.starts[self.windows(group + 1)[0]]

    def contributors(self, group: int) -> list[int]:
        """Groups whose windows reach into the block of ``group``, ascending: itself and some before it.

        No group begins before its block.
        """
        low, high = self.block(group)
        spans = [(other, self.footprint(other)) for other in range(group + 1)]
        return [other for other, (first, end) in spans if first < high and end > low]


def plan_windows(length_px: int, *, patch_px: int, side: int, overlap: float, group: int) -> WindowAxis:
    """Return the windows along an axis of ``length_px`` pixels.

    Args:
        length_px: pixels of the scene.
        patch_px: pixels of a cell.
        side: cells of a window.
        overlap: share of a window that the next one covers again, 0 ... below 1, rounded to whole cells.
        group: windows of a task.

    Raises:
        UserError: the overlap is outside its range.
    """
    expect(
        0 <= overlap < 1,
        expected="an overlap from 0 to below 1",
        got=f"{overlap:g}",
        remedy="0.5 blends each place from two windows per axis",
    )
    stride = max(1, round(side * (1 - overlap)))
    return WindowAxis(-(-length_px // patch_px), side, stride, group)

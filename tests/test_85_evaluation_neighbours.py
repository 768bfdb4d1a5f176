"""A split that puts neighbours on both sides says so, with the share that a plan of squares gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyproj
import pytest

from eo_ssl.evaluation.benchmarks import load_benchmark
from eo_ssl.evaluation.spatial_leakage import measure_spatial_leakage, note_spatial_leakage
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from planted import planted
from worlds.benchmarks import make_eurosat


def board(rng: np.random.Generator, train: np.ndarray, *, gap: float = 0.0) -> Task:
    """A board of 8 x 8 tiles of 0.01 degrees, ``gap`` of a tile apart; True in ``train`` [8, 8] teaches, the others are tested."""
    y, x = (index.ravel() * 0.01 * (1 + gap) for index in np.mgrid[0:8, 0:8])
    places = np.stack([x, y, x + 0.01, y + 0.01], axis=1)
    rows = np.arange(64)
    fold = Fold(rows[train.ravel()], rows[~train.ravel()], rows[:0])
    return replace(planted(rng, 64, 4), places=places, folds=(fold,))


def test_a_chessboard_leaks_everywhere_and_halves_along_the_cut(rng: np.random.Generator) -> None:
    columns = np.tile(np.arange(8), (8, 1))
    chess = (columns + columns.T) % 2 == 0
    assert measure_spatial_leakage(board(rng, chess)) == 1.0
    assert measure_spatial_leakage(board(rng, columns < 4)) == pytest.approx(8 / 32)
    assert measure_spatial_leakage(board(rng, columns < 4, gap=0.4)) == pytest.approx(8 / 32)
    assert measure_spatial_leakage(board(rng, columns < 4, gap=0.6)) == 0.0


def test_the_warning_is_a_note(rng: np.random.Generator) -> None:
    columns = np.tile(np.arange(8), (8, 1))
    said = note_spatial_leakage(board(rng, columns < 4))
    assert (
        said.notes[-1]
        == "25 % of the test tiles have a training tile beside them: this split says little of other places"
    )
    quiet = board(rng, columns < 4, gap=2.0)
    assert note_spatial_leakage(quiet) is quiet and note_spatial_leakage(planted(rng)).notes == ()
    lost = replace(quiet, places=np.full((64, 4), np.nan))
    assert measure_spatial_leakage(lost) == 0.0


def test_eurosat_knows_where_its_patches_lie(tmp_path: Path) -> None:
    root = make_eurosat(tmp_path, per_class=4)
    task = load_benchmark("eurosat", root)
    assert task.places is not None
    geod = pyproj.Geod(ellps="WGS84")
    for left, bottom, right, top in task.places[::7]:
        middle = (bottom + top) / 2
        wide, high = geod.inv(left, middle, right, middle)[2], geod.inv(left, bottom, left, top)[2]
        assert 640 <= wide < 700 and 640 <= high < 700  # 64 pixels of 10 m, and the corners of a turned square
    # Patches moved onto their neighbours' ground are seen to be beside them.
    moved = replace(task, places=np.repeat(task.places[:1], len(task.labels), axis=0))
    assert measure_spatial_leakage(task) == 0.0 and measure_spatial_leakage(moved) == 1.0

"""A split that puts neighbours on both sides says so, with the share that a plan of squares gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eo_ssl.evaluation.neighbours import beside_training, warned
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from planted import planted


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
    assert beside_training(board(rng, chess)) == 1.0
    assert beside_training(board(rng, columns < 4)) == pytest.approx(8 / 32)
    assert beside_training(board(rng, columns < 4, gap=0.4)) == pytest.approx(8 / 32)
    assert beside_training(board(rng, columns < 4, gap=0.6)) == 0.0


def test_the_warning_is_a_note(rng: np.random.Generator) -> None:
    columns = np.tile(np.arange(8), (8, 1))
    said = warned(board(rng, columns < 4))
    assert (
        said.notes[-1]
        == "25 % of the test tiles have a training tile beside them: this split says little of other places"
    )
    quiet = board(rng, columns < 4, gap=2.0)
    assert warned(quiet) is quiet and warned(planted(rng)).notes == ()
    lost = replace(quiet, places=np.full((64, 4), np.nan))
    assert beside_training(lost) == 0.0

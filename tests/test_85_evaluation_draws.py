"""Draws are paired, seeded and of samples rather than rows; controls see what they may see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eo_ssl.errors import UserError
from eo_ssl.evaluation.draws import Amount, draw
from eo_ssl.evaluation.mstar import make_mstar_task
from eo_ssl.evaluation.protocols import predict_frozen
from fake_corpora import FakeCorpus, chips


def test_mstar_controls_see_size_and_clutter_and_nothing_else(rng: np.random.Generator) -> None:
    task = make_mstar_task(*chips(rng)[:1], clutter=chips(np.random.default_rng(20261121))[1])  # type: ignore[arg-type]
    drawn = draw(task, Amount(shots=5), draws=5, seed=0)
    size, clutter, target = (
        (
            predict_frozen(task, [x], drawn, protocol="knn5", amount=Amount(shots=5), seed=0)
            == task.labels[task.tested]
        ).mean()
        for x in (*(control.x for control in task.controls), _pixels(task))
    )
    assert size == 1.0 and clutter > 0.95 and target < 0.6
    assert task.controls[1].x.shape == (120, 1024) and np.array_equal(task.controls[0].x[:3, 0], [128, 138, 148])
    centre = task.controls[1].x.reshape(-1, 32, 32)[:, 8:24, 8:24]  # 8 .. 24 of 32 lie well inside 24 .. 104 of 128
    assert (centre == 0).all()


def _pixels(task: Any) -> np.ndarray:
    source = task.sources[0]
    out = np.empty((len(source), *source.shape), np.float32)
    source.read(np.arange(len(source)), out)
    return out.reshape(len(out), -1)


def test_mstar_needs_the_crop_of_every_chip(rng: np.random.Generator) -> None:
    small, wide = chips(rng)
    corpus, name = wide
    stream, x, rows = corpus.parts[name]
    corpus.parts[name] = (stream, x[1:], rows[1:])
    with pytest.raises(UserError, match=r"got none of 1, e\.g\. chip"):
        make_mstar_task(small, clutter=wide)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected crops of 128 px"):
        make_mstar_task(small, clutter=small)  # type: ignore[arg-type]


def test_draws_are_seeded_balanced_and_differ(rng: np.random.Generator) -> None:
    task = make_mstar_task(*chips(rng)[:1], clutter=chips(np.random.default_rng(20261121))[1])  # type: ignore[arg-type]
    first, again, other = (draw(task, Amount(shots=5), draws=4, seed=seed) for seed in (0, 0, 1))
    flat = [[rows[0].tolist() for rows in drawn] for drawn in (first, again, other)]
    assert flat[0] == flat[1] != flat[2] and len({tuple(rows) for rows in flat[0]}) == 4
    for rows in flat[0]:
        assert np.bincount(task.labels[rows]).tolist() == [5, 5, 5] and set(rows) <= set(task.folds[0].train.tolist())
    with pytest.raises(UserError, match="at least one shot"):
        Amount(shots=0)
    with pytest.raises(UserError, match="shots or a fraction"):
        Amount(shots=1, fraction=0.5)
    with pytest.raises(UserError, match="between 0 and 1, got 1"):
        Amount(fraction=1.0)


def test_a_fraction_takes_its_share_of_each_class(rng: np.random.Generator) -> None:
    task = make_mstar_task(*chips(rng)[:1], clutter=chips(np.random.default_rng(20261121))[1])  # type: ignore[arg-type]
    drawn = draw(task, Amount(fraction=0.25), draws=3, seed=0)
    counts = [np.bincount(task.labels[rows]).tolist() for (rows,) in drawn]
    assert counts == [[5, 5, 5]] * 3 and len({tuple(rows) for (rows,) in drawn}) == 3
    few = draw(task, Amount(fraction=0.03), draws=1, seed=0)[0][0]
    assert np.bincount(task.labels[few]).tolist() == [1, 1, 1]


def test_draws_are_of_chips_not_of_rows(rng: np.random.Generator) -> None:
    # Another ingest orders its rows differently; the same seed must still draw the same chips.
    small, wide = chips(rng)
    corpus, name = small
    stream, x, rows = corpus.parts[name]
    order = rng.permutation(len(rows))
    moved = FakeCorpus().add(stream, x[order], [rows[i] for i in order])
    drawn = []
    for part, names in ((small, rows), (moved, [rows[i] for i in order])):
        task = make_mstar_task(part, clutter=wide)  # type: ignore[arg-type]
        drawn.append(
            [sorted(names[i]["source"] for i in folds[0]) for folds in draw(task, Amount(shots=5), draws=3, seed=0)]
        )
    assert drawn[0] == drawn[1]


def test_one_shot_uses_one_neighbour(rng: np.random.Generator) -> None:
    # With k = 5 over one sample per class every vote ties and the lowest class would always win.
    task = make_mstar_task(*chips(rng)[:1], clutter=chips(np.random.default_rng(20261121))[1])  # type: ignore[arg-type]
    one = Amount(shots=1)
    drawn = draw(task, one, draws=5, seed=0)
    answers = predict_frozen(task, [task.controls[0].x], drawn, protocol="knn5", amount=one, seed=0)
    assert (answers == task.labels[task.tested]).all()

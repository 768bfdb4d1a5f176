"""The spread of views: what two views of a row are apart, less the mean of the batch, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eo_ssl.pretraining.view_spread import ViewSpread
from runs import BATCH, STEPS, TILES, make_objective, run


def test_what_is_learned_of_a_row_is_a_moving_average_less_the_mean_of_each_batch() -> None:
    spread = ViewSpread(5)
    assert spread.read(np.arange(5)) is None
    spread.learn(np.asarray([3, 1]), np.asarray([-1.0, 2.0], dtype=np.float32))
    spread.learn(np.asarray([1, 4]), np.asarray([0.0, -1.0], dtype=np.float32))
    expected = [0, 0.5 * 1.5 + 0.5 * 0.5, 0, -1.5, -0.5]
    known = np.asarray(expected)[[1, 3, 4]].mean()
    np.testing.assert_allclose(spread.read(np.arange(5)), [known, 1.0, known, -1.5, -0.5])
    other = ViewSpread(5)
    other.load_state_dict(spread.state_dict())
    np.testing.assert_array_equal(other.known, spread.known)


@pytest.mark.parametrize("name", ["simclr", "dino"])
def test_a_run_tells_how_far_apart_the_views_of_a_tile_were(tmp_path, monkeypatch, name) -> None:
    """By what the objective's embedder gives of the first two views, heard in the step, not when monitors embed."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    learn = ViewSpread.learn
    monkeypatch.setattr(ViewSpread, "learn", lambda self, *given: (seen.append(given), learn(self, *given))[1])
    kind = type(make_objective(name))
    wanted, forward = [], kind.forward

    def listen(self, batch):
        first, second = next(iter(batch.views.values()))[:2]
        with torch.no_grad():
            pair = [torch.nn.functional.normalize(self.embed(view), dim=1) for view in (first, second)]
        # What was embedded for the comparison is no view of the step.
        for callback in listeners:
            callback._heard.clear()
        wanted.append((batch.rows.numpy(), (pair[0] - pair[1]).norm(dim=1).log().numpy()))
        return forward(self, batch)

    listeners: list[ViewSpread] = []
    init = ViewSpread.__init__
    monkeypatch.setattr(ViewSpread, "__init__", lambda self, rows: (init(self, rows), listeners.append(self))[0])
    monkeypatch.setattr(kind, "forward", listen)
    run(tmp_path, name=name, keep=0.5)
    assert len(seen) == len(wanted) == STEPS
    for (rows, got), (expected_rows, expected) in zip(seen, wanted, strict=True):
        assert np.array_equal(rows, expected_rows) and len(rows) == BATCH
        np.testing.assert_allclose(got, expected, atol=1e-3)
    assert np.isfinite(listeners[0].read(np.arange(TILES))).all()

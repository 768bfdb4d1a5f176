"""Batches of images without a valid pixel, and losses that are no number: what every method and every run does then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import runs
import test_82_processes as processes
from eo_ssl.errors import UserError
from eo_ssl.pretraining import FitConfig
from eo_ssl.pretraining.checkpoints import find_sound_checkpoint


@pytest.mark.parametrize("name", processes.METHODS)
def test_a_batch_without_a_valid_pixel_gives_a_finite_loss_and_gradient(name, monkeypatch):
    """Masked and predictive methods learn nothing from it; others compare the images that are left empty."""
    image, valid = processes.items()
    monkeypatch.setattr(processes.ijepa, "draw_blocks", processes.ijepa.draw_blocks)  # which the helper replaces
    monkeypatch.setattr(processes, "items", lambda: (torch.full_like(image, torch.nan), valid & False))
    objective = processes.build(name)
    loss = processes.loss_of(objective, slice(0, processes.ITEMS))
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])
    assert loss.isfinite() and gradients.isfinite().all()
    if name in ("Mae", "IJepa"):
        assert float(loss.detach()) == 0 and not gradients.any()
    objective.after_step(processes.Step(1, 2, 0))
    assert all(value.isfinite().all() for value in objective.state_dict().values() if value.is_floating_point())


class Diverging:
    """A forward pass whose loss is no number from a step on."""

    def __init__(self, forward, step, loader) -> None:
        self.forward, self.step, self.loader = forward, step, loader

    def __call__(self, batch):
        results = self.forward(batch)
        return {"loss": results["loss"] * (torch.nan if batch.step.number >= self.step else 1)}


def test_a_loss_that_is_no_number_ends_the_run_and_reaches_no_checkpoint(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(runs, "Spoiled", Diverging)
    with pytest.raises(UserError, match=r"expected a finite loss, got nan by step 24: lower lr, or clip the gradient"):
        runs.run(tmp_path / "logged", spoil=20, every=30)
    seldom = FitConfig(log_every=1000, monitor_every=1000, checkpoint_every=7)
    monkeypatch.setattr(runs, "FitConfig", lambda **options: seldom)
    with pytest.raises(UserError, match=r"expected finite weights at step 21, got others, .*; lower lr"):
        runs.run(tmp_path / "saved", spoil=20)
    assert find_sound_checkpoint(tmp_path / "saved" / "checkpoints").name.startswith("step_000000014.")

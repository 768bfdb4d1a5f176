"""Batches without a valid pixel or with other bands than the encoder's, and losses that are no number: what every method and every run does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import runs
import test_82_processes as processes
from eo_ssl.errors import UserError
from eo_ssl.models import View
from eo_ssl.pretraining import FitConfig
from eo_ssl.pretraining.checkpoints import find_sound_checkpoint

COMPARE = [
    "Located",
    "SimClr",
    "ISogClr",
    "Dcl",
    "MocoV2",
    "MocoV3",
    "Byol",
    "BarlowTwins",
    "MixedBarlowTwins",
    "VicReg",
    "LeJepa",
    "Dino",
    "DinoV2",
    "Swav",
    "Pmsn",
]
"""Methods that compare images, also those that are left empty; the others have targets, which these do not have."""
every_method = pytest.mark.parametrize("name", processes.METHODS)


@pytest.fixture(autouse=True)
def _own_blocks(monkeypatch):
    for module, name in ((processes.ijepa, "draw_blocks"), (processes.dino_v2, "draw_masks")):
        monkeypatch.setattr(module, name, getattr(module, name))  # which the helper replaces


@every_method
def test_a_batch_without_a_valid_pixel_gives_a_finite_loss_and_gradient(name, monkeypatch):
    """Masked, predictive and distilling methods learn nothing from it."""
    image, valid = processes.items()
    monkeypatch.setattr(processes, "items", lambda: (torch.full_like(image, torch.nan), valid & False))
    objective = processes.build(name)
    loss = processes.loss_of(objective, slice(0, processes.ITEMS))
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])
    assert loss.isfinite() and gradients.isfinite().all()
    if name.partition(" ")[0] not in COMPARE:
        assert float(loss.detach()) == 0 and not gradients.any()
    objective.after_step(processes.Step(1, 2, 0))
    assert all(value.isfinite().all() for value in objective.state_dict().values() if value.is_floating_point())


@every_method
def test_bands_are_known_by_name_in_any_order_and_a_missing_one_is_named(name, monkeypatch):
    """What is predicted of pixels used to be compared with bands by their position."""
    found = [float(processes.loss_of(processes.build(name), slice(0, processes.ITEMS)).detach())]
    wanted = ["B04", "B02", "B08", "B03"]

    def turn(image, valid, bands, *rest, **known):
        order = [bands.index(band) for band in wanted if band in bands]
        return View(image[:, order], valid[:, order], tuple(bands[place] for place in order), *rest, **known)

    monkeypatch.setattr(processes, "View", turn)
    found.append(float(processes.loss_of(processes.build(name), slice(0, processes.ITEMS)).detach()))
    assert found[0] == found[1]
    wanted.pop()
    with pytest.raises(UserError, match=r"bands B02, B03, B04, B08, got .* without B03; make the view of a stream"):
        processes.loss_of(processes.build(name), slice(0, processes.ITEMS))


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

"""Masked autoencoder: the loss in closed form and against a numpy loop, and what must not matter to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import VitConfig, split_patches, take_patches
from eo_ssl.objectives import Mae, MaeConfig
from eo_ssl.objectives.mae import masked_loss, normalise_patches
from tiles import train_briefly, training_tiles

ARCHITECTURE = VitConfig(img_size=32, in_chans=4, patch_size=8, depth=2)


def _batch(seed: int = 0, *, invalid: float = 0.0):
    image, valid = training_tiles(n=6, seed=seed)
    if invalid:
        valid = torch.rand(valid.shape, generator=torch.Generator().manual_seed(seed)) >= invalid
    return {"image": image, "valid": valid, "row": torch.arange(6), "seed": 11}


@pytest.mark.parametrize("norm", ["patch_band", "patch"])
def test_loss_equals_a_numpy_loop(norm, rng):
    prediction, target = (
        rng.normal(size=(2, 3, 4, 9)),
        rng.normal(size=(2, 3, 4, 9)) * [[[[1.0], [5.0], [0.1], [2.0]]]] + 3,
    )
    valid = rng.random((2, 3, 4, 9)) > 0.3
    valid[0, 1], valid[1, 2, 0] = False, False  # a patch, and a band of a patch, without any pixel
    valid[1, 0, 3] = np.arange(9) == 4  # a single pixel has no variance
    total, count = 0.0, 0
    for b, m in np.ndindex(2, 3):
        groups = [[c] for c in range(4)] if norm == "patch_band" else [[0, 1, 2, 3]]
        for bands in groups:
            seen = valid[b, m, bands]
            values = target[b, m, bands][seen]
            if not len(values):
                continue
            variance = values.var(ddof=1) if len(values) > 1 else 0.0
            normalised = (values - values.mean()) / np.sqrt(variance + 1e-6)
            total += ((prediction[b, m, bands][seen] - normalised) ** 2).sum()
            count += len(values)
    got = masked_loss(*(torch.from_numpy(x) for x in (prediction, np.where(valid, target, 0), valid)), norm=norm)
    assert float(got) == pytest.approx(total / count, rel=1e-9)


def test_with_nothing_missing_it_is_the_papers_loss():
    gen = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(2, 5, 3, 16, generator=gen) for _ in range(2))
    joint = target.flatten(2)
    joint = (joint - joint.mean(-1, keepdim=True)) / (joint.var(-1, keepdim=True) + 1e-6).sqrt()
    wanted = ((prediction.flatten(2) - joint) ** 2).mean(-1).mean()
    got = masked_loss(prediction, target, torch.ones_like(target, dtype=torch.bool), norm="patch")
    torch.testing.assert_close(got, wanted)


def test_perfect_prediction_costs_nothing_and_zero_prediction_costs_the_variance():
    target = (
        torch.randn(2, 5, 3, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10, 0.1])[:, None]
    )
    valid = torch.ones_like(target, dtype=torch.bool)
    assert (
        float(masked_loss(normalise_patches(target, valid, norm="patch_band"), target, valid, norm="patch_band")) == 0
    )
    # an unbiased variance of one over n pixels leaves a mean square of (n - 1) / n
    zero = masked_loss(torch.zeros_like(target), target, valid, norm="patch_band")
    assert float(zero) == pytest.approx(63 / 64, rel=1e-3)


def test_each_band_weighs_the_same_only_when_normalised_per_band():
    gen = torch.Generator().manual_seed(0)
    target = torch.randn(2, 5, 2, 64, generator=gen) * torch.tensor([1.0, 100.0])[:, None]
    valid = torch.ones_like(target, dtype=torch.bool)
    shares = {}
    for norm in ("patch_band", "patch"):
        energy = normalise_patches(target, valid, norm=norm).square().sum(dim=(0, 1, 3))
        shares[norm] = float(energy[0] / energy.sum())
    assert shares["patch_band"] == pytest.approx(0.5, abs=1e-3)
    assert shares["patch"] < 0.01


def test_only_hidden_patches_enter_the_loss():
    objective = Mae(ARCHITECTURE)
    batch = _batch()
    keep, hidden = objective.draw_mask(6, torch.Generator().manual_seed(11))
    assert torch.equal(torch.cat([keep, hidden], 1).sort(1).values, torch.arange(16).expand(6, -1))
    assert (keep.shape[1], hidden.shape[1]) == (4, 12)
    # What is predicted does not depend on hidden pixels: those enter the target alone.
    seen = []
    objective.decode_original, objective.decode = (
        objective.decode,
        lambda *a: seen.append(objective.decode_original(*a)) or seen[-1],
    )
    objective(batch)
    pixels = split_patches(batch["image"], 8).clone()
    pixels[torch.arange(6)[:, None], hidden] = 7.0
    image = pixels.view(6, 4, 4, 4, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(6, 4, 32, 32)
    objective({**batch, "image": image})
    assert torch.equal(seen[0], seen[1])
    target = take_patches(split_patches(batch["image"], 8), hidden)
    wanted = masked_loss(seen[0].view_as(target), target, torch.ones_like(target, dtype=torch.bool), norm="patch_band")
    assert torch.equal(objective(batch)["loss"], wanted)


def test_values_under_nodata_change_nothing():
    objective = Mae(ARCHITECTURE)
    batch = _batch(invalid=0.3)
    loss = objective(batch)["loss"]
    for poison in (-9999.0, float("nan"), float("inf")):
        image = torch.where(batch["valid"], batch["image"], torch.tensor(poison))
        again = objective({**batch, "image": image})["loss"]
        assert torch.equal(again, loss)
    again.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_a_batch_without_any_pixel_costs_nothing():
    objective = Mae(ARCHITECTURE)
    batch = _batch()
    result = objective({**batch, "valid": torch.zeros_like(batch["valid"])})["loss"]
    result.backward()
    assert float(result.detach()) == 0


def test_the_batch_seed_alone_draws_the_mask():
    objective = Mae(ARCHITECTURE)
    batch = _batch()
    torch.manual_seed(0)
    first = objective(batch)["loss"]
    torch.manual_seed(1)
    assert torch.equal(objective(batch)["loss"], first)
    assert not torch.equal(objective({**batch, "seed": 12})["loss"], first)


def test_thirty_steps_on_32_tiles_learn_without_collapse():
    first, last, spread = train_briefly(Mae(ARCHITECTURE, seed=0), lr=1e-3)
    assert last < 0.7 * first
    assert spread > 0.3


def test_refusals():
    with pytest.raises(UserError, match=r"mask_ratio must lie between 0 and 1, got 1.5: try 0.75"):
        MaeConfig(mask_ratio=1.5)
    with pytest.raises(UserError, match="multiple of decoder_heads"):
        MaeConfig(decoder_dim=130)
    with pytest.raises(UserError, match="hides no patch of a 1 x 1 grid"):
        Mae(VitConfig(img_size=8, patch_size=8, depth=1), MaeConfig(mask_ratio=0.1))

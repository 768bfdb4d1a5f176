"""Masked autoencoder: the loss in closed form and against a numpy loop, and what must not matter to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, Vit, split_patches, take_patches
from eo_ssl.objectives import Mae
from eo_ssl.objectives.mae import MaeObjective, compute_masked_loss, normalise_patches
from tiles import BANDS, holes, make_batch, train_briefly, training_tiles

ENCODER = Vit(patch_size=8, depth=2)


def build(method: Mae = Mae(), *, size: int = 32, seed: int = 0) -> MaeObjective:  # noqa: B008  (frozen)
    return method.build({"tile": ENCODER.build(BANDS[:4], size, seed)}, seed + 1)


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
    got = compute_masked_loss(
        *(torch.from_numpy(x) for x in (prediction, np.where(valid, target, 0), valid)), norm=norm
    )
    assert float(got) == pytest.approx(total / count, rel=1e-9)


def test_with_nothing_missing_it_is_the_papers_loss():
    gen = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(2, 5, 3, 16, generator=gen) for _ in range(2))
    joint = target.flatten(2)
    joint = (joint - joint.mean(-1, keepdim=True)) / (joint.var(-1, keepdim=True) + 1e-6).sqrt()
    wanted = ((prediction.flatten(2) - joint) ** 2).mean(-1).mean()
    got = compute_masked_loss(prediction, target, torch.ones_like(target, dtype=torch.bool), norm="patch")
    torch.testing.assert_close(got, wanted)


def test_perfect_prediction_costs_nothing_and_zero_prediction_costs_the_variance():
    target = (
        torch.randn(2, 5, 3, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10, 0.1])[:, None]
    )
    valid = torch.ones_like(target, dtype=torch.bool)
    assert (
        float(
            compute_masked_loss(normalise_patches(target, valid, norm="patch_band"), target, valid, norm="patch_band")
        )
        == 0
    )
    # an unbiased variance of one over n pixels leaves a mean square of (n - 1) / n
    zero = compute_masked_loss(torch.zeros_like(target), target, valid, norm="patch_band")
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


@pytest.mark.parametrize("norm", ["patch_band", "patch"])
def test_the_loss_of_a_batch_is_that_of_a_numpy_loop_over_its_hidden_patches(norm):
    """From the image to the loss: mask of the step, encoder of the visible patches, decoder, targets of the hidden ones."""
    objective = build(Mae(norm=norm))
    image, _ = training_tiles(n=4)
    valid = holes(image.shape, patch=8)
    keep, hidden = objective.draw_mask(4, torch.Generator().manual_seed(11))
    assert torch.equal(torch.cat([keep, hidden], 1).sort(1).values, torch.arange(16).expand(4, -1))
    assert (keep.shape[1], hidden.shape[1]) == (4, 12)
    batch = make_batch(image, valid=valid, seed=11)
    tokens = objective.encoder.visible(batch.views["tile"][0], keep)
    prediction = objective.decoder(tokens, keep, hidden[:, None])[:, 0].reshape(4, 12, 4, 64).detach().numpy()
    total, count = 0.0, 0
    for b, m in np.ndindex(4, 12):
        row, col = divmod(int(hidden[b, m]), 4)
        window = (b, slice(None), slice(row * 8, row * 8 + 8), slice(col * 8, col * 8 + 8))
        values, seen = image[window].reshape(4, 64).double().numpy(), valid[window].reshape(4, 64).numpy()
        for bands in [[c] for c in range(4)] if norm == "patch_band" else [[0, 1, 2, 3]]:
            inside = values[bands][seen[bands]]
            if not len(inside):
                continue
            spread = np.sqrt((inside.var(ddof=1) if len(inside) > 1 else 0.0) + 1e-6)
            total += ((prediction[b, m, bands][seen[bands]] - (inside - inside.mean()) / spread) ** 2).sum()
            count += len(inside)
    assert 0 < count < 4 * 12 * 4 * 64
    assert float(objective(batch)["loss"].detach()) == pytest.approx(total / count, rel=1e-4)


def test_what_is_predicted_does_not_depend_on_hidden_pixels():
    objective = build()
    image, _ = training_tiles(n=6)
    _, hidden = objective.draw_mask(6, torch.Generator().manual_seed(11))
    seen = []
    objective.decoder.register_forward_hook(lambda module, given, answer: seen.append(answer))
    objective(make_batch(image, seed=11))
    pixels = split_patches(image, 8).clone()
    pixels[torch.arange(6)[:, None], hidden] = 7.0
    changed = pixels.view(6, 4, 4, 4, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(6, 4, 32, 32)
    objective(make_batch(changed, seed=11))
    assert torch.equal(seen[0], seen[1])
    target = take_patches(split_patches(image, 8), hidden)
    wanted = compute_masked_loss(
        seen[0].view_as(target), target, torch.ones_like(target, dtype=torch.bool), norm="patch_band"
    )
    assert torch.equal(objective(make_batch(image, seed=11))["loss"], wanted)


def test_values_under_nodata_change_nothing():
    objective = build()
    image, _ = training_tiles(n=6)
    valid = holes(image.shape, patch=8)
    loss = objective(make_batch(image, valid=valid))["loss"]
    for poison in (-9999.0, float("nan"), float("inf")):
        again = objective(make_batch(torch.where(valid, image, torch.tensor(poison)), valid=valid))["loss"]
        assert torch.equal(again, loss)
    again.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_a_batch_without_any_pixel_costs_nothing():
    objective = build()
    image, valid = training_tiles(n=6)
    result = objective(make_batch(image, valid=torch.zeros_like(valid)))["loss"]
    result.backward()
    assert float(result.detach()) == 0


def test_the_seed_of_the_step_alone_draws_the_mask():
    objective = build()
    image, _ = training_tiles(n=6)
    torch.manual_seed(0)
    first = objective(make_batch(image, seed=11))["loss"]
    torch.manual_seed(1)
    assert torch.equal(objective(make_batch(image, seed=11))["loss"], first)
    assert not torch.equal(objective(make_batch(image, seed=12))["loss"], first)


def test_thirty_steps_on_32_tiles_learn_without_collapse():
    first, last, spread = train_briefly(build(), lr=1e-3)
    assert last < 0.7 * first
    assert spread > 0.3


def test_refusals():
    with pytest.raises(UserError, match=r"mask_ratio must lie between 0 and 1, got 1.5: try 0.75"):
        Mae(mask_ratio=1.5)
    with pytest.raises(UserError, match="decoder_dim must be a multiple of decoder_heads"):
        Mae(decoder_dim=130)
    with pytest.raises(UserError, match="hides no patch of a 1 x 1 grid"):
        build(Mae(mask_ratio=0.1), size=8)
    with pytest.raises(UserError, match="expected a transformer for Mae, which hides patches, got ResNetBackbone"):
        Mae().build({"tile": ResNet("resnet18").build(BANDS[:4], 32, 0)}, 1)
    image, _ = training_tiles(n=2, size=32)
    with pytest.raises(UserError, match="one view of each tile for Mae, got 2; leave its count at 1"):
        build()(make_batch(image, image))
    with pytest.raises(UserError, match="views of the tile's size for Mae"):
        build()(make_batch(image[..., :16, :16]))

"""data2vec 2.0: one teacher pass for all masks, targets and loss beside the released formulae, masks on every grid."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, Vit
from eo_ssl.objectives import Data2Vec2, Step
from eo_ssl.objectives.data2vec2 import Data2Vec2Objective
from eo_ssl.objectives.inverse_blocks import draw_inverse_blocks
from eo_ssl.objectives.layer_targets import average_layers
from tiles import BANDS, holes, make_batch, train_briefly, training_tiles

SMALL = Data2Vec2(masks=3, layers=2, decoder_dim=64, decoder_depth=2)


def build(method: Data2Vec2 = SMALL, *, size: int = 64, seed: int = 0, **options: object) -> Data2Vec2Objective:
    encoder = Vit(patch_size=8, depth=3).build(BANDS[:4], size, seed)
    return dataclasses.replace(method, **options).build({"tile": encoder}, seed + 1)


def masks_of(grid: tuple[int, int], count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return draw_inverse_blocks(grid, count, share=0.2, side=3, surplus=0.07, rng=rng)


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("grid", [*((side, side) for side in range(4, 17)), (5, 9), (16, 4)])
def test_the_share_is_exact_and_every_patch_is_seen_and_hidden_on_every_grid(grid: tuple[int, int]) -> None:
    patches = grid[0] * grid[1]
    keep, hidden = masks_of(grid, 2000)
    assert keep.shape == (2000, patches // 5) and hidden.shape == (2000, patches - patches // 5)
    both = torch.cat([keep, hidden], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(patches).expand(2000, -1))  # a split: each patch once
    rate = (torch.bincount(keep.flatten(), minlength=patches) / 2000).view(grid)
    assert rate.min() > 0.04 and rate.max() < 0.45
    for first, last in ((rate[0], rate[-1]), (rate[:, 0], rate[:, -1])):  # no side is favoured
        assert 0.75 < first.mean() / last.mean() < 1.3


@pytest.mark.parametrize("side", [6, 8, 14, 16])
def test_visible_patches_stand_in_squares(side: int) -> None:
    """A visible patch has far more visible neighbours than in a uniform draw, whose share is that of all patches."""
    keep, _ = masks_of((side, side), 500)
    seen = torch.zeros(500, side * side).scatter_(1, keep, 1.0).view(-1, side, side)
    beside = seen[:, :, 1:] * seen[:, :, :-1]
    share = float(beside.sum() / (0.5 * (seen[:, :, 1:] + seen[:, :, :-1]).sum()))
    assert share > 0.45 and share > 2 * keep.shape[1] / side**2
    # At 16 x 16 seven squares of at most 9 patches are drawn for 51 patches: without the surplus there are five.
    rng = torch.Generator().manual_seed(1)
    exact, _ = draw_inverse_blocks((16, 16), 1, share=9 / 256, side=3, surplus=0.0, rng=rng)
    rows, cols = exact // 16, exact % 16
    if rows.min() > 0 and cols.min() > 0 and rows.max() < 15 and cols.max() < 15:
        assert int(rows.max() - rows.min()) == int(cols.max() - cols.min()) == 2  # one whole square


def test_masks_come_from_the_seed_of_the_step_alone() -> None:
    assert torch.equal(masks_of((8, 8), 5, seed=3)[0], masks_of((8, 8), 5, seed=3)[0])
    assert not torch.equal(masks_of((8, 8), 5, seed=3)[0], masks_of((8, 8), 5, seed=4)[0])


# ---------------------------------------------------------------- the seam


def test_layers_are_timms_intermediates_and_the_mlps_of_its_blocks() -> None:
    encoder = Vit(patch_size=8, depth=3).build(BANDS[:4], 32, 0).eval()
    view = make_batch(training_tiles(n=2)[0]).views["tile"][0]
    found = encoder.layers(view, last=2, part="block")
    wanted = encoder.network.forward_intermediates(view.pixels, indices=2, output_fmt="NLC", intermediates_only=True)
    for mine, timm in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, timm)
    block = encoder.network.blocks[-1]
    after = torch.cat([torch.zeros(2, 1, encoder.dim), found[0]], dim=1)
    assert after.shape[1] == 17
    (added,) = encoder.layers(view, last=1, part="mlp")
    assert added.shape == found[1].shape and not torch.allclose(added, found[1])
    whole = encoder.network.forward_intermediates(
        view.pixels, indices=2, output_fmt="NLC", intermediates_only=True, return_prefix_tokens=True
    )
    x = torch.cat([whole[0][1], whole[0][0]], dim=1)
    x = x + block.attn(block.norm1(x))
    torch.testing.assert_close(added, block.mlp(block.norm2(x))[:, 1:])
    assert not any(module._forward_hooks for module in encoder.modules())


def test_many_masks_of_an_image_are_encoded_as_one_by_one() -> None:
    encoder = Vit(patch_size=8, depth=2).build(BANDS[:4], 32, 0).eval()
    view = make_batch(training_tiles(n=3)[0]).views["tile"][0]
    keep = torch.rand(3, 4, 16, generator=torch.Generator().manual_seed(0)).argsort(dim=2)[..., :5]
    together = encoder.visible(view, keep)
    for m in range(4):
        alone = encoder.visible(view, keep[:, m])
        torch.testing.assert_close(together.patches.unflatten(0, (3, 4))[:, m], alone.patches)
        torch.testing.assert_close(together.prefix.unflatten(0, (3, 4))[:, m], alone.prefix)


# ---------------------------------------------------------------- targets and loss


@pytest.mark.parametrize("norm", ["layer", "instance"])
def test_targets_are_torchs_norms_where_every_patch_is_seen_and_a_loops_elsewhere(norm: str) -> None:
    gen = torch.Generator().manual_seed(0)
    layers = [torch.randn(2, 7, 5, generator=gen) * 3 + 1 for _ in range(3)]
    if norm == "instance":
        normed = [functional.instance_norm(x.transpose(1, 2)).transpose(1, 2) for x in layers]
    else:
        normed = [functional.layer_norm(x, (5,)) for x in layers]
    wanted = functional.layer_norm(sum(normed) / 3, (5,))
    every = torch.ones(2, 7, dtype=torch.bool)
    torch.testing.assert_close(average_layers(layers, every, norm=norm), wanted)
    seen = every.clone()
    seen[0, 2:4], seen[1, 0] = False, False
    found = average_layers(layers, seen, norm=norm)
    for b in range(2):  # an image without its unseen patches
        kept = seen[b]
        alone = [x[b : b + 1, kept] for x in layers]
        part = average_layers(alone, torch.ones(1, int(kept.sum()), dtype=torch.bool), norm=norm)
        torch.testing.assert_close(found[b, kept], part[0])
    assert not average_layers(layers, ~every, norm=norm).isnan().any()


def test_all_masks_share_one_teacher_pass_and_their_mean_is_that_of_each_alone() -> None:
    objective = build(mask_noise=0.0)
    batch = make_batch(training_tiles(n=4, size=64)[0], seed=3)
    calls: list[int] = []
    objective.teacher.network.network.blocks[0].register_forward_hook(lambda m, i, out: calls.append(len(out)))
    keep, hidden = objective.draw_masks(4, batch.step.generator())
    together = objective(batch)["loss"]
    assert calls == [4]  # one pass, of the four tiles
    alone = []
    for m in range(3):
        objective.draw_masks = lambda n, rng, m=m: (keep[:, m : m + 1], hidden[:, m : m + 1])
        alone.append(objective(batch)["loss"])
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-6, atol=1e-6)
    assert len({float(loss.detach()) for loss in alone}) == 3


@pytest.mark.parametrize("missing", [False, True])
def test_the_loss_of_a_batch_is_that_of_a_loop_over_its_hidden_patches(missing: bool) -> None:
    """From the image to the loss: each mask by itself, each patch in turn, teacher's targets by torch's own norms."""
    objective = build(cls_weight=0.3)
    image, _ = training_tiles(n=3, size=64)
    valid = holes(image.shape, patch=8) if missing else torch.ones_like(image, dtype=torch.bool)
    batch = make_batch(image, valid=valid, seed=5)
    view = batch.views["tile"][0]
    with torch.no_grad():
        for parameter in objective.teacher.network.parameters():
            parameter.mul_(1.1)  # a teacher of its own
    layers = objective.teacher.network.layers(view, last=2, part="mlp")
    keep, hidden = draw_inverse_blocks((8, 8), 9, share=1 - 0.8, side=3, surplus=0.07, rng=batch.step.generator())
    noise = 0.01 * torch.randn(3, 3, 64, 192, generator=batch.step.generator(1))
    distances, classes, left_out = [], [], 0
    for b in range(3):
        tiles = valid[b].reshape(4, 8, 8, 8, 8).permute(1, 3, 0, 2, 4).flatten(2).any(dim=2).flatten()  # [64]
        normed = [functional.instance_norm(x[b : b + 1, tiles].transpose(1, 2)).transpose(1, 2) for x in layers]
        target = torch.zeros(64, 192)
        target[tiles] = functional.layer_norm(sum(normed)[0] / 2, (192,))
        one = make_batch(image[b : b + 1], valid=valid[b : b + 1]).views["tile"][0]
        for m in range(3):
            tokens = objective.encoder.visible(one, keep[3 * b + m][None])
            filled = noise[b, m].clone()
            filled[keep[3 * b + m]] = tokens.patches[0]
            prediction = objective.decoder(filled[None])[0]
            for patch in hidden[3 * b + m].tolist():
                if tiles[patch]:
                    distances.append((prediction[patch] - target[patch]).square().sum() / 192**0.5)
                else:
                    left_out += 1
            classes.append((tokens.prefix[0, 0] - target[tiles].mean(dim=0)).square().sum() / 192**0.5)
    wanted = torch.stack(distances).mean() + 0.3 * torch.stack(classes).mean()
    assert (left_out > 0) == missing
    torch.testing.assert_close(objective(batch)["loss"], wanted, rtol=1e-5, atol=1e-5)


def test_the_decoder_is_the_released_one_written_out() -> None:
    decoder = build(decoder_dim=192, decoder_depth=3).decoder
    x = torch.randn(2, 64, 192, generator=torch.Generator().manual_seed(0))
    grid = x.permute(0, 2, 1).reshape(2, 192, 8, 8)
    for convolution in decoder.convolutions:  # convolution, norm of each patch, GELU, residual
        y = functional.conv2d(grid, convolution.weight, convolution.bias, padding=1, groups=16)
        mean, variance = y.mean(dim=1, keepdim=True), y.var(dim=1, keepdim=True, unbiased=False)
        grid = functional.gelu((y - mean) / (variance + 1e-5).sqrt()) + grid
    wanted = grid.flatten(2).permute(0, 2, 1) @ decoder.head.weight.T + decoder.head.bias
    torch.testing.assert_close(decoder(x), wanted, rtol=1e-4, atol=1e-5)


def test_teacher_momentum_is_a_straight_line_then_constant_in_steps() -> None:
    objective = build(momentum=(0.9, 0.99), momentum_ramp=0.5)
    student, teacher = objective.encoder.network.cls_token, objective.teacher.network.network.cls_token
    wanted = teacher.clone()
    for step in range(1, 9):
        with torch.no_grad():
            student.add_(0.1 * step)
        objective.after_step(Step(step, 8, 0))
        momentum = 0.9 + 0.09 * step / 4 if step < 4 else 0.99
        wanted = momentum * wanted + (1 - momentum) * student.detach()
    torch.testing.assert_close(teacher, wanted)
    constant = build(momentum=(0.5, 0.9), momentum_ramp=0.0)
    before = constant.teacher.network.network.cls_token.clone()
    with torch.no_grad():
        constant.encoder.network.cls_token.add_(1.0)
    constant.after_step(Step(1, 8, 0))
    torch.testing.assert_close(constant.teacher.network.network.cls_token, before + 0.1)


def test_the_student_is_used_and_everything_of_it_is_trained() -> None:
    objective = build().train()
    objective(make_batch(training_tiles(n=3, size=64)[0]))["loss"].backward()
    assert objective.embedders["tile"] is objective.encoder and not objective.teacher.network.training
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None] == []


def test_values_under_nodata_change_nothing() -> None:
    objective = build()
    image, _ = training_tiles(n=4, size=64)
    valid = holes(image.shape, patch=8)
    valid[0] = False  # a whole tile without a pixel
    poisoned = torch.where(valid, image, torch.tensor(float("nan")))
    loss = objective(make_batch(poisoned, valid=valid))["loss"]
    assert torch.equal(loss, objective(make_batch(image, valid=valid))["loss"]) and loss.isfinite()
    nothing = objective(make_batch(image, valid=torch.zeros_like(valid)))["loss"]
    assert float(nothing.detach()) == 0


def test_thirty_steps_on_16_tiles_learn_without_collapse() -> None:
    objective = build(size=32, momentum=(0.9, 0.99))
    first, last, spread = train_briefly(objective, lr=2e-3, tiles=16)
    assert last < 0.75 * first
    assert spread > 0.2
    results = objective(make_batch(training_tiles(16)[0], seed=77))
    assert results["target_spread"] > 0.1


def test_refusals() -> None:
    with pytest.raises(UserError, match="layers between 1 and the 3 blocks of the network, got 4"):
        build(layers=4)
    with pytest.raises(UserError, match="decoder_groups that divide decoder_dim and the encoder's width 192, got 7"):
        build(decoder_groups=7)
    with pytest.raises(UserError, match="masks of at least 1, got 0"):
        Data2Vec2(masks=0)
    with pytest.raises(UserError, match="mask_ratio between 0 and 1, got 1"):
        Data2Vec2(mask_ratio=1)
    with pytest.raises(UserError, match=r"momentum must lie between 0 and 1, got 1\.5"):
        Data2Vec2(momentum=(0.9, 1.5))
    with pytest.raises(UserError, match="momentum_ramp between 0 and 1, got 2"):
        Data2Vec2(momentum_ramp=2)
    with pytest.raises(UserError, match="a grid with a patch to hide, got 1 x 1 patches"):
        build(size=8)
    with pytest.raises(UserError, match="expected a transformer for Data2Vec2"):
        SMALL.build({"tile": ResNet("resnet18").build(BANDS[:4], 64, 0)}, 1)

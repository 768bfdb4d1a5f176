"""data2vec: targets and loss beside the authors' formulae, masks of blocks on every grid, and what must not matter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, Vit, split_patches
from eo_ssl.objectives import Data2Vec, Step
from eo_ssl.objectives.beit_blocks import draw_beit_blocks
from eo_ssl.objectives.data2vec import Data2VecObjective
from tiles import BANDS, holes, make_batch, train_briefly, training_tiles


def build(*, size: int = 32, seed: int = 0, **options: object) -> Data2VecObjective:
    encoder = Vit(patch_size=8, depth=2).build(BANDS[:4], size, seed)
    return dataclasses.replace(Data2Vec(layers=2), **options).build({"tile": encoder}, seed + 1)


def masks_of(grid: tuple[int, int], wanted: list[int], seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    smallest = max(round(0.08 * grid[0] * grid[1]), 1)
    return draw_beit_blocks(grid, torch.tensor(wanted), smallest=smallest, aspect=0.3, rng=rng)


def test_masks_have_the_wanted_number_and_every_patch_is_hidden_on_every_grid() -> None:
    for grid in [*((side, side) for side in (4, 5, 7, 8, 14, 16)), (5, 9), (16, 4)]:
        patches = grid[0] * grid[1]
        hidden = masks_of(grid, [int(0.6 * patches)] * 800)
        assert (hidden.sum(dim=1) == int(0.6 * patches)).all()
        rate = hidden.float().mean(dim=0).view(grid)
        assert rate.min() > 0.05 and rate.max() < 0.97
        for first, last in ((rate[0], rate[-1]), (rate[:, 0], rate[:, -1])):  # no side is favoured
            assert 0.85 < first.mean() / last.mean() < 1.15
    wanted = [0, 1, 30, 64, 17]
    assert masks_of((8, 8), wanted).sum(dim=1).tolist() == wanted  # each mask its own number
    assert torch.equal(masks_of((8, 8), wanted, seed=3), masks_of((8, 8), wanted, seed=3))
    assert not torch.equal(masks_of((8, 8), wanted, seed=3), masks_of((8, 8), wanted, seed=4))


def test_how_often_a_patch_is_hidden_is_that_of_the_published_loop() -> None:
    """BEiT's generator one block after another: corners are hidden least, the middle most."""
    rng = np.random.default_rng(0)
    counts = np.zeros((14, 14))
    for _ in range(400):
        mask = np.zeros((14, 14), bool)
        for _ in range(40):
            missing = 120 - mask.sum()
            area = 16 + (missing - 16) * rng.random()
            ratio = np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
            rows, cols = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if rows < 14 and cols < 14:
                top, left = rng.integers(0, 14 - rows + 1), rng.integers(0, 14 - cols + 1)
                block = np.zeros_like(mask)
                block[top : top + rows, left : left + cols] = True
                if 0 < (block & ~mask).sum() <= missing:
                    mask |= block
        counts += mask
    ours = masks_of((14, 14), [120] * 2000).float().mean(dim=0).view(14, 14).numpy()
    assert np.abs(ours - counts / 400).max() < 0.13 and np.abs(ours - counts / 400).mean() < 0.025
    assert np.corrcoef(ours.ravel(), counts.ravel())[0, 1] > 0.98


def test_a_small_mask_is_one_block_of_an_aspect_within_the_bounds() -> None:
    """As many patches as the smallest block has: the first proposal that fits hides about all of them."""
    rng = torch.Generator().manual_seed(0)
    hidden = draw_beit_blocks((16, 16), torch.full((400,), 24), smallest=24, aspect=0.3, rng=rng).view(-1, 16, 16)
    beside = (hidden[:, :, 1:] & hidden[:, :, :-1]).sum() + (hidden[:, 1:] & hidden[:, :-1]).sum()
    assert beside / hidden.sum() > 1.35  # 24 patches: 1.58 in a square, 0.18 scattered
    rows, cols = hidden.any(dim=2).sum(dim=1), hidden.any(dim=1).sum(dim=1)
    whole = rows * cols == 24  # exactly one block of 24
    assert whole.float().mean() > 0.3
    assert set(rows[whole].tolist()) == {3, 4, 6, 8}  # 3 x 8 to 8 x 3: aspects of 0.375 to 2.67 of 0.3 to 3.33


@pytest.mark.parametrize("missing", [False, True])
def test_the_loss_of_a_batch_is_that_of_a_loop_over_its_hidden_patches(missing: bool) -> None:
    """From the image to the loss: mask of the step, student with tokens, teacher's targets by torch's own norms."""
    objective = build(beta=0.7)
    image, _ = training_tiles(n=3)
    valid = holes(image.shape, patch=8) if missing else torch.ones_like(image, dtype=torch.bool)
    batch = make_batch(image, valid=valid, seed=5)
    view = batch.views["tile"][0]
    teacher = objective.teacher.network
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.1)  # a teacher of its own
    blocks = teacher.network.forward_intermediates(
        view.pixels, indices=2, output_fmt="NLC", intermediates_only=True
    )  # timm's outputs of the blocks
    target = functional.layer_norm(sum(functional.layer_norm(x, (192,)) for x in blocks) / 2, (192,))
    smallest, wanted = round(16 * 0.08), torch.full((3,), 9)
    hidden = draw_beit_blocks((4, 4), wanted, smallest=smallest, aspect=0.3, rng=batch.step.generator())
    student = objective.encoder.masked(view, hidden, objective.mask_token).patches
    distances, left_out = [], 0
    for b in range(3):
        for patch in hidden[b].nonzero().flatten().tolist():
            row, col = divmod(patch, 4)
            if valid[b, :, row * 8 : row * 8 + 8, col * 8 : col * 8 + 8].any():
                apart = (objective.head(student[b, patch]) - target[b, patch]).abs()
                square = apart < 0.7
                distances.append(torch.where(square, apart**2 / 1.4, apart - 0.35).mean())
                assert 0 < square.float().mean() < 1
            else:
                left_out += 1
    assert (left_out > 0) == missing
    torch.testing.assert_close(objective(batch)["loss"], torch.stack(distances).mean(), rtol=1e-5, atol=1e-6)


def test_what_is_predicted_does_not_depend_on_hidden_pixels_but_the_targets_do() -> None:
    objective = build()
    image, _ = training_tiles(n=3)
    hidden = objective.draw_hidden(3, make_batch(image, seed=11).step.generator())
    said: list[torch.Tensor] = []
    objective.head.register_forward_hook(lambda module, given, answer: said.append(answer))
    first = objective(make_batch(image, seed=11))["loss"]
    pixels = split_patches(image, 8).clone()
    pixels[hidden] = 3.0
    changed = pixels.view(3, 4, 4, 4, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(3, 4, 32, 32)
    second = objective(make_batch(changed, seed=11))["loss"]
    assert torch.equal(said[0], said[1]) and not torch.equal(first, second)


def test_the_teacher_follows_in_steps_and_everything_of_the_student_is_trained() -> None:
    objective = build(momentum=(0.9, 0.99)).train()
    objective(make_batch(training_tiles(n=3)[0]))["loss"].backward()
    assert objective.embedders["tile"] is objective.encoder and not objective.teacher.network.training
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None] == []
    student, teacher = objective.encoder.network, objective.teacher.network.network
    wanted = {name: value.clone() for name, value in teacher.named_parameters()}
    for step in (1, 2, 3):
        with torch.no_grad():
            for parameter in (p for p in student.parameters() if p.requires_grad):
                parameter.add_(0.1 * step)
        objective.after_step(Step(step, 4, 0))
        keep = 0.9 + 0.09 * step / 4
        for name, value in student.named_parameters():
            wanted[name] = keep * wanted[name] + (1 - keep) * value.detach()
    for name, value in teacher.named_parameters():
        torch.testing.assert_close(value, wanted[name])


def test_values_under_nodata_change_nothing() -> None:
    objective = build()
    image, _ = training_tiles(n=4)
    valid = holes(image.shape, patch=8)
    valid[0] = False  # a whole tile without a pixel
    poisoned = torch.where(valid, image, torch.tensor(float("nan")))
    loss = objective(make_batch(poisoned, valid=valid))["loss"]
    assert torch.equal(loss, objective(make_batch(image, valid=valid))["loss"]) and loss.isfinite()
    nothing = objective(make_batch(image, valid=torch.zeros_like(valid)))["loss"]
    assert float(nothing.detach()) == 0


def test_25_steps_on_16_tiles_learn_without_collapse() -> None:
    objective = build(momentum=(0.9, 0.99))
    first, last, spread = train_briefly(objective, lr=1e-3, steps=25, tiles=16)
    assert last < 0.75 * first
    assert spread > 0.2
    assert objective(make_batch(training_tiles(16)[0], seed=77))["target_spread"] > 0.1


def test_refusals() -> None:
    with pytest.raises(UserError, match="layers between 1 and the 2 blocks of the network, got 3"):
        build(layers=3)
    with pytest.raises(UserError, match="mask_ratio between 0 and 1, got 1"):
        Data2Vec(mask_ratio=1)
    with pytest.raises(UserError, match="smallest_block between 0 and 1, got 0"):
        Data2Vec(smallest_block=0)
    with pytest.raises(UserError, match="block_aspect above 0 and at most 1, got 3"):
        Data2Vec(block_aspect=3)
    with pytest.raises(UserError, match="beta above 0, got 0"):
        Data2Vec(beta=0)
    with pytest.raises(UserError, match="momentum must lie between 0 and 1, got 2"):
        Data2Vec(momentum=(0.9, 2))
    with pytest.raises(UserError, match=r"mask_ratio 0.6 hides a patch, got 1 x 1 patches"):
        build(size=8)
    with pytest.raises(UserError, match="expected a transformer for Data2Vec"):
        Data2Vec().build({"tile": ResNet("resnet18").build(BANDS[:4], 32, 0)}, 1)

"""I-JEPA: the mask sampler reaches every patch, the teacher follows in closed form, the loss counts what it should."""

from __future__ import annotations

import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import VitConfig
from eo_ssl.objectives import BlockMaskConfig, IJepa, IJepaConfig
from eo_ssl.objectives.block_masks import block_size, draw_blocks
from eo_ssl.objectives.ijepa import feature_loss
from tiles import train_briefly, training_tiles

ARCHITECTURE = VitConfig(img_size=64, in_chans=4, patch_size=8, depth=2)


def _rates(grid: tuple[int, int], draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each patch of the grid was in a context and in a target block, per image."""
    rng = torch.Generator().manual_seed(0)
    context, target = torch.zeros(grid[0] * grid[1]), torch.zeros(grid[0] * grid[1])
    for _ in range(draws):
        seen, blocks = draw_blocks(grid, 16, config=BlockMaskConfig(), rng=rng)
        context += torch.bincount(seen.flatten(), minlength=len(context)) / 16
        target += torch.bincount(blocks.flatten(), minlength=len(target)) / 16
    return context.view(grid) / draws, target.view(grid) / draws


@pytest.mark.parametrize("grid", [(4, 4), (5, 7), (8, 8), (14, 14), (16, 16)])
def test_every_patch_is_seen_and_asked_for_borders_included(grid):
    context, target = _rates(grid, draws=150)
    assert context.min() > 0 and target.min() > 0
    for rate in (context, target):
        # Opposite borders are alike: neither an excluded last offset nor a cut in raster order favours one side.
        for first, last in ((rate[0], rate[-1]), (rate[:, 0], rate[:, -1])):
            assert 0.8 < first.mean() / last.mean() < 1.25
    # Blocks that must fit cover the centre more often; the context, which leaves them out, the border: within reason.
    border = torch.cat([context[0], context[-1], context[:, 0], context[:, -1]]).mean()
    centre = context[grid[0] // 2 - 1 : grid[0] // 2 + 1, grid[1] // 2 - 1 : grid[1] // 2 + 1].mean()
    assert context.mean() > 0.1
    assert 0.1 < centre / border < 3


def test_context_and_targets_never_overlap_and_blocks_are_rectangles():
    rng = torch.Generator().manual_seed(1)
    for grid in ((4, 4), (8, 8), (16, 16)):
        for _ in range(40):
            context, targets = draw_blocks(grid, 8, config=BlockMaskConfig(), rng=rng)
            assert context.shape[1] >= 1
            for image in range(8):
                seen = set(context[image].tolist())
                assert len(seen) == context.shape[1]
                for block in targets[image]:
                    assert not seen & set(block.tolist())
                    rows, cols = block // grid[1], block % grid[1]
                    height, width = int(rows.max() - rows.min()) + 1, int(cols.max() - cols.min()) + 1
                    assert height * width == len(block) == len(set(block.tolist()))


def test_scale_and_aspect_are_drawn_independently():
    rng = torch.Generator().manual_seed(2)
    shapes = []
    for _ in range(400):
        _, targets = draw_blocks((32, 32), 1, config=BlockMaskConfig(), rng=rng)
        rows = targets[0, 0] // 32
        height = int(rows.max() - rows.min()) + 1
        shapes.append((targets.shape[2], height / (targets.shape[2] / height)))
    area, aspect = torch.tensor(shapes).T
    assert abs(float(torch.corrcoef(torch.stack([area, aspect]))[0, 1])) < 0.2


def test_block_sizes_follow_share_and_aspect():
    assert block_size((16, 16), scale=0.25, aspect=1.0) == (8, 8)
    assert block_size((16, 16), scale=0.25, aspect=4.0) == (16, 4)
    assert block_size((4, 4), scale=1.0, aspect=1.0) == (4, 4)
    assert block_size((4, 4), scale=0.01, aspect=1.0) == (1, 1)


def test_teacher_follows_the_recurrence_with_momentum_linear_in_steps():
    objective = IJepa(ARCHITECTURE, IJepaConfig(momentum=0.9), seed=0)
    teacher = objective.teacher.patch_embed.proj.weight.clone()
    total, wanted = 10, teacher.clone()
    for step in range(1, 6):
        with torch.no_grad():
            objective.encoder.patch_embed.proj.weight.add_(0.1 * step)
        objective.after_step(step, total)
        momentum = 0.9 + 0.1 * step / total
        wanted = momentum * wanted + (1 - momentum) * objective.encoder.patch_embed.proj.weight.detach()
    torch.testing.assert_close(objective.teacher.patch_embed.proj.weight, wanted)
    before = objective.teacher.patch_embed.proj.weight.clone()
    objective.after_step(total, total)  # momentum 1: the teacher rests
    assert torch.equal(objective.teacher.patch_embed.proj.weight, before)


def test_teacher_gets_no_gradient_stays_in_evaluation_mode_and_is_the_embedder():
    objective = IJepa(ARCHITECTURE).train()
    image, valid = training_tiles(n=4, size=64)
    objective({"image": image, "valid": valid, "row": torch.arange(4), "seed": 0})["loss"].backward()
    assert objective.embedder is objective.teacher and not objective.teacher.training
    assert all(p.grad is None for p in objective.teacher.parameters())
    missing = [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []  # class token and mask token are trained too


def test_loss_is_smooth_l1_over_the_patches_that_count():
    prediction, wanted = torch.zeros(1, 1, 3, 4), torch.tensor([0.5, 3.0, 100.0]).view(1, 1, 3, 1).expand(1, 1, 3, 4)
    weight = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 3)
    assert float(feature_loss(prediction, wanted, weight)) == pytest.approx((0.5 * 0.5**2 + (3.0 - 0.5)) / 2)
    assert float(feature_loss(prediction, wanted, torch.zeros(1, 1, 3))) == 0


def test_target_features_have_unit_variance_and_nodata_never_enters():
    objective = IJepa(ARCHITECTURE)
    image, valid = training_tiles(n=4, size=64)
    features = objective.target_features(image)
    torch.testing.assert_close(features.var(-1, unbiased=False), torch.ones(4, 64), rtol=1e-3, atol=1e-3)
    valid = torch.rand(valid.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    batch = {"image": image, "valid": valid, "row": torch.arange(4), "seed": 0}
    poisoned = {**batch, "image": torch.where(valid, image, torch.tensor(float("nan")))}
    assert torch.equal(objective(poisoned)["loss"], objective(batch)["loss"])


def test_thirty_steps_on_32_tiles_learn_the_right_targets_without_collapse():
    objective = IJepa(VitConfig(img_size=32, in_chans=4, patch_size=8, depth=2), seed=0)
    first, last, spread = train_briefly(objective, lr=1e-3)
    assert last < 0.7 * first
    assert spread > 0.3
    # The predictor answers for each tile: targets of other tiles fit worse.
    image, valid = training_tiles(32)
    batch = {"image": image, "valid": valid, "row": torch.arange(32), "seed": 77}
    with torch.no_grad():
        own = objective(batch)["loss"]
        answers = objective.target_features
        objective.target_features = lambda x: answers(x).roll(1, 0)
        foreign = objective(batch)["loss"]
    assert foreign > 1.05 * own


def test_refusals():
    with pytest.raises(UserError, match="leaves no context on a 1 x 1 grid"):
        draw_blocks((1, 1), 2, config=BlockMaskConfig(), rng=torch.Generator())
    with pytest.raises(UserError, match=r"momentum must lie between 0 and 1, got 1.5"):
        IJepaConfig(momentum=1.5)
    with pytest.raises(UserError, match="target_scale must be an increasing pair"):
        BlockMaskConfig(target_scale=(0.3, 0.2))

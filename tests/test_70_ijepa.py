"""I-JEPA: the mask sampler reaches every patch, the teacher follows in closed form, the loss counts what it should."""

from __future__ import annotations

import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import Vit
from eo_ssl.objectives import IJepa, Step
from eo_ssl.objectives.block_masks import BlockMaskConfig, compute_block_size, draw_blocks
from eo_ssl.objectives.ijepa import IJepaObjective, compute_feature_loss
from tiles import BANDS, holes, make_batch, train_briefly, training_tiles


def build(method: IJepa = IJepa(), *, size: int = 64, seed: int = 0) -> IJepaObjective:  # noqa: B008  (frozen)
    return method.build({"tile": Vit(patch_size=8, depth=2).build(BANDS[:4], size, seed)}, seed + 1)


def _rates(grid: tuple[int, int], draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each patch of the grid was in a context and in a target block, per image."""
    rng = torch.Generator().manual_seed(0)
    context, target = torch.zeros(grid[0] * grid[1]), torch.zeros(grid[0] * grid[1])
    for _ in range(draws):
        seen, blocks = draw_blocks(grid, 16, config=BlockMaskConfig(), rng=rng)
        context += torch.bincount(seen.flatten(), minlength=len(context)) / 16
        target += torch.bincount(blocks.flatten(), minlength=len(target)) / 16
    return context.view(grid) / draws, target.view(grid) / draws


@pytest.mark.parametrize("grid", [(5, 7), *((side, side) for side in range(4, 17))])
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
    assert compute_block_size((16, 16), scale=0.25, aspect=1.0) == (8, 8)
    assert compute_block_size((16, 16), scale=0.25, aspect=4.0) == (16, 4)
    assert compute_block_size((4, 4), scale=1.0, aspect=1.0) == (4, 4)
    assert compute_block_size((4, 4), scale=0.01, aspect=1.0) == (1, 1)


def test_teacher_follows_the_recurrence_with_momentum_linear_in_steps():
    objective = build(IJepa(momentum=0.9))
    student, twin = (
        network.network.patch_embed.proj.weight for network in (objective.encoder, objective.embedders["tile"])
    )
    total, wanted = 10, twin.clone()
    for step in range(1, 6):
        with torch.no_grad():
            student.add_(0.1 * step)
        objective.after_step(Step(step, total, 0))
        momentum = 0.9 + 0.1 * step / total
        wanted = momentum * wanted + (1 - momentum) * student.detach()
    torch.testing.assert_close(twin, wanted)
    before = twin.clone()
    objective.after_step(Step(total, total, 0))  # momentum 1: the teacher rests
    assert torch.equal(twin, before)


def test_teacher_gets_no_gradient_stays_in_evaluation_mode_and_is_the_embedder():
    objective = build().train()
    image, _ = training_tiles(n=4, size=64)
    objective(make_batch(image))["loss"].backward()
    assert objective.embedders["tile"] is objective.teacher.network and not objective.teacher.network.training
    assert all(p.grad is None for p in objective.teacher.parameters())
    missing = [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []  # class token and mask token are trained too


def test_loss_is_smooth_l1_over_the_patches_that_count():
    prediction, wanted = torch.zeros(1, 1, 3, 4), torch.tensor([0.5, 3.0, 100.0]).view(1, 1, 3, 1).expand(1, 1, 3, 4)
    weight = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 3)
    assert float(compute_feature_loss(prediction, wanted, weight)) == pytest.approx((0.5 * 0.5**2 + (3.0 - 0.5)) / 2)
    assert float(compute_feature_loss(prediction, wanted, torch.zeros(1, 1, 3))) == 0


def test_targets_are_the_teachers_features_normalised_over_their_channels():
    objective = build()
    view = make_batch(training_tiles(n=4, size=64)[0]).views["tile"][0]
    with torch.no_grad():  # a trained norm has other gains than 1: only the targets' own normalisation gives variance 1
        objective.teacher.network.network.norm.weight.mul_(torch.linspace(0.2, 3.0, 192))
        objective.teacher.network.network.norm.bias.add_(0.7)
    features = objective.target_features(view)
    patches = objective.teacher.network(view).patches
    centred = patches - patches.mean(-1, keepdim=True)
    wanted = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features, patches, atol=0.1)


def test_the_loss_of_a_batch_is_that_of_a_loop_over_its_target_patches():
    """From the image to the loss, with whole patches missing: these are predicted for nothing."""
    objective = build()
    image, _ = training_tiles(n=4, size=64)
    valid = holes(image.shape, patch=8)
    batch = make_batch(image, valid=valid, seed=5)
    view = batch.views["tile"][0]
    context, targets = draw_blocks((8, 8), 4, config=BlockMaskConfig(), rng=torch.Generator().manual_seed(5))
    prediction = objective.predictor(objective.encoder.visible(view, context), context, targets)
    wanted = torch.nn.functional.layer_norm(objective.teacher.network(view).patches, (192,))
    losses, left_out = [], 0
    for b in range(4):
        for n in range(4):
            for t, patch in enumerate(targets[b, n].tolist()):
                row, col = divmod(patch, 8)
                if not valid[b, :, row * 8 : row * 8 + 8, col * 8 : col * 8 + 8].any():
                    left_out += 1
                    continue
                error = (prediction[b, n, t] - wanted[b, patch]).abs()
                losses.append(torch.where(error < 1, 0.5 * error**2, error - 0.5).mean())
    assert left_out > 0
    torch.testing.assert_close(objective(batch)["loss"], torch.stack(losses).mean(), rtol=1e-5, atol=1e-6)


def test_values_under_nodata_change_nothing():
    objective = build()
    image, _ = training_tiles(n=4, size=64)
    valid = holes(image.shape, patch=8)
    poisoned = torch.where(valid, image, torch.tensor(float("nan")))
    assert torch.equal(
        objective(make_batch(poisoned, valid=valid))["loss"], objective(make_batch(image, valid=valid))["loss"]
    )


def test_thirty_steps_on_32_tiles_learn_the_right_targets_without_collapse():
    objective = build(size=32)
    first, last, spread = train_briefly(objective, lr=1e-3)
    assert last < 0.7 * first
    assert spread > 0.3
    # The predictor answers for each tile: targets of other tiles fit worse.
    batch = make_batch(training_tiles(32)[0], seed=77)
    with torch.no_grad():
        own = objective(batch)["loss"]
        answers = objective.target_features
        objective.target_features = lambda view: answers(view).roll(1, 0)
        foreign = objective(batch)["loss"]
    assert foreign > 1.05 * own


def test_refusals():
    with pytest.raises(UserError, match="leaves no context on a 1 x 1 grid"):
        draw_blocks((1, 1), 2, config=BlockMaskConfig(), rng=torch.Generator())
    with pytest.raises(UserError, match=r"momentum must lie between 0 and 1, got 1.5"):
        IJepa(momentum=1.5)
    with pytest.raises(UserError, match="target_scale must be an increasing pair"):
        BlockMaskConfig(target_scale=(0.3, 0.2))
    image, _ = training_tiles(n=2, size=64)
    with pytest.raises(UserError, match="one view of each tile for IJepa, got 2; leave its count at 1"):
        build()(make_batch(image, image))
    with pytest.raises(UserError, match="views of the tile's size for IJepa"):
        build()(make_batch(image[..., :16, :16]))

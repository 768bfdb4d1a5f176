"""DINOv2: its three terms from images by loops, its masks, Sinkhorn-Knopp beside lightly's, and what collapse looks like."""

from __future__ import annotations

import math

import pytest
import torch
from lightly.loss.ibot_loss import IBOTPatchLoss
from lightly.loss.swav_loss import sinkhorn

from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, View, Vit
from eo_ssl.objectives import Batch, DinoV2, Step, dino_v2
from eo_ssl.objectives.block_masks import draw_masks
from eo_ssl.objectives.dino_v2 import DinoV2Objective, compare_patches
from eo_ssl.objectives.prototypes import BalancedTargets, balance_assignments
from eo_ssl.pretraining.monitors import measure_feature_std
from test_72_dino import make_crops
from tiles import BANDS, holes, poison, training_tiles

SMALL = {"prototypes": 24, "hidden_dim": 32, "bottleneck_dim": 16, "frozen_prototypes": 0.0}


def build(seed: int = 0, **options: object) -> DinoV2Objective:
    encoder = Vit(patch_size=8, depth=2).build(BANDS[:4], 32, seed)
    return DinoV2(**{**SMALL, **options}).build({"tile": encoder}, seed + 1)


def disturb(objective: DinoV2Objective) -> None:
    """A teacher, centres and a mask token of their own, or nothing tells them from the student's and from 0."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*objective.teacher.parameters(), *objective.teacher_heads.parameters(), objective.mask_token):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))
        for targets in objective.targets.values():
            targets.center.normal_(generator=rng)


def measure_match(targets: torch.Tensor, answers: torch.Tensor) -> float:
    """Cross-entropy of answers with their own targets, as a share of that with all targets."""
    cross = -answers @ targets.T  # [M, M]
    return float(cross.diagonal().mean() / cross.mean())


# Losses


def test_the_three_terms_add_up_as_loops_over_crops_and_patches_say() -> None:
    objective = build(dino_weight=2.0, ibot_weight=3.0, koleo_weight=0.5, teacher_temperature=(0.05, 0.05))
    disturb(objective)
    valid = torch.ones(4, 4, 32, 32, dtype=torch.bool)
    valid[:, :, :8, :16] = False  # patches 0 and 1 of every crop are no targets
    batch = make_crops(valid=valid)
    crops, (hidden, more) = batch.all_views(), objective.draw_hidden(batch.views["global"], batch.step)
    network, teacher = objective.encoder.network, objective.teacher.network["tile"].network
    scored = torch.stack([hidden, more])
    assert scored[..., :2].any() and int(scored.flatten(0, 1).any(1).sum()) == 4  # half of the eight crops
    tokens = []  # by timm's own parts, one crop at a time: [1 + N, D]
    for crop, mask in zip(crops[:2], (hidden, more), strict=True):
        entered = network.patch_embed(crop.pixels)
        entered[mask] = objective.mask_token
        tokens.append(network.norm(network.blocks(network._pos_embed(entered))))
    known = [teacher.forward_features(crop.pixels) for crop in crops[:2]]
    vectors = [x[:, 1:].mean(1) for x in tokens]
    vectors += [objective.encoder(crop).pooled for crop in crops[2:]]

    def target(x: torch.Tensor, name: str) -> torch.Tensor:
        scores = objective.teacher_heads.network[name](x)
        return ((scores - objective.targets[name].center) / 0.05).softmax(-1)

    def answer(x: torch.Tensor, name: str) -> torch.Tensor:
        return (objective.heads[name](x) / 0.1).log_softmax(-1)

    dino = koleo = ibot = 0.0
    for i in range(2):
        for j in range(4):
            if i != j:
                wanted = target(known[i][:, 1:].mean(1), "image")
                dino = dino - (wanted * answer(vectors[j], "image")).sum(1).mean() / 6
        for image in range(4):
            at = [n for n in range(16) if scored[i, image, n] and n > 1]
            for n in at:
                wanted = target(known[i][image, 1 + n][None], "patch")
                ibot = ibot - (wanted * answer(tokens[i][image, 1 + n][None], "patch")).sum() / len(at) / 8
            unit = torch.nn.functional.normalize(vectors[i], dim=1)
            nearest = min(float((unit[image] - unit[k]).detach().norm()) for k in range(4) if k != image)
            koleo -= math.log(nearest) / 4
    with torch.no_grad():
        patch_scores = [objective.teacher_heads.network["patch"](known[i][:, 3:][scored[i][:, 2:]]) for i in range(2)]
        moved = 0.9 * objective.targets["patch"].center + 0.1 * torch.cat(patch_scores).mean(0)
    results = objective(batch)
    torch.testing.assert_close(results["dino"], dino.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results["ibot"], ibot.detach(), rtol=1e-4, atol=1e-5)
    assert float(results["koleo"]) == pytest.approx(koleo, rel=1e-4)
    assert float(results["loss"].detach()) == pytest.approx(
        float((2 * dino + 3 * ibot).detach()) + 0.5 * koleo, rel=1e-4
    )
    torch.testing.assert_close(objective.targets["patch"].center, moved, rtol=1e-4, atol=1e-5)
    results["loss"].backward()
    assert all(p.grad is None for p in (*objective.teacher.parameters(), *objective.teacher_heads.parameters()))
    assert objective.mask_token.grad.abs().sum() > 0 and objective.heads["patch"].prototypes.weight.grad.abs().sum() > 0
    assert objective.embedders["tile"] is objective.teacher.network["tile"]


def test_the_patch_loss_is_lightlys() -> None:
    rng = torch.Generator().manual_seed(0)
    mask = torch.rand(5, 4, 4, generator=rng) > 0.6
    mask[2] = False  # a crop in which nothing is hidden counts as 0
    teacher, student = (torch.randn(int(mask.sum()), 7, generator=rng) for _ in range(2))
    oracle = IBOTPatchLoss(7, teacher_temp=0.05)
    targets, answers = (teacher / 0.05).softmax(1), (student / 0.1).log_softmax(1)
    torch.testing.assert_close(compare_patches(targets, answers, mask.flatten(1)), oracle(teacher, student, mask))


@pytest.mark.parametrize("iterations", [1, 3])
def test_balanced_assignments_are_lightlys(iterations: int) -> None:
    scores = torch.nn.functional.normalize(torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    wanted = sinkhorn(scores, iterations=iterations, epsilon=0.05)
    torch.testing.assert_close(balance_assignments(scores, temperature=0.05, iterations=iterations), wanted)


def test_many_iterations_give_every_class_the_same_weight_and_no_power_overflows() -> None:
    scores = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 0, 0, 0])
    assert ((scores / 0.5).softmax(1).mean(0)[0]) > 0.9  # alone, one class takes everything
    balanced = balance_assignments(scores, temperature=0.5, iterations=200)
    torch.testing.assert_close(balanced.mean(0), torch.full((4,), 0.25), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(balanced.sum(1), torch.ones(12))
    assert torch.isfinite(balance_assignments(scores, temperature=0.01, iterations=3)).all()
    assert balance_assignments(scores[:0], temperature=0.5, iterations=3).shape == (0, 4)


def test_a_centre_moves_while_it_trains_and_only_with_rows() -> None:
    targets = BalancedTargets(3, momentum=0.75, iterations=None)
    scores = torch.tensor([[1.0, 2, 3], [3, 2, 5]])
    torch.testing.assert_close(targets(scores, temperature=1.0), scores.softmax(1))
    torch.testing.assert_close(targets.center, torch.tensor([0.5, 0.5, 1.0]))
    targets(scores[:0], temperature=1.0)
    targets.eval()(scores, temperature=1.0)
    torch.testing.assert_close(targets.center, torch.tensor([0.5, 0.5, 1.0]))


# Masks


@pytest.mark.parametrize("side", [2, 4, 7, 14])
def test_half_of_the_images_are_hidden_by_the_drawn_ratios_and_in_blocks(side: int) -> None:
    rng, n = torch.Generator().manual_seed(0), side * side
    masks = draw_masks((side, side), 40, share=0.5, ratio=(0.1, 0.5), rng=rng)
    counts = masks.sum(1)
    assert masks.shape == (40, n) and int((counts > 0).sum()) == 20
    ratios = counts[counts > 0].sort().values / n
    wanted = 0.1 + 0.4 * (torch.arange(20) + 0.5) / 20  # each ratio in its own twentieth of the range
    assert (ratios - wanted).abs().max() <= 0.01 + 1 / n
    if side == 14:  # a hidden patch has far more hidden neighbours than the same number at random would have
        grids = masks[counts > 0].reshape(-1, side, side)
        together = (grids[:, 1:] & grids[:, :-1]).sum() / grids[:, 1:].sum()
        assert together > 0.7 > 2 * float(ratios.mean())
    again = draw_masks((side, side), 40, share=0.5, ratio=(0.1, 0.5), rng=torch.Generator().manual_seed(0))
    assert torch.equal(masks, again)


def test_every_place_of_the_grid_is_hidden_about_equally_often() -> None:
    masks = draw_masks((6, 6), 2000, share=1.0, ratio=(0.2, 0.4), rng=torch.Generator().manual_seed(0))
    often = masks.float().mean(0).reshape(6, 6)
    for turned in (often.flip(0), often.flip(1), often.T):
        assert (often - turned).abs().max() < 0.05
    assert int(draw_masks((4, 4), 1, share=0.5, ratio=(0.1, 0.1), rng=torch.Generator()).sum()) == 1


def test_masks_come_from_the_step_alone() -> None:
    objective, crops = build(), make_crops().views["global"]
    first, again, other = (objective.draw_hidden(crops, Step(3, 10, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(torch.cat(first), torch.cat(other))


# Training


def test_nodata_never_enters() -> None:
    image, _ = training_tiles(n=4)
    valid = holes(image.shape, patch=8)
    clean = make_crops(valid=valid)
    results = [build()(batch) for batch in (clean, poison(clean), make_crops())]
    for name in ("loss", "ibot"):
        assert torch.equal(results[0][name], results[1][name]) and not torch.equal(results[0][name], results[2][name])
    nothing = build()(make_crops(valid=torch.zeros(4, 4, 32, 32, dtype=torch.bool)))
    assert float(nothing["ibot"]) == 0 and torch.isfinite(nothing["loss"])


@pytest.mark.parametrize("centering", ["mean", "sinkhorn"])
def test_forty_steps_on_12_tiles_learn_without_collapse(centering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = build(momentum=0.9, prototypes=48, centering=centering, teacher_temperature=(0.04, 0.04))
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    images: list[float] = []
    patches: list[tuple[torch.Tensor, torch.Tensor]] = []
    compare = dino_v2.compare_patches
    monkeypatch.setattr(dino_v2, "compare_patches", lambda *x: patches.append((x[0], x[1].detach())) or compare(*x))
    for number in range(40):
        results = objective(make_crops(12, step=Step(number, 40, number)))
        optimizer.zero_grad()
        results["loss"].backward()
        optimizer.step()
        objective.after_step(Step(number + 1, 40, number))
        images.append(float(results["dino"]))
    assert sum(images[-3:]) < 0.8 * sum(images[:3])
    assert float(results["teacher_entropy"]) > 0.3
    # The loss of patches rises while the centre spreads their classes; what is learned is which patch has which.
    ratios = [measure_match(*pair) for pair in (patches[0], patches[-1])]
    assert ratios[1] < 0.75 * ratios[0], ratios
    with torch.no_grad():
        features = objective.eval().embed(View(*training_tiles(12), BANDS[:4]))
    assert measure_feature_std(features.numpy()) > 0.2


def test_teacher_and_both_heads_follow_along_a_cosine() -> None:
    objective = build(momentum=0.8)
    before = {name: head.prototypes.weight.clone() for name, head in objective.teacher_heads.network.items()}
    with torch.no_grad():
        for head in objective.heads.values():
            head.prototypes.weight.add_(1.0)
    objective.after_step(Step(5, 10, 0))
    for name, head in objective.teacher_heads.network.items():
        torch.testing.assert_close(head.prototypes.weight, before[name] + 0.1)


def test_refusals() -> None:
    batch = make_crops()
    with pytest.raises(UserError, match="two global views of each item for DinoV2, got 1"):
        build()(Batch({"global": batch.views["global"][:1]}, batch.rows, batch.step))
    with pytest.raises(UserError, match="at least two tiles per step to tell apart, got 1"):
        build()(make_crops(1))
    for options, words in (
        ({"prototypes": 0}, "prototypes of at least 1, got 0"),
        ({"centering": "none"}, "centering out of mean, sinkhorn, got 'none'"),
        ({"sinkhorn_iterations": 0}, "sinkhorn_iterations of at least 1, got 0"),
        ({"masked_images": 0.0}, "masked_images above 0 and at most 1, got 0.0; try 0.5, or choose Dino"),
        ({"mask_ratio": (0.5, 0.1)}, r"mask_ratio as an increasing pair within 0 and 1, got \(0.5, 0.1\)"),
        ({"koleo_weight": -0.1}, "koleo_weight of at least 0, got -0.1"),
    ):
        with pytest.raises(UserError, match=words):
            DinoV2(**options)
    with pytest.raises(UserError, match="expected a transformer for DinoV2, which hides patches, got ResNetBackbone"):
        DinoV2().build({"tile": ResNet("resnet18").build(BANDS[:4], 32, 0)}, 0)
    pair = {
        name: Vit(f"vit_{size}_patch16_224", 8, 1).build(("VV",), 32, 0)
        for name, size in (("a", "tiny"), ("b", "small"))
    }
    with pytest.raises(UserError, match="encoders of one width"):
        DinoV2().build(pair, 0)

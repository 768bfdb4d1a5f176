"""PMSN: cross-entropy and prior in a loop, which patches anchors keep, a teacher, and a long tail that is matched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, View, Vit
from eo_ssl.objectives import Batch, Pmsn, Step
from eo_ssl.objectives.pmsn import PmsnObjective, compute_power_law
from tiles import BANDS, holes, poison, train_on_crops, training_tiles

SMALL = {"prototypes": 12, "hidden_dim": 32, "output_dim": 16}


def build(seed: int = 0, **options: object) -> PmsnObjective:
    encoder = Vit(patch_size=8, depth=2).build(BANDS[:4], 32, seed)
    return Pmsn(**{**SMALL, **options}).build({"tile": encoder}, seed + 1)


def make_crops(n: int = 4, *, step: Step | None = None, valid: torch.Tensor | None = None) -> Batch:
    """A whole view and an anchor of 32 px, and two focal views of 16 px, of the same tiles."""
    image, _ = training_tiles(n=n)
    known = torch.ones_like(image, dtype=torch.bool) if valid is None else valid
    whole = [View(x, known, BANDS[:4]) for x in (image, image.flip(3) + 0.1)]
    parts = [View(image[..., i : i + 16, :16], known[..., i : i + 16, :16], BANDS[:4]) for i in range(2)]
    views = {"target": whole[:1], "anchor": whole[1:], "focal": parts}
    return Batch(views, torch.arange(n), step or Step(3, 10, 0))


def classify(vectors: torch.Tensor, prototypes: torch.Tensor, temperature: float) -> np.ndarray:
    """Shares of the prototypes by cosines, [n, K] float64."""
    a, b = (x.detach().double().numpy() for x in (vectors, prototypes))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    powers = np.exp(a @ b.T / temperature)
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("exponent", [0.25, 1.0])
def test_anchors_get_the_sharpened_class_of_the_whole_view_and_their_mean_the_prior(exponent: float) -> None:
    objective, batch = build(exponent=exponent, prior_weight=2.0, patch_drop=0.4), make_crops(5)
    with torch.no_grad():
        for parameter in (*objective.teacher.parameters(), *objective.teacher_projector.parameters()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    network = objective.encoder.network
    keep = objective.draw_kept(5, 16, batch.step.generator(0))
    assert keep.shape == (5, 9) and all(len(set(row)) == 9 for row in keep.tolist())
    assert len({tuple(row.sort().values.tolist()) for row in keep}) > 1  # other patches for each item
    tokens = network.patch_embed(batch.views["anchor"][0].pixels) + network.pos_embed[:, 1:]
    kept = torch.stack([tokens[i, keep[i]] for i in range(5)])
    prefix = (network.cls_token + network.pos_embed[:, :1]).expand(5, -1, -1)
    masked = network.norm(network.blocks(torch.cat([prefix, kept], 1)))[:, 1:].mean(1)
    small = [objective.encoder(view).pooled for view in batch.views["focal"]]
    anchors = torch.cat([objective.projector(masked), objective.projector(torch.cat(small))])  # a norm for each size
    teacher = objective.teacher.network["tile"].network
    whole = teacher.forward_features(batch.views["target"][0].pixels)[:, 1:].mean(1)
    wanted = classify(objective.teacher_projector.network(whole), objective.prototypes.weight, 0.1) ** 4
    wanted /= wanted.sum(1, keepdims=True)
    shares = classify(anchors, objective.prototypes.weight, 0.1)
    total = 0.0
    for view in range(3):
        for item in range(5):
            total -= float((wanted[item] * np.log(shares[5 * view + item])).sum()) / 15
    prior = np.arange(1, 13) ** -exponent / (np.arange(1, 13) ** -exponent).sum()
    np.testing.assert_allclose(compute_power_law(12, exponent=exponent).numpy(), prior, rtol=1e-6)
    distance = float((prior * np.log(prior / shares.mean(0))).sum())
    results = objective(batch)
    assert float(results["loss"].detach()) == pytest.approx(total + 2 * distance, rel=1e-4)
    results["loss"].backward()
    assert all(p.grad is None for p in (*objective.teacher.parameters(), *objective.teacher_projector.parameters()))
    assert objective.prototypes.weight.grad.abs().sum() > 0
    assert objective.embedders["tile"] is objective.teacher.network["tile"]


def test_the_mean_prediction_comes_to_follow_the_prior() -> None:
    objective = build(exponent=1.0, prior_weight=1000.0)
    anchors = torch.nn.Parameter(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.Adam([anchors], lr=0.05)
    for _ in range(150):  # the prior outweighs that every anchor is its own target
        optimizer.zero_grad()
        objective.agree(anchors, anchors.detach(), objective.prototypes.weight).backward()
        optimizer.step()
    mean = classify(anchors, objective.prototypes.weight, 0.1).mean(0)
    np.testing.assert_allclose(mean, objective.prior.numpy(), atol=0.02)


def test_teacher_and_head_follow_along_a_line_that_ends_before_1() -> None:
    objective = build(momentum=0.5)
    before = objective.teacher_projector.network.layers[0].weight.clone()
    with torch.no_grad():
        objective.projector.layers[0].weight.add_(1.0)
    objective.after_step(Step(10, 10, 0))
    torch.testing.assert_close(objective.teacher_projector.network.layers[0].weight, before + 0.1)


def test_what_collapse_looks_like() -> None:
    objective, batch = build(), make_crops()
    with torch.no_grad():
        objective.prototypes.weight.copy_(torch.eye(16)[:12])
        healthy = float(objective(batch)["class_entropy"])
        objective.projector.layers[-1].weight.zero_()
        objective.projector.layers[-1].bias.copy_(torch.eye(16)[0])  # every item is of the first class
        assert float(objective(batch)["class_entropy"]) < 0.01 < 0.2 < healthy


def test_nodata_never_enters() -> None:
    image, _ = training_tiles(n=4)
    clean = make_crops(valid=holes(image.shape, patch=8))
    losses = [build()(batch)["loss"] for batch in (clean, poison(clean), make_crops())]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_thirty_steps_on_16_tiles_learn_without_collapse() -> None:
    objective = build(momentum=0.9)
    found, spread = train_on_crops(objective, lambda step: make_crops(16, step=step))
    assert found[-1]["loss"] < 0.8 * found[0]["loss"], (found[0], found[-1])
    assert found[-1]["class_entropy"] > 0.5 and spread > 0.2


def test_refusals() -> None:
    batch = make_crops()
    with pytest.raises(UserError, match="one target view of each item for Pmsn, got 2"):
        build()(Batch({**batch.views, "target": 2 * batch.views["target"]}, batch.rows, batch.step))
    with pytest.raises(UserError, match="at least two tiles per step to tell apart, got 1"):
        build()(make_crops(1))
    for options, words in (
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"sharpen": 0.0}, "sharpen must be above 0, got 0.0"),
        ({"patch_drop": 1.0}, "patch_drop within 0 and 1, got 1.0"),
        ({"exponent": -1.0}, "exponent of at least 0, got -1.0"),
        ({"sinkhorn_iterations": -1}, "sinkhorn_iterations of at least 0, got -1"),
        ({"momentum": 2}, "momentum must lie between 0 and 1"),
        ({"hidden_dim": 0}, "hidden_dim of at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=words):
            Pmsn(**options)
    with pytest.raises(UserError, match="expected a transformer for Pmsn, which hides patches, got ResNetBackbone"):
        Pmsn().build({"tile": ResNet("resnet18").build(BANDS[:4], 32, 0)}, 0)

"""LeJEPA: its distance from a Gaussian is the closed form and lightly's, both terms in a loop, chance of the step alone."""

from __future__ import annotations

import math

import pytest
import torch
from lightly.loss.lejepa_loss import LeJEPALoss

from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, Vit
from eo_ssl.objectives import Batch, LeJepa, Step
from eo_ssl.objectives.lejepa import LeJepaObjective, compare_with_gaussian
from test_72_dino import make_crops
from tiles import BANDS, holes, poison, train_on_crops, training_tiles

SMALL = {"hidden_dim": 32, "output_dim": 8, "directions": 32}


def build(seed: int = 0, **options: object) -> LeJepaObjective:
    encoder = Vit(patch_size=8, depth=2).build(BANDS[:4], 32, seed)
    return LeJepa(**{**SMALL, **options}).build({"tile": encoder}, seed + 1)


def integrate_exactly(x: torch.Tensor) -> float:
    """n times the integral over all frequencies, in closed form: Gaussian integrals of cosines. x: [n]."""
    n, root = len(x), math.sqrt(2 * math.pi)
    pairs = sum(math.exp(-((float(a) - float(b)) ** 2) / 2) for a in x for b in x)
    singles = sum(math.exp(-(float(a) ** 2) / 4) for a in x)
    return root * pairs / n - 2 * math.sqrt(math.pi) * singles + n * root / math.sqrt(3)


def test_the_distance_from_a_gaussian_is_the_integral_in_closed_form() -> None:
    rng = torch.Generator().manual_seed(0)
    for samples in (
        torch.randn(12, generator=rng, dtype=torch.float64),
        torch.rand(7, generator=rng, dtype=torch.float64) * 3 + 1,
        torch.full((5,), 0.4, dtype=torch.float64),
    ):
        found = float(compare_with_gaussian(samples[:, None], knots=200, largest=9.0))
        assert found == pytest.approx(integrate_exactly(samples), rel=1e-5)
        coarse = float(compare_with_gaussian(samples[:, None], knots=17, largest=3.0))  # the method's own
        assert coarse == pytest.approx(found, rel=0.05)


def test_a_gaussian_batch_is_at_about_1_of_any_size_and_a_collapsed_one_is_not() -> None:
    rng = torch.Generator().manual_seed(0)
    for n in (8, 128):
        many = torch.randn(n, 2000, generator=rng)
        known = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))  # integral of (1 - phi^2) phi
        assert float(compare_with_gaussian(many, knots=17, largest=3.0)) == pytest.approx(known, rel=0.05)
        assert float(compare_with_gaussian(many * 0.01, knots=17, largest=3.0)) > 0.25 * n


def test_both_terms_are_lightlys_along_the_same_directions() -> None:
    objective, batch = build(weight=0.3, knots=9, largest_frequency=2.5), make_crops(6)
    network = objective.encoder.network
    features = [network.forward_features(crop.pixels)[:, 1:].mean(1) for crop in batch.all_views()[:2]]
    features += [objective.encoder(crop).pooled for crop in batch.all_views()[2:]]  # of another size than timm's
    x = torch.cat(features)
    for i in (0, 3):  # normalised over all views together
        x = x @ objective.projector.layers[i].weight.T
        x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        x = x.relu()
    last = objective.projector.layers[6]
    vectors = (x @ last.weight.T + last.bias).reshape(4, 6, 8)
    drawn = torch.randn(8, 32, generator=torch.Generator().manual_seed(batch.step.seed))
    oracle = LeJEPALoss(0.3, sigreg_knots=9, sigreg_t_max=2.5, sigreg_num_vectors=32)
    oracle.sigreg._generate_unit_vectors = lambda *shape: drawn / drawn.norm(dim=0)
    results = objective(batch)
    torch.testing.assert_close(results["loss"], oracle(local_proj=vectors[2:], global_proj=vectors[:2]))
    total = sum(
        float((vectors[v, i] - vectors[:2, i].mean(0)).square().sum().detach()) for v in range(4) for i in range(6)
    )
    assert float(results["distance"]) == pytest.approx(total / (4 * 6 * 8), rel=1e-4)
    results["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.projector.parameters())
    assert objective.embedders["tile"] is objective.encoder


def test_directions_come_from_the_step_alone() -> None:
    objective = build()
    first, again, other = (objective.draw_directions(make_crops(step=Step(3, 10, seed))) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(32))


def test_nodata_never_enters() -> None:
    image, _ = training_tiles(n=4)
    clean = make_crops(valid=holes(image.shape, patch=8))
    losses = [build()(batch)["loss"] for batch in (clean, poison(clean), make_crops())]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_thirty_steps_on_16_tiles_learn_without_collapse() -> None:
    objective = build()
    found, spread = train_on_crops(objective, lambda step: make_crops(16, step=step))
    assert found[-1]["loss"] < 0.7 * found[0]["loss"], (found[0], found[-1])
    assert found[-1]["sigreg"] < 0.7 * found[0]["sigreg"] and spread > 0.2


def test_refusals() -> None:
    batch = make_crops()
    with pytest.raises(UserError, match="at least two views of each item for LeJepa, got 1"):
        build()(Batch({"global": batch.views["global"][:1]}, batch.rows, batch.step))
    with pytest.raises(UserError, match="at least two tiles per step to tell apart, got 1"):
        build()(make_crops(1))
    for options, words in (
        ({"weight": 0.0}, "weight within 0 and 1, got 0.0"),
        ({"directions": 0}, "directions of at least 1, got 0"),
        ({"knots": 1}, "knots of at least 2, got 1"),
        ({"largest_frequency": 0.0}, "largest_frequency above 0, got 0.0"),
    ):
        with pytest.raises(UserError, match=words):
            LeJepa(**options)
    pair = {"a": ResNet("resnet18").build(("VV",), 32, 0), "b": ResNet("resnet50").build(("VV",), 32, 0)}
    with pytest.raises(UserError, match="encoders of one width"):
        LeJepa().build(pair, 0)

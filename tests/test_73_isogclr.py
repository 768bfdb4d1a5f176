"""iSogCLR: its gradients are those of the objective, its numbers of items move as a loop says, rare items stay sharp."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import runs
from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, Vit
from eo_ssl.objectives import Batch, ISogClr, Step
from eo_ssl.objectives.isogclr import ISogClrObjective, compare_individually
from eo_ssl.pretraining import ItemSampler
from eo_ssl.pretraining.loader import ItemLoader
from eo_ssl.pretraining.monitors import measure_feature_std
from tiles import BANDS, holes, make_batch, training_tiles

SMALL = {"hidden_dim": 32, "output_dim": 16}


def build(seed: int = 0, *, items: int = 32, **options: object) -> ISogClrObjective:
    encoder = Vit(patch_size=8, depth=2).build(BANDS[:4], 32, seed)
    objective = ISogClr(**{**SMALL, **options}).build({"tile": encoder}, seed + 1)
    objective.prepare(items)
    return objective


def two_images(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    image, _ = training_tiles(n=n)
    return image, image.flip(3) + 0.1


def cosines(n: int, *, seed: int = 0, dim: int = 5) -> torch.Tensor:
    """Unit vectors of two views of n items: [2n, dim] float64, with gradient."""
    vectors = torch.randn(2 * n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1).requires_grad_()


def objective_of(vectors: torch.Tensor, temperatures: torch.Tensor, rho: float) -> torch.Tensor:
    """Sum over both views of t log mean exp((s - s+) / t) + t rho, as the paper writes it, mean over items: a loop."""
    n, total = len(temperatures), vectors.new_zeros(())
    for i in range(2 * n):
        own, t = vectors[i] @ vectors[(i + n) % (2 * n)], temperatures[i % n]
        powers = [((vectors[i] @ vectors[j] - own) / t).exp() for j in range(2 * n) if j % n != i % n]
        total = total + t * torch.stack(powers).mean().log() + t * rho
    return total / n


def test_the_first_gradients_are_those_of_the_objective() -> None:
    method, vectors = ISogClr(rho=0.3), cosines(5)
    temperatures = torch.tensor([0.1, 0.2, 0.5, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    wanted = torch.autograd.grad(objective_of(vectors, temperatures, 0.3), (vectors, temperatures))
    found = compare_individually(
        vectors @ vectors.T,
        means=torch.zeros(5, dtype=torch.float64),
        temperatures=temperatures.detach(),
        method=method,
    )
    torch.testing.assert_close(torch.autograd.grad(found.loss, vectors)[0], wanted[0], rtol=1e-9, atol=1e-12)
    # the mean of both views for one item, where the objective has their sum over a mean of five items
    torch.testing.assert_close(found.slopes, wanted[1] * 5 / 2, rtol=1e-9, atol=1e-12)
    steep = {"means": torch.zeros(5), "temperatures": torch.full((5,), 0.1), "method": ISogClr(rho=9.0)}
    assert compare_individually(vectors @ vectors.T, **steep).slopes.tolist() == [3.0] * 5  # cut, as the authors do


def test_means_and_temperatures_of_items_move_as_a_loop_says() -> None:
    objective = build(items=20, gamma=0.7, rho=0.2, rate=0.1, smoothing=0.6, temperature_range=(0.08, 0.5))
    image, other = two_images()
    means, temperatures, velocities = np.zeros(20), np.full(20, 0.1), np.zeros(20)
    for number, rows in enumerate(([3, 17, 5, 0, 8, 11], [5, 3, 1, 19, 17, 2])):
        batch = make_batch(image, other)
        batch = Batch(batch.views, torch.tensor(rows), batch.step)
        features = [objective.encoder.network.forward_features(x)[:, 1:].mean(1) for x in (image, other)]
        vectors = torch.nn.functional.normalize(objective.projector(torch.cat(features)), dim=1)
        cosine, total = (vectors @ vectors.T).detach().double().numpy(), 0.0
        found: dict[int, list[tuple[float, float]]] = {row: [] for row in rows}
        for i in range(12):
            row, others = rows[i % 6], [j for j in range(12) if j % 6 != i % 6]
            t = temperatures[row]
            powers = {j: math.exp(cosine[i, j] / t) for j in others}
            mean = sum(powers.values()) / 10
            if means[row]:
                mean = 0.3 * means[row] + 0.7 * mean
            weights = {j: powers[j] / mean / 10 for j in others}
            total += sum(weights[j] * cosine[i, j] for j in others) - cosine[i, (i + 6) % 12]
            slope = math.log(mean) + 0.2 - sum(weights[j] * cosine[i, j] / t for j in others)
            found[row].append((mean, slope))
        results = objective(batch)
        assert float(results["loss"].detach()) == pytest.approx(total / 6, rel=1e-3)
        assert float(results["temperature"]) == pytest.approx(temperatures[rows].mean(), rel=1e-5)
        np.testing.assert_allclose(objective.means.numpy(), means, rtol=1e-4)  # a step sees what was before it
        objective.after_step(Step(number + 1, 30, 0))
        for row, pair in found.items():
            means[row], slope = np.mean(pair, axis=0)
            velocities[row] = 0.4 * velocities[row] + 0.6 * min(max(slope, -3), 3)
            temperatures[row] = min(max(temperatures[row] - 0.1 * velocities[row], 0.08), 0.5)
        np.testing.assert_allclose(objective.means.numpy(), means, rtol=1e-4)
        np.testing.assert_allclose(objective.temperatures.numpy(), temperatures, rtol=1e-3)
        np.testing.assert_allclose(objective.velocities.numpy(), velocities, rtol=1e-3, atol=1e-5)
    assert len(set(np.round(objective.temperatures.numpy(), 4))) > 4
    objective.eval()(make_batch(image, other))
    assert objective._fresh == []


def test_items_of_a_large_class_get_a_larger_temperature_than_rare_ones() -> None:
    """Where the slope is 0 the weights of the others lie rho away from even ones (KL divergence)."""
    method = ISogClr(gamma=1.0, rho=0.4)
    rng = torch.Generator().manual_seed(0)
    kind = torch.tensor([0] * 10 + list(range(1, 23)))  # ten items of one kind and one each of 22 others
    noise = 0.05 * torch.randn(64, 32, generator=rng, dtype=torch.float64)
    vectors = torch.nn.functional.normalize(torch.eye(32, dtype=torch.float64)[kind].repeat(2, 1) + noise, dim=1)
    means, temperatures = torch.zeros(32, dtype=torch.float64), torch.full((32,), 0.2, dtype=torch.float64)
    for _ in range(300):
        found = compare_individually(vectors @ vectors.T, means=means, temperatures=temperatures, method=method)
        means = found.means
        temperatures = (temperatures - 0.01 * found.slopes).clamp(*method.temperature_range)
    assert temperatures[:10].min() > 2 * temperatures[10:].max(), temperatures
    assert found.slopes.abs().max() < 0.01
    others = ~torch.eye(32, dtype=torch.bool).repeat(2, 2)
    scaled = (vectors @ vectors.T / temperatures.repeat(2)[:, None]).masked_fill(~others, -torch.inf)
    distance = math.log(62) - torch.special.entr(scaled.softmax(dim=1)).sum(dim=1)  # of each view's weights
    torch.testing.assert_close(distance.reshape(2, 32).mean(0), torch.full_like(temperatures, 0.4), atol=0.01, rtol=0)


def test_state_is_as_long_as_the_source_and_not_as_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = runs.make_loader()
    pool = np.arange(50, 90)

    def make_part(*, ahead: bool = True) -> ItemLoader:
        return ItemLoader(whole.items, ItemSampler(pool, batch_size=8, seed=3), steps=10, ahead=ahead)

    monkeypatch.setattr(runs, "make_loader", make_part)
    monkeypatch.setattr(runs, "STEPS", 10)
    objective, _ = runs.run(tmp_path / "part", name="isogclr")
    assert objective.means.shape == (96,)
    seen = objective.means.nonzero().flatten().tolist()
    assert seen == pool.tolist()
    assert (objective.temperatures[:50] == objective.temperatures[90]).all()


def test_nodata_never_enters() -> None:
    image, other = two_images(8)
    valid = holes(image.shape, patch=8)
    poisoned = torch.where(valid, image, torch.tensor(float("nan")))
    clean = build()(make_batch(image, other, valid=valid))["loss"].detach()
    assert torch.equal(build()(make_batch(poisoned, other, valid=valid))["loss"].detach(), clean)
    assert not torch.equal(build()(make_batch(image, other))["loss"].detach(), clean)


def test_thirty_steps_on_16_tiles_learn_without_collapse() -> None:
    objective, (image, other) = build(items=17), two_images(16)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)

    def measure_whole() -> float:  # the objective itself at one temperature, which the loss only stands in for
        with torch.no_grad():
            features = objective.projector(torch.cat(objective.encode(objective.take_views(make_batch(image, other)))))
            return float(objective_of(torch.nn.functional.normalize(features, dim=1), torch.full((16,), 0.1), 0.0))

    first = measure_whole()
    for number in range(30):
        loss = objective(make_batch(image, other, seed=number, step=number))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(Step(number + 1, 30, number))
    assert measure_whole() < first - 0.3
    assert (objective.temperatures[:16] != 0.1).all() and objective.temperatures[16] == torch.tensor(0.1)
    with torch.no_grad():
        spread = measure_feature_std(objective.eval().embed(make_batch(image).views["tile"][0]).numpy())
    assert spread > 0.2


def test_refusals() -> None:
    image, other = two_images()
    with pytest.raises(UserError, match="expected two views of each item for ISogClr, got 1"):
        build()(make_batch(image))
    with pytest.raises(UserError, match="at least two tiles per step to tell apart, got 1"):
        build()(make_batch(image[:1], other[:1]))
    for options, words in (
        ({"hidden_dim": 0}, "hidden_dim of at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": 2.0}, r"temperature_range as an increasing pair above 0 around the temperature 2.0, got"),
        ({"gamma": 0.0}, "gamma above 0 and at most 1, got 0.0"),
        ({"rho": -1.0}, "rho of at least 0, got -1.0"),
    ):
        with pytest.raises(UserError, match=words):
            ISogClr(**options)
    pair = {"a": ResNet("resnet18").build(("VV",), 32, 0), "b": ResNet("resnet50").build(("VV",), 32, 0)}
    with pytest.raises(UserError, match="encoders of one width"):
        ISogClr().build(pair, 0)

"""SwAV: codes and predictions in a loop, prototypes of length 1 that wait, and classes that stay apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, Vit
from eo_ssl.objectives import Batch, Step, Swav
from eo_ssl.objectives.swav import SwavObjective
from test_72_dino import make_crops
from tiles import BANDS, holes, poison, train_on_crops, training_tiles

SMALL = {"prototypes": 24, "hidden_dim": 32, "output_dim": 16, "frozen_prototypes": 0.0}


def build(seed: int = 0, **options: object) -> SwavObjective:
    encoder = Vit(patch_size=8, depth=2).build(BANDS[:4], 32, seed)
    return Swav(**{**SMALL, **options}).build({"tile": encoder}, seed + 1)


def share_out(scores: np.ndarray, iterations: int) -> np.ndarray:
    """Codes [B, K] by the steps of the paper's algorithm: classes sum to 1/K, items to 1/B."""
    shares = np.exp(scores / 0.05).T
    shares /= shares.sum()
    for _ in range(iterations):
        for k in range(len(shares)):
            shares[k] /= shares[k].sum() * len(shares)
        for b in range(shares.shape[1]):
            shares[:, b] /= shares[:, b].sum() * shares.shape[1]
    return shares.T * shares.shape[1]


@pytest.mark.parametrize("iterations", [1, 3])
def test_every_other_crop_predicts_the_code_of_each_large_crop(iterations: int) -> None:
    objective, batch = build(sinkhorn_iterations=iterations), make_crops(6)
    network, scores = objective.encoder.network, []
    with torch.no_grad():
        features = torch.cat([network.forward_features(crop.pixels)[:, 1:].mean(1) for crop in batch.all_views()[:2]])
        small = [objective.encoder(crop).pooled for crop in batch.all_views()[2:]]  # of another size than timm's
        hidden = objective.projector.layers[0](torch.cat([features, *small])).double().numpy()
        hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)  # over all crops together
        last = objective.projector.layers[3]
        vectors = np.maximum(hidden, 0) @ last.weight.double().numpy().T + last.bias.double().numpy()
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        prototypes = objective.prototypes.weight.double().numpy()
        scores = (vectors @ prototypes.T).reshape(4, 6, 24)
    np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-6)
    total, pairs = 0.0, 0
    for i in range(2):
        codes = share_out(scores[i], iterations)
        for j in range(4):
            if i != j:
                powers = np.exp(scores[j] / 0.1)
                total -= (codes * np.log(powers / powers.sum(1, keepdims=True))).sum(1).mean()
                pairs += 1
    results = objective(batch)
    assert pairs == 6 and results["loss"].shape == ()
    assert float(results["loss"].detach()) == pytest.approx(total / 6, rel=1e-4)


def test_prototypes_wait_and_keep_length_1() -> None:
    objective = build(frozen_prototypes=0.4)
    for number, moves in ((3, False), (4, True)):
        objective.zero_grad()
        objective(make_crops(step=Step(number, 10, 0)))["loss"].backward()
        assert bool(objective.prototypes.weight.grad.abs().sum()) is moves
        assert objective.projector.layers[0].weight.grad.abs().sum() > 0
    with torch.no_grad():
        objective.prototypes.weight.mul_(3.0)
    objective.after_step(Step(5, 10, 0))
    torch.testing.assert_close(objective.prototypes.weight.norm(dim=1), torch.ones(24))


def test_what_collapse_looks_like() -> None:
    objective, batch = build(temperature=0.01), make_crops()
    assert float(objective(batch)["class_entropy"]) > 0.2
    with torch.no_grad():
        objective.projector.layers[3].weight.zero_()  # every crop has the same vector
    assert float(objective(batch)["class_entropy"]) < 0.2


def test_nodata_never_enters() -> None:
    image, _ = training_tiles(n=4)
    clean = make_crops(valid=holes(image.shape, patch=8))
    losses = [build()(batch)["loss"] for batch in (clean, poison(clean), make_crops())]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_thirty_steps_on_16_tiles_learn_without_collapse() -> None:
    objective = build()
    found, spread = train_on_crops(objective, lambda step: make_crops(16, step=step))
    assert found[-1]["loss"] < 0.8 * found[0]["loss"], (found[0], found[-1])
    assert found[-1]["class_entropy"] > 0.8 and spread > 0.2


def test_refusals() -> None:
    batch = make_crops()
    with pytest.raises(UserError, match="two global views of each item for Swav, got 1"):
        build()(Batch({"global": batch.views["global"][:1]}, batch.rows, batch.step))
    with pytest.raises(UserError, match="at least two tiles per step to tell apart, got 1"):
        build()(make_crops(1))
    for options, words in (
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"epsilon": 0.0}, "epsilon must be above 0, got 0.0"),
        ({"sinkhorn_iterations": 0}, "sinkhorn_iterations of at least 1, got 0"),
        ({"frozen_prototypes": -0.1}, "frozen_prototypes of at least 0, got -0.1"),
        ({"prototypes": 0}, "prototypes of at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=words):
            Swav(**options)
    pair = {"a": ResNet("resnet18").build(("VV",), 32, 0), "b": ResNet("resnet50").build(("VV",), 32, 0)}
    with pytest.raises(UserError, match="encoders of one width"):
        Swav().build(pair, 0)

"""SimCLR: NT-Xent in closed form and against a double loop."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, View, Vit
from eo_ssl.objectives import Batch, Dcl, SimClr, Step
from eo_ssl.objectives.simclr import SimClrObjective
from tiles import BANDS, holes, make_batch, train_briefly, training_tiles


def build(method: SimClr = SimClr(), *, seed: int = 0) -> SimClrObjective:  # noqa: B008  (frozen)
    return method.build({"tile": Vit(patch_size=8, depth=2).build(BANDS[:4], 32, seed)}, seed + 1)


@pytest.mark.parametrize("n", [2, 5, 16])
def test_identical_embeddings_cost_the_closed_form(n):
    loss = build().compare(torch.ones(n, 8), torch.ones(n, 8))
    assert float(loss) == pytest.approx(-math.log(1 / (2 * n - 1)), rel=1e-6)


def test_loss_equals_a_double_loop_over_the_views(rng):
    n, temperature = 4, 0.3
    z = rng.normal(size=(2 * n, 6))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(2 * n):
        others = [math.exp(unit[i] @ unit[k] / temperature) for k in range(2 * n) if k != i]
        total -= math.log(math.exp(unit[i] @ unit[(i + n) % (2 * n)] / temperature) / sum(others))
    objective = build(SimClr(temperature=temperature))
    first, second = torch.from_numpy(z).chunk(2)
    assert float(objective.compare(first, second)) == pytest.approx(total / (2 * n), rel=1e-9)


def nt_xent_by_hand(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent of Chen et al. 2020, equation 1, one pair after another."""
    z = torch.nn.functional.normalize(torch.cat([first, second]).double(), dim=1)
    n, losses = len(first), []
    for i in range(2 * n):
        others = torch.stack([z[i] @ z[k] / temperature for k in range(2 * n) if k != i])
        losses.append(others.logsumexp(0) - z[i] @ z[(i + n) % (2 * n)] / temperature)
    return torch.stack(losses).mean()


def test_the_loss_of_a_batch_is_that_of_the_mean_patch_tokens_of_its_views():
    """From the images to the loss: the mean of the patch tokens, not the class token, is projected and compared."""
    objective = build(SimClr(temperature=0.3))
    image, _ = training_tiles(n=6)
    other = image.flip(3) + 0.1
    network = objective.encoder.network
    tokens = [network.forward_features(x)[:, 1:] for x in (image, other)]
    projected = objective.projector(torch.cat([x.mean(1) for x in tokens]))  # batch norm over both views together
    wanted = nt_xent_by_hand(*projected.chunk(2), temperature=0.3)
    assert float(objective(make_batch(image, other))["loss"].detach()) == pytest.approx(
        float(wanted.detach()), rel=1e-5
    )


def test_the_temperature_goes_from_the_largest_to_the_least_and_back():
    """Kukleva et al. 2023: tau_min + (tau_max - tau_min) (1 + cos(2 pi t / T)) / 2, in the loss of each step."""
    method = SimClr(temperature_range=[0.1, 1.0], temperature_period=8)
    wanted = [1.0, 0.1 + 0.45 * (1 + math.sqrt(0.5)), 0.55, 0.1 + 0.45 * (1 - math.sqrt(0.5)), 0.1, 0.55, 1.0]
    found = [method.compute_temperature(step) for step in (0, 1, 2, 3, 4, 6, 8)]
    np.testing.assert_allclose(found, wanted)
    image, _ = training_tiles(n=6)
    batch = make_batch(image, image.flip(3) + 0.1)
    for kind in (SimClr, Dcl):
        objective = build(kind(temperature_range=(0.1, 1.0), temperature_period=8))
        for step, temperature in ((4, 0.1), (2, 0.55), (0, 1.0)):
            constant = build(kind(temperature=temperature))
            constant.load_state_dict(objective.state_dict())
            losses = [some(replace(batch, step=Step(step, 20, seed=0)))["loss"] for some in (objective, constant)]
            assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-6)
    for options in ({"temperature_range": (0.1, 1.0)}, {"temperature_period": 8}):
        with pytest.raises(UserError, match="expected temperature_range and temperature_period together, got"):
            SimClr(**options)
    for wrong in ((1.0, 0.1), (0.0, 1.0), (0.1, 0.5, 1.0)):
        with pytest.raises(UserError, match="temperature_range as an increasing pair above 0"):
            SimClr(temperature_range=wrong, temperature_period=8)


def test_views_of_two_streams_pass_through_their_own_encoders():
    encoders = {"s1": ResNet("resnet18").build(("VV", "VH"), 32, 1), "s2": ResNet("resnet18").build(BANDS[:4], 32, 2)}
    objective = SimClr().build(encoders, 3)
    optical, _ = training_tiles(n=4)
    radar = optical[:, :2] * 0.5
    views = [
        View(x, torch.ones_like(x, dtype=torch.bool), bands, stream)
        for x, bands, stream in ((radar, ("VV", "VH"), "s1"), (optical, BANDS[:4], "s2"))
    ]
    got = objective.encode(views)
    for features, encoder, image in zip(got, encoders.values(), (radar, optical), strict=True):
        torch.testing.assert_close(features, encoder.network(image))
    assert torch.isfinite(objective(Batch({"tile": views}, torch.arange(4), Step(0, 1, 0)))["loss"])


def test_views_are_compared_tile_by_tile_and_nodata_never_enters():
    objective = build(seed=1)
    image, _ = training_tiles(n=8)
    valid = holes(image.shape, patch=8)
    matched = objective(make_batch(image, image, valid=valid))["loss"]
    first, second = make_batch(image, image, valid=valid).views["tile"]
    turned = View(second.image.roll(1, 0), second.valid.roll(1, 0), second.bands)
    assert matched < objective(Batch({"tile": [first, turned]}, torch.arange(8), Step(0, 1, 0)))["loss"]
    poisoned = torch.where(valid, image, torch.tensor(float("nan")))
    assert torch.equal(objective(make_batch(poisoned, image, valid=valid))["loss"], matched)


def test_thirty_steps_on_32_tiles_learn_without_collapse():
    first, last, spread = train_briefly(build(SimClr(temperature=0.2)), lr=1e-3, views=2)
    assert last < 0.7 * first
    assert spread > 0.3


def test_refusals():
    with pytest.raises(UserError, match=r"temperature must be above 0, got 0: try 0.5"):
        SimClr(temperature=0)
    image, _ = training_tiles(n=1)  # NT-Xent of one pair is 0 whatever the weights: it would train nothing, silently
    with pytest.raises(UserError, match="expected at least two tiles per step to tell apart, got 1"):
        build()(make_batch(image, image))
    with pytest.raises(UserError, match="expected two views of each item for SimClr, got 1"):
        build()(make_batch(training_tiles(n=4)[0]))
    narrow, wide = ResNet("resnet18").build(("VV",), 32, 0), ResNet("resnet50").build(("VV",), 32, 0)
    with pytest.raises(UserError, match=r"encoders of one width in front of one projector, got \[512, 2048\]"):
        SimClr().build({"a": narrow, "b": wide}, 0)

"""SimCLR: NT-Xent in closed form and against a double loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import VitConfig
from eo_ssl.objectives import SimClr, SimClrConfig
from tiles import train_briefly, training_tiles

ARCHITECTURE = VitConfig(img_size=32, in_chans=4, patch_size=8, depth=2)


@pytest.mark.parametrize("n", [2, 5, 16])
def test_identical_embeddings_cost_the_closed_form(n):
    loss = SimClr(ARCHITECTURE).nt_xent(torch.ones(n, 8), torch.ones(n, 8))
    assert float(loss) == pytest.approx(-math.log(1 / (2 * n - 1)), rel=1e-6)


def test_loss_equals_a_double_loop_over_the_views(rng):
    n, temperature = 4, 0.3
    z = rng.normal(size=(2 * n, 6))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(2 * n):
        others = [math.exp(unit[i] @ unit[k] / temperature) for k in range(2 * n) if k != i]
        total -= math.log(math.exp(unit[i] @ unit[(i + n) % (2 * n)] / temperature) / sum(others))
    objective = SimClr(ARCHITECTURE, SimClrConfig(temperature=temperature))
    first, second = torch.from_numpy(z).chunk(2)
    assert float(objective.nt_xent(first, second)) == pytest.approx(total / (2 * n), rel=1e-9)


def test_views_are_compared_tile_by_tile_and_nodata_never_enters():
    objective = SimClr(ARCHITECTURE, seed=1)
    image, valid = training_tiles(n=8)
    valid = torch.rand(valid.shape, generator=torch.Generator().manual_seed(0)) > 0.2
    view = {"image": image, "valid": valid, "row": torch.arange(8), "seed": 0}
    matched = objective({"views": [view, view], "seed": 0})["loss"]
    turned = {key: value.roll(1, 0) if isinstance(value, torch.Tensor) else value for key, value in view.items()}
    assert matched < objective({"views": [view, turned], "seed": 0})["loss"]
    poisoned = {**view, "image": torch.where(valid, image, torch.tensor(float("nan")))}
    assert torch.equal(objective({"views": [poisoned, view], "seed": 0})["loss"], matched)


def test_thirty_steps_on_32_tiles_learn_without_collapse():
    first, last, spread = train_briefly(SimClr(ARCHITECTURE, SimClrConfig(temperature=0.2), seed=0), lr=1e-3)
    assert last < 0.7 * first
    assert spread > 0.3


def test_refusals():
    with pytest.raises(UserError, match=r"temperature must be above 0, got 0: try 0.5"):
        SimClrConfig(temperature=0)
    image, valid = training_tiles(
        n=1
    )  # NT-Xent of one pair is 0 whatever the weights: it would train nothing, silently
    view = {"image": image, "valid": valid, "row": torch.arange(1), "seed": 0}
    with pytest.raises(UserError, match="expected at least two tiles per step to tell apart, got 1"):
        SimClr(ARCHITECTURE)({"views": [view, view], "seed": 0})

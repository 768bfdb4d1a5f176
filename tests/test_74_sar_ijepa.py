"""The radar variant of I-JEPA: its loss is I-JEPA's and that of the gradients, each weighing by its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import Vit
from eo_ssl.objectives import SarIJepa
from eo_ssl.objectives.block_masks import BlockMaskConfig, draw_blocks
from eo_ssl.objectives.ratio_gradients import RatioGradients, compute_ratio_gradients
from eo_ssl.objectives.sar_ijepa import SarIJepaObjective
from eo_ssl.sensors import Quantity
from tiles import BANDS, make_batch, radar_contract, train_briefly, training_tiles


def build() -> SarIJepaObjective:
    method = SarIJepa(predictor_dim=32, predictor_heads=2, predictor_depth=1, gradients=RatioGradients(scales=(1, 2)))
    objective = method.build({"tile": Vit(patch_size=8, depth=1).build(BANDS[:4], 32, 0)}, 1)
    objective.accept({"tile": radar_contract()})
    return objective


def test_the_loss_of_a_batch_is_that_of_a_loop_over_all_numbers() -> None:
    objective = build()
    image, _ = training_tiles(n=3)
    batch = make_batch(image, seed=5)
    view = batch.views["tile"][0]
    context, targets = draw_blocks((4, 4), 3, config=BlockMaskConfig(), rng=torch.Generator().manual_seed(5))
    prediction = objective.predictor(objective.encoder.visible(view, context), context, targets).detach().double()
    features = objective.teacher.network(view).patches.detach().double()
    gradients = compute_ratio_gradients(10 ** ((image.double() * 3 - 12) / 20), RatioGradients(scales=(1, 2)))
    losses = []
    for b, n, t in np.ndindex(*targets.shape):
        patch = int(targets[b, n, t])
        row, col = divmod(patch, 4)
        edges = gradients[b, :, :, row * 8 : row * 8 + 8, col * 8 : col * 8 + 8].flatten()
        mine = features[b, patch]
        mine = (mine - mine.mean()) / (mine.var(unbiased=False) + 1e-5).sqrt()
        wanted = torch.cat([mine, (edges - edges.mean()) / (edges.var() + 1e-6).sqrt()])
        error = (prediction[b, n, t] - wanted).abs()
        losses.append(torch.where(error < 1, 0.5 * error**2, error - 0.5).mean())
    results = objective(batch)
    assert float(results["loss"].detach()) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    assert results["features"] != results["gradients"]


def test_missing_pixels_are_no_edges_and_poison_changes_nothing() -> None:
    objective = build()
    image, everywhere = training_tiles(n=3)
    valid = everywhere.clone()
    valid[:, :, 9:12, 9:12] = False
    clean = objective(make_batch(image, valid=valid))
    poisoned = objective(make_batch(torch.where(valid, image, torch.tensor(float("nan"))), valid=valid))
    assert all(torch.equal(poisoned[name], clean[name]) for name in clean)
    whole = objective(make_batch(image))
    assert all(clean[name] != whole[name] for name in clean)


def test_some_tens_of_steps_learn_and_optical_streams_are_refused() -> None:
    objective = build()
    first, last, spread = train_briefly(objective, lr=2e-3, steps=25, tiles=16)
    assert last < 0.9 * first, (first, last)
    assert spread > 0.2, spread
    with pytest.raises(UserError, match="a radar stream for SarIJepa: a power, dB or amplitude, got boa_reflectance"):
        objective.accept({"tile": radar_contract(quantity=Quantity.BOA_REFLECTANCE)})

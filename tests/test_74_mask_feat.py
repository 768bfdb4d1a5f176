"""MaskFeat: histograms of oriented gradients by a loop over pixels, block-wise masks, the path to the loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import Vit
from eo_ssl.objectives import MaskFeat
from eo_ssl.objectives.hog import Hog, compute_hog
from eo_ssl.objectives.mask_feat import MaskFeatObjective
from eo_ssl.objectives.rectangle_masks import draw_rectangles
from tiles import BANDS, holes, make_batch, train_briefly, training_tiles


def build(method: MaskFeat = MaskFeat(hog=Hog(cell_px=4))) -> MaskFeatObjective:  # noqa: B008  (frozen)
    return method.build({"tile": Vit(patch_size=8, depth=1).build(BANDS[:4], 32, 0)}, 1)


def histogram(x: np.ndarray, top: int, left: int, cell: int, bins: int = 9) -> np.ndarray:
    """Of one cell of an image [H, W], pixel by pixel: the authors' `HOGLayerC` without its window."""
    padded, found = np.pad(x, 1, mode="reflect"), np.zeros(bins)
    smooth = np.array([1, 2, 1])
    for i, j in np.ndindex(cell, cell):
        part = padded[top + i : top + i + 3, left + j : left + j + 3]
        gx, gy = smooth @ (part[:, 0] - part[:, 2]), smooth @ (part[0] - part[2])
        found[math.floor(math.atan2(gx, gy) / math.pi * bins) % bins] += math.hypot(gx, gy)
    return found / max(np.linalg.norm(found), 1e-12)


def test_histograms_equal_a_loop_over_pixels(rng) -> None:
    x = rng.normal(size=(2, 3, 16, 24))
    valid = np.ones(x.shape, bool)
    valid[0, 1, 3, 8] = False  # touches cells (0, 0), (0, 1), (1, 1) of its band: not (1, 0), which is two pixels away
    found, known = compute_hog(torch.from_numpy(x), torch.from_numpy(valid), Hog(cell_px=4))
    assert found.shape == (2, 3, 9, 4, 6) and known.shape == (2, 3, 1, 4, 6)
    for b, c, i, j in np.ndindex(2, 3, 4, 6):
        np.testing.assert_allclose(found[b, c, :, i, j], histogram(x[b, c], 4 * i, 4 * j, 4), atol=1e-12)
    unknown = {tuple(place) for place in (~known).nonzero().tolist()}
    assert unknown == {(0, 1, 0, i, j) for i in (0, 1) for j in (1, 2)}


def test_an_edge_falls_into_the_bin_of_its_direction() -> None:
    ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16).double()
    everywhere = torch.ones_like(ramp, dtype=torch.bool)
    across, _ = compute_hog(ramp, everywhere, Hog(orientations=4))
    down, _ = compute_hog(ramp.mT, everywhere, Hog(orientations=4))
    assert across[0, 0, :, 0, 0].argmax() != down[0, 0, :, 0, 0].argmax()
    torch.testing.assert_close(across, compute_hog(3 * ramp + 5, everywhere, Hog(orientations=4))[0])  # gain and offset
    flat, _ = compute_hog(torch.ones_like(ramp), everywhere, Hog())
    assert not flat.any()


def test_rectangles_hide_the_wanted_number_of_patches_everywhere() -> None:
    rng = torch.Generator().manual_seed(0)
    for grid, hidden in (((4, 4), 6), ((8, 8), 26), ((14, 10), 56)):
        mask = draw_rectangles(grid, 400, hidden=hidden, rng=rng)
        assert (mask.sum(dim=1) == hidden).all()
        rate = mask.float().mean(dim=0).reshape(grid)
        assert rate.min() > 0.01 and abs(rate - rate.flip(0)).max() < 0.15 and abs(rate - rate.flip(1)).max() < 0.15
        image = mask.reshape(-1, *grid)
        alike = (image[:, 1:] == image[:, :-1]).float().mean()  # neighbours share their fate, unlike in a random mask
        share = hidden / (grid[0] * grid[1])
        assert alike > share**2 + (1 - share) ** 2 + 0.1


def test_the_loss_of_a_batch_is_that_of_a_loop_over_hidden_cells() -> None:
    objective = build()
    image, _ = training_tiles(n=3)
    valid = torch.rand(image.shape, generator=torch.Generator().manual_seed(5)) > 0.01
    batch = make_batch(image, valid=valid, seed=7)
    mask = draw_rectangles((4, 4), 3, hidden=6, rng=torch.Generator().manual_seed(7))
    view = batch.views["tile"][0]
    answer = objective.head(objective.encoder.masked(view, mask, objective.mask_token).patches).detach().numpy()
    total, count, filled = 0.0, 0, view.pixels.double().numpy()
    for b, n in mask.nonzero().tolist():
        row, col = divmod(n, 4)
        for c, i, j in np.ndindex(4, 2, 2):
            top, left = row * 8 + 4 * i, col * 8 + 4 * j
            if not valid[b, c, max(top - 1, 0) : top + 5, max(left - 1, 0) : left + 5].all():
                continue
            error = answer[b, n].reshape(4, 9, 2, 2)[c, :, i, j] - histogram(filled[b, c], top, left, 4)
            total, count = total + (error**2).sum(), count + 9
    assert 0 < count < int(mask.sum()) * answer.shape[2]
    assert float(objective(batch)["loss"].detach()) == pytest.approx(total / count, rel=1e-4)


def test_nodata_never_enters() -> None:
    objective = build()
    image, _ = training_tiles(n=4)
    valid = holes(image.shape, patch=16) | (torch.rand(image.shape, generator=torch.Generator().manual_seed(1)) > 0.5)
    valid[:, :, :12, :12] = False
    valid[:, :, 12:] = True
    clean = objective(make_batch(image, valid=valid))["loss"]
    poisoned = objective(make_batch(torch.where(valid, image, torch.tensor(float("nan"))), valid=valid))["loss"]
    assert torch.equal(poisoned, clean) and float(clean.detach()) > 0
    assert not torch.equal(objective(make_batch(image))["loss"], clean)
    assert float(objective(make_batch(image, valid=torch.zeros_like(valid)))["loss"].detach()) == 0


def test_thirty_steps_on_32_tiles_learn_without_collapse() -> None:
    first, last, spread = train_briefly(build(MaskFeat()), lr=1e-3)
    assert last < 0.7 * first, (first, last)
    assert spread > 0.2, spread


def test_refusals() -> None:
    for make, words in (
        (lambda: MaskFeat(mask_ratio=0), "mask_ratio must lie between 0 and 1, got 0"),
        (lambda: Hog(orientations=0), "orientations and cell_px must be at least 1, got 0 and 8"),
        (lambda: build(MaskFeat(hog=Hog(cell_px=3))), "cells of 3 px and patches of 8 px"),
        (lambda: build(MaskFeat(mask_ratio=0.01)), "got 0 of 16 patches"),
    ):
        with pytest.raises(UserError, match=words):
            make()

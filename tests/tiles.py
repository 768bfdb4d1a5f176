"""Small learnable tiles and a bare training loop, for the tests of objectives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import torch

from eo_ssl.models import View
from eo_ssl.objectives import Batch, Objective, Step
from eo_ssl.pretraining.monitors import measure_feature_std
from eo_ssl.sensors import Quantity

BANDS = ("B02", "B03", "B04", "B08", "B11")


def training_tiles(n: int = 32, *, bands: int = 4, size: int = 32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised tiles with structure: a ramp in a direction of its own, at a level per band, and a little noise.

    Any patch of a tile tells what the others look like, so a few steps suffice to learn it.

    Returns:
        image [n, bands, size, size] float32 and valid, all true.
    """
    gen = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, size)
    angle = 6.2832 * torch.rand(n, 1, 1, generator=gen)
    ramp = torch.cos(angle) * axis[None, None, :] + torch.sin(angle) * axis[None, :, None]
    gain = 1 + torch.rand(n, bands, 1, 1, generator=gen)
    level = torch.randn(n, bands, 1, 1, generator=gen)
    image = level + gain * ramp[:, None]
    image = image + 0.02 * torch.randn(image.shape, generator=gen)
    return image, torch.ones_like(image, dtype=torch.bool)


def place_images(lonlat: torch.Tensor) -> torch.Tensor:
    """Metadata of images [n, 5] of which nothing but longitude and latitude [n, 2] is known."""
    unknown = torch.full((len(lonlat), 1), torch.nan)
    return torch.cat([unknown, lonlat, unknown, unknown], dim=1)


def make_batch(
    *images: torch.Tensor, valid: torch.Tensor | None = None, seed: int = 0, step: int = 0, total: int = 30
) -> Batch:
    """A batch with one view of `tile` for each image; `valid` holds for all, everything where left out."""
    known = torch.ones_like(images[0], dtype=torch.bool) if valid is None else valid
    views = [View(image, known, BANDS[: image.shape[1]]) for image in images]
    return Batch({"tile": views}, torch.arange(len(images[0])), Step(step, total, seed))


def train_briefly(
    objective: Objective, *, lr: float, steps: int = 30, tiles: int = 32, views: int = 1
) -> tuple[float, float, float]:
    """First and last loss (means of three steps) and the spread of the features after `steps` full-batch steps."""
    image, _ = training_tiles(tiles)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(9)) * 0.2
    images = (image, image.flip(3) + noise)[:views]
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=lr, weight_decay=0.01)
    losses = []
    for step in range(steps):
        loss = objective(make_batch(*images, seed=step, step=step, total=steps))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(Step(step + 1, steps, step))
        losses.append(float(loss.detach()))
    with torch.no_grad():
        features = objective.eval().embed(make_batch(image).views["tile"][0])
    return sum(losses[:3]) / 3, sum(losses[-3:]) / 3, measure_feature_std(features.numpy())


def poison(batch: Batch) -> Batch:
    """The batch with values that are no number wherever a pixel is not valid."""
    views = {
        name: [dataclasses.replace(v, image=torch.where(v.valid, v.image, torch.nan)) for v in group]
        for name, group in batch.views.items()
    }
    return Batch(views, batch.rows, batch.step)


def train_on_crops(objective: Objective, crops: Callable[[Step], Batch]) -> tuple[list[dict[str, float]], float]:
    """What the objective gives in each of 30 steps, and the spread of its features of 16 tiles afterwards."""
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    found = []
    for number in range(30):
        results = objective(crops(Step(number, 30, number)))
        optimizer.zero_grad()
        results["loss"].backward()
        optimizer.step()
        objective.after_step(Step(number + 1, 30, number))
        found.append({name: float(value.detach()) for name, value in results.items()})
    with torch.no_grad():
        features = objective.eval().embed(View(*training_tiles(16), BANDS[:4]))
    return found, measure_feature_std(features.numpy())


def holes(shape: torch.Size, *, patch: int, seed: int = 0) -> torch.Tensor:
    """Validity [B, C, H, W] with single pixels missing everywhere and, in every image, whole patches without any."""
    gen = torch.Generator().manual_seed(seed)
    valid = torch.rand(shape, generator=gen) > 0.1
    whole = torch.rand(shape[0], 1, shape[2] // patch, shape[3] // patch, generator=gen) > 0.3
    return valid & whole.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


def radar_contract(bands: int = 4, quantity: Quantity = Quantity.SIGMA0_DB) -> SimpleNamespace:
    """What an objective reads of the contract of a radar stream whose normalised values are `training_tiles`."""
    return SimpleNamespace(mean=(-12.0,) * bands, std=(3.0,) * bands, final_quantity=quantity, sensor="sentinel1_grd")

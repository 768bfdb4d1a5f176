"""Small learnable tiles and a bare training loop, for the tests of objectives."""

from __future__ import annotations

import torch

from eo_ssl.objectives import Objective
from eo_ssl.pretraining.monitors import feature_std


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


def train_briefly(objective: Objective, *, lr: float, steps: int = 30, tiles: int = 32) -> tuple[float, float, float]:
    """First and last loss (means of three steps) and the spread of the features after `steps` full-batch steps."""
    image, valid = training_tiles(tiles)
    other, _ = training_tiles(tiles)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(9)) * 0.2
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=lr, weight_decay=0.01)
    losses = []
    for step in range(steps):
        batch = {"image": image, "valid": valid, "row": torch.arange(tiles), "seed": step}
        if objective.views == 2:
            batch["views"] = [{**batch}, {**batch, "image": other.flip(3) + noise}]
        loss = objective(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step + 1, steps)
        losses.append(float(loss.detach()))
    with torch.no_grad():
        features = objective.eval().embed(image)
    return sum(losses[:3]) / 3, sum(losses[-3:]) / 3, feature_std(features.numpy())

"""How far apart two augmented views of a row lie, told for free by objectives that see both with the same network."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from eo_ssl.models import Tokens
from eo_ssl.objectives import Batch
from eo_ssl.pretraining.module import require_pretraining

MEMORY = 0.5
"""Part of what is known of a row that stays when it is seen again; ours."""
_LEAST = 1e-6  # distance below which two views coincide


class ViewSpread(pl.Callback):
    """Keeps, for each row, the logarithm of the distance between its two views, less the mean of its batch.

    It listens to the networks that embed during the training step; features are compared on the unit sphere. An
    objective that shows a network one view of an image, or parts of it, tells nothing, and all rows stay unknown.
    """

    def __init__(self, rows: int) -> None:
        """Know nothing of `rows` rows of the source."""
        self.known = np.full(rows, np.nan, dtype=np.float32)
        self._heard: list[Tensor] = []
        self._hooks: list[Any] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to the first network that embeds."""
        network = next(iter(require_pretraining(pl_module).objective.embedders.values()))
        if isinstance(network, nn.Module):
            self._hooks.append(network.register_forward_hook(self._hear))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop listening."""
        while self._hooks:
            self._hooks.pop().remove()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Forget what was embedded between two steps."""
        self._heard.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Learn from the batch of all processes."""
        rows, heard = batch.rows, torch.cat(self._heard) if self._heard else None
        self._heard.clear()
        if heard is None or len(heard) < 2 * len(rows) or len(heard) % len(rows):
            return
        views = normalize(heard.float(), dim=1).reshape(-1, len(rows), heard.shape[1])
        distance = (views[0] - views[1]).norm(dim=1).clamp(min=_LEAST).log()
        self.learn(*(part.cpu().numpy() for part in _gather(pl_module, rows, distance)))

    def learn(self, rows: npt.NDArray[np.int64], log_distance: npt.NDArray[np.float32]) -> None:
        """Take in one batch: `rows` int64 [B], different ones, and the logarithms of their distances, float32 [B]."""
        new = log_distance - log_distance.mean()
        old = self.known[rows]
        self.known[rows] = np.where(np.isnan(old), new, MEMORY * old + (1 - MEMORY) * new)

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        """Of `rows`, float32 [n], their mean where one is not known yet; None where none is."""
        known = self.known[rows]
        seen = ~np.isnan(known)
        return np.where(seen, known, known[seen].mean()) if seen.any() else None

    def state_dict(self) -> dict[str, Any]:
        """What is known of every row."""
        return {"known": torch.from_numpy(self.known)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self.known = state_dict["known"].numpy().copy()

    def _hear(self, network: nn.Module, arguments: object, tokens: Tokens) -> None:
        self._heard.append(tokens.pooled.detach())


def _gather(module: pl.LightningModule, rows: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Both over all processes, one after the other."""
    if not torch.distributed.is_initialized():
        return rows, distance
    gathered = module.all_gather((rows, distance))
    return gathered[0].reshape(-1), gathered[1].reshape(-1)

"""Batches of a whole run in order, one batch ahead of the training step."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from eo_ssl.objectives import Batch, Step, derive_seed
from eo_ssl.pretraining.items import Items
from eo_ssl.pretraining.sampler import ItemSampler, Rows
from eo_ssl.pretraining.view_maker import ItemBatch, ViewMaker


class ItemLoader:
    """Batches of a whole run in order; knows where it is and reads one batch ahead in a thread.

    A batch depends on (seed, epoch, step) and the pool alone. One that was read ahead is thrown away if the pool
    changed meanwhile, so reading ahead never changes what is trained on.
    """

    def __init__(
        self,
        items: Items,
        sampler: ItemSampler,
        *,
        steps: int,
        horizon: int | None = None,
        accumulate: int = 1,
        ahead: bool = True,
    ) -> None:
        """Serve the batches of `steps` optimizer steps of `items` as `sampler` orders them.

        Args:
            items: what is read.
            sampler: gives the items of each batch.
            steps: optimizer steps of the run.
            horizon: steps over which what changes with time changes; None for those of the run.
            accumulate: batches of one optimizer step.
            ahead: read the next batch in a thread.
        """
        self.items, self.sampler, self.horizon = items, sampler, horizon or steps
        self.steps, self.accumulate, self.ahead, self.step = steps, accumulate, ahead, 0
        self._lock = Lock()

    def __len__(self) -> int:
        """Batches of the whole run, whatever is done already."""
        return self.steps * self.accumulate

    @property
    def presented(self) -> int:
        """Items of one optimizer step, over all processes."""
        return self.sampler.global_batch * self.accumulate

    def __iter__(self) -> Iterator[ItemBatch]:
        """Batches from the current step on."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            pending: tuple[tuple[int, bytes], Future[ItemBatch]] | None = None
            while self.step < len(self):
                rows = self.sampler.rows()
                key = self.step, rows.tobytes()
                ready = None if pending is None else pending[1].result()
                batch = ready if ready is not None and pending is not None and pending[0] == key else self._make(*key)
                self.sampler.advance()
                self.step += 1
                if self.ahead and self.step < len(self):
                    following = self.step, self.sampler.rows().tobytes()
                    pending = following, pool.submit(self._make, *following)
                yield batch

    def normalised(self, rows: Rows, *, seed: int | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Input and validity of items, by stream: [n, D, C, S, S] float32 and bool; `seed` as `Items` has it."""
        batch = {}
        with self._lock:  # the buffers of the sources are shared with the thread that reads ahead
            for stream, tiles in self.items.read(rows, seed=seed).items():
                source = self.items.sources[stream]
                image, valid = self.items.contracts[stream](
                    tiles.flatten(0, 1), bands=source.bands, quantity=source.quantity, sensor=source.sensor
                )
                leading = tiles.shape[:2]
                batch[stream] = image.reshape(*leading, *image.shape[1:]), valid.reshape(*leading, *valid.shape[1:])
        return batch

    def _make(self, step: int, rows: bytes) -> ItemBatch:
        index = np.frombuffer(rows, dtype=np.int64)
        seed = derive_seed(self.sampler.seed, step, self.sampler.rank)
        at = Step(step // self.accumulate, self.horizon, seed, common_seed=derive_seed(self.sampler.seed, step))
        metadata = self.items.metadata(index, seed=seed)
        return ItemBatch(self.normalised(index, seed=seed), torch.tensor(index), at, metadata)

    def state_dict(self) -> dict[str, Any]:
        """Batches served and the sampler's state."""
        return {"step": self.step, "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.step = int(state["step"])
        self.sampler.load_state_dict(state["sampler"])


class ItemData(pl.LightningDataModule):
    """Hands the loader to Lightning and makes the views of each batch on the device it was moved to."""

    def __init__(self, loader: ItemLoader, views: ViewMaker) -> None:
        """Serve `loader` through `views`."""
        super().__init__()
        self.loader, self.views = loader, views

    def setup(self, stage: str) -> None:
        """Take the part of this process, which Lightning has given its rank by now."""
        if self.trainer is not None:
            self.loader.sampler.take_rank(self.trainer.global_rank)

    def train_dataloader(self) -> ItemLoader:
        """The one loader of the run."""
        return self.loader

    def on_after_batch_transfer(self, batch: ItemBatch, dataloader_idx: int) -> Batch:
        """Make the views; seeded by the batch itself."""
        return self.views(batch)

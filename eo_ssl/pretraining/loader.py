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

from eo_ssl.objectives import Batch
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.augmentation import Augmentation
from eo_ssl.pretraining.data import TileSource
from eo_ssl.pretraining.sampler import Rows, TileSampler


def step_seed(seed: int, step: int, *, rank: int = 0) -> int:
    """Seed of everything random in one step, different for each step and rank; below 2**63."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


class TileLoader:
    """Batches of a whole run in order; knows where it is and reads one batch ahead in a thread.

    A batch depends on (seed, epoch, step) and the pool alone. One that was read ahead is thrown away if the pool
    changed meanwhile, so reading ahead never changes what is trained on.
    """

    def __init__(
        self, source: TileSource, preprocessing: Preprocessing, sampler: TileSampler, *, steps: int, ahead: bool = True
    ) -> None:
        """Serve `steps` batches of `source` as `sampler` orders them; `ahead` reads the next one in a thread."""
        self.source, self.preprocessing, self.sampler = source, preprocessing, sampler
        self.steps, self.ahead, self.step = steps, ahead, 0
        self._lock = Lock()

    def __len__(self) -> int:
        """Steps of the whole run, whatever is done already."""
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the current step on."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            pending: tuple[tuple[int, bytes], Future[Batch]] | None = None
            while self.step < self.steps:
                rows = self.sampler.rows()
                key = self.step, rows.tobytes()
                ready = None if pending is None else pending[1].result()
                batch = ready if ready is not None and pending is not None and pending[0] == key else self._make(*key)
                self.sampler.advance()
                self.step += 1
                if self.ahead and self.step < self.steps:
                    following = self.step, self.sampler.rows().tobytes()
                    pending = following, pool.submit(self._make, *following)
                yield batch

    def normalised(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Encoder input and validity of any rows: [n, C, S, S] float32 and bool."""
        source = self.source
        with self._lock:  # the buffers of the source are shared with the thread that reads ahead
            return self.preprocessing(
                source.read(rows), bands=source.bands, quantity=source.quantity, sensor=source.sensor
            )

    def _make(self, step: int, rows: bytes) -> Batch:
        index = np.frombuffer(rows, dtype=np.int64)
        image, valid = self.normalised(index)
        seed = step_seed(self.sampler.seed, step, rank=self.sampler.rank)
        return {"image": image, "valid": valid, "row": torch.tensor(index), "seed": seed}

    def state_dict(self) -> dict[str, Any]:
        """Steps served and the sampler's state."""
        return {"step": self.step, "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.step = int(state["step"])
        self.sampler.load_state_dict(state["sampler"])


class TileData(pl.LightningDataModule):
    """Hands the loader to Lightning and augments each batch on the device it was moved to."""

    def __init__(self, loader: TileLoader, augmentation: Augmentation) -> None:
        """Serve `loader` through `augmentation`."""
        super().__init__()
        self.loader, self.augmentation = loader, augmentation

    def train_dataloader(self) -> TileLoader:
        """The one loader of the run."""
        return self.loader

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment; seeded by the batch itself."""
        return self.augmentation(batch)

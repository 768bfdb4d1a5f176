"""The bridge from curation to training: a callback that redraws the pool of tiles from the features of the moment."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pyarrow.parquet as pq

from eo_ssl.curation import DynamicSchedule, selection_table
from eo_ssl.manifest import replace
from eo_ssl.objectives import Batch
from eo_ssl.pretraining.loader import TileLoader
from eo_ssl.pretraining.module import Pretraining, trained
from eo_ssl.pretraining.monitors import embed_rows
from eo_ssl.pretraining.run_log import RunLog
from eo_ssl.pretraining.sampler import Rows


class DynamicPruning(pl.Callback):
    """Holds the events of a `DynamicSchedule` during any training, whatever its objective.

    An event embeds the full set, never the last pool, with the objective's embedder (its EMA teacher where it has
    one) in evaluation mode and without augmentation, and hands the new pool to the sampler in this process. All of
    its state is in the checkpoint. With keep = 1 the pool never changes, and neither does any byte of the weights.
    """

    def __init__(self, schedule: DynamicSchedule, loader: TileLoader, run_log: RunLog, *, folder: Path) -> None:
        """Prune the pool of `loader`, whose present one is the full set.

        Args:
            schedule: when and how.
            loader: whose sampler is changed.
            run_log: where time spent here does not count as training.
            folder: for `event_0001.parquet` (row, cluster, distance, kept, reason) and `events.json` (reports).
        """
        self.schedule, self.loader, self.run_log, self.folder = schedule, loader, run_log, folder
        self.everything: Rows = loader.sampler.pool
        self.reports: list[dict[str, Any]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hold an event that is due before the first step."""
        self._hold(trainer, trained(pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Hold an event that is due after this step; none after the last, which nothing would be trained on."""
        if trainer.global_step < trained(pl_module).steps:
            self._hold(trainer, trained(pl_module))

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state and the reports so far, plain values."""
        return {"schedule": self.schedule.state_dict(), "reports": [json.dumps(report) for report in self.reports]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the schedule; the pool itself comes back with the sampler."""
        self.schedule.load_state_dict(state_dict["schedule"])
        self.reports = [json.loads(report) for report in state_dict["reports"]]

    def _hold(self, trainer: pl.Trainer, module: Pretraining) -> None:
        """Embed, redraw on rank 0, tell all ranks, change the sampler, write the event down."""
        presentations = trainer.global_step * self.loader.sampler.global_batch
        if not self.schedule.due(presentations):
            return
        with self.run_log.paused():
            pool = self.loader.sampler.pool
            if trainer.is_global_zero:
                embeddings = embed_rows(module, self.loader, self.everything, title="pruning")
                pool, report = self.schedule.update(embeddings, self.everything, presentations=presentations)
                self.reports.append(report.to_json())
                self._write()
            pool, self.schedule.next_at = trainer.strategy.broadcast((pool, self.schedule.next_at))
            self.loader.sampler.replace_pool(pool)

    def _write(self) -> None:
        """Write the latest event; a resumed run writes the same bytes again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        event, last = self.reports[-1]["event"], self.schedule.last
        if event is not None and last is not None:
            data = io.BytesIO()
            pq.write_table(selection_table(last, self.everything), data)
            replace(self.folder / f"event_{event:04d}.parquet", data.getvalue())
        replace(self.folder / "events.json", json.dumps(self.reports, indent=1).encode())

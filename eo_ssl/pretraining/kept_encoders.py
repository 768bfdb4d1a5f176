"""Encoders that a run keeps along its way, each an ordinary encoder folder beside the last one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl

from eo_ssl.encoder import list_kept, locate_kept
from eo_ssl.errors import UserError, expect
from eo_ssl.manifest import require
from eo_ssl.objectives import Batch
from eo_ssl.pretraining.checkpoints import put_aside
from eo_ssl.pretraining.module import require_pretraining
from eo_ssl.pretraining.run_cost import RunCost
from eo_ssl.pretraining.run_log import RunLog

Keep = Callable[[Path, RunCost], object]
"""Writes the encoder of the moment into the folder, whole or not at all, with what it has cost."""


class KeptEncoders(pl.Callback):
    """Keeps the encoder after some of the steps; reading weights changes none, so the run is the same with or without.

    It has no state: what stands beyond the checkpoint that a run resumes from is removed and made again, on a CPU with
    the same bits. It runs before pruning, so that an encoder is charged for no embeddings that came after it.
    """

    def __init__(
        self,
        folder: Path,
        steps: tuple[int, ...],
        *,
        keep: Keep,
        count: Callable[[int], RunCost],
        run_log: RunLog,
    ) -> None:
        """Keep what `keep` writes.

        Args:
            folder: of the run.
            steps: after which the encoder is kept; 0 is before the first.
            keep: writes an encoder.
            count: says what the run has cost by a step.
            run_log: where time spent here does not count as training.
        """
        self.folder, self.steps, self.keep, self.count, self.run_log = folder, steps, keep, count, run_log

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what a resumed run has kept, and keep the encoder before the first step where that is asked for."""
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        for kept, path in list_kept(self.folder).items():
            if kept > step or step == 0:
                shutil.rmtree(path)
                continue
            try:
                require(path, "pretrain")
            except UserError:
                put_aside(path, self.folder / "checkpoints", step=step)
        if step == 0:
            self._keep(0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the encoder where this step is one of those asked for."""
        if require_pretraining(pl_module).stepped and trainer.is_global_zero:
            self._keep(trainer.global_step)

    def _keep(self, step: int) -> None:
        if step in self.steps:
            with self.run_log.paused():
                self.keep(locate_kept(self.folder, step), self.count(step))


def check_steps_kept(kept: tuple[int, ...], *, begun: int, steps: int, sharded: bool) -> None:
    """Refuse encoders of steps that a run does not make, or of weights that no process holds whole.

    Args:
        kept: steps after which the encoder is to be kept.
        begun: steps that were made before the run, where it goes on from another.
        steps: last step of the run, whose encoder is kept anyway.
        sharded: whether weights are sharded over processes.

    Raises:
        UserError: such steps.
    """
    expect(
        not kept or not sharded,
        expected="no training.encoders_at under strategy fsdp, which shards the weights",
        got=", ".join(map(str, kept)),
        remedy="leave it out, or use --strategy ddp",
    )
    wrong = [step for step in kept if not begun <= step < steps or (begun and step == begun)]
    expect(
        not wrong and len(set(kept)) == len(kept),
        expected=f"training.encoders_at out of the steps {begun + bool(begun)} to {steps - 1}, each once",
        got=", ".join(map(str, wrong or kept)),
        remedy="leave the others out; the encoder of the last step is kept anyway",
    )

"""Checkpoints that are whole or absent: written beside, made durable, renamed; the newest is where a run resumes."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl

from eo_ssl.commits import explain_os_error, sync_folder
from eo_ssl.errors import expect
from eo_ssl.objectives import Batch
from eo_ssl.pretraining.module import require_pretraining

SUFFIX = ".ckpt"


def find_latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps in `folder`, or None; names are zero-padded, so they sort by step."""
    found = sorted(folder.glob(f"step_*{SUFFIX}"))
    return found[-1] if found else None


class AtomicCheckpoint(pl.callbacks.Checkpoint):
    """Saves everything a resume needs every N steps and keeps the newest two.

    It is a Lightning `Checkpoint`, so Lightning runs it after all other callbacks and their state of this step enters.
    """

    def __init__(self, folder: Path, *, every: int, keep: int = 2) -> None:
        """Save into `folder` every `every` steps, keeping the newest `keep`."""
        self.folder, self.every, self.keep = folder, every, keep

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Save where a checkpoint is due; the last step is the encoder's, not a checkpoint's."""
        module, step = require_pretraining(pl_module), trainer.global_step
        due = step % self.every == 0 or trainer.should_stop
        if module.stepped and due and step < module.steps:
            self.save(trainer, step)

    def save(self, trainer: pl.Trainer, step: int) -> None:
        """Write the checkpoint of `step`, then drop the oldest ones.

        Raises:
            UserError: if the disk is full or the folder cannot be written; the earlier checkpoints stay.
        """
        final = self.folder / f"step_{step:09d}{SUFFIX}"
        temporary = self.folder / f".{final.name}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(temporary)
            if not trainer.is_global_zero:
                return
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(final)
            sync_folder(self.folder)
            for old in sorted(self.folder.glob(f"step_*{SUFFIX}"))[: -self.keep]:
                old.unlink()
        except OSError as error:
            raise explain_os_error(error, final) from error


class TimeLimit(pl.Callback):
    """Stops a run at the first step that ends after its time; what earlier starts of the run took does not count."""

    def __init__(self, limit: timedelta) -> None:
        """Count from now on."""
        self.ends = time.monotonic() + limit.total_seconds()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Stop all processes when one of them finds the time up."""
        if require_pretraining(pl_module).stepped:
            over = time.monotonic() >= self.ends
            trainer.should_stop = trainer.strategy.reduce_boolean_decision(over, all=False)


def parse_limit(text: str | None) -> timedelta | None:
    """A time written as DD:HH:MM:SS; None for none.

    Raises:
        UserError: other words.
    """
    if text is None:
        return None
    parts = text.split(":")
    expect(
        len(parts) == 4 and all(part.isdigit() for part in parts),
        expected="a time as DD:HH:MM:SS",
        got=repr(text),
        remedy="give eight hours as 00:08:00:00",
    )
    days, hours, minutes, seconds = map(int, parts)
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)

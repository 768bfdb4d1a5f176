"""Checkpoints that are whole or absent; a run resumes from the newest that is as its sha256 says."""

from __future__ import annotations

import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from eo_ssl.commits import sync_folder, write_beside
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import compute_sha256
from eo_ssl.objectives import Batch
from eo_ssl.pretraining.module import require_pretraining
from eo_ssl.printable import make_console
from eo_ssl.stop_signals import HeldSignals

SUFFIX = ".ckpt"
SUM_DIGITS = 16  # of the sha256 that stand in a checkpoint's name, so that one rename commits both


def find_sound_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is as it was written, or None where there is none at all.

    Damaged ones are put aside as `damaged_*`, with a sentence. One of an earlier version, whose name holds no sum, is
    judged by the checksums inside the file alone, and a sentence says so.

    Raises:
        UserError: if there are only damaged ones, or one cannot be read.
    """
    aside = 0
    for path in reversed(_list_checkpoints(folder)):
        try:
            damage = _find_damage(path)
        except FileNotFoundError:  # another process of the run has put it aside
            continue
        except OSError as error:
            raise UserError(
                f"expected to read the checkpoint {path}, got {error.strerror or error}; make it readable and run the"
                " same command again"
            ) from error
        if damage is None:
            return path
        aside += 1
        _say(f"the checkpoint {path} is damaged ({damage}): put aside, and the one before it is tried")
        with suppress(FileNotFoundError):
            path.rename(path.with_name(f"damaged_{path.name}"))
    expect(
        not aside,
        expected=f"a sound checkpoint in {folder}",
        got=f"{aside} damaged, which were put aside",
        remedy="run the same command again to begin at the first step",
    )
    return None


def _list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of `folder` in order: their names are zero-padded, so they sort by step."""
    return sorted(folder.glob(f"step_*{SUFFIX}"))


def _find_damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, or None."""
    _, dot, stated = path.name.removesuffix(SUFFIX).partition(".")
    if dot:
        return None if compute_sha256(path)[:SUM_DIGITS] == stated else "another sha256 than its name states"
    try:
        with zipfile.ZipFile(path) as records:
            wrong = records.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError, EOFError) as error:
        return str(error)
    if wrong is None:
        _say(f"the checkpoint {path} is of an earlier version without a sha256: only the sums inside it were compared")
    return wrong and f"another checksum of {wrong}"


def put_aside(path: Path, folder: Path, *, step: int) -> None:
    """Move a file that is not as the checkpoint of `step` knows it into `folder` as `damaged_*`, with a sentence.

    It says what happened, not what to compute, so the run goes on without it.
    """
    target = folder / f"damaged_{path.name}"
    happened = f"is damaged: put aside as {target}" if path.exists() else "is gone"
    with suppress(FileNotFoundError):
        path.rename(target)
    _say(f"{path} as it was at step {step} {happened}; the run goes on, its weights are the same without it")


@rank_zero_only
def _say(sentence: str) -> None:
    make_console(stderr=True).print(sentence, soft_wrap=True, highlight=False)


class AtomicCheckpoint(pl.callbacks.Checkpoint):
    """Saves everything a resume needs every N steps and keeps the newest two.

    It is a Lightning `Checkpoint`, so Lightning runs it after all other callbacks and their state of this step enters.
    """

    def __init__(self, folder: Path, *, every: int, keep: int = 2, at_end: Callable[[], bool] = lambda: False) -> None:
        """Save into `folder` every `every` steps, and after the last one where `at_end` says so; keep the newest."""
        self.folder, self.every, self.keep, self.at_end = folder, every, keep, at_end

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Save where a checkpoint is due; the last step is the encoder's, and a checkpoint's only where asked for."""
        module, step = require_pretraining(pl_module), trainer.global_step
        due = step % self.every == 0 or trainer.should_stop
        if module.stepped and ((due and step < module.steps) or (step == module.steps and self.at_end())):
            finite = all(bool(parameter.isfinite().all()) for parameter in pl_module.parameters())
            expect(
                trainer.strategy.reduce_boolean_decision(finite),
                expected=f"finite weights at step {step}",
                got="others, for the training has diverged",
                remedy="lower lr, or clip the gradient; the checkpoints of earlier steps are kept",
            )
            self.save(trainer, step)

    def save(self, trainer: pl.Trainer, step: int) -> None:
        """Write the checkpoint of `step`, then drop the oldest ones.

        Raises:
            UserError: if the disk is full or the folder cannot be written; the earlier checkpoints stay.
        """
        save_checkpoint(self.folder, step, trainer.save_checkpoint, first=trainer.is_global_zero)
        if trainer.is_global_zero:
            for old in _list_checkpoints(self.folder)[: -self.keep]:
                old.unlink()


def save_checkpoint(folder: Path, step: int, write: Callable[[Path], object], *, first: bool = True) -> None:
    """Make what `write` writes the checkpoint of `step` in `folder`, under the name that holds its sha256.

    Args:
        folder: of checkpoints.
        step: steps done.
        write: writes to the path it is given; called by every process of a run.
        first: whether this process is the one that names the file.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    with write_beside(folder / f"step_{step:09d}{SUFFIX}") as temporary:
        write(temporary)
        if first:
            sync_folder(temporary)
            temporary.replace(folder / f"step_{step:09d}.{compute_sha256(temporary)[:SUM_DIGITS]}{SUFFIX}")
            sync_folder(folder)


class SignalStop(pl.Callback):
    """Stops a run with a checkpoint at the first step that ends after a signal, in all its processes."""

    def __init__(self, held: HeldSignals) -> None:
        """Look at what was `held`."""
        self.held = held

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning, which would end the process as if all were done."""
        self.held.install()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Stop all processes when one of them has got a signal."""
        if require_pretraining(pl_module).stepped:
            number = torch.tensor(self.held.number, device=trainer.strategy.root_device)
            self.held.number = int(trainer.strategy.reduce(number, reduce_op="max"))
            trainer.should_stop = trainer.should_stop or self.held.number > 0


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

"""What a run says about itself: one JSON line per logged step, and a progress line for whoever watches."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from eo_ssl.commits import replace
from eo_ssl.errors import UserError
from eo_ssl.objectives import Batch
from eo_ssl.pretraining.checkpoints import put_aside
from eo_ssl.pretraining.loader import ItemLoader
from eo_ssl.pretraining.module import require_pretraining
from eo_ssl.printable import make_console


class RunLog(pl.Callback):
    """Writes `log.jsonl`: step, presentations, mean loss since the last line, lr, pool, images per second, monitors.

    Beside the loss, what else the objective gave for the latest batch, such as the entropy of a teacher.
    Monitors add their values with `note` before this callback, the last but the checkpoint's, closes the step. Sums
    since the last line travel in the checkpoint, so a resumed run writes the lines the unbroken one would have. So do
    size and sha256 of the lines so far: of a log that is damaged a sentence says so, and it is put aside.
    """

    def __init__(self, path: Path, loader: ItemLoader, *, every: int) -> None:
        """Append to `path` every `every` steps and at the last one."""
        self.path, self.loader, self.every = path, loader, every
        self._notes: dict[str, float] = {}
        self._losses: list[Tensor] = []  # left on the device: fetching each would stall it
        self._images = 0  # since the last line, in this process
        self._since = time.perf_counter()
        self._size, self._sum = 0, hashlib.sha256()  # of the lines written so far
        self._known: dict[str, Any] = {}  # of the checkpoint that the run resumes from
        self.loss_first: float | None = None

    def note(self, **values: float) -> None:
        """Add values to the line of the current step, which is then written whatever the interval."""
        self._notes.update(values)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent inside out of the images per second."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop lines beyond the checkpoint that the run resumes from."""
        self._since = time.perf_counter()
        if not trainer.is_global_zero:
            return
        data = self.path.read_bytes() if self.path.exists() else b""
        kept = self._take_known(data, trainer.global_step)
        replace(self.path, kept)
        self._size, self._sum = len(kept), hashlib.sha256(kept)

    def _take_known(self, data: bytes, step: int) -> bytes:
        """The lines of a log up to the checkpoint of `step`, which are its first bytes; none where they are damaged."""
        if "size" not in self._known:  # of an earlier version, or none at all
            lines = data.decode(errors="replace").splitlines()
            return "".join(f"{line}\n" for line in lines if _step_of(line) <= step).encode()
        kept = data[: self._known["size"]]
        if {"size": len(kept), "sha256": hashlib.sha256(kept).hexdigest()} == self._known:
            return kept
        put_aside(self.path, self.path.parent / "checkpoints", step=step)
        return b""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Account for the step, and write a line where one is due."""
        module, step = require_pretraining(pl_module), trainer.global_step
        self._losses.append(module.last["loss"])
        self._images += self.loader.sampler.global_batch
        if not module.stepped or not (self._notes or step % self.every == 0 or step == module.steps):
            return
        loss = sum(float(loss) for loss in self._losses) / len(self._losses)
        if not math.isfinite(loss):
            raise UserError(f"expected a finite loss, got {loss} by step {step}: lower lr, or clip the gradient")
        row: dict[str, Any] = {
            "step": step,
            "presentations": step * self.loader.presented,
            "loss": loss,
            "lr": module.lr_at(step - 1),
            "pool": len(self.loader.sampler.pool),
            "images_per_s": self._images / max(time.perf_counter() - self._since, 1e-9),
            **{name: float(value) for name, value in module.last.items() if name != "loss"},
            **self._notes,
        }
        self.loss_first = loss if self.loss_first is None else self.loss_first
        if trainer.is_global_zero:
            line = f"{json.dumps(row)}\n".encode()
            with self.path.open("ab") as file:
                file.write(line)
            self._size += len(line)
            self._sum.update(line)
        for listener in trainer.loggers:
            listener.log_metrics({name: float(value) for name, value in row.items()}, step=step)
        self._losses, self._notes, self._images, self._since = [], {}, 0, time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Losses since the last line, the first loss, and what the log is by now."""
        lines = {"size": self._size, "sha256": self._sum.hexdigest()}
        return {"losses": [float(loss) for loss in self._losses], "loss_first": self.loss_first, "lines": lines}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the sums."""
        self._losses = [torch.tensor(loss) for loss in state_dict["losses"]]
        self._known, self.loss_first = state_dict.get("lines", {}), state_dict.get("loss_first")

    def rows(self) -> list[dict[str, Any]]:
        """All lines written so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def summarise(rows: list[dict[str, Any]], *, loss_first: float | None) -> dict[str, float]:
    """First and last loss, the median speed, the latest value of each monitor, and how often the guard gave a warning.

    The first loss is given where lines may be lost; None takes that of the first line.
    """
    speeds = sorted(row["images_per_s"] for row in rows)
    summary = {
        "loss_first": rows[0]["loss"] if loss_first is None else loss_first,
        "loss_last": rows[-1]["loss"],
        "images_per_s": speeds[len(speeds) // 2],
    }
    for row in rows:
        summary.update({name: row[name] for name in ("rankme", "feature_std", "knn_accuracy") if name in row})
    if warnings := sum("collapsing" in row for row in rows):
        summary["collapse_warnings"] = warnings
    return summary


class ProgressLine(pl.Callback):
    """One line of progress on a terminal: steps, loss and time left."""

    def __init__(self, console: Console | None = None) -> None:
        """Write to `console`, by default standard error; silent where that is no terminal."""
        self.console = console or make_console(stderr=True)
        columns = (
            TextColumn("pretraining"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the line."""
        self.task = self.progress.add_task(
            "", total=require_pretraining(pl_module).steps, completed=trainer.global_step, loss=float("nan")
        )
        self.progress.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self.progress.disable:
            return  # fetching the loss would only stall a GPU
        self.progress.update(
            self.task, completed=trainer.global_step, loss=float(require_pretraining(pl_module).last["loss"])
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the finished line."""
        self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back before the message is printed."""
        self.progress.stop()


def _step_of(line: str) -> float:
    """Step of a line of the log; a line that a kill cut short counts as beyond every checkpoint."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")

"""One training run from its parts: trains, logs, prunes, saves checkpoints, and resumes where it was killed."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch

from eo_ssl.errors import UserError
from eo_ssl.pretraining.checkpoints import AtomicCheckpoint, latest_checkpoint
from eo_ssl.pretraining.loader import ItemData, ItemLoader
from eo_ssl.pretraining.module import Pretraining
from eo_ssl.pretraining.monitors import LabelledProbe, Monitors
from eo_ssl.pretraining.pruning import DynamicPruning, Pruning
from eo_ssl.pretraining.run_log import ProgressLine, RunLog, summarise
from eo_ssl.pretraining.views import ViewMaker

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class FitConfig:
    """How a run is driven; nothing here changes what is learned but `precision`."""

    log_every: int = 10
    """Steps between lines of the log."""
    monitor_every: int = 100
    """Steps between looks at rank, spread and nearest-neighbour accuracy of the features."""
    monitor_tiles: int = 512
    """Most tiles whose features are looked at."""
    checkpoint_every: int = 100
    """Steps between checkpoints, at which a killed run resumes."""
    precision: Precision = "auto"
    """`auto`: bfloat16 on a GPU that has it, else float32; a CPU without bfloat16 units is 17 times slower with it."""
    read_ahead: bool = True
    """Read the next batch in a thread during the step."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("log_every", "monitor_every", "monitor_tiles", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}: give a positive number")


def fit(
    module: Pretraining,
    loader: ItemLoader,
    *,
    views: ViewMaker,
    folder: Path,
    config: FitConfig,
    pruning: Pruning | None = None,
    probe: LabelledProbe | None = None,
) -> dict[str, float]:
    """Train to the last step, from the newest checkpoint in `folder` where there is one.

    On a CPU a resumed run ends with bit-equal weights: order, augmentation and masks come from (seed, epoch, step).

    Args:
        module: the objective with its optimiser; changed in place.
        loader: the batches of the run.
        views: makes the views of each batch.
        folder: receives `log.jsonl`, `checkpoints/` and, with pruning, `pruning/`.
        config: how the run is driven.
        pruning: dynamic pruning; None trains on the whole pool throughout.
        probe: labelled tiles for the online nearest-neighbour accuracy.

    Returns:
        Loss first and last, images per second and the latest monitors.

    Raises:
        UserError: if the disk is full, or the data are refused by their preprocessing.
    """
    log = RunLog(folder / "log.jsonl", loader, every=config.log_every)
    pool = loader.sampler.pool
    watched = pool[np.linspace(0, len(pool) - 1, min(config.monitor_tiles, len(pool))).round().astype(np.int64)]
    callbacks: list[pl.Callback] = [
        Monitors(loader, log, rows=watched, every=config.monitor_every, probe=probe),
        log,
        ProgressLine(),
        AtomicCheckpoint(folder / "checkpoints", every=config.checkpoint_every),
    ]
    if pruning is not None:
        callbacks.insert(0, DynamicPruning(pruning, loader, log, folder=folder / "pruning"))
    trainer = _trainer(module, callbacks, folder, config.precision)
    resume = latest_checkpoint(folder / "checkpoints")
    with warnings.catch_warnings():
        # A teacher stays in evaluation mode on purpose.
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        # Lightning's own call of torch, nothing a user of either can change.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
        trainer.fit(module, ItemData(loader, views), ckpt_path=resume, weights_only=True)
    return summarise(log.rows())


def _trainer(module: Pretraining, callbacks: list[pl.Callback], folder: Path, precision: Precision) -> pl.Trainer:
    """Lightning's trainer without its own log, progress, sampler and epochs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # devices and tips are noise in a log
    return pl.Trainer(
        max_steps=module.steps,
        max_epochs=1,  # Lightning's epoch is the whole run; the sampler counts its own
        accelerator="auto",
        devices=1,
        precision=_precision(precision),
        gradient_clip_val=module.config.clip_grad,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


def _precision(wanted: Precision) -> Literal["32-true", "bf16-mixed"]:
    """Lightning's name of the precision; bfloat16 only where the hardware has it."""
    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if wanted == "bfloat16" and not has_bfloat16:
        raise UserError(
            "expected a GPU with bfloat16 for precision bfloat16, got none: use --training.precision float32"
        )
    return "bf16-mixed" if has_bfloat16 and wanted != "float32" else "32-true"

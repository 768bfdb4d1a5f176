"""One training run from its parts: trains, logs, prunes, saves checkpoints, and resumes where it was killed."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch

from eo_ssl.errors import UserError, expect
from eo_ssl.objectives import Objective, Teacher
from eo_ssl.pretraining.checkpoints import AtomicCheckpoint, SignalStop, TimeLimit, find_sound_checkpoint
from eo_ssl.pretraining.collapse_guard import CollapseGuard, GuardConfig
from eo_ssl.pretraining.kept_encoders import Keep, KeptEncoders
from eo_ssl.pretraining.loader import ItemData, ItemLoader
from eo_ssl.pretraining.module import Pretraining
from eo_ssl.pretraining.monitors import LabelledProbe, Monitors
from eo_ssl.pretraining.processes import LoggerName, Processes, make_loggers
from eo_ssl.pretraining.pruning import DynamicPruning, Pruning
from eo_ssl.pretraining.run_cost import RunCost, count_views
from eo_ssl.pretraining.run_log import ProgressLine, RunLog, summarise
from eo_ssl.pretraining.view_maker import ViewMaker
from eo_ssl.stop_signals import HeldSignals

LOST = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL")  # words of torch for a lost process


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class FitConfig:
    """How a run is watched and saved; nothing here changes what is learned."""

    log_every: int = 10
    """Steps between lines of the log."""
    monitor_every: int = 100
    """Steps between looks at rank, spread and nearest-neighbour accuracy of the features."""
    monitor_tiles: int = 512
    """Most tiles whose features are looked at."""
    checkpoint_every: int = 100
    """Steps between checkpoints, at which a killed run resumes."""
    encoders_at: tuple[int, ...] = ()
    """Steps after which the encoder is kept as it is then, in a folder `at_000100` inside that of the run."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "encoders_at", tuple(self.encoders_at))
        for name in ("log_every", "monitor_every", "monitor_tiles", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}: give a positive number")


@dataclass(frozen=True, slots=True)
class FinishedTraining:
    """What a run that has come to its end says of itself."""

    results: dict[str, float]
    """Loss first and last, images per second and the latest monitors."""
    cost: RunCost
    """What it took."""
    clustering_s: float
    """Wall seconds of clustering and drawing, where pools were redrawn."""


def fit(
    module: Pretraining,
    loader: ItemLoader,
    *,
    views: ViewMaker,
    folder: Path,
    config: FitConfig,
    processes: Processes = Processes(),  # noqa: B008  (frozen)
    loggers: tuple[LoggerName, ...] = (),
    max_time: timedelta | None = None,
    pruning: Pruning | None = None,
    probe: LabelledProbe | None = None,
    guard: GuardConfig = GuardConfig(),  # noqa: B008  (frozen)
    keep: Keep | None = None,
) -> FinishedTraining | None:
    """Train to the last step, from the newest checkpoint in `folder` where there is one.

    On a CPU a resumed run ends with bit-equal weights: order, augmentation and masks come from (seed, epoch, step).

    Args:
        module: the objective with its optimiser; changed in place.
        loader: the batches of the run.
        views: makes the views of each batch.
        folder: receives `log.jsonl`, `checkpoints/` and, with pruning, `pruning/`.
        config: how the run is watched and saved.
        processes: devices and processes.
        loggers: Lightning loggers that receive what `log.jsonl` receives, in `logs/`.
        max_time: time after which the run stops with a checkpoint; None for no limit.
        pruning: dynamic pruning; None trains on the whole pool throughout.
        probe: labelled tiles for the online nearest-neighbour accuracy.
        guard: when the run counts as collapsing, and what happens then.
        keep: writes the encoders of `config.encoders_at`.

    Returns:
        What is to be said of the run; None in all its processes but the first.

    A signal that stops (see `eo_ssl.stop_signals`) does so at the end of a step, with a checkpoint.

    Raises:
        UserError: if the disk is full, the data are refused by their preprocessing, another process of the run ended,
            the time was up, the run has diverged, it is collapsing and is to stop then, or no checkpoint is sound.
    """
    log = RunLog(folder / "log.jsonl", loader, every=config.log_every)
    pool = loader.sampler.pool
    module.prepare(len(pool), rows=len(loader.items))
    watched = pool[np.linspace(0, len(pool) - 1, min(config.monitor_tiles, len(pool))).round().astype(np.int64)]
    held, watch = HeldSignals(), CollapseGuard(guard)
    endless = module.config.schedule == "infinite"  # what it ended with is what the next run goes on from
    pruner = None if pruning is None else DynamicPruning(pruning, loader, log, folder=folder / "pruning")
    count = partial(_count_cost, loader, views, pruner)
    callbacks: list[pl.Callback] = [
        *([] if keep is None else [KeptEncoders(folder, config.encoders_at, keep=keep, count=count, run_log=log)]),
        *([] if pruner is None else [pruner]),
        Monitors(loader, log, rows=watched, every=config.monitor_every, guard=watch, probe=probe),
        log,
        ProgressLine(),
        *([] if max_time is None else [TimeLimit(max_time)]),
        SignalStop(held),
        AtomicCheckpoint(folder / "checkpoints", every=config.checkpoint_every, at_end=lambda: watch.stops or endless),
    ]
    trainer = _trainer(module, callbacks, folder, processes, loggers)
    whole = _copy_before_sharding(module.objective) if processes.strategy == "fsdp" else None
    resume = find_sound_checkpoint(folder / "checkpoints")
    with held, warnings.catch_warnings(), _explain_lost_process(processes):
        # A teacher stays in evaluation mode on purpose.
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        # Lightning's own call of torch, nothing a user of either can change.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
        trainer.fit(module, ItemData(loader, views), ckpt_path=resume, weights_only=True)
    watch.expect_sound()
    if trainer.global_step < module.steps:
        raise UserError(
            f"expected {module.steps} steps within a time of {max_time}, got {trainer.global_step}; the same command"
            " goes on from there"
        )
    if whole is not None:  # every process gives its shards, the first one holds the whole
        state = trainer.strategy.lightning_module_state_dict()
        if trainer.is_global_zero:
            whole.load_state_dict({name.removeprefix("objective."): tensor for name, tensor in state.items()})
            module.objective = whole
    if not trainer.is_global_zero:
        return None
    clustering_s = 0.0 if pruner is None else pruner.clustering_s
    return FinishedTraining(summarise(log.rows(), loss_first=log.loss_first), count(module.steps), clustering_s)


def _count_cost(loader: ItemLoader, views: ViewMaker, pruner: DynamicPruning | None, step: int) -> RunCost:
    passes = 0 if pruner is None else pruner.passes
    return RunCost(step, step * loader.presented, count_views(views.specs), passes)


def _copy_before_sharding(objective: Objective) -> Objective:
    """What the first process fills with the weights of all at the end."""
    expect(
        not any(isinstance(part, Teacher) for part in objective.modules()),
        expected="a method without a teacher for strategy fsdp",
        got=f"{type(objective).__name__}, whose teacher would be sharded at other places than its student",
        remedy="use --strategy ddp",
    )
    return copy.deepcopy(objective)


@contextmanager
def _explain_lost_process(processes: Processes) -> Iterator[None]:
    """Say in a sentence that another process of the run has ended: what the others see is a broken connection."""
    try:
        yield
    except RuntimeError as error:
        broken = isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in LOST)
        if processes.world == 1 or not broken:
            raise
        raise UserError(
            f"expected all {processes.world} processes of the run to go on, got the end of one"
            f" ({str(error).strip().splitlines()[0][:120]}); the same command resumes from the newest checkpoint"
        ) from error


def _trainer(
    module: Pretraining,
    callbacks: list[pl.Callback],
    folder: Path,
    processes: Processes,
    loggers: tuple[LoggerName, ...],
) -> pl.Trainer:
    """Lightning's trainer without its own log, progress, sampler and epochs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # devices and tips are noise in a log
    return pl.Trainer(
        max_steps=module.steps,
        max_epochs=1,  # Lightning's epoch is the whole run; the sampler counts its own
        gradient_clip_val=module.config.clip_grad,
        callbacks=callbacks,
        logger=make_loggers(loggers, folder / "logs") or False,
        log_every_n_steps=1,  # the run log decides what loggers receive
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder / "checkpoints",  # where Lightning looks for its own, none of which are there
        **processes.trainer_options(),
    )

"""Fitting: one network trained by gradient descent, and the predictions of a fitted one.

A plain loop: it has one device, no checkpoints and no logs, the number of steps is known before it begins, and equal
seeds must give equal bits. A trainer would add hooks and folders and take none of that away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eo_ssl.encoder import Encoder
from eo_ssl.evaluation.sources import Rows
from eo_ssl.evaluation.task_metrics import PredictionArray
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning.losses import TuningLoss, make_loss
from eo_ssl.evaluation.tuning.network import Network, make_network
from eo_ssl.evaluation.tuning.optimisation import LayerwiseAdamW
from eo_ssl.evaluation.tuning.stacked_encoder import StackedEncoder, list_contracts
from eo_ssl.evaluation.tuning.task_loader import TaskLoader, augment_batch, shuffle_batches, split_in_order
from eo_ssl.evaluation.tuning.tuning_config import LEAST_STEPS, TunedProtocol, Tuning
from eo_ssl.models import merge_lora

CHECKS = 10  # states among which the validation split chooses


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Task, encoder, protocol and recipe of one training."""

    task: Task
    encoder: Encoder | StackedEncoder
    protocol: TunedProtocol
    config: Tuning
    device: str = "cpu"
    progress: Callable[[int], None] | None = None
    "called with the number of images that passed through a network"

    @property
    def loader(self) -> TaskLoader:
        """Batches through the encoder's own contracts."""
        return TaskLoader(self.task, list_contracts(self.encoder), self.device)


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    """A trained network."""

    network: Network
    criterion: TuningLoss
    finite: bool
    "whether the loss stayed finite to the end"
    score: float
    "the task's metric on the samples that chose the state; NaN where none did"


def fit(job: TrainingJob, rows: Rows, *, rate: float, chosen_by: Rows | None = None) -> FittedNetwork:
    """Return a network fitted to the samples ``rows``.

    Args:
        job: task, encoder and recipe.
        rows: positions in the task.
        rate: learning rate of AdamW for a whole batch.
        chosen_by: samples that choose among ten states of the run, the later one of equals; None for the last state.

    Raises:
        UserError: images, masks or network do not fit.
    """
    config = job.config
    size, steps = count_steps(config, len(rows))
    checks = list_checks(steps)
    best, kept = -np.inf, None
    with set_seed(config.seed, job.device):
        network, criterion = _prepare(job, rows)
        scaled = rate * min(1.0, len(rows) / config.batch_size)
        optimiser = LayerwiseAdamW(network.groups(config), rate=scaled, steps=steps, warmup=config.warmup)
        for step, loss in enumerate(_losses(job, network.train(), criterion, rows, size=size, steps=steps), 1):
            if not bool(torch.isfinite(loss)):
                return FittedNetwork(network, criterion, finite=False, score=-np.inf)
            optimiser.step(loss)
            if chosen_by is not None and step in checks:
                score = criterion.score(job.task, chosen_by, predict(job, network, criterion, chosen_by))
                if score >= best or kept is None:
                    best, kept = score, _state(network)
                network.train()
    if kept is not None:
        network.load_state_dict(kept, strict=False)
    if job.protocol.adapts == "lora":
        merge_lora(network.encoder.model)
    return FittedNetwork(network.eval(), criterion, finite=True, score=np.nan if kept is None else best)


def count_steps(config: Tuning, count: int) -> tuple[int, int]:
    """Return the images of a step and the number of steps with which ``count`` samples are fitted."""
    # At least two: a decoder that normalises over the batch cannot learn from one pooled position.
    size = max(2, min(config.batch_size, count))
    return size, max(LEAST_STEPS, config.epochs * count // size) if config.steps is None else config.steps


def list_checks(steps: int) -> set[int]:
    """Return the steps, from 1, after which the validation split looks at the network."""
    return {max(1, round(steps * (number + 1) / CHECKS)) for number in range(CHECKS)}


def predict(job: TrainingJob, network: Network, criterion: TuningLoss, rows: Rows) -> PredictionArray:
    """Return what ``network`` predicts for the samples ``rows``, in their order; it is left in evaluation mode.

    Returns:
        As `TuningLoss.predict`; NaN [m] where a logit is not finite, of which a class would not tell.
    """
    network.eval()
    found = []
    with torch.inference_mode():
        for batch in job.loader.batches(split_in_order(rows, size=job.config.batch_size)):
            with _mixed(job):
                logits = network(batch.image, batch.valid)
            if not bool(torch.isfinite(logits).all()):
                return np.full(len(rows), np.nan)
            found.append(criterion.predict(logits, batch.target))
            _report(job, len(batch))
    return np.concatenate(found)


def _prepare(job: TrainingJob, rows: Rows) -> tuple[Network, TuningLoss]:
    """Untrained network and loss for the samples."""
    loader, config = job.loader, job.config
    criterion = make_loss(loader, rows, class_weights=config.class_weights, batch_size=config.batch_size)
    (example,) = loader.batches([rows[:1]])
    return make_network(
        job.encoder, example, protocol=job.protocol, config=config, outputs=criterion.outputs
    ), criterion


def _losses(
    job: TrainingJob, network: Network, criterion: TuningLoss, rows: Rows, *, size: int, steps: int
) -> Iterator[Tensor]:
    """Yield the loss of each step's batch under the weights of that moment."""
    # Generators of their own: what a network draws for skipped blocks does not change what it is shown.
    orders, symmetries = (torch.Generator().manual_seed(2 * job.config.seed + number) for number in range(2))
    masked = job.task.kind == "segmentation"
    groups = shuffle_batches(rows, size=size, steps=steps, generator=orders)
    for batch in job.loader.batches(groups):
        shown = augment_batch(batch, job.config.augment, masked=masked, generator=symmetries)
        with _mixed(job):
            logits = network(shown.image, shown.valid)
        _report(job, len(shown))
        yield criterion.loss(logits, shown.target)


def _state(network: Network) -> dict[str, Tensor]:
    """A copy of everything that training changes."""
    names = network.changing()
    return {name: value.detach().clone() for name, value in network.state_dict().items() if name in names}


def _report(job: TrainingJob, count: int) -> None:
    if job.progress is not None:
        job.progress(count)


def _mixed(job: TrainingJob) -> torch.autocast:
    device = torch.device(job.device).type
    return torch.autocast(device, dtype=torch.bfloat16, enabled=job.config.precision == "bfloat16")


@contextmanager
def set_seed(seed: int, device: str) -> Iterator[None]:
    """Draw weights, skipped blocks and dropout from ``seed`` in the block; torch's generators come back as before."""
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        yield

"""One network fitted by gradient descent, and the answers of a fitted one.

A plain loop: it has one device, no checkpoints and no logs, the number of steps is known before it begins, and equal seeds must give
equal bits. A trainer would add hooks and folders and take none of that away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eo_ssl.encoder import Encoder
from eo_ssl.evaluation.features import Rows
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning import lora
from eo_ssl.evaluation.tuning.losses import Answered, Objective, make_loss
from eo_ssl.evaluation.tuning.network import Network, make_network
from eo_ssl.evaluation.tuning.optimisation import LayerwiseAdamW
from eo_ssl.evaluation.tuning.task_loader import TaskLoader, augment_batch, shuffle_batches, split_in_order
from eo_ssl.evaluation.tuning.tuning_config import LEAST_STEPS, Tuned, Tuning

CHECKS = 10  # states among which the validation split chooses


@dataclass(frozen=True, slots=True)
class Job:
    """What is fitted to what, and how."""

    task: Task
    encoder: Encoder
    protocol: Tuned
    config: Tuning
    device: str = "cpu"
    progress: Callable[[int], None] | None = None
    "called with the number of images that passed through a network"

    @property
    def feed(self) -> TaskLoader:
        """Batches through the encoder's own contract."""
        return TaskLoader(self.task, self.encoder.preprocessing, self.device)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network."""

    network: Network
    objective: Objective
    finite: bool
    "whether the loss stayed finite to the end"
    score: float
    "the task's metric on the samples that chose the state; NaN where none did"


def fit(job: Job, rows: Rows, *, rate: float, chosen_by: Rows | None = None) -> Fitted:
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
    size, steps = length(config, len(rows))
    checks = checked(steps)
    best, kept = -np.inf, None
    with seeded(config.seed, job.device):
        network, objective = _made(job, rows)
        scaled = rate * min(1.0, len(rows) / config.batch_size)
        descent = LayerwiseAdamW(network.groups(config), rate=scaled, steps=steps, warmup=config.warmup)
        for step, loss in enumerate(_losses(job, network.train(), objective, rows, size=size, steps=steps), 1):
            if not bool(torch.isfinite(loss)):
                return Fitted(network, objective, finite=False, score=-np.inf)
            descent.step(loss)
            if chosen_by is not None and step in checks:
                score = objective.score(job.task, chosen_by, answers(job, network, objective, chosen_by))
                if score >= best or kept is None:
                    best, kept = score, _state(network)
                network.train()
    if kept is not None:
        network.load_state_dict(kept, strict=False)
    if job.protocol == "lora":
        lora.merge(network.encoder.model)
    return Fitted(network.eval(), objective, finite=True, score=np.nan if kept is None else best)


def length(config: Tuning, count: int) -> tuple[int, int]:
    """Return the images of a step and the number of steps with which ``count`` samples are fitted."""
    # At least two: a decoder that normalises over the batch cannot learn from one pooled position.
    size = max(2, min(config.batch_size, count))
    return size, max(LEAST_STEPS, config.epochs * count // size) if config.steps is None else config.steps


def checked(steps: int) -> set[int]:
    """Return the steps, from 1, after which the validation split looks at the network."""
    return {max(1, round(steps * (number + 1) / CHECKS)) for number in range(CHECKS)}


def answers(job: Job, network: Network, objective: Objective, rows: Rows) -> Answered:
    """Return what ``network`` answers on the samples ``rows``, in their order; the network is left in evaluation mode.

    Returns:
        As `Objective.answer`; NaN [m] where a logit is not finite, of which a class would not tell.
    """
    network.eval()
    found = []
    with torch.inference_mode():
        for batch in job.feed.batches(split_in_order(rows, size=job.config.batch_size)):
            with _mixed(job):
                logits = network(batch.image, batch.valid)
            if not bool(torch.isfinite(logits).all()):
                return np.full(len(rows), np.nan)
            found.append(objective.answer(logits, batch.target))
            _report(job, len(batch))
    return np.concatenate(found)


def _made(job: Job, rows: Rows) -> tuple[Network, Objective]:
    """Untrained network and objective for the samples."""
    feed, config = job.feed, job.config
    objective = make_loss(feed, rows, class_weights=config.class_weights, batch_size=config.batch_size)
    (example,) = feed.batches([rows[:1]])
    return make_network(
        job.encoder, example, protocol=job.protocol, config=config, outputs=objective.outputs
    ), objective


def _losses(job: Job, network: Network, objective: Objective, rows: Rows, *, size: int, steps: int) -> Iterator[Tensor]:
    """Yield the loss of each step's batch under the weights of that moment."""
    # Generators of their own: what a network draws for skipped blocks does not change what it is shown.
    orders, symmetries = (torch.Generator().manual_seed(2 * job.config.seed + number) for number in range(2))
    masked = job.task.kind == "segmentation"
    groups = shuffle_batches(rows, size=size, steps=steps, generator=orders)
    for batch in job.feed.batches(groups):
        shown = augment_batch(batch, job.config.augment, masked=masked, generator=symmetries)
        with _mixed(job):
            logits = network(shown.image, shown.valid)
        _report(job, len(shown))
        yield objective.loss(logits, shown.target)


def _state(network: Network) -> dict[str, Tensor]:
    """A copy of everything that training changes."""
    names = network.changing()
    return {name: value.detach().clone() for name, value in network.state_dict().items() if name in names}


def _report(job: Job, count: int) -> None:
    if job.progress is not None:
        job.progress(count)


def _mixed(job: Job) -> torch.autocast:
    device = torch.device(job.device).type
    return torch.autocast(device, dtype=torch.bfloat16, enabled=job.config.precision == "bfloat16")


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Draw weights, skipped blocks and dropout from ``seed`` inside the block; torch's global generators come back as they were."""
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        yield

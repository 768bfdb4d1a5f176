"""The one LightningModule: optimiser and schedules, in optimizer steps, around any objective."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from eo_ssl.errors import UserError, expect
from eo_ssl.models import View
from eo_ssl.objectives import Batch, Objective, Step, mean_over_processes

TOKENS = ("cls_token", "reg_token", "pos_embed", "mask_token")  # parameters that are inputs, not maps


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class OptimizerConfig:
    """An optimiser with linear warm-up and cosine decay, counted in optimizer steps."""

    algorithm: Literal["adamw", "sgd", "lars"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019), SGD, or LARS (You et al. 2017) for large batches."""
    momentum: float = 0.9
    """Of SGD and LARS."""
    weight_decay: float = 0.05
    """On matrices and kernels only, never on biases, norms and tokens (He et al. 2022, table 8)."""
    weight_decay_end: float | None = None
    """Weight decay at the last step, reached along a cosine; None keeps it constant."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the two moments (He et al. 2022, table 8)."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from `lr_start` times its peak."""
    lr_start: float = 0.0
    """Share of the peak learning rate before the first step of the warm-up."""
    lr_end: float = 0.0
    """Share of the peak learning rate at the last step."""
    clip_grad: float | None = None
    """Largest norm of the gradient; None does not clip."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.warmup_steps < 0 or self.weight_decay < 0 or (self.weight_decay_end or 0) < 0:
            raise UserError(
                f"warmup_steps and weight decay must be >= 0, got {self.warmup_steps}, {self.weight_decay} and"
                f" {self.weight_decay_end}: raise them"
            )
        expect(0 <= self.momentum < 1, expected="momentum within 0 and 1", got=self.momentum, remedy="try 0.9")
        if not 0 <= self.lr_start <= 1 or not 0 <= self.lr_end <= 1:
            raise UserError(f"lr_start and lr_end are shares of the peak, got {self.lr_start} and {self.lr_end}")


def compute_lr_share(step: int, *, total: int, config: OptimizerConfig) -> float:
    """Learning rate of the step after `step` finished ones, as a share of its peak.

    Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, equation 5, one cycle).
    """
    if step < config.warmup_steps:
        return config.lr_start + (1 - config.lr_start) * (step + 1) / config.warmup_steps
    done = min((step - config.warmup_steps) / max(total - config.warmup_steps, 1), 1.0)
    return config.lr_end + (1 - config.lr_end) * 0.5 * (1 + math.cos(math.pi * done))


def compute_weight_decay(step: int, *, total: int, config: OptimizerConfig) -> float:
    """Weight decay of the step after `step` finished ones: constant, or along half a cosine to its end."""
    if config.weight_decay_end is None:
        return config.weight_decay
    return Step(step, total, seed=0).cosine(config.weight_decay, config.weight_decay_end)


def group_parameters(module: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters in two groups: matrices and kernels decay; biases, norms and tokens do not."""
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    free = [p for name, p in trained if p.ndim <= 1 or name.rsplit(".", 1)[-1] in TOKENS]
    known = {id(parameter) for parameter in free}
    decayed = [parameter for _, parameter in trained if id(parameter) not in known]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def make_optimizer(groups: list[dict[str, Any]], *, lr: float, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser over groups of parameters; AdamW in one fused kernel, LARS without adapting what does not decay."""
    if config.algorithm == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=config.betas, fused=True)
    if config.algorithm == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum)
    return Lars(groups, lr=lr, momentum=config.momentum)


class Pretraining(pl.LightningModule):
    """Trains any `Objective`; holds no state of its own beside the objective's weights."""

    def __init__(self, objective: Objective, *, lr: float, steps: int, optimizer: OptimizerConfig) -> None:
        """Prepare to train.

        Args:
            objective: what is trained.
            lr: peak learning rate.
            steps: optimizer steps of the whole run.
            optimizer: everything else of the optimiser.

        Raises:
            UserError: for a learning rate or a number of steps out of range.
        """
        super().__init__()
        if lr <= 0 or steps < 1 or optimizer.warmup_steps >= steps:
            raise UserError(
                f"expected lr > 0 and more steps than warm-up, got lr {lr}, {steps} steps and"
                f" {optimizer.warmup_steps} of warm-up: change one of them"
            )
        self.objective, self.lr, self.steps, self.config = objective, lr, steps, optimizer
        self.last: dict[str, Tensor] = {}
        """Results of the latest batch, means over all processes, on the device."""
        self.step = Step(0, steps, seed=0)
        """Of the latest batch."""
        self.stepped = False
        """Whether the latest batch was the last of an optimizer step."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of the batch."""
        self.step, self.stepped = batch.step, False
        results: dict[str, Tensor] = self.objective(batch)
        self.last = {name: mean_over_processes(value.detach()) for name, value in results.items()}
        return results["loss"]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser and its learning rate per step."""
        groups = group_parameters(self.objective, weight_decay=self.config.weight_decay)
        optimizer = make_optimizer(groups, lr=self.lr, config=self.config)
        schedule = LambdaLR(optimizer, lambda step: compute_lr_share(step, total=self.steps, config=self.config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the weight decay of this step."""
        decay = compute_weight_decay(self.global_step, total=self.steps, config=self.config)
        self.trainer.optimizers[0].param_groups[0]["weight_decay"] = decay

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the objective update its teacher, so that every callback sees both in one state."""
        super().optimizer_step(*args, **kwargs)
        self.stepped = True
        done = self.global_step + 1  # Lightning counts the step afterwards
        self.objective.after_step(dataclasses.replace(self.step, number=done))

    def lr_at(self, step: int) -> float:
        """Learning rate of the step after `step` finished ones."""
        return self.lr * compute_lr_share(step, total=self.steps, config=self.config)

    @torch.no_grad()
    def embed(self, views: Sequence[View]) -> Tensor:
        """Features of items in evaluation mode: the views of one item beside each other, [B, D] float32, on the CPU.

        Those of several views are brought to length 1 first, so that none outweighs another.
        """
        training = self.objective.training
        self.objective.eval()
        try:
            features = [self.objective.embed(view) for view in views]
        finally:
            self.objective.train(training)
        if len(features) > 1:
            features = [nn.functional.normalize(vectors, dim=1) for vectors in features]
        return torch.cat(features, dim=1).float().cpu()

    @torch.no_grad()
    def project(self, features: Tensor) -> Tensor | None:
        """What the loss compares, [B, d] on the CPU, from features [B, D] of single views; None where it has no head.

        None too for features of several views beside each other, which no head takes.
        """
        training = self.objective.training
        if features.shape[1] != self.objective.encoder.dim:
            return None
        self.objective.eval()
        try:
            projection = self.objective.project(features.to(self.device))
        finally:
            self.objective.train(training)
        return None if projection is None else projection.float().cpu()


def require_pretraining(module: pl.LightningModule) -> Pretraining:
    """The module under its own type; the callbacks of this room serve no other."""
    if not isinstance(module, Pretraining):
        raise TypeError(f"expected eo_ssl's Pretraining module, got {type(module).__name__}")
    return module

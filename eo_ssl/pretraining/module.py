"""The one LightningModule: optimiser and schedules, in optimizer steps, around any objective."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
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

TOKENS = ("cls_token", "reg_token", "pos_embed", "mask_token", "channel_embed")  # parameters that are inputs, not maps


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class OptimizerConfig:
    """An optimiser with linear warm-up and a schedule that ends, or one that does not, counted in optimizer steps."""

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
    """Share of the peak learning rate at the last step, or at the end of the annealing."""
    schedule: Literal["cosine", "infinite"] = "cosine"
    """After the warm-up: half a cosine to the last step; or a cosine to a constant rate, which a run can go on with for
    ever, and whose last steps anneal where it is asked for (Ibrahim et al. 2024, arXiv 2403.08763; Singh et al. 2025,
    arXiv 2503.02844)."""
    cooldown_steps: int = 0
    """Of the infinite schedule: steps from the peak to the constant rate."""
    lr_constant: float = 0.5
    """Of the infinite schedule: share of the peak learning rate that stays (ours)."""
    anneal_steps: int = 0
    """Of the infinite schedule: last steps of the run, in which the rate falls to `lr_end` by equal factors."""
    horizon: int | None = None
    """Steps over which what a method changes with time changes, such as the momentum of its teacher, and the weight
    decay; then it stays. None: the run, or warm-up and cool-down of the infinite schedule."""
    layer_decay: float | None = None
    """Factor of the learning rate from each block of a transformer to the one before it (Bao et al. 2022; He et al.
    2022, table 9, for fine-tuning); None gives all layers one rate."""
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
        endless = self.schedule == "infinite"
        for name in ("cooldown_steps", "anneal_steps"):
            number = getattr(self, name)
            expect(
                number == 0 or (endless and number > 0),
                expected=f"{name} of at least 0, and of schedule infinite alone",
                got=f"{number} with schedule {self.schedule}",
                remedy="choose --optimizer.schedule infinite, or leave it out",
            )
        expect(0 < self.lr_constant <= 1, expected="lr_constant in (0, 1]", got=self.lr_constant, remedy="try 0.5")
        expect(
            not self.anneal_steps or 0 < self.lr_end <= self.lr_constant,
            expected=f"lr_end above 0 and up to lr_constant {self.lr_constant} to anneal to",
            got=self.lr_end,
            remedy="try --optimizer.lr_end 0.01",
        )
        for name, bad in (
            ("horizon", self.horizon is not None and self.horizon < 1),
            ("clip_grad", self.clip_grad is not None and self.clip_grad <= 0),
            ("layer_decay", self.layer_decay is not None and not 0 < self.layer_decay <= 1),
        ):
            remedy = "give a share above 0" if name == "layer_decay" else "enlarge it, or leave it out"
            expect(not bad, expected=f"a sensible {name}", got=getattr(self, name), remedy=remedy)

    def count_horizon(self, steps: int) -> int:
        """Steps over which what changes along a run of so many steps changes."""
        if self.horizon is not None:
            return self.horizon
        return steps if self.schedule == "cosine" else max(self.warmup_steps + self.cooldown_steps, 1)


def compute_lr_share(step: int, *, total: int, config: OptimizerConfig) -> float:
    """Learning rate of the step after `step` finished ones, as a share of its peak.

    Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, equation 5, one cycle), to the end or to a constant
    rate; that falls exponentially in the last steps, c (e / c)^x with x from 0 to 1 (Singh et al. 2025).
    """
    if step < config.warmup_steps:
        return config.lr_start + (1 - config.lr_start) * (step + 1) / config.warmup_steps
    if config.schedule == "infinite":
        annealed = step - (total - config.anneal_steps)
        if config.anneal_steps and annealed >= 0:
            fallen: float = (config.lr_end / config.lr_constant) ** min(annealed / config.anneal_steps, 1.0)
            return config.lr_constant * fallen
        cooled, steps = step - config.warmup_steps, config.cooldown_steps
        done = cooled / steps if cooled < steps else 1.0
        return config.lr_constant + (1 - config.lr_constant) * 0.5 * (1 + math.cos(math.pi * done))
    done = min((step - config.warmup_steps) / max(total - config.warmup_steps, 1), 1.0)
    return config.lr_end + (1 - config.lr_end) * 0.5 * (1 + math.cos(math.pi * done))


def compute_weight_decay(step: int, *, total: int, config: OptimizerConfig) -> float:
    """Weight decay of the step after `step` finished ones: constant, or along half a cosine to its end."""
    if config.weight_decay_end is None:
        return config.weight_decay
    return Step(step, config.count_horizon(total), seed=0).cosine(config.weight_decay, config.weight_decay_end)


def group_parameters(
    module: nn.Module, *, weight_decay: float, scales: Mapping[int, float] | None = None
) -> list[dict[str, Any]]:
    """Trained parameters in pairs of groups: matrices and kernels decay; biases, norms and tokens do not.

    Args:
        module: whose parameters are trained.
        weight_decay: of the first group of each pair.
        scales: share of the learning rate by `id` of the parameter, 1 where it is not named; a pair for each share,
            the largest first, with the key `scale`. None makes one pair.
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = []
    known = scales or {}
    for scale in sorted({known.get(id(parameter), 1.0) for _, parameter in trained}, reverse=True):
        own = [(name, parameter) for name, parameter in trained if known.get(id(parameter), 1.0) == scale]
        free = [p for name, p in own if p.ndim <= 1 or name.rsplit(".", 1)[-1] in TOKENS]
        kept = {id(parameter) for parameter in free}
        pair = [
            {"params": [parameter for _, parameter in own if id(parameter) not in kept], "weight_decay": weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        groups += pair if scales is None else [{**group, "scale": scale} for group in pair]
    return groups


def scale_layers(encoders: Iterable[nn.Module], *, layer_decay: float) -> dict[int, float]:
    """Share of the learning rate of every parameter of transformers, by its `id`: layer_decay^(distance from the top).

    Bao et al. 2022, and He et al. 2022 in their code (`util/lr_decay.py`): the last block has one factor, the first of
    L blocks L, tokens and patch projection L + 1; what follows the blocks has none.

    Raises:
        UserError: a network without blocks.
    """
    scales: dict[int, float] = {}
    for encoder in encoders:
        for network in encoder.children():
            blocks = getattr(network, "blocks", None)
            expect(
                isinstance(blocks, nn.Sequential | nn.ModuleList),
                expected="transformers for layer_decay",
                got=type(network).__name__,
                remedy="leave it out",
            )
            depth = len(blocks)  # type: ignore[arg-type]
            for name, parameter in network.named_parameters():
                head, _, rest = name.partition(".")
                distance = depth - int(rest.partition(".")[0]) if head == "blocks" else depth + 1
                scales[id(parameter)] = 1.0 if head in ("norm", "fc_norm") else layer_decay**distance
    return scales


def make_optimizer(groups: list[dict[str, Any]], *, lr: float, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser over groups of parameters; AdamW in one fused kernel, LARS without adapting what does not decay.

    A group with a `scale` has that share of the learning rate.
    """
    groups = [{"lr": lr * group["scale"], **group} if "scale" in group else group for group in groups]
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
        changing = optimizer.warmup_steps + optimizer.cooldown_steps + optimizer.anneal_steps
        expect(
            not optimizer.anneal_steps or changing <= steps,
            expected=f"at least {changing} steps to warm up, cool down and anneal",
            got=steps,
            remedy="lower one of them, or train for longer",
        )
        self.objective, self.lr, self.steps, self.config = objective, lr, steps, optimizer
        self.horizon = optimizer.count_horizon(steps)
        """Steps over which what changes with time changes."""
        self.items: int | None = None
        self.rows: int | None = None
        """Items of the pool that the objective was prepared for."""
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
        decay, scales = self.config.layer_decay, None
        if decay is not None:
            scales = scale_layers(self.objective.encoders.values(), layer_decay=decay)
        groups = group_parameters(self.objective, weight_decay=self.config.weight_decay, scales=scales)
        optimizer = make_optimizer(groups, lr=self.lr, config=self.config)
        schedule = LambdaLR(optimizer, lambda step: compute_lr_share(step, total=self.steps, config=self.config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the weight decay of this step."""
        decay = compute_weight_decay(self.global_step, total=self.steps, config=self.config)
        for group in self.trainer.optimizers[0].param_groups[::2]:  # those that decay
            group["weight_decay"] = decay

    def prepare(self, items: int, *, rows: int | None = None) -> None:
        """Tell the objective how many items the run draws from, out of how many rows of the source.

        A run that goes on keeps the number of items that it was told first.
        """
        self.items, self.rows = items, rows
        self.objective.prepare(items, rows=rows)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the number of items."""
        checkpoint["items"] = self.items

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Prepare for the items that the run began with, so that its state fits; earlier versions did not say."""
        if checkpoint.get("items") is not None:
            self.prepare(checkpoint["items"], rows=self.rows)

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

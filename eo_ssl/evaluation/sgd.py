"""Linear probe by stochastic gradient descent: one head per learning rate, all trained at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from eo_ssl.errors import UserError
from eo_ssl.evaluation.linear import Floats, Matrix, Scorer, fit_standardiser
from eo_ssl.evaluation.tuning.optimisation import scale_rate

RATES = tuple(10.0 ** (power / 2) for power in range(-8, 1))
"""Learning rates for a batch of 256, half decades from 1e-4 to 1 (ours; the sweep of DINOv2's code ends at 0.5)."""
EPOCHS = 100
BATCH = 256
MOMENTUM = 0.9
_STEPS = 1000  # at least: few samples make short epochs


@dataclass(frozen=True, slots=True)
class Problem:
    """Loss and number of outputs."""

    kind: str
    """`classification` (cross entropy), `multilabel` (binary cross entropy of each label) or `regression` (squared
    error)"""
    outputs: int
    "number of classes or labels; 1 for a regression"


def fit(x: Matrix, y: npt.NDArray[Any], problem: Problem, *, rates: Sequence[float] = RATES, seed: int) -> list[Scorer]:
    """Return one scorer per learning rate, on features standardised by these samples.

    SGD with momentum 0.9, no weight decay, cosine decay to 0 over 100 epochs (at least 1,000 steps). Every head sees
    the same batches; the heads are independent, so one pass trains them all.

    Args:
        x: [n, D] float32.
        y: classification: [n] int64; multilabel: [n, K] 0 or 1; regression: [n] float32.
        problem: loss and number of outputs.
        rates: learning rates; each is scaled by batch / 256 where fewer samples make smaller batches.
        seed: of the order of the samples.

    Raises:
        UserError: no sample.
    """
    if not len(x) or len(x) != len(y):
        raise UserError(
            f"expected as many labels as samples and at least one, got {len(x)} samples and {len(y)} labels; check "
            "the task's split"
        )
    shift, scale = fit_standardiser(x)
    centre, spread = (float(y.mean()), float(y.std()) or 1.0) if problem.kind == "regression" else (0.0, 1.0)
    data = torch.from_numpy(((x - shift) / scale).astype(np.float32))
    target = torch.from_numpy((y - centre) / spread if problem.kind == "regression" else np.ascontiguousarray(y))
    batch = min(BATCH, len(x))
    steps = max(_STEPS, EPOCHS * (len(x) // batch))
    step_of = torch.tensor(rates).view(-1, 1, 1) * (batch / BATCH)  # [L, 1, 1]
    weight = torch.zeros(len(rates), problem.outputs, x.shape[1] + 1)  # the last column is the bias
    velocity = torch.zeros_like(weight)
    rng = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(x), generator=rng)
        rows, order = order[:batch], order[batch:]
        sample = functional.pad(data[rows], (0, 1), value=1.0)  # [b, D + 1]
        residual = _residual(torch.einsum("bd,lkd->lbk", sample, weight), target[rows], problem)  # [L, b, K]
        velocity.mul_(MOMENTUM).add_(torch.einsum("lbk,bd->lkd", residual, sample), alpha=1 / batch)
        weight.sub_(step_of * velocity * scale_rate(step, steps=steps, warmup=0.0))
    solved: Floats = weight.double().numpy() * spread
    solved[..., -1] += centre
    return [Scorer(one[:, :-1], one[:, -1], shift, scale, rate) for one, rate in zip(solved, rates, strict=True)]


def _residual(scores: Tensor, target: Tensor, problem: Problem) -> Tensor:
    """Gradient of the loss by the scores [L, b, K]: probability, or value, minus truth."""
    if problem.kind == "classification":
        return scores.softmax(dim=2) - functional.one_hot(target, problem.outputs).to(scores.dtype)
    if problem.kind == "multilabel":
        return scores.sigmoid() - target.to(scores.dtype)
    return scores - target.to(scores.dtype)[:, None]

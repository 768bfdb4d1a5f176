"""Losses of trained protocols and what their networks predict, by kind of task."""

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
from eo_ssl.evaluation.sources import Rows
from eo_ssl.evaluation.task_metrics import PredictionArray, measure
from eo_ssl.evaluation.tasks import IGNORED, Kind, Task
from eo_ssl.evaluation.tuning.decoders import resize_maps
from eo_ssl.evaluation.tuning.task_loader import TaskLoader, split_in_order
from eo_ssl.evaluation.tuning.tuning_config import ClassWeights


@dataclass(frozen=True, slots=True)
class TuningLoss:
    """Loss and answers of one kind of task."""

    kind: Kind
    outputs: int
    "classes or labels; 1 for a regression"
    centre: float = 0.0
    "mean of the values taught, in their own unit"
    spread: float = 1.0
    "their standard deviation"
    weights: Tensor | None = None
    "[K] float32, weight of each class of a mask"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch: cross entropy, of each label for labels, squared error for values.

        Pixels `IGNORED` count neither above nor below the line; a batch without any other has loss 0.

        Args:
            logits: [B, K], or [B, K, h, w] float32, which are resized to the mask.
            target: as in `TaskBatch`.
        """
        logits = logits.float()
        if self.kind == "classification":
            return functional.cross_entropy(logits, target)
        if self.kind == "multilabel":
            return functional.binary_cross_entropy_with_logits(logits, target)
        if self.kind == "regression":
            return functional.mse_loss(logits[:, 0], (target - self.centre) / self.spread)
        logits = resize_maps(logits, (target.shape[-2], target.shape[-1]))
        summed = functional.cross_entropy(logits, target, weight=self.weights, ignore_index=IGNORED, reduction="sum")
        asked = target[target != IGNORED]
        total = asked.numel() if self.weights is None else float(self.weights[asked].sum())
        return summed / total if total else summed

    def predict(self, logits: Tensor, target: Tensor) -> PredictionArray:
        """Return the predictions of a batch.

        Returns:
            classification: int64 [b]; multilabel: float32 scores [b, K]; regression: float32 [b] in the unit of the
                task;
            segmentation: int64 [b, K, K] pixels by truth and prediction, ignored ones left out.
        """
        logits = logits.float()
        if self.kind == "classification":
            return logits.argmax(dim=1).cpu().numpy()
        if self.kind == "multilabel":
            return logits.cpu().numpy()
        if self.kind == "regression":
            return (logits[:, 0] * self.spread + self.centre).cpu().numpy()
        return count_confusion(
            resize_maps(logits, (target.shape[-2], target.shape[-1])).argmax(dim=1), target, self.outputs
        )

    def score(self, task: Task, rows: Rows, answers: PredictionArray) -> float:
        """Return the task's metric of ``answers`` on ``rows``, the worst where not finite or undefined."""
        if not len(answers) or not np.isfinite(answers).all():
            return -np.inf
        truth = task.labels[rows]
        if (
            (self.kind == "multilabel" and not truth.any())
            or (self.kind == "regression" and np.ptp(truth) == 0)
            or (self.kind == "segmentation" and not answers.any())
        ):
            return -np.inf  # says nothing of any option
        return measure(task.metric, answers[None], truth).value


def make_loss(loader: TaskLoader, rows: Rows, *, class_weights: ClassWeights, batch_size: int) -> TuningLoss:
    """Return the loss of the loader's task, scaled and weighted by the samples ``rows`` that teach.

    Raises:
        UserError: samples to teach with that have no value, or no pixel that may be asked.
    """
    task = loader.task
    outputs = max(1, len(task.class_names))
    if task.kind == "regression":
        taught = task.labels[rows].astype(np.float64)
        if not np.isfinite(taught).all():
            raise UserError(
                f"expected finite values to learn in {task.name}, got NaN or infinity; leave those images out"
            )
        return TuningLoss(task.kind, 1, float(taught.mean()), float(taught.std()) or 1.0)
    if task.kind != "segmentation" or class_weights == "none":
        return TuningLoss(task.kind, outputs)
    pixels = count_pixels(loader.masks(split_in_order(rows, size=batch_size)), outputs)
    if not pixels.any():
        raise UserError(f"expected labelled pixels among the training masks of {task.name}, got none; check the split")
    present = pixels > 0
    weights = np.zeros(outputs, dtype=np.float32)
    weights[present] = pixels.sum() / (present.sum() * pixels[present])
    return TuningLoss(task.kind, outputs, weights=torch.from_numpy(weights).to(loader.device))


def count_pixels(masks: Sequence[Tensor] | Any, classes: int) -> npt.NDArray[np.int64]:
    """Return the pixels of each class in all ``masks``, int64 [K]; ignored ones are left out."""
    total = np.zeros(classes, dtype=np.int64)
    for mask in masks:
        total += torch.bincount(mask[mask != IGNORED], minlength=classes).numpy()
    return total


def count_confusion(predicted: Tensor, truth: Tensor, classes: int) -> npt.NDArray[np.int64]:
    """Return the pixels of each image by true and predicted class, int64 [B, K, K]; ignored ones are left out.

    Args:
        predicted: [B, H, W] int64.
        truth: [B, H, W] int64, `IGNORED` where nobody is asked.
        classes: K.
    """
    images = torch.arange(len(truth), device=truth.device).view(-1, 1, 1)
    cell = (images * classes + truth) * classes + predicted
    counts = torch.bincount(cell[truth != IGNORED], minlength=len(truth) * classes**2)
    found: npt.NDArray[np.int64] = counts.view(len(truth), classes, classes).cpu().numpy()
    return found

"""The encoder as checkpoints that TorchGeo's tasks load by their path.

TorchGeo reads Lightning checkpoints only, takes the weights by a prefix that depends on a hyperparameter, and loads what fits: a wrong
prefix loads nothing and says nothing. The routes are therefore judged by their features.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from eo_ssl.encoder import VitEncoder

CLASSIFICATION_FILE = "torchgeo_classification.ckpt"
SEGMENTATION_FILE = "torchgeo_segmentation_dpt.ckpt"
_CLASSES = 10  # of the task in which features are checked; any number loads


def saved(content: Mapping[str, Any]) -> bytes:
    """Return the bytes `torch.save` writes for tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def plain_weights(encoder: VitEncoder) -> dict[str, Tensor]:
    """Return the state dict of the timm model, on the CPU."""
    return {key: value.detach().cpu().contiguous() for key, value in encoder.model.state_dict().items()}


def classification_bytes(encoder: VitEncoder) -> bytes:
    """Return the checkpoint for ``ClassificationTask(model=..., weights=path, in_channels=...)``."""
    weights = {f"model.{key}": value for key, value in plain_weights(encoder).items()}
    return saved(_checkpoint({"model": encoder.architecture.timm_name}, weights, encoder))


def segmentation_bytes(encoder: VitEncoder) -> bytes:
    """Return the checkpoint for ``SemanticSegmentationTask(model="dpt", backbone="tu-...", weights=path, in_channels=...)``.

    The task's encoder keeps the classifier that timm gives a model of this name, which it never uses, and loads strictly: where the
    name has one (vit_small_patch16_224 has, vit_small_patch8_224 has not), the checkpoint carries one of zeros.
    """
    weights = {f"model.backbone.model.model.{key}": value for key, value in plain_weights(encoder).items()}
    head: Any = timm.create_model(encoder.architecture.timm_name).head
    if isinstance(head, nn.Linear):
        weights["model.backbone.model.model.head.weight"] = torch.zeros(head.out_features, encoder.dim)
        weights["model.backbone.model.model.head.bias"] = torch.zeros(head.out_features)
    return saved(_checkpoint({"backbone": f"tu-{encoder.architecture.timm_name}"}, weights, encoder))


def _checkpoint(hyper_parameters: Mapping[str, str], weights: dict[str, Tensor], encoder: VitEncoder) -> dict[str, Any]:
    """Plain values only: TorchGeo reads with ``weights_only``, which refuses a path or an enumeration."""
    contract = json.loads(json.dumps(encoder.preprocessing.to_json()))
    return {
        "hyper_parameters": dict(hyper_parameters),
        "state_dict": weights,
        "epoch": 0,
        "global_step": 0,
        "preprocessing": contract,
    }


@torch.inference_mode()
def pooled(model: nn.Module, x: Tensor, *, pooling: str) -> Tensor:
    """Return the features [n, D] that a timm model inside a task computes for ``x`` [n, C, s, s]."""
    inner: Any = model.eval()
    tokens: Tensor = inner.forward_features(x)
    return tokens[:, 0] if pooling == "cls" else tokens[:, inner.num_prefix_tokens :].mean(dim=1)


def classification_features(folder: Path, x: Tensor, *, model: str, pooling: str) -> Tensor:
    """Return what TorchGeo's `ClassificationTask` computes below its classifier for ``x`` [n, C, 224, 224]."""
    from eo_ssl.export.torchgeo_tasks import ClassificationTask  # seconds to import

    path = str(folder / CLASSIFICATION_FILE)
    task = ClassificationTask(model=model, weights=path, in_channels=x.shape[1], num_classes=_CLASSES)
    return pooled(task.model, x, pooling=pooling)


def segmentation_features(folder: Path, x: Tensor, *, model: str, pooling: str) -> Tensor:
    """Return what the encoder inside TorchGeo's `SemanticSegmentationTask` (DPT) computes for ``x`` [n, C, 224, 224]."""
    from eo_ssl.export.torchgeo_tasks import SemanticSegmentationTask

    path = str(folder / SEGMENTATION_FILE)
    task = SemanticSegmentationTask(
        model="dpt", backbone=f"tu-{model}", weights=path, in_channels=x.shape[1], num_classes=_CLASSES
    )
    return pooled(task.model.encoder.model, x, pooling=pooling)

"""The encoder as checkpoints that TorchGeo's tasks load by their path.

TorchGeo reads Lightning checkpoints only, takes the weights by a prefix that depends on a hyperparameter, and loads
what fits: a wrong
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

from eo_ssl.encoder import TrainedEncoder

CLASSIFICATION_FILE = "torchgeo_classification.ckpt"
SEGMENTATION_FILES = {"dpt": "torchgeo_segmentation_dpt.ckpt", "unet": "torchgeo_segmentation_unet.ckpt"}
"""By the decoder that the task is built with: DPT reads tokens of a transformer, U-Net maps of a network of strides."""
_TIMM = "tu-"  # before the registered name of a model of timm
_CLASSES = 10  # of the task in which features are checked; any number loads


def to_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the bytes `torch.save` writes for tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def get_weights(encoder: TrainedEncoder) -> dict[str, Tensor]:
    """Return the state dict of the timm model, on the CPU."""
    return {key: value.detach().cpu().contiguous() for key, value in encoder.model.state_dict().items()}


def make_classification_checkpoint(encoder: TrainedEncoder) -> bytes:
    """Return the checkpoint for ``ClassificationTask(model=..., weights=path, in_channels=...)``."""
    weights = {f"model.{key}": value for key, value in get_weights(encoder).items()}
    return to_bytes(_checkpoint({"model": encoder.architecture.model.name}, weights, encoder))


def make_segmentation_checkpoint(encoder: TrainedEncoder) -> bytes:
    """Return the checkpoint for ``SemanticSegmentationTask(model=..., backbone=..., weights=path, in_channels=...)``.

    A transformer inside the task's encoder keeps the classifier that timm gives a model of this name, which it never
    uses, and loads strictly: where the name has one (vit_small_patch16_224 has, vit_small_patch8_224 has not), the
    checkpoint carries one of zeros.
    """
    name = encoder.architecture.model.name
    backbone = name_backbone(name)
    prefix = "model.backbone.model." + ("model." if backbone.startswith(_TIMM) else "")
    weights = {f"{prefix}{key}": value for key, value in get_weights(encoder).items()}
    head: Any = getattr(timm.create_model(name), "head", None)
    if isinstance(head, nn.Linear):
        weights[f"{prefix}head.weight"] = torch.zeros(head.out_features, encoder.dim)
        weights[f"{prefix}head.bias"] = torch.zeros(head.out_features)
    return to_bytes(_checkpoint({"backbone": backbone}, weights, encoder))


def choose_decoder(encoder: TrainedEncoder) -> str:
    """Return the decoder of TorchGeo that fits the network: dpt for a transformer, unet for a network of strides."""
    return "dpt" if "patch_size" in encoder.architecture.timm_options else "unet"


def name_backbone(model: str) -> str:
    """Return what TorchGeo's `SemanticSegmentationTask` calls the timm model ``model``.

    segmentation_models_pytorch has residual networks of its own with torchvision's keys, which are timm's too; other
    networks come from timm.
    """
    from segmentation_models_pytorch.encoders import encoders

    return model if model in encoders else f"{_TIMM}{model}"


def _checkpoint(
    hyper_parameters: Mapping[str, str], weights: dict[str, Tensor], encoder: TrainedEncoder
) -> dict[str, Any]:
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
def pool_features(model: nn.Module, x: Tensor, *, pooling: str) -> Tensor:
    """Return the features [n, D] that a timm model inside a task computes for ``x`` [n, C, s, s]."""
    inner: Any = model.eval()
    out: Tensor = inner.forward_features(x)
    if out.ndim == 4:  # [n, D, h, w]
        return out.mean(dim=(2, 3))
    return out[:, 0] if pooling == "cls" else out[:, inner.num_prefix_tokens :].mean(dim=1)


def run_classification_task(folder: Path, x: Tensor, *, model: str, pooling: str) -> Tensor:
    """Return what TorchGeo's `ClassificationTask` computes below its classifier for ``x`` [n, C, s, s]."""
    from eo_ssl.export.torchgeo_tasks import ClassificationTask  # seconds to import

    path = str(folder / CLASSIFICATION_FILE)
    task = ClassificationTask(model=model, weights=path, in_channels=x.shape[1], num_classes=_CLASSES)
    return pool_features(task.model, x, pooling=pooling)


@torch.inference_mode()
def run_segmentation_task(folder: Path, x: Tensor, *, decoder: str, model: str, pooling: str) -> Tensor:
    """Return what the encoder inside TorchGeo's `SemanticSegmentationTask` computes for ``x`` [n, C, s, s]."""
    from eo_ssl.export.torchgeo_tasks import SemanticSegmentationTask

    task = SemanticSegmentationTask(
        model=decoder,
        backbone=name_backbone(model),
        weights=str(folder / SEGMENTATION_FILES[decoder]),
        in_channels=x.shape[1],
        num_classes=_CLASSES,
    )
    encoder: Any = task.model.encoder.eval()
    if decoder == "dpt":
        return pool_features(encoder.model, x, pooling=pooling)
    last: Tensor = encoder(x)[-1]  # [n, D, h, w], the deepest map
    return last.mean(dim=(2, 3))

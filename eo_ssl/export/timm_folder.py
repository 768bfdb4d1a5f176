"""The encoder as a folder of timm: ``timm.create_model("local-dir:FOLDER", pretrained=True)`` returns its features."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import Tensor

from eo_ssl.encoder import VitEncoder

TIMM_FOLDER = "timm"
TIMM_CONFIG = f"{TIMM_FOLDER}/config.json"
TIMM_WEIGHTS = f"{TIMM_FOLDER}/model.safetensors"


def timm_config(encoder: VitEncoder, *, licence: str) -> bytes:
    """Return ``config.json``.

    The channels, mean and std of ``pretrained_cfg`` are the contract's: timm falls back to ImageNet's where they are absent.
    """
    architecture, contract = encoder.architecture, encoder.preprocessing
    side = architecture.img_size
    model_args = {"img_size": side, "patch_size": architecture.patch_size, "in_chans": architecture.in_chans}
    if architecture.depth is not None:
        model_args["depth"] = architecture.depth
    pool = {"cls": "token", "mean": "avg"}[encoder.pooling]
    config = {
        "architecture": architecture.timm_name,
        "num_classes": 0,
        "num_features": encoder.dim,
        "global_pool": pool,
        # The last norm stands before the mean, as in training; timm would move it behind.
        "model_args": {**model_args, "num_classes": 0, "global_pool": pool, "fc_norm": False},
        "pretrained_cfg": {
            "architecture": architecture.timm_name,
            "input_size": [architecture.in_chans, side, side],
            "fixed_input_size": True,
            "interpolation": "bicubic" if contract.interpolation == "bicubic" else "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(contract.mean),
            "std": list(contract.std),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": licence,
            "description": f"mean and std are of {contract.final_quantity.value}, bands {' '.join(contract.bands)}: see preprocess.json",
        },
    }
    return json.dumps(config, indent=1).encode()


def timm_weights(encoder: VitEncoder) -> bytes:
    """Return ``model.safetensors``."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.model.state_dict().items()}
    return bytes(safetensors.torch.save(tensors, {"format": "pt"}))


@torch.inference_mode()
def timm_features(folder: Path, x: Tensor) -> Tensor:
    """Return what a user of timm gets from the bundle ``folder`` for ``x`` [n, C, s, s]: features [n, D]."""
    model = timm.create_model(f"local-dir:{folder / TIMM_FOLDER}", pretrained=True)
    features: Tensor = model.eval()(x)
    return features

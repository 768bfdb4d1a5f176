"""The encoder as a folder of timm: ``timm.create_model("local-dir:FOLDER", pretrained=True)`` returns its features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

from eo_ssl.encoder import TrainedEncoder

TIMM_FOLDER = "timm"
TIMM_CONFIG = f"{TIMM_FOLDER}/config.json"
TIMM_WEIGHTS = f"{TIMM_FOLDER}/model.safetensors"


def make_timm_config(encoder: TrainedEncoder, *, licence: str) -> bytes:
    """Return ``config.json``.

    The channels, mean and std of ``pretrained_cfg`` are the contract's: timm falls back to ImageNet's where they are
    absent.
    """
    architecture, contract = encoder.architecture, encoder.preprocessing
    network: Any = encoder.model
    options, own = architecture.timm_options, network.pretrained_cfg
    config = {
        "architecture": architecture.model.name,
        "num_classes": 0,
        "num_features": encoder.dim,
        "global_pool": options["global_pool"],
        "model_args": options,
        "pretrained_cfg": {
            "architecture": architecture.model.name,
            "input_size": [len(contract.bands), architecture.size_px, architecture.size_px],
            "fixed_input_size": "img_size" in options,
            "interpolation": "bicubic" if contract.interpolation == "bicubic" else "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(contract.mean),
            "std": list(contract.std),
            "num_classes": 0,
            "first_conv": own["first_conv"],
            "classifier": own["classifier"],
            "license": licence,
            "description": (
                f"mean and std are of {contract.final_quantity.value}, bands {' '.join(contract.bands)}:"
                " see preprocess.json"
            ),
        },
    }
    return json.dumps(config, indent=1).encode()


def make_timm_weights(encoder: TrainedEncoder) -> bytes:
    """Return ``model.safetensors``."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.model.state_dict().items()}
    return bytes(safetensors.torch.save(tensors, {"format": "pt"}))


@torch.inference_mode()
def run_timm(folder: Path, x: Tensor) -> Tensor:
    """Return what a user of timm gets from the bundle ``folder`` for ``x`` [n, C, s, s]: features [n, D]."""
    model = timm.create_model(f"local-dir:{folder / TIMM_FOLDER}", pretrained=True)
    features: Tensor = model.eval()(x)
    return features

"""Encoders to export: random weights, contracts with everything a contract can hold."""

from __future__ import annotations

from typing import Any

import torch

from eo_ssl.encoder import VitEncoder
from eo_ssl.models import VitConfig, make_vit
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity

SMALL_64 = VitConfig("vit_small_patch16_224", img_size=64, in_chans=2, patch_size=16)
TINY_8 = VitConfig("vit_tiny_patch16_224", img_size=32, in_chans=2, patch_size=8, depth=2)
PROVENANCE = {
    "inputs": {"corpus archive": "c" * 64},
    "config": {
        "objective": "mae",
        "steps": 7,
        "seed": 0,
        "batch_size": 4,
        "lr": 1e-3,
        "split": "train",
        "streams": ["s1"],
    },
}


def radar(size_px: int = 64, **changes: Any) -> Preprocessing:
    """A contract that converts power to decibel."""
    fields: dict[str, Any] = {
        "sensor": "sentinel1_rtc", "quantity": Quantity.GAMMA0, "bands": ("VV", "VH"), "convert": ("gamma0->gamma0_db",),
        "range": Quantity.GAMMA0.plausible, "clip": None, "mean": (-11.0, -18.0), "std": (4.0, 5.0), "size_px": size_px,
        "gsd_m": (10.0, 10.0), "resize": "to_size", "interpolation": "bilinear", "antialias": True, "missing": "refuse",
    }  # fmt: skip
    return Preprocessing(**{**fields, **changes})


def optical(size_px: int = 64, bands: tuple[str, ...] = ("B02", "B03", "B04", "B08"), **changes: Any) -> Preprocessing:
    """A contract of top-of-atmosphere reflectance, other means for every band."""
    count, toa = len(bands), Quantity.TOA_REFLECTANCE
    fields: dict[str, Any] = {
        "sensor": "sentinel2_l1c", "quantity": toa, "bands": bands, "convert": (), "range": toa.plausible, "clip": None,
        "mean": tuple(0.1 + 0.03 * i for i in range(count)), "std": tuple(0.05 + 0.01 * i for i in range(count)), "size_px": size_px,
        "gsd_m": (10.0, 10.0), "resize": "to_size", "interpolation": "bilinear", "antialias": True, "missing": "refuse",
    }  # fmt: skip
    return Preprocessing(**{**fields, **changes})


def encoder(
    architecture: VitConfig = SMALL_64,
    preprocessing: Preprocessing | None = None,
    *,
    pooling: Any = "mean",
    name: str = "radar-small",
) -> VitEncoder:
    """Random weights, positions and norms included, so that nothing is at its initial value."""
    model = make_vit(architecture, seed=5)
    rng = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=rng)
    contract = preprocessing or radar(architecture.img_size)
    return VitEncoder(model, contract, architecture=architecture, pooling=pooling, name=name, provenance=PROVENANCE)

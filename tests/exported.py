"""Encoders to export: random weights, contracts with everything a contract can hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from eo_ssl.documents import sign_json
from eo_ssl.encoder import TrainedEncoder
from eo_ssl.fingerprints import compute_sha256, fingerprint
from eo_ssl.manifest import MANIFEST
from eo_ssl.models import Architecture, ResNet, Vit
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity

SMALL_16 = Vit("vit_small_patch16_224", patch_size=16)
TINY_8 = Vit("vit_tiny_patch16_224", patch_size=8, depth=2)
RESNET_18 = ResNet("resnet18")
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
        "sensor": "sentinel1_rtc",
        "quantity": Quantity.GAMMA0,
        "bands": ("VV", "VH"),
        "convert": ("gamma0->gamma0_db",),
        "range": Quantity.GAMMA0.plausible,
        "clip": None,
        "mean": (-11.0, -18.0),
        "std": (4.0, 5.0),
        "size_px": size_px,
        "gsd_m": (10.0, 10.0),
        "resize": "to_size",
        "interpolation": "bilinear",
        "antialias": True,
        "missing": "refuse",
    }
    return Preprocessing(**{**fields, **changes})


def optical(size_px: int = 64, bands: tuple[str, ...] = ("B02", "B03", "B04", "B08"), **changes: Any) -> Preprocessing:
    """A contract of top-of-atmosphere reflectance, other means for every band."""
    count, toa = len(bands), Quantity.TOA_REFLECTANCE
    fields: dict[str, Any] = {
        "sensor": "sentinel2_l1c",
        "quantity": toa,
        "bands": bands,
        "convert": (),
        "range": toa.plausible,
        "clip": None,
        "mean": tuple(0.1 + 0.03 * i for i in range(count)),
        "std": tuple(0.05 + 0.01 * i for i in range(count)),
        "size_px": size_px,
        "gsd_m": (10.0, 10.0),
        "resize": "to_size",
        "interpolation": "bilinear",
        "antialias": True,
        "missing": "refuse",
    }
    return Preprocessing(**{**fields, **changes})


def seal(folder: Path) -> None:
    """Write the present checksums of a bundle into its manifest, as a forger would."""
    content = json.loads((folder / MANIFEST).read_text())
    digests = {name: compute_sha256(folder / name) for name in content["summary"]["files"]}
    content["summary"]["files"], content["fingerprint"] = digests, fingerprint(digests)
    content.pop("sha256", None)  # of the manifest itself
    (folder / MANIFEST).write_bytes(sign_json(content))


def encoder(
    model: Architecture = SMALL_16,
    preprocessing: Preprocessing | None = None,
    *,
    name: str = "radar-small",
) -> TrainedEncoder:
    """Random weights, positions and norms included, so that nothing is at its initial value."""
    contract = preprocessing or radar(64)
    backbone = model.build(contract.bands, contract.size_px, 5, sensor=contract.sensor)
    rng = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=rng)
        for values in backbone.buffers():  # statistics of batches
            if values.is_floating_point():
                values *= 1 + 0.1 * torch.rand(values.shape, generator=rng)
    return TrainedEncoder(backbone, contract, name=name, provenance=PROVENANCE)

"""The preprocessing contract of ``preprocess.json`` as torchvision transforms; needs torch and torchvision alone.

This file stands at the head of a bundle's ``weights.py``. Input is [..., C, H, W] float32 in the contract's quantity
with the contract's
bands in its order; pixels that are not finite are invalid and become the band's mean, which is 0 after normalisation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

FLOOR_DB = -50.0  # dB, what power at or below 1e-5 is shown as
KNOWN = 0.5  # weight of measured pixels above which an interpolated one counts as measured
ROUNDING = 1e-5  # of a kernel that saw only measured pixels
MODES = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "bilinear-corners": "bilinear",
    "nearest": "nearest-exact",
    "area": "area",
}


class MarkInvalid(nn.Module):
    """Make every value that is not finite NaN, so that it stays marked up to the end."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C, H, W] -> the same."""
        return torch.where(torch.isfinite(x), x, torch.nan)


class ToDecibel(nn.Module):
    """Power to 10 log10(power), floored at -50 dB."""

    def forward(self, x: Tensor) -> Tensor:
        """Linear power -> dB, any shape."""
        return x.clamp(min=10 ** (FLOOR_DB / 10)).log10() * 10.0


class ToPower(nn.Module):
    """Decibel to power."""

    def forward(self, x: Tensor) -> Tensor:
        """DB -> linear power, any shape."""
        return torch.pow(10.0, x / 10.0)


class Clip(nn.Module):
    """Bounds of each band."""

    def __init__(self, bounds: list[list[float]]) -> None:
        super().__init__()
        self.low: Tensor
        self.high: Tensor
        low, high = torch.tensor(bounds, dtype=torch.float32).view(-1, 2, 1, 1).unbind(dim=1)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C, H, W] -> the same, NaN kept."""
        return torch.where(torch.isnan(x), x, x.clamp(self.low, self.high))


class Resize(nn.Module):
    """Interpolation that weighs measured pixels only (normalised convolution, Knutsson and Westin 1993)."""

    def __init__(self, size: int, interpolation: str, antialias: bool) -> None:
        super().__init__()
        self.size, self.antialias, self.mode = size, antialias, MODES[interpolation]
        self.aligned = interpolation == "bilinear-corners" if self.mode in ("bilinear", "bicubic") else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., C, s, s] -> [..., C, size, size]; images that are not square are refused, not squeezed."""
        if x.shape[-2:] == (self.size, self.size):
            return x
        height, width = x.shape[-2:]
        if height != width:
            raise ValueError(f"expected square images, got {height} x {width} px; cut square windows out of them")
        images = x.reshape(-1, *x.shape[-3:])
        valid = ~torch.isnan(images)
        weight, total = self._scaled(valid.to(x.dtype)), self._scaled(torch.where(valid, images, 0.0))
        known = weight > KNOWN
        values = torch.where((weight - 1).abs() < ROUNDING, total, total / torch.where(known, weight, 1.0))
        return torch.where(known, values, torch.nan).reshape(*x.shape[:-2], self.size, self.size)

    def _scaled(self, images: Tensor) -> Tensor:
        size = (self.size, self.size)
        return nn.functional.interpolate(
            images, size=size, mode=self.mode, align_corners=self.aligned, antialias=self.antialias
        )


class FillInvalid(nn.Module):
    """Give what is invalid the value 0, the band's mean after normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C, H, W] -> the same, finite."""
        return torch.where(torch.isnan(x), 0.0, x)


class SampleTransforms(nn.Module):
    """Transforms of the ``image`` of a TorchGeo sample or batch, brought to the contract's quantity first.

    Physical value = (stored + offset) * scale, such as scale = 1e-4 for reflectance stored as whole numbers.
    """

    def __init__(self, transforms: nn.Sequential, *, scale: float, offset: float = 0.0) -> None:
        super().__init__()
        self.transforms, self.scale, self.offset = transforms, scale, offset

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its image ready for the encoder; a mask, if any, is not resized."""
        return {**sample, "image": self.transforms((sample["image"].float() + self.offset) * self.scale)}


def make_transforms(contract: dict[str, Any], *, resize: bool = True) -> nn.Sequential:
    """Return what a contract of ``preprocess.json`` does to images, all its bands given in its order."""
    steps: list[nn.Module] = [MarkInvalid()]
    steps += [ToDecibel() if name.endswith("_db") else ToPower() for name in contract["convert"]]
    if contract["clip"] is not None:
        pairs = contract["clip"] if isinstance(contract["clip"][0], list) else [contract["clip"]]
        steps.append(Clip(pairs))
    if resize and contract["resize"] == "to_size":
        steps.append(Resize(contract["size_px"], contract["interpolation"], contract["antialias"]))
    if resize and contract["resize"] == "crop":
        steps.append(v2.CenterCrop(contract["size_px"]))
    steps += [v2.Normalize(mean=contract["mean"], std=contract["std"]), FillInvalid()]
    return nn.Sequential(*steps)


def read_contract(folder: Path, configuration: str) -> dict[str, Any]:
    """Return the contract of ``configuration`` (native, torchgeo) in the bundle ``folder``."""
    document: dict[str, Any] = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    contract: dict[str, Any] = document["configurations"][configuration]["preprocessing"]
    return contract

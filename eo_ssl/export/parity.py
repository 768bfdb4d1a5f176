"""The parity file: generated images, the features of each configuration, and the tolerance of every route."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from eo_ssl.encoder import FusedEncoder, TrainedEncoder
from eo_ssl.errors import UserError
from eo_ssl.export.encoder_module import list_inputs
from eo_ssl.preprocessing import Preprocessing, apply_conversion

PARITY_FILE = "parity.safetensors"
IMAGES = 4
IMAGES_OF = "images"
"""Tensor of the generated images, behind the name of a sensor where there are two."""
TOLERANCE = 1e-5  # of features, whose standard deviation over channels is about 1 after the last norm
_SCALES = ((4, 0.7), (16, 0.5), (None, 0.5))  # cells a side and weight of the noise that an image is a sum of


def generate_images(contract: Preprocessing, *, size_px: int, seed: int = 0) -> Tensor:
    """Return images around the contract's means, [4, C, size_px, size_px] float32 in its input quantity.

    The last one has invalid pixels: a corner of all bands, and a strip of one.
    """
    rng = torch.Generator().manual_seed(seed)
    shape = (IMAGES, len(contract.bands))
    noise = torch.zeros(*shape, size_px, size_px)
    for cells, weight in _SCALES:
        side = size_px if cells is None else min(cells, size_px)
        drawn = torch.randn(*shape, side, side, generator=rng)
        noise += weight * functional.interpolate(drawn, size=(size_px, size_px), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (contract.mean, contract.std))
    images = mean + std * noise
    for name in reversed(contract.convert):
        images = apply_conversion(images, "->".join(reversed(name.split("->"))))
    images = images.clamp(*contract.range)
    images[-1, :, : size_px // 4, : size_px // 4] = torch.nan
    images[-1, 0, size_px // 2, :] = torch.nan
    return images


@torch.inference_mode()
def compute_reference(encoder: TrainedEncoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the encoder's input [n, C, s, s] float32 and features [n, D] float32 of physical images.

    In the input of a network that leaves out what is invalid, that is NaN.
    """
    contract = encoder.preprocessing
    x, valid = contract(images, bands=contract.bands, quantity=contract.quantity, sensor=contract.sensor)
    features = encoder.features(x, valid=valid)
    return (x.masked_fill(~valid, torch.nan) if encoder.backbone.reads_valid else x), features


@torch.inference_mode()
def compute_pairs(encoder: FusedEncoder) -> dict[str, Tensor]:
    """Return generated images of both sensors, the inputs made of them and their features, by name in the file."""
    found: dict[str, Tensor] = {}
    ready = []
    for number, (name, part) in enumerate(list_inputs(encoder).items()):
        contract = part.preprocessing
        images = generate_images(contract, size_px=encoder.size_px, seed=number).roll(number, dims=0)
        x, valid = contract(images, bands=contract.bands, quantity=contract.quantity, sensor=contract.sensor)
        found |= {f"{name}.{IMAGES_OF}": images, f"{name}.input": x.masked_fill(~valid, torch.nan)}
        ready.append((x, valid))
    (radar, radar_valid), (optical, optical_valid) = ready
    vectors = encoder.features(radar, optical, radar_valid=radar_valid, optical_valid=optical_valid)
    return {**found, "joint.features": vectors}


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Mean over images of the cosine between two feature vectors, [n, D] each."""
    return float(functional.cosine_similarity(a.double(), b.double(), dim=1).mean())


def measure_similarity(features: Tensor) -> float:
    """Mean cosine between the features [n, D] of different images: what `mean_cosine` is to be read against."""
    unit = functional.normalize(features.double(), dim=1)
    count = len(unit)
    return float(((unit @ unit.T).sum() - count) / (count * (count - 1)))


def to_bytes(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """Return the bytes of the parity file: ``images``, ``<configuration>.input`` and ``<configuration>.features``.

    Of two sensors: ``<sensor>.images``, ``<sensor>.input`` and ``joint.features``.
    """
    tolerances = {"atol": TOLERANCE}
    plain = {key: value.contiguous() for key, value in tensors.items()}
    return bytes(safetensors.torch.save(plain, {"parity": json.dumps({**tolerances, **facts}, sort_keys=True)}))


@dataclass(frozen=True, slots=True)
class Parity:
    """What a bundle says its routes must give."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def images(self, configuration: str) -> Tensor:
        """[n, C, s, s] float32, generated physical values that the configuration takes."""
        own = f"{configuration}.{IMAGES_OF}"
        return self.tensors[own if own in self.tensors else IMAGES_OF]

    def input(self, configuration: str) -> Tensor:
        """[n, C, s, s] float32, what the contract of the configuration makes of the images."""
        return self.tensors[f"{configuration}.input"].clone()

    def features(self, configuration: str) -> Tensor:
        """[n, D] float32."""
        return self.tensors[f"{configuration}.features"]


def read(folder: Path, configurations: Sequence[str] = ("native",)) -> Parity:
    """Return the parity file of the bundle ``folder``, which holds these configurations, or those of two sensors.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / PARITY_FILE
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
            facts = json.loads((file.metadata() or {})["parity"])
            parity = Parity(tensors, facts)
            joint = "joint.features" in tensors
            _ = [(parity.images(name), parity.input(name)) for name in configurations]
            _ = [parity.features("joint")] if joint else [parity.features(name) for name in configurations]
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"expected a parity file at {path}, got {type(error).__name__}; export the encoder again into another"
            " folder"
        ) from error
    return parity

"""The configurations an encoder leaves in: as it was trained, and as TorchGeo can name it (224 px under a registered timm name)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import timm

from eo_ssl.encoder import VitEncoder
from eo_ssl.models import VitConfig, make_vit

SIZE_PX = 224
"""Input side of the timm names that TorchGeo's tasks build; they pass no image size on."""


@dataclass(frozen=True, slots=True)
class Naming:
    """The timm name under which an encoder's weights fit at 224 px without any further option, or why there is none."""

    model: str | None
    reason: str = ""


def torchgeo_name(architecture: VitConfig) -> Naming:
    """Return the registered timm name that TorchGeo's tasks build the same network from, patch and depth included."""
    patch, name = architecture.patch_size, architecture.timm_name
    stem, known = re.subn(r"_patch\d+_\d+$", f"_patch{patch}_{SIZE_PX}", name)
    if not known:
        return Naming(
            None, f"TorchGeo builds models by their timm name alone, and {name} names no patch and image size"
        )
    if SIZE_PX % patch or not timm.is_model(stem):
        return Naming(None, f"TorchGeo builds models by their timm name alone, and timm registers no {stem}")
    ours, theirs = (
        {key: value.shape for key, value in make_vit(config).state_dict().items() if key != "pos_embed"}
        for config in (architecture, _at_224(architecture, stem))
    )
    if ours != theirs:
        depth = len({key.split(".")[1] for key in theirs if key.startswith("blocks.")})
        return Naming(
            None,
            f"TorchGeo builds models by their timm name alone, and {stem} has {depth} blocks of another shape or number than this encoder",
        )
    return Naming(stem)


def at_224(encoder: VitEncoder, model: str) -> VitEncoder:
    """Return the encoder for images of 224 px under the timm name ``model``: `VitEncoder.at_size`, patches as large as they were.

    Images of another size are interpolated to 224 px as the contract says.
    """
    twin = encoder.at_size(SIZE_PX)
    return VitEncoder(
        twin.model,
        twin.preprocessing,
        architecture=_at_224(encoder.architecture, model),
        pooling=encoder.pooling,
        name=encoder.name,
        provenance=encoder.provenance,
    )


def _at_224(architecture: VitConfig, model: str) -> VitConfig:
    return VitConfig(model, SIZE_PX, architecture.in_chans, architecture.patch_size, None, architecture.position)

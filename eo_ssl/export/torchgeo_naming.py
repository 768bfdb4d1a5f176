"""The timm name from which TorchGeo's tasks build an encoder's network: they pass bands on and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import timm

from eo_ssl.encoder import TrainedEncoder
from eo_ssl.models import BackboneConfig

SIZE_PX = 224
"""Input side of the timm names of transformers that TorchGeo's tasks build; they pass no image size on."""


@dataclass(frozen=True, slots=True)
class TorchGeoNaming:
    """The timm name under which an encoder's weights fit without any further option, or why there is none."""

    model: str | None
    reason: str = ""


def find_torchgeo_name(config: BackboneConfig) -> TorchGeoNaming:
    """Return the registered timm name that TorchGeo's tasks build the same network from, patch and depth included."""
    if not config.model.in_timm:
        return TorchGeoNaming(
            None, f"TorchGeo builds models by their timm name alone, and timm cannot name a {config.model.variant}"
        )
    name, patch = config.model.name, config.timm_options.get("patch_size")
    if patch is None:  # the network takes images of any size
        return TorchGeoNaming(name)
    stem, known = re.subn(r"_patch\d+_\d+$", f"_patch{patch}_{SIZE_PX}", name)
    if not known:
        return TorchGeoNaming(
            None, f"TorchGeo builds models by their timm name alone, and {name} names no patch and image size"
        )
    if SIZE_PX % patch or not timm.is_model(stem):
        return TorchGeoNaming(None, f"TorchGeo builds models by their timm name alone, and timm registers no {stem}")
    ours, theirs = (
        {key: value.shape for key, value in built.build().network.state_dict().items() if key != "pos_embed"}
        for built in (config, _rename(config, stem))
    )
    if ours != theirs:
        depth = len({key.split(".")[1] for key in theirs if key.startswith("blocks.")})
        return TorchGeoNaming(
            None,
            f"TorchGeo builds models by their timm name alone, and {stem} has {depth} blocks of another shape or number"
            " than this encoder",
        )
    return TorchGeoNaming(stem)


def resize_for_torchgeo(encoder: TrainedEncoder, model: str) -> TrainedEncoder:
    """Return the encoder as TorchGeo names it: itself where it takes any size, else at 224 px with equal patches.

    Images of another size are interpolated to 224 px as the contract says.
    """
    if "img_size" not in encoder.architecture.timm_options:
        return encoder
    twin = encoder.at_size(SIZE_PX)
    backbone = type(twin.backbone)(twin.model, _rename(encoder.architecture, model))
    return TrainedEncoder(backbone, twin.preprocessing, name=encoder.name, provenance=encoder.provenance)


def _rename(config: BackboneConfig, name: str) -> BackboneConfig:
    """The same options under another registered name, with its depth, at 224 px."""
    values = config.to_json() | {"timm_name": name, "depth": None}
    model = type(config.model).from_json(values, pooling=config.model.pooling)
    return replace(config, model=model, size_px=SIZE_PX)

"""Backbones: timm networks for any bands, asked by objectives for one vector per image and one per patch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from eo_ssl.models.backbone import (
    Architecture,
    Backbone,
    BackboneConfig,
    MaskableBackbone,
    Tokens,
    View,
    require_maskable,
    seed_weights,
)
from eo_ssl.models.location_encoder import LocationEncoder, LocationModel, place_on_sphere
from eo_ssl.models.patches import split_patches, take_patches
from eo_ssl.models.positions import make_sincos_positions
from eo_ssl.models.resnet import ResNet, ResNetBackbone
from eo_ssl.models.vit import Vit, VitBackbone

FAMILIES: Mapping[str, type[Architecture]] = MappingProxyType({model.family: model for model in (Vit, ResNet)})
"""Architectures by the name that the file of an encoder gives them."""

__all__ = [
    "FAMILIES",
    "Architecture",
    "Backbone",
    "BackboneConfig",
    "LocationEncoder",
    "LocationModel",
    "MaskableBackbone",
    "ResNet",
    "ResNetBackbone",
    "Tokens",
    "View",
    "Vit",
    "VitBackbone",
    "require_maskable",
    "seed_weights",
    "make_sincos_positions",
    "place_on_sphere",
    "split_patches",
    "take_patches",
]

"""Backbones: timm networks for any bands, asked by objectives for one vector per image and one per patch."""

from __future__ import annotations

from eo_ssl.models.backbone import (
    Architecture,
    Backbone,
    MaskableBackbone,
    Tokens,
    View,
    require_maskable,
    seeded_init,
)
from eo_ssl.models.patches import split_patches, take_patches
from eo_ssl.models.positions import sincos_positions
from eo_ssl.models.resnet import ResNet, ResNetBackbone, make_resnet
from eo_ssl.models.vit import Vit, VitBackbone, VitConfig, make_vit

__all__ = [
    "Architecture",
    "Backbone",
    "MaskableBackbone",
    "ResNet",
    "ResNetBackbone",
    "Tokens",
    "View",
    "Vit",
    "VitBackbone",
    "VitConfig",
    "make_resnet",
    "make_vit",
    "require_maskable",
    "seeded_init",
    "sincos_positions",
    "split_patches",
    "take_patches",
]

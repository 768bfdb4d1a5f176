"""Backbones: networks for any bands, asked by objectives for one vector per image and one per patch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from eo_ssl.models.attention import run_blocks
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
from eo_ssl.models.band_codes import encode_bands
from eo_ssl.models.channel_vit import ChannelVit, ChannelVitBackbone
from eo_ssl.models.fusion import FusionEncoder, SensorFusion
from eo_ssl.models.joint_sequence import JointSequence, encode_together, unite_trunks
from eo_ssl.models.location_encoder import LocationEncoder, LocationModel, place_on_sphere
from eo_ssl.models.lora import TARGETS, LoraLinear, copy_merged, insert_lora, merge_lora
from eo_ssl.models.patches import split_patches, take_patches
from eo_ssl.models.positions import make_group_positions, make_sincos_positions
from eo_ssl.models.relative_attention import RelativeBlock, index_pairs
from eo_ssl.models.resnet import ResNet, ResNetBackbone
from eo_ssl.models.spectral_vit import SpectralVit, SpectralVitBackbone
from eo_ssl.models.vit import Vit, VitBackbone, require_plain

FAMILIES: Mapping[str, type[Architecture]] = MappingProxyType(
    {model.family: model for model in (Vit, ResNet, ChannelVit, SpectralVit)}
)
"""Architectures by the name that the file of an encoder gives them."""
FUSIONS: Mapping[str, type[SensorFusion]] = MappingProxyType(
    {fusion.kind: fusion for fusion in (FusionEncoder, JointSequence)}
)
"""What joins two sensors by the name that a file gives it."""

__all__ = [
    "FAMILIES",
    "FUSIONS",
    "TARGETS",
    "Architecture",
    "Backbone",
    "BackboneConfig",
    "ChannelVit",
    "ChannelVitBackbone",
    "FusionEncoder",
    "JointSequence",
    "LoraLinear",
    "LocationEncoder",
    "LocationModel",
    "MaskableBackbone",
    "RelativeBlock",
    "ResNet",
    "ResNetBackbone",
    "SensorFusion",
    "SpectralVit",
    "SpectralVitBackbone",
    "Tokens",
    "View",
    "Vit",
    "VitBackbone",
    "encode_bands",
    "encode_together",
    "index_pairs",
    "copy_merged",
    "insert_lora",
    "merge_lora",
    "require_maskable",
    "require_plain",
    "seed_weights",
    "make_group_positions",
    "make_sincos_positions",
    "run_blocks",
    "place_on_sphere",
    "split_patches",
    "take_patches",
    "unite_trunks",
]

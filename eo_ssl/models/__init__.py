"""Vision transformers: timm models with a class token, any number of bands and a plain timm state dict."""

from __future__ import annotations

from eo_ssl.models.positions import sincos_positions
from eo_ssl.models.vit import (
    VitChoice,
    VitConfig,
    embed_patches,
    encode_tokens,
    make_vit,
    mean_patch_token,
    seeded_init,
    split_patches,
    take_patches,
)

__all__ = [
    "VitChoice",
    "VitConfig",
    "embed_patches",
    "encode_tokens",
    "make_vit",
    "mean_patch_token",
    "seeded_init",
    "sincos_positions",
    "split_patches",
    "take_patches",
]

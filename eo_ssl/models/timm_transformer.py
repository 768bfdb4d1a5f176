"""A transformer of timm under its registered name, for any bands, image size and patch, without a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.models.alibi_attention import AlibiBlock
from eo_ssl.models.backbone import seed_weights
from eo_ssl.models.positions import make_sincos_positions
from eo_ssl.models.relative_attention import PlacedBlock, RelativeBlock

if TYPE_CHECKING:
    from eo_ssl.models.vit import Vit

PLACED_BLOCKS: Mapping[str, type[PlacedBlock]] = {"relative": RelativeBlock, "alibi": AlibiBlock}


def make_transformer(model: Vit, *, in_chans: int, size_px: int, seed: int) -> VisionTransformer:
    """The timm model: `network(x)` maps [B, C, H, W] float32 to the class token [B, D].

    `timm.create_model(name, img_size=..., patch_size=..., in_chans=..., num_classes=0)` loads its weights.

    Raises:
        UserError: a patch that does not divide the size, a name that timm does not know or that is no vision
            transformer with a class token.
    """
    expect(
        size_px % model.patch_size == 0,
        expected="a patch size that divides the image size",
        got=f"patch {model.patch_size} and image {size_px}",
        remedy="choose a divisor",
    )
    names = timm.list_models()
    expect(
        model.name in names,
        expected="the name of a timm vision transformer",
        got=f"'{model.name}'{suggest_nearest(model.name, names)}",
        remedy="timm.list_models() names them",
    )
    sizes: dict[str, Any] = {"img_size": size_px, "patch_size": model.patch_size, "in_chans": in_chans}
    depth: dict[str, Any] = {} if model.depth is None else {"depth": model.depth}
    blocks: dict[str, Any] = {"block_fn": PLACED_BLOCKS[model.position]} if model.position in PLACED_BLOCKS else {}
    with seed_weights(seed):
        try:
            network = timm.create_model(model.name, pretrained=False, num_classes=0, **sizes, **depth, **blocks)
        except TypeError as error:
            raise UserError(
                f"'{model.name}' takes no patch or image size ({error}): choose a vit_*_patch* name of timm"
            ) from error
    expect(
        isinstance(network, VisionTransformer) and network.has_class_token and network.pos_embed is not None,
        expected="a timm vision transformer with a class token and position embeddings",
        got=f"'{model.name}'",
        remedy="choose one such as vit_tiny_patch16_224",
    )
    found = cast(VisionTransformer, network)
    if model.position != "learned":
        codes = cast(Tensor, found.pos_embed).requires_grad_(False)
        prefix, side = 0 if found.no_embed_class else found.num_prefix_tokens, size_px // model.patch_size
        with torch.no_grad():
            codes.zero_()
            if model.position == "sincos":
                codes.copy_(make_sincos_positions((side, side), found.embed_dim, prefix=prefix))
    return found

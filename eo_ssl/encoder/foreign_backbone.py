"""Networks of others as backbones of this library, so that training can go on from their weights."""

from __future__ import annotations

from typing import Any

from timm.layers.patch_embed import PatchEmbed
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from eo_ssl.encoder.external import ExternalEncoder
from eo_ssl.encoder.first_layer import find_first_layer
from eo_ssl.errors import UserError, expect
from eo_ssl.models import Architecture, Backbone, BackboneConfig, ResNet, Vit
from eo_ssl.preprocessing import Preprocessing

_HEAD = "head."  # what timm puts behind the vector of an image, such as the projection of CLIP


def rebuild_backbone(encoder: ExternalEncoder) -> Backbone:
    """The network of `encoder` as a backbone for the bands of its contract: the same tokens, bit for bit.

    Channels that always hold zero are left out with their kernels, which changes no output, and so is a projection
    behind the vector of an image.

    Raises:
        UserError: neither a plain vision transformer with a class token nor a residual network of timm.
    """
    network, contract = encoder.model, encoder.preprocessing
    name = encoder.readout.architecture.partition(".")[0]
    refusal = UserError(
        f"expected a vision transformer with a class token, or a residual network, of timm to go on from, got"
        f" {encoder.name} ({encoder.readout.architecture}, {type(network).__name__}, pooling {encoder.pooling}); choose"
        " other weights, or let it teach: --objective Distill"
    )
    model, side = _describe(network, name, pooling=encoder.readout.pooling, contract=contract)
    if model is None:
        raise refusal
    built = BackboneConfig(model, contract.bands, side).build()
    state = {key: value for key, value in network.state_dict().items() if not key.startswith(_HEAD)}
    first = find_first_layer(network)
    if encoder.readout.blank:
        expect(
            first is not None,
            expected=f"one first layer of {encoder.name}, whose channels {encoder.readout.blank} are always zero",
            got="none",
            remedy="choose other weights",
        )
        state[str(first)] = _drop_channels(state[str(first)], encoder.readout.blank)
    try:
        built.network.load_state_dict(state)
    except RuntimeError as error:  # a norm behind the pooling, say
        raise refusal from error
    return built.eval()


def _describe(network: Any, name: str, *, pooling: str, contract: Preprocessing) -> tuple[Architecture | None, int]:
    """Architecture of a network of timm and the side of its images, pixels; None where there is none of ours for it."""
    own = str(getattr(network, "global_pool", ""))
    plain = type(network) is VisionTransformer and type(network.patch_embed) is PatchEmbed
    if plain and network.has_class_token and network.pos_embed is not None and network.attn_pool is None:
        averages = pooling == "mean" or (own == "avg" and not network.pool_include_prefix)
        if averages or own == "token":
            patch, side = int(network.patch_embed.patch_size[0]), int(network.patch_embed.img_size[0])
            return Vit(name, patch, position="learned", pooling="mean" if averages else "cls"), side
    if isinstance(network, TimmResNet) and (pooling == "mean" or network.global_pool.pool_type == "avg"):
        return ResNet(name), contract.size_px
    return None, 0


def _drop_channels(kernels: Tensor, blank: tuple[int, ...]) -> Tensor:
    """Kernels [O, C, k, k] without the channels `blank`."""
    return kernels[:, [channel for channel in range(kernels.shape[1]) if channel not in blank]]

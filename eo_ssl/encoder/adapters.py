"""Networks of any library under one interface: vectors of images and of positions, pooling, input and patch side.

timm's models answer for themselves; torchvision's Swin transformers and TorchGeo's EarthLoc, which TorchGeo has
weights of, are asked by type.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torchvision.models import SwinTransformer

from eo_ssl.encoder.protocol import check_multiple
from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing


@contextmanager
def _large_enough(x: Tensor) -> Iterator[None]:
    """Say in a sentence that images vanish in a network's strides.

    Raises:
        UserError: a map smaller than the next kernel.
    """
    try:
        yield
    except RuntimeError as error:
        if "Kernel size can't be greater" not in str(error):
            raise
        raise UserError(
            f"expected images large enough for the network's strides, got {x.shape[2]} x {x.shape[3]} px; bring them"
            " to a larger side, such as ?size=64"
        ) from error


def pool_images(network: Any, x: Tensor) -> Tensor:
    """Vector of each image by the network's own pooling: [B, C, H, W] -> [B, D]."""
    with _large_enough(x):
        vectors: Tensor = network(x)
    return vectors


def encode_positions(network: Any, x: Tensor) -> Tensor:
    """Vectors of the last map's positions, row by row, without class and register tokens: [B, C, H, W] -> [B, N, D]."""
    if isinstance(network, SwinTransformer):
        rows: Tensor = network.norm(network.features(x))  # [B, h, w, D]
        return rows.flatten(1, 2)
    if _is_earthloc(network):
        grid: Tensor = network.backbone(x)  # [B, D, h, w]
        return grid.flatten(2).transpose(1, 2)
    with _large_enough(x):
        out: Tensor = network.forward_features(x)
    return _list_positions(network, out)


def encode_whole(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What `pool_images` and `encode_positions` give, in one pass through networks of timm."""
    if not hasattr(network, "forward_features"):
        return pool_images(network, x), encode_positions(network, x)
    with _large_enough(x):
        out: Tensor = network.forward_features(x)
        vectors: Tensor = network.forward_head(out)
    return vectors, _list_positions(network, out)


def _list_positions(network: Any, out: Tensor) -> Tensor:
    """Positions of the last map of a network of timm, row by row: [B, N, D]."""
    if out.ndim == 3:  # [B, P + N, D]
        return out[:, getattr(network, "num_prefix_tokens", 0) :]
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return out.flatten(1, 2)
    return out.flatten(2).transpose(1, 2)


def get_dim(network: Any) -> int:
    """Length of the vector of an image."""
    if isinstance(network, SwinTransformer):
        return int(network.norm.normalized_shape[0])
    if _is_earthloc(network):
        return int(network.desc_dim)
    return int(network.num_classes or getattr(network, "head_hidden_size", network.num_features))


def get_position_dim(network: Any) -> int:
    """Length of the vector of a position."""
    if _is_earthloc(network):
        return int(network.backbone.feature_info[-2]["num_chs"])  # its last stage is cut off
    return int(getattr(network, "num_features", 0) or get_dim(network))


def name_pooling(network: Any) -> str:
    """Name of the network's own pooling, as its library calls it."""
    if isinstance(network, SwinTransformer):
        return "avg"
    if _is_earthloc(network):
        return "mixvpr"
    pool, head = getattr(network, "global_pool", None), getattr(network, "head", None)
    if "Attention" in type(head).__name__:
        return "attention"
    if isinstance(pool, str):
        return pool or "none"
    if pool is None:
        pool = getattr(head, "global_pool", head)
    kind = type(pool).__name__
    return str(getattr(pool, "pool_type", kind.lower()) or "none")


def get_input_px(network: Any) -> int | None:
    """Side of the only images that the network takes; None for any."""
    if _is_earthloc(network):
        return int(network.image_size)
    side = getattr(_patches(network), "img_size", None)
    if side is None or getattr(network, "dynamic_img_size", False):
        return None
    return int(side[0])


def get_patch_px(network: Any) -> int | None:
    """Side of the patches that images are cut into, pixels; None for a network of strides."""
    patch = getattr(_patches(network), "patch_size", None)
    return None if patch is None else int(patch[0])


def resize_input(network: Any, size_px: int, *, name: str) -> nn.Module:
    """Return the network for images of another side: itself where it takes any, else with interpolated position codes.

    Raises:
        UserError: a size that its patches do not tile, or a network whose weights belong to one size.
    """
    now = get_input_px(network)
    patch_px = get_patch_px(network)
    if patch_px is not None:
        check_multiple(size_px, patch_px=patch_px, name=name)
    if now in (None, size_px):
        kept: nn.Module = network
        return kept
    remedy = f"bring the images to {now} px"
    if not hasattr(network, "set_input_size"):
        raise UserError(
            f"expected images of {now} px for {name}, whose weights belong to that size, got {size_px} px; {remedy}"
        )
    changed: Any = copy.deepcopy(network)
    try:
        changed.set_input_size(img_size=(size_px, size_px))
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"expected a size that {name} takes, got {size_px} px ({str(error)[:120]}); {remedy}"
        ) from error
    resized: nn.Module = changed
    return resized


def resize_to_contract(network: Any, contract: Preprocessing, *, name: str) -> Any:
    """Return the network for the images that ``contract`` gives, by `resize_input`; native ones are of any side.

    Raises:
        UserError: as `resize_input`.
    """
    return network if contract.resize == "native" else resize_input(network, contract.size_px, name=name)


def fit_grid(network: Any, codes: Tensor) -> int | None:
    """Give ``network`` the grid of position codes [1, P + N, D] of a file, so that they are loaded as they are.

    Returns:
        The side of the images that they were trained on, pixels; None where the network has that grid already, or none.
    """
    own, patch_px = getattr(network, "pos_embed", None), get_patch_px(network)
    if own is None or patch_px is None or codes.ndim != 3 or own.shape == codes.shape or own.ndim != 3:
        return None
    count = codes.shape[1] - (0 if getattr(network, "no_embed_class", False) else network.num_prefix_tokens)
    side = math.isqrt(max(count, 0)) * patch_px
    if not hasattr(network, "set_input_size") or count < 1 or (side // patch_px) ** 2 != count:
        return None
    network.set_input_size(img_size=(side, side))
    return side


def _patches(network: Any) -> Any:
    """The layer that cuts images into patches, which knows their side and often the images'; None without one."""
    layers = (getattr(network, name, None) for name in ("patch_embed", "stem"))
    return next((layer for layer in layers if hasattr(layer, "patch_size")), None)


def _is_earthloc(network: Any) -> bool:
    """By name, so that TorchGeo is imported only where its weights are asked for."""
    return type(network).__name__ == "EarthLoc"

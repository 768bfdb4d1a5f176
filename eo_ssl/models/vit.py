"""The vision transformer: a timm model under its registered name, and its evaluation on a subset of the patches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from eo_ssl.errors import UserError, nearest
from eo_ssl.models.positions import sincos_positions


@dataclass(frozen=True, slots=True)
class VitConfig:
    """What `timm.create_model` needs to rebuild a vision transformer."""

    timm_name: str = "vit_tiny_patch16_224"
    """Name registered in timm; its patch and image size are overridden by the fields below."""
    img_size: int = 64
    """Height and width of the input, pixels."""
    in_chans: int = 3
    """Number of bands."""
    patch_size: int = 8
    """Side of a patch, pixels; divides img_size."""
    depth: int | None = None
    """Number of blocks; None keeps that of the registered name."""
    position: Literal["sincos", "learned"] = "sincos"
    """`sincos`: fixed sine-cosine codes written into timm's pos_embed; `learned`: timm's own, trained."""

    def __post_init__(self) -> None:
        """Check the numbers against each other."""
        for field in ("img_size", "in_chans", "patch_size"):
            value = getattr(self, field)
            if value < 1:
                raise UserError(
                    f"{field} of a vision transformer must be at least 1, got {value}: give a larger number"
                )
        if self.img_size % self.patch_size:
            raise UserError(
                f"the patch size must divide the image size, got patch {self.patch_size} and image {self.img_size}:"
                " choose a divisor"
            )
        if self.depth is not None and self.depth < 1:
            raise UserError(f"the depth of a vision transformer must be at least 1, got {self.depth}: give more blocks")
        if self.position not in ("sincos", "learned"):
            raise UserError(f"position must be 'sincos' or 'learned', got '{self.position}': choose one of the two")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.img_size // self.patch_size, self.img_size // self.patch_size

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` accepts."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> VitConfig:
        """The config that `to_json` wrote; an unknown key is refused."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise UserError(f"a vision transformer has no field '{key}'{nearest(key, known)}: remove or rename it")
        return cls(**values)


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class VitChoice:
    """What a person chooses of a `VitConfig`; image size and bands come from the data."""

    timm_name: str = "vit_tiny_patch16_224"
    """Name registered in timm."""
    patch_size: int = 8
    """Side of a patch, pixels; divides the tile size."""
    depth: int | None = None
    """Number of blocks; None keeps that of the registered name."""
    position: Literal["sincos", "learned"] = "sincos"
    """Fixed sine-cosine position codes, or learned ones."""

    def fit(self, *, img_size: int, in_chans: int) -> VitConfig:
        """The full configuration for tiles of `img_size` pixels and `in_chans` bands."""
        return VitConfig(self.timm_name, img_size, in_chans, self.patch_size, self.depth, self.position)


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Draw initial weights from `seed` inside the block and leave torch's global generator as it was.

    timm and torch initialise from the global generator only, so it is borrowed, not used.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def make_vit(architecture: VitConfig, *, seed: int = 0) -> VisionTransformer:
    """A vision transformer with a class token, no head, and the state dict of plain timm.

    `timm.create_model(name, img_size=..., patch_size=..., in_chans=..., num_classes=0)` loads its weights.

    Args:
        architecture: name and sizes.
        seed: of the initial weights.

    Returns:
        The model; `model(x)` maps [B, C, H, W] float32 to the class token [B, D].

    Raises:
        UserError: for a name that timm does not know or that is no vision transformer with a class token.
    """
    name = architecture.timm_name
    names = timm.list_models()
    if name not in names:
        raise UserError(f"expected the name of a timm vision transformer, got '{name}'{nearest(name, names)}")
    options: dict[str, Any] = {} if architecture.depth is None else {"depth": architecture.depth}
    with seeded_init(seed):
        try:
            model = timm.create_model(
                name,
                pretrained=False,
                img_size=architecture.img_size,
                patch_size=architecture.patch_size,
                in_chans=architecture.in_chans,
                num_classes=0,
                **options,
            )
        except TypeError as error:
            raise UserError(
                f"'{name}' takes no patch or image size ({error}): choose a vit_*_patch* name of timm"
            ) from error
    if not isinstance(model, VisionTransformer) or not model.has_class_token or model.pos_embed is None:
        raise UserError(
            f"expected a timm vision transformer with a class token and position embeddings, got '{name}':"
            " choose one such as vit_tiny_patch16_224"
        )
    if architecture.position == "sincos":
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        with torch.no_grad():
            model.pos_embed.copy_(sincos_positions(architecture.grid, model.embed_dim, prefix=prefix))
        model.pos_embed.requires_grad_(False)
    return model


def embed_patches(vit: VisionTransformer, image: Tensor, keep: Tensor | None = None) -> Tensor:
    """Tokens that enter the blocks: prefix tokens, then the patches (or those of `keep`) with their positions.

    Only the kept patches pass through the patch projection.

    Args:
        vit: model of `make_vit`.
        image: [B, C, H, W] float32, normalised.
        keep: [B, K] int64, raster indices of the patches wanted; None for all.

    Returns:
        [B, P + K, D] float32, P prefix tokens first.
    """
    batch = image.shape[0]
    positions = _patch_positions(vit)  # [1, N, D]
    if keep is None:
        tokens = vit.patch_embed(image) + positions  # [B, N, D]
    else:
        pixels = split_patches(image, vit.patch_embed.patch_size[0]).flatten(2)  # [B, N, C*p*p]
        pixels = take_patches(pixels, keep)  # [B, K, C*p*p]
        projection = vit.patch_embed.proj
        tokens = torch.nn.functional.linear(pixels, projection.weight.flatten(1), projection.bias)  # [B, K, D]
        tokens = vit.patch_embed.norm(tokens)  # [B, K, D]
        tokens = tokens + take_patches(positions.expand(batch, -1, -1), keep)  # [B, K, D]
    prefix = _prefix_tokens(vit).expand(batch, -1, -1)  # [B, P, D]
    ready: Tensor = vit.norm_pre(vit.pos_drop(torch.cat([prefix, tokens], dim=1)))  # [B, P + K, D]
    return ready


def encode_tokens(vit: VisionTransformer, image: Tensor, keep: Tensor | None = None) -> Tensor:
    """Encoded tokens of the image, or of the patches in `keep` alone, which then see only each other.

    With `keep=None` this equals timm's `forward_features`.

    Args:
        vit: model of `make_vit`.
        image: [B, C, H, W] float32, normalised.
        keep: [B, K] int64, raster indices of the visible patches; None for all.

    Returns:
        [B, P + K, D] float32 after the last norm, P prefix tokens first.
    """
    tokens: Tensor = vit.norm(vit.blocks(embed_patches(vit, image, keep)))  # [B, P + K, D]
    return tokens


def mean_patch_token(vit: VisionTransformer, tokens: Tensor) -> Tensor:
    """Mean over the patch tokens, without class and register tokens: [B, P + K, D] -> [B, D]."""
    return tokens[:, vit.num_prefix_tokens :].mean(dim=1)


def split_patches(image: Tensor, patch_size: int) -> Tensor:
    """Pixels of each patch, in the order of the patch projection's weight.

    Args:
        image: [B, C, H, W], any dtype; H and W are multiples of patch_size.
        patch_size: side of a patch, pixels.

    Returns:
        [B, N, C, p*p], patches in raster order, pixels of a patch in raster order.
    """
    batch, channels, height, width = image.shape
    rows, cols = height // patch_size, width // patch_size
    grid = image.reshape(batch, channels, rows, patch_size, cols, patch_size)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * cols, channels, patch_size**2)  # [B, N, C, p*p]


def take_patches(patches: Tensor, index: Tensor) -> Tensor:
    """Rows of the second dimension: patches [B, N, ...], index [B, M] int64 -> [B, M, ...]."""
    return patches[torch.arange(index.shape[0], device=index.device)[:, None], index]


def _patch_positions(vit: VisionTransformer) -> Tensor:
    """Position embeddings of the patches: [1, N, D]."""
    positions = cast(Tensor, vit.pos_embed)  # make_vit refuses models without
    return positions if vit.no_embed_class else positions[:, vit.num_prefix_tokens :]


def _prefix_tokens(vit: VisionTransformer) -> Tensor:
    """Class (and register) tokens with their positions: [1, P, D]."""
    tokens: list[Tensor] = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
    prefix = torch.cat(tokens, dim=1)  # [1, P, D]
    return prefix if vit.no_embed_class else prefix + cast(Tensor, vit.pos_embed)[:, : vit.num_prefix_tokens]

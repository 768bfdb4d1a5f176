"""The vision transformer: a timm model under its registered name, and its evaluation on a subset of the patches."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, cast

import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from eo_ssl.errors import UserError, nearest
from eo_ssl.models.backbone import Architecture, MaskableBackbone, Tokens, View, seeded_init
from eo_ssl.models.patches import split_patches, take_patches
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


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Vit(Architecture):
    """A plain vision transformer of timm with a class token; its image size and bands come from the data."""

    name: str = "vit_tiny_patch16_224"
    """Name registered in timm; its patch and image size are overridden."""
    patch_size: int = 8
    """Side of a patch, pixels; divides the tile size."""
    depth: int | None = None
    """Number of blocks; None keeps that of the registered name."""
    position: Literal["sincos", "learned"] = "sincos"
    """Fixed sine-cosine position codes, or learned ones."""
    pooling: Literal["mean", "cls"] = "mean"
    """What stands for the image: the mean of the patch tokens, or the class token."""

    def __post_init__(self) -> None:
        """Refuse an unknown pooling."""
        if self.pooling not in ("mean", "cls"):
            raise UserError(f"pooling must be 'mean' or 'cls', got '{self.pooling}': choose one of the two")

    def build(self, bands: tuple[str, ...], size_px: int, seed: int) -> VitBackbone:
        """A vision transformer for `bands` and images of `size_px`; see `make_vit` for what is refused."""
        config = VitConfig(self.name, size_px, len(bands), self.patch_size, self.depth, self.position)
        return VitBackbone(make_vit(config, seed=seed), config, bands=bands, pooling=self.pooling)


class VitBackbone(MaskableBackbone):
    """A timm vision transformer, evaluated on all patches, on some, or with a token in place of some."""

    network: VisionTransformer

    def __init__(
        self, network: VisionTransformer, config: VitConfig, *, bands: tuple[str, ...], pooling: Literal["mean", "cls"]
    ) -> None:
        """Wrap `network`, which `make_vit(config)` made, for images of `bands`."""
        super().__init__()
        self.network, self.config, self.bands, self.pooling = network, config, bands, pooling
        self.dim, self.patch_px, self.grid = int(network.embed_dim), config.patch_size, config.grid

    def forward(self, view: View) -> Tokens:
        """Encode all patches; for an image of the built size this equals timm's `forward_features`."""
        return self._encode(self._projected(view), self._grid_of(view), None)

    def visible(self, view: View, keep: Tensor) -> Tokens:
        """Encode the patches `keep` [B, K] alone; only they pass through the patch projection."""
        pixels = take_patches(split_patches(self.channels(view), self.patch_px).flatten(2), keep)  # [B, K, C*p*p]
        projection = self.network.patch_embed.proj
        tokens = torch.nn.functional.linear(pixels, projection.weight.flatten(1), projection.bias)  # [B, K, D]
        return self._encode(self.network.patch_embed.norm(tokens), self._grid_of(view), keep)

    def masked(self, view: View, mask: Tensor, token: Tensor) -> Tokens:
        """Encode all positions with `token` [D] in place of the patches where `mask` [B, N] is true."""
        projected = self._projected(view)  # [B, N, D]
        tokens = torch.where(mask[..., None], token.to(projected.dtype), projected)  # [B, N, D]
        return self._encode(tokens, self._grid_of(view), None)

    def at_size(self, size_px: int) -> VitBackbone:
        """The same weights for images of another side: position codes interpolated by timm (bicubic, antialiased).

        Sine-cosine codes are interpolated like learned ones: the images show the same ground with more or fewer
        pixels, so a patch keeps its place in the image, between places seen in training.
        """
        if size_px == self.config.img_size:
            return self
        network = copy.deepcopy(self.network)
        network.set_input_size(img_size=(size_px, size_px))
        config = dataclasses.replace(self.config, img_size=size_px)
        return VitBackbone(network, config, bands=self.bands, pooling=cast(Literal["mean", "cls"], self.pooling))

    def _grid_of(self, view: View) -> tuple[int, int]:
        """Rows and columns of patches of the view."""
        height, width = view.image.shape[-2:]
        if height % self.patch_px or width % self.patch_px:
            raise UserError(
                f"expected images whose sides are multiples of the patch of {self.patch_px} px, got {height} x {width}"
                " px; choose a view size that the patch divides"
            )
        return height // self.patch_px, width // self.patch_px

    def _projected(self, view: View) -> Tensor:
        """Patches of the view after the projection, without positions: [B, N, D]."""
        embed = self.network.patch_embed
        projected: Tensor = embed.norm(embed.proj(self.channels(view)).flatten(2).transpose(1, 2))
        return projected

    def _encode(self, tokens: Tensor, grid: tuple[int, int], keep: Tensor | None) -> Tokens:
        """Run projected patches [B, K, D] through the blocks, at their positions and after the prefix tokens."""
        network, batch = self.network, len(tokens)
        positions = self._positions(grid)  # [1, N, D]
        tokens = tokens + (positions if keep is None else take_patches(positions.expand(batch, -1, -1), keep))
        prefix = self._prefix().expand(batch, -1, -1)  # [B, P, D]
        entered = network.norm_pre(network.pos_drop(torch.cat([prefix, tokens], dim=1)))  # [B, P + K, D]
        encoded: Tensor = network.norm(network.blocks(entered))  # [B, P + K, D]
        prefix, patches = encoded[:, : prefix.shape[1]], encoded[:, prefix.shape[1] :]
        return Tokens(patches.mean(dim=1) if self.pooling == "mean" else prefix[:, 0], patches, prefix)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Position codes of the patches, resampled where the grid is not the built one: [1, N, D]."""
        network = self.network
        codes = cast(Tensor, network.pos_embed)  # make_vit refuses models without
        codes = codes if network.no_embed_class else codes[:, network.num_prefix_tokens :]
        if grid == self.grid:
            return codes
        resampled: Tensor = resample_abs_pos_embed(codes, grid, self.grid, num_prefix_tokens=0)
        return resampled

    def _prefix(self) -> Tensor:
        """Class (and register) tokens with their positions: [1, P, D]."""
        network = self.network
        tokens: list[Tensor] = [token for token in (network.cls_token, network.reg_token) if token is not None]
        prefix = torch.cat(tokens, dim=1)  # [1, P, D]
        codes = cast(Tensor, network.pos_embed)
        return prefix if network.no_embed_class else prefix + codes[:, : network.num_prefix_tokens]

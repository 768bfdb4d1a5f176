"""The vision transformer: a timm model under its registered name, and its evaluation on a subset of the patches."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.models.alibi_attention import AlibiBlock
from eo_ssl.models.attention import mask_keys, run_blocks
from eo_ssl.models.backbone import (
    Architecture,
    Backbone,
    BackboneConfig,
    MaskableBackbone,
    Tokens,
    View,
    check_fields,
    seed_weights,
)
from eo_ssl.models.patches import split_patches, take_patches
from eo_ssl.models.positions import make_sincos_positions
from eo_ssl.models.relative_attention import PlacedBlock, RelativeBlock

PLACED_BLOCKS: Mapping[str, type[PlacedBlock]] = {"relative": RelativeBlock, "alibi": AlibiBlock}
TRUNK_FIELDS = ("timm_name", "img_size", "in_chans", "patch_size", "depth", "position")  # of an encoder's file


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Vit(Architecture):
    """A plain vision transformer of timm with a class token; its image size and bands come from the data."""

    family = "vit"
    title = "vision transformer"
    short = "ViT"

    name: str = "vit_tiny_patch16_224"
    """Name registered in timm; its patch and image size are overridden."""
    patch_size: int = 8
    """Side of a patch, pixels; divides the tile size."""
    depth: int | None = None
    """Number of blocks; None keeps that of the registered name."""
    position: Literal["sincos", "learned", "relative", "alibi"] = "sincos"
    """Fixed sine-cosine position codes, written into timm's pos_embed; timm's own, learned; or none, and attention that
    knows the offset of two patches instead, which timm's networks do not: learned, or falling with their distance."""
    pooling: Literal["mean", "cls"] = "mean"
    """What stands for the image: the mean of the patch tokens, or the class token."""

    def __post_init__(self) -> None:
        """Refuse unknown choices and numbers below 1."""
        for field, value, options in (
            ("pooling", self.pooling, ("mean", "cls")),
            ("position", self.position, ("sincos", "learned", *PLACED_BLOCKS)),
        ):
            expect(
                value in options, expected=f"{field} out of {', '.join(options)}", got=repr(value), remedy="choose one"
            )
        for field, number in (("patch size", self.patch_size), ("depth", self.depth)):
            expect(
                number is None or number >= 1,
                expected=f"a {field} of at least 1 for a vision transformer",
                got=number,
                remedy="give a larger number",
            )

    def build(self, bands: tuple[str, ...], size_px: int, seed: int, *, sensor: str = "") -> VitBackbone:
        """A vision transformer with a class token, no head, and the state dict of plain timm.

        Raises:
            UserError: a patch that does not divide the size, a name that timm does not know or that is no vision
                transformer with a class token.
        """
        network = make_transformer(self, in_chans=len(bands), size_px=size_px, seed=seed)
        return VitBackbone(network, BackboneConfig(self, bands, size_px))

    @property
    def in_timm(self) -> bool:
        """Whether its attention is timm's."""
        return self.position not in PLACED_BLOCKS

    @property
    def variant(self) -> str:
        """With its attention, where that is not timm's."""
        return f"{self.title} with {self.position} attention" if self.position in PLACED_BLOCKS else self.title

    def to_json(self, *, bands: int, size_px: int) -> dict[str, Any]:
        """Registered name, sizes, depth and kind of positions."""
        values = (self.name, size_px, bands, self.patch_size, self.depth, self.position)
        return dict(zip(TRUNK_FIELDS, values, strict=True))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, pooling: str) -> Vit:
        """The architecture of an encoder's file; an unknown field is refused."""
        check_fields(values, TRUNK_FIELDS, title=cls.title)
        named = {"name": values["timm_name"], **{key: values[key] for key in ("patch_size", "depth", "position")}}
        return cls(**named, pooling=cast(Literal["mean", "cls"], pooling))

    def timm_options(self, *, bands: int, size_px: int) -> dict[str, Any]:
        """Sizes and pooling; the last norm stands before the mean, as in training, where timm would move it behind."""
        sizes = {"img_size": size_px, "patch_size": self.patch_size, "in_chans": bands}
        depth = {} if self.depth is None else {"depth": self.depth}
        pool = {"cls": "token", "mean": "avg"}[self.pooling]
        return {**sizes, **depth, "num_classes": 0, "global_pool": pool, "fc_norm": False}

    def averaged(self) -> Vit:
        """The same network with the mean of its patch tokens for a vector."""
        return dataclasses.replace(self, pooling="mean")


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


def require_plain(backbone: Backbone, *, method: str) -> VitBackbone:
    """The backbone under its own type.

    Raises:
        UserError: another network than a plain transformer, one of groups or subsets of bands too, whose patches may
            lack tokens.
    """
    if type(backbone) is not VitBackbone:
        raise UserError(
            f"expected a plain vision transformer for {method}, got {type(backbone).__name__}; choose --model Vit"
        )
    return backbone


class VitBackbone(MaskableBackbone):
    """A timm vision transformer, evaluated on all patches, on some, or with a token in place of some."""

    network: VisionTransformer

    def __init__(self, network: VisionTransformer, config: BackboneConfig) -> None:
        """Wrap `network`, which `config` describes."""
        super().__init__(network, config)
        self.dim, self.patch_px = int(network.embed_dim), int(network.patch_embed.patch_size[0])
        self.grid = (config.size_px // self.patch_px, config.size_px // self.patch_px)

    def forward(self, view: View) -> Tokens:
        """Encode all patches; for an image of the built size this equals timm's `forward_features`."""
        return self._encode(self._projected(view), self._grid_of(view), None)

    def visible(self, view: View, keep: Tensor) -> Tokens:
        """Encode the patches `keep` [B, K] or [B, M, K] alone; only they pass through the patch projection."""
        pixels = split_patches(self.channels(view), self.patch_px).flatten(2)  # [B, N, C*p*p]
        pixels = take_patches(pixels, keep.flatten(1))  # [B, M*K, C*p*p]
        projection = self.network.patch_embed.proj
        tokens = torch.nn.functional.linear(pixels, projection.weight.flatten(1), projection.bias)  # [B, M*K, D]
        tokens = self.network.patch_embed.norm(tokens).reshape(-1, keep.shape[-1], self.dim)  # [B*M, K, D]
        return self._encode(tokens, self._grid_of(view), keep.flatten(0, -2))

    def masked(self, view: View, mask: Tensor, token: Tensor) -> Tokens:
        """Encode all positions with `token` [D] in place of the patches where `mask` [B, N] is true."""
        projected = self._projected(view)  # [B, N, D]
        tokens = torch.where(mask[..., None], token.to(projected.dtype), projected)  # [B, N, D]
        return self._encode(tokens, self._grid_of(view), None)

    def windows(self, view: View, places: Tensor, hidden: Tensor, token: Tensor) -> Tokens:
        """Encode M parts of each image by themselves, with a token in place of some of their patches.

        Args:
            view: images [B, C, H, W].
            places: [B, M, K] int64, raster indices of the patches of each part.
            hidden: [B, M, K] bool, those in whose place the token stands.
            token: [D].

        Returns:
            Tokens of M * B rows, the parts of an image beside each other.
        """
        projected = take_patches(self._projected(view), places.flatten(1)).reshape(*places.shape, -1)  # [B, M, K, D]
        tokens = torch.where(hidden[..., None], token.to(projected.dtype), projected).flatten(0, 1)  # [B*M, K, D]
        return self._encode(tokens, self._grid_of(view), places.flatten(0, 1))

    def at_size(self, size_px: int) -> Self:
        """The same weights for images of another side: position codes interpolated by timm (bicubic, antialiased).

        Sine-cosine codes are interpolated like learned ones: the images show the same ground with more or fewer
        pixels, so a patch keeps its place in the image, between places seen in training.
        """
        if size_px == self.config.size_px:
            return self
        network = copy.deepcopy(self.network)
        network.set_input_size(img_size=(size_px, size_px))
        learned = cast(Tensor, self.network.pos_embed).requires_grad
        cast(Tensor, network.pos_embed).requires_grad_(learned)  # timm's new codes are trained ones
        return type(self)(network, dataclasses.replace(self.config, size_px=size_px))

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

    def _encode(
        self, tokens: Tensor, grid: tuple[int, int], keep: Tensor | None, *, seen: Tensor | None = None
    ) -> Tokens:
        """Run projected patches [B, K, D] through the blocks, at their positions and after the prefix tokens.

        Where `seen` [B, K] bool is false no token attends to the patch, and it is no part of the mean; None for
        patches that are all seen.
        """
        # len() would fix the batch of an exported graph to the size of its example
        positions, batch = self._positions(grid), tokens.shape[0]  # [1, N, D]
        placed = tokens + (positions if keep is None else take_patches(positions.expand(batch, -1, -1), keep))
        return self.encode_placed(placed, seen, grid=grid, keep=keep)

    def place_patches(self, view: View) -> tuple[Tensor, Tensor]:
        """Every patch as it enters the blocks, projected and at its position, and whether it has a valid pixel.

        Returns:
            [B, N, D], and [B, N] bool.
        """
        projected, seen = self._project_seen(view)
        return projected + self._positions(self._grid_of(view)), seen

    def encode_placed(
        self,
        placed: Tensor,
        seen: Tensor | None = None,
        *,
        grid: tuple[int, int] | None = None,
        keep: Tensor | None = None,
    ) -> Tokens:
        """Run patches that have their positions [B, K, D] through the blocks, after the prefix tokens.

        Args:
            placed: of one image, or of several images of the same ground.
            seen: [B, K] bool, those that are attended to and are part of the mean; None for all.
            grid: rows and columns of patches, which blocks that are told offsets or distances ask for.
            keep: [B, K] int64, raster indices, for the same blocks; None for all patches of the grid.
        """
        network = self.network
        prefix = self._prefix().expand(placed.shape[0], -1, -1)  # [B, P, D]
        entered = network.norm_pre(network.pos_drop(torch.cat([prefix, placed], dim=1)))  # [B, P + K, D]
        if grid is not None and isinstance(network.blocks[0], PlacedBlock):  # of plain ViTs, whose patches are all seen
            ran = self._relate(entered, grid, keep)
        else:
            ran = run_blocks(network.blocks, entered, seen, prefix=prefix.shape[1])
        encoded: Tensor = network.norm(ran)  # [B, P + K, D]
        prefix, patches = encoded[:, : prefix.shape[1]], encoded[:, prefix.shape[1] :]
        if self.config.model.pooling == "cls":
            return Tokens(prefix[:, 0], patches, prefix, seen)
        if seen is None:
            return Tokens(patches.mean(dim=1), patches, prefix)
        weight = seen[..., None].to(patches.dtype)  # [B, K, 1]
        return Tokens((patches * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1), patches, prefix, seen)

    def _project_seen(self, view: View) -> tuple[Tensor, Tensor]:
        """All patches after the projection, without positions, and whether each has a valid pixel."""
        valid = self.order_bands(view).valid
        return self._projected(view), split_patches(valid, self.patch_px).flatten(2).any(dim=2)

    def _mask_keys(self, seen: Tensor) -> Tensor:
        """Keys that tokens attend to: the prefix, and the patches that are `seen` [B, K]: [B, 1, 1, P + K] bool."""
        return mask_keys(seen, prefix=self.network.num_prefix_tokens)

    def _relate(self, tokens: Tensor, grid: tuple[int, int], keep: Tensor | None) -> Tensor:
        """Run tokens [B, P + K, D] through blocks that are told where they lie to each other."""
        places = torch.arange(grid[0] * grid[1], device=tokens.device)[None] if keep is None else keep
        kind = cast(PlacedBlock, self.network.blocks[0])
        pairs = kind.relate(places, columns=grid[1], prefix=tokens.shape[1] - places.shape[1])
        for block in self.network.blocks:
            tokens = block(tokens, pairs)
        return tokens

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Position codes of the patches, resampled where the grid is not the built one: [1, N, D]."""
        network = self.network
        codes = cast(Tensor, network.pos_embed)  # models without are refused
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

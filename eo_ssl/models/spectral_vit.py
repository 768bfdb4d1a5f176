"""The vision transformer of SatMAE: bands in groups, each with a projection and a code of its own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models.attention import find_gaps
from eo_ssl.models.backbone import Architecture, BackboneConfig, Tokens, View, check_fields, seed_weights
from eo_ssl.models.patches import split_patches, take_patches
from eo_ssl.models.positions import make_group_positions
from eo_ssl.models.vit import Vit, VitBackbone, make_transformer

PROJECTION_SEED = 1 << 32  # added to the seed: the projections draw other numbers than the blocks
_FIELDS = ("timm_name", "img_size", "in_chans", "patch_size", "depth", "groups", "group_dim")  # of an encoder's file


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class SpectralVit(Architecture):
    """A vision transformer with a token for each group of bands and patch (Cong et al. 2022, arXiv 2207.08051).

    Each group has a patch projection of its own; fixed codes say where a token lies and which group it is of.
    """

    family = "spectral_vit"
    title = "vision transformer over groups of bands"
    short = "SpectralViT"

    name: str = "vit_tiny_patch16_224"
    """Name registered in timm of the network that it has the width, the blocks and the class token of."""
    groups: tuple[tuple[str, ...], ...] = (("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A"), ("B11", "B12"))
    """Bands of each group, every band of the data in one of them (the authors' main_pretrain.py)."""
    patch_size: int = 8
    """Side of a patch, pixels; divides the tile size."""
    depth: int | None = None
    """Number of blocks; None keeps that of the registered name."""
    group_dim: int | None = None
    """Channels of the code that says which group a token is of; None takes about a quarter, as 256 of the 1024
    channels of the published ViT-L (models_mae_group_channels.py)."""
    pooling: Literal["mean", "cls"] = "mean"
    """What stands for the image: the mean of the tokens, or the class token."""

    def __post_init__(self) -> None:
        """Refuse unknown choices, numbers below 1, and groups without bands or with a band twice."""
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        bands = [band for group in self.groups for band in group]
        expect(
            bool(bands) and all(self.groups) and len(set(bands)) == len(bands),
            expected="groups of bands, each band in one of them",
            got=_write_groups(self.groups) or "none",
            remedy="name each band once",
        )
        self.trunk  # noqa: B018  (checks what it takes over)

    @property
    def trunk(self) -> Vit:
        """The plain network whose blocks it has."""
        return Vit(self.name, self.patch_size, self.depth, "learned", self.pooling)

    @property
    def in_timm(self) -> bool:
        """It does not."""
        return False

    def build(self, bands: tuple[str, ...], size_px: int, seed: int, *, sensor: str = "") -> SpectralVitBackbone:
        """A vision transformer over groups of bands with a class token and no head.

        Raises:
            UserError: bands that are in no group or groups of other bands, a patch that does not divide the size, a
                group_dim that does not fit the width, or a name of timm that `Vit` does not take.
        """
        expect(
            sorted(bands) == sorted(band for group in self.groups for band in group),
            expected=f"the bands of the groups {_write_groups(self.groups)}",
            got=", ".join(bands),
            remedy="name these with --bands, or other groups with --model.groups",
        )
        network = make_transformer(self.trunk, in_chans=len(bands), size_px=size_px, seed=seed)
        network.__class__ = GroupTransformer  # timm builds by name alone
        grid, prefix = _count_side(size_px, self.patch_size), _count_prefix(network)
        codes = make_group_positions(
            grid, network.embed_dim, groups=len(self.groups), group_dim=self.group_dim, prefix=prefix
        )
        with seed_weights(seed + PROJECTION_SEED):
            network.patch_embed = GroupPatchEmbed(
                [[bands.index(band) for band in group] for group in self.groups],
                size_px=size_px,
                patch_px=self.patch_size,
                dim=network.embed_dim,
            )
        network.pos_embed = nn.Parameter(codes, requires_grad=False)
        network.dynamic_img_size = False  # type: ignore[misc]  # timm's resampling knows no groups; `at_size` does it
        return SpectralVitBackbone(network, BackboneConfig(self, bands, size_px, sensor))

    def to_json(self, *, bands: int, size_px: int) -> dict[str, Any]:
        """Registered name of the blocks, sizes, depth and groups."""
        groups = [list(group) for group in self.groups]
        values = (self.name, size_px, bands, self.patch_size, self.depth, groups, self.group_dim)
        return dict(zip(_FIELDS, values, strict=True))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, pooling: str) -> SpectralVit:
        """The architecture of an encoder's file; an unknown field is refused."""
        check_fields(values, _FIELDS, title=cls.title)
        kept = {key: values[key] for key in ("groups", "patch_size", "depth", "group_dim")}
        return cls(values["timm_name"], **kept, pooling=cast(Literal["mean", "cls"], pooling))

    def timm_options(self, *, bands: int, size_px: int) -> dict[str, Any]:
        """Those of the network whose blocks it has."""
        return self.trunk.timm_options(bands=bands, size_px=size_px)

    def averaged(self) -> SpectralVit:
        """The same network with the mean of its tokens for a vector."""
        return dataclasses.replace(self, pooling="mean")


class GroupPatchEmbed(nn.Module):
    """A patch projection for each group of channels."""

    def __init__(self, members: Sequence[Sequence[int]], *, size_px: int, patch_px: int, dim: int) -> None:
        """Build projections to `dim` channels; `members` are the channels of each group."""
        super().__init__()
        self.members = [list(channels) for channels in members]
        self.patch_size = (patch_px, patch_px)
        self.proj = nn.ModuleList(nn.Conv2d(len(each), dim, patch_px, patch_px) for each in self.members)
        self.fit(size_px)

    def fit(self, size_px: int) -> None:
        """Say of images of which side it is, as timm's patch projections do; the weights know no size."""
        self.img_size, self.grid_size = (size_px, size_px), _count_side(size_px, self.patch_size[0])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, G*N, D]: the patches of the first group in raster order, then those of the next."""
        parts = [project(x[:, channels]) for project, channels in zip(self.proj, self.members, strict=True)]
        return torch.cat([part.flatten(2).transpose(1, 2) for part in parts], dim=1)

    def find_valid(self, valid: Tensor) -> Tensor:
        """Tokens with a valid pixel: [B, C, H, W] -> [B, G*N] bool."""
        seen = split_patches(valid, self.patch_size[0]).any(dim=3)  # [B, N, C]
        return torch.cat([seen[..., channels].any(dim=2) for channels in self.members], dim=1)

    def merge(self, tokens: Tensor, present: Tensor | None) -> Tensor:
        """Tokens [B, G*K, D] as patches [B, K, D]: means over the groups that are present [B, G*K], or over all."""
        batch, count, dim = tokens.shape
        groups = len(self.members)
        grouped = tokens.reshape(batch, groups, count // groups, dim).transpose(1, 2)  # [B, K, G, D]
        if present is None:
            return grouped.mean(dim=2)
        return _average(grouped, present.reshape(batch, groups, count // groups).transpose(1, 2))


class GroupTransformer(VisionTransformer):
    """timm's vision transformer with a `GroupPatchEmbed`; only the maps of its blocks are made otherwise."""

    def forward_intermediates(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """Maps of blocks as timm gives them, `intermediates_only`: of each patch, the mean of its groups' tokens."""
        embed = cast(GroupPatchEmbed, self.patch_embed)
        keys, prefix = options.get("attn_mask"), options.get("return_prefix_tokens", False)
        present = None if keys is None else keys[:, 0, 0, self.num_prefix_tokens :]
        options |= {"intermediates_only": True, "output_fmt": "NLC"}
        found = cast(list[Any], super().forward_intermediates(x, *args, **options))
        patches = [embed.merge(one[0] if prefix else one, present) for one in found]  # [B, N, D] each
        rows, cols = (side // embed.patch_size[0] for side in x.shape[2:])
        maps = [each.transpose(1, 2).reshape(*each.shape[::2], rows, cols) for each in patches]
        return [(one, beside[1]) for one, beside in zip(maps, found, strict=True)] if prefix else maps


class SpectralVitBackbone(VitBackbone):
    """A vision transformer over groups of bands; tokens without a valid pixel take no part.

    Objectives for any transformer name patches: all tokens of a patch are kept or hidden together, and their mean
    stands for it. `encode_tokens` names the tokens themselves, g*N + n for patch n of group g.
    """

    reads_valid = True

    @property
    def patch_embed(self) -> GroupPatchEmbed:
        """Its projections."""
        return cast(GroupPatchEmbed, self.network.patch_embed)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.patch_embed.members)

    def present_tokens(self, view: View) -> Tensor:
        """Tokens with a valid pixel: [B, G*N] bool."""
        return self.patch_embed.find_valid(self.order_bands(view).valid)

    def forward(self, view: View) -> Tokens:
        """Encode all patches; one whose bands are all missing gets what the network makes of its place."""
        return self._by_patch(self._embed(view), view, None, self.present_tokens(view))

    def visible(self, view: View, keep: Tensor) -> Tokens:
        """Encode the patches `keep` [B, K] or [B, M, K] alone, in all groups."""
        rows = self.tokens_of(keep.flatten(0, -2), view)  # [B*M, G*K]
        times = rows.shape[0] // keep.shape[0]
        tokens, present = (
            each.repeat_interleave(times, dim=0) for each in (self._embed(view), self.present_tokens(view))
        )
        return self._by_patch(tokens, view, rows, present.gather(1, rows))

    def layers(self, view: View, *, last: int, part: Literal["block", "mlp"]) -> list[Tensor]:
        """As for any transformer: of each patch, the mean of its groups' tokens."""
        present = self.present_tokens(view)
        return [self.patch_embed.merge(tokens, present) for tokens in super().layers(view, last=last, part=part)]

    def visible_layers(self, view: View, keep: Tensor) -> tuple[Tokens, list[Tensor]]:
        """As for any transformer: of each patch, the mean of its groups' tokens."""
        tokens, entered = super().visible_layers(view, keep)
        prefix, present = tokens.prefix.shape[1], self.present_tokens(view).gather(1, self.tokens_of(keep, view))
        merged = [torch.cat([x[:, :prefix], self.patch_embed.merge(x[:, prefix:], present)], dim=1) for x in entered]
        return tokens, merged

    def masked(self, view: View, mask: Tensor, token: Tensor) -> Tokens:
        """Encode all positions with `token` [D] in place of all groups of the patches where `mask` [B, N] is true."""
        hidden, tokens = mask.repeat(1, self.groups), self._embed(view)  # [B, G*N], [B, G*N, D]
        tokens = torch.where(hidden[..., None], token.to(tokens.dtype), tokens)
        return self._by_patch(tokens, view, None, self.present_tokens(view) | hidden)

    def encode_tokens(self, view: View, keep: Tensor, present: Tensor) -> Tokens:
        """Encode the tokens `keep` [B, T] int64 alone, of which only those `present` [B, T] bool take part.

        Returns:
            Tokens whose `patches` [B, T, D] are one vector for each token, and whose mean is that of the present ones.
        """
        return self._encode_present(self._embed(view), view, keep, present)

    def tokens_of(self, patches: Tensor, view: View) -> Tensor:
        """Indices of the tokens of patches [B, K] of the view, group after group: [B, G*K] int64."""
        rows, cols = self._grid_of(view)
        first = rows * cols * torch.arange(self.groups, device=patches.device)  # [G]
        return (patches[:, None] + first[:, None]).flatten(1)

    def mark_input(self, x: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The pixels, and the mask of the keys for the network's attention."""
        return x, {"attn_mask": self._mask_keys(self.patch_embed.find_valid(valid))}

    def at_size(self, size_px: int) -> Self:
        """The same weights for images of another side: position codes interpolated by timm, group by group."""
        if size_px == self.config.size_px:
            return self
        codes = cast(Tensor, self.network.pos_embed)
        places = self._positions(_count_side(size_px, self.patch_px))  # [1, G*N, D]
        network = copy.deepcopy(self.network)
        cast(GroupPatchEmbed, network.patch_embed).fit(size_px)
        both = torch.cat([codes[:, : _count_prefix(network)], places], dim=1).detach()
        network.pos_embed = nn.Parameter(both, requires_grad=codes.requires_grad)
        return type(self)(network, dataclasses.replace(self.config, size_px=size_px))

    def _embed(self, view: View) -> Tensor:
        """All tokens of the view after their projections, without positions: [B, G*N, D]."""
        self._grid_of(view)  # refuses sizes that the patch does not divide
        tokens: Tensor = self.patch_embed(self.channels(view))
        return tokens

    def _encode_present(self, tokens: Tensor, view: View, keep: Tensor | None, present: Tensor) -> Tokens:
        """Encode all tokens [B, G*N, D], or those that are kept [B, T], of which `present` [B, T] take part."""
        tokens = tokens if keep is None else take_patches(tokens, keep)
        return self._encode(tokens, self._grid_of(view), keep, seen=find_gaps(present))

    def _by_patch(self, tokens: Tensor, view: View, keep: Tensor | None, present: Tensor) -> Tokens:
        """As `_encode_present`, with one vector for each patch: [B, K, D]."""
        encoded = self._encode_present(tokens, view, keep, present)
        seen = None if encoded.seen is None else present.reshape(present.shape[0], self.groups, -1).any(dim=1)
        return dataclasses.replace(encoded, patches=self.patch_embed.merge(encoded.patches, present), seen=seen)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Codes of the tokens, resampled group by group where the grid is not the built one: [1, G*N, D]."""
        codes = cast(Tensor, self.network.pos_embed)[:, _count_prefix(self.network) :]
        if grid == self.grid:
            return codes
        parts = [
            resample_abs_pos_embed(part, grid, self.grid, num_prefix_tokens=0)
            for part in codes.chunk(self.groups, dim=1)
        ]
        return torch.cat(parts, dim=1)


def _average(tokens: Tensor, present: Tensor) -> Tensor:
    """Mean over the last but one dimension, of what is present; of all where nothing is: [..., T, D] -> [..., D]."""
    weight = (present | ~present.any(dim=-1, keepdim=True)).to(tokens.dtype)  # [..., T]
    return (tokens * weight[..., None]).sum(dim=-2) / weight.sum(dim=-1, keepdim=True)


def _count_prefix(network: VisionTransformer) -> int:
    """Leading rows of the position codes that belong to no patch."""
    return 0 if network.no_embed_class else int(network.num_prefix_tokens)


def _count_side(size_px: int, patch_px: int) -> tuple[int, int]:
    """Rows and columns of patches of a square image."""
    return size_px // patch_px, size_px // patch_px


def _write_groups(groups: Sequence[Sequence[str]]) -> str:
    """B02 B03 | B11 B12."""
    return " | ".join(" ".join(group) for group in groups)

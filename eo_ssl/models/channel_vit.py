"""The channel transformer: a vision transformer that takes any subset of its bands and leaves out what is invalid."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models.attention import find_gaps
from eo_ssl.models.backbone import BackboneConfig, Tokens, View, check_fields
from eo_ssl.models.band_codes import CODE_DIM, encode_bands
from eo_ssl.models.metadata_codes import METADATA_FIELDS, attach_metadata
from eo_ssl.models.patches import split_patches, take_patches
from eo_ssl.models.timm_transformer import make_transformer
from eo_ssl.models.vit import TRUNK_FIELDS, Vit, VitBackbone
from eo_ssl.preprocessing import Preprocessing

_OWN_FIELDS = ("band_dropout", "fewest_bands")  # of an encoder's file, beside those of its trunk


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class ChannelVit(Vit):
    """A vision transformer whose patch tokens are the mean of projections of each band, made of the band's wavelength.

    Trained once it takes any subset of its bands, in any patch, and bands of another sensor by their wavelength: a
    band that is missing or invalid in a patch is not part of the mean, a patch without a valid pixel is not attended
    to. One token per patch and not one per patch and band as in ChannelViT (Bao et al. 2024, arXiv 2309.16108): twelve
    bands would cost twelve times the multiplications and 144 times the attention. Kernels from the wavelength are
    DOFA's idea (Xiong et al. 2024, arXiv 2403.15356); linear in a smooth code here, so no further network.
    """

    family = "channel_vit"
    title = "channel transformer"
    short = "ChannelViT"

    band_dropout: bool = True
    """Show the images of a training step with a random subset of their bands, the same in all of them: first the
    number, from `fewest_bands` to all, then which (hierarchical channel sampling, Bao et al. 2024, section 3.3). Views
    of other bands would teach a method that matches them to ignore bands, or tell it which belong together."""
    fewest_bands: int = 1
    """Least number of bands that an image is shown with, and that the trained encoder accepts; 1 in the paper's code
    (insitro/ChannelViT, channelvit/backbone/hcs_channel_vit.py)."""

    def __post_init__(self) -> None:
        """Refuse what a plain one refuses, and attention that would see patches without a valid pixel."""
        super().__post_init__()
        expect(
            self.position in ("sincos", "learned"),
            expected="position sincos or learned for a channel transformer",
            got=f"'{self.position}'",
            remedy="choose one of these, or --model Vit",
        )

    @property
    def in_timm(self) -> bool:
        """It does not."""
        return False

    def build(self, bands: tuple[str, ...], size_px: int, seed: int, *, sensor: str = "") -> ChannelVitBackbone:
        """A channel transformer for bands of `sensor`.

        Raises:
            UserError: as `Vit.build`, bands without wavelength and polarisation, or fewer bands than `fewest_bands`.
        """
        self._check_fewest(bands)
        codes = encode_bands(sensor, bands)
        network = make_transformer(self, in_chans=CODE_DIM, size_px=size_px, seed=seed)
        network.patch_embed = BandEmbed(network.patch_embed, codes)
        attach_metadata(network, self, seed=seed)
        return ChannelVitBackbone(network, BackboneConfig(self, bands, size_px, sensor))

    def adapt_contract(self, contract: Preprocessing) -> Preprocessing:
        """The contract of an encoder trained so: any subset of the bands, down to the fewest, if bands are dropped."""
        self._check_fewest(contract.bands)
        contract = super().adapt_contract(contract)
        if not self.band_dropout:
            return contract
        return dataclasses.replace(contract, missing="any_subset", fewest_bands=self.fewest_bands)

    def to_json(self, *, bands: int, size_px: int) -> dict[str, Any]:
        """Those of the trunk, and what is done with bands."""
        own = {key: getattr(self, key) for key in _OWN_FIELDS}
        return super().to_json(bands=bands, size_px=size_px) | own

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, pooling: str) -> ChannelVit:
        """The architecture of an encoder's file; an unknown field is refused."""
        check_fields(values, (*TRUNK_FIELDS, *METADATA_FIELDS, *_OWN_FIELDS), title=cls.title)
        plain = Vit.from_json({key: values[key] for key in values if key not in _OWN_FIELDS}, pooling=pooling)
        return cls(**dataclasses.asdict(plain), **{key: values[key] for key in _OWN_FIELDS})

    def _check_fewest(self, bands: tuple[str, ...]) -> None:
        expect(
            1 <= self.fewest_bands <= len(bands),
            expected=f"fewest_bands of 1 to the {len(bands)} bands {', '.join(bands)}",
            got=self.fewest_bands,
            remedy="lower it",
        )


class BandEmbed(PatchEmbed):
    """Patch tokens as the mean, over the bands that are valid in a patch, of a linear projection for each band.

    The kernel of a band is linear in its code: sum over k of code[k] times the kernel of k, so that bands of nearly one
    wavelength have nearly one kernel. The codes are part of the weights: an encoder keeps those it was trained with.
    """

    def __init__(self, plain: nn.Module, codes: Tensor) -> None:
        """Take over the kernels of timm's `plain` layer, one for each number of a code.

        Args:
            plain: a layer that takes images of 36 channels; its kernels are drawn for the 36 numbers together, and
                codes of mean square 1 give each band one that is scaled as for itself alone.
            codes: [C, 36] float32, of the bands.
        """
        made = cast(PatchEmbed, plain)
        dim = made.proj.out_channels
        super().__init__(made.img_size, made.patch_size[0], 1, dim, bias=False)
        self.proj, self.norm, self.flatten = made.proj, made.norm, made.flatten
        self.channel_embed = nn.Parameter(torch.zeros(CODE_DIM, dim))
        self.proj.bias = None
        self.codes: Tensor
        self.register_buffer("codes", codes.clone())

    @property
    def kernels(self) -> Tensor:
        """Kernel of each band: [D, C, p, p]."""
        return torch.einsum("ck,dkij->dcij", self.codes, self.proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of images [B, C, H, W] that hold NaN where invalid: [B, N, D], or [B, h, w, D] where timm asks."""
        valid = ~torch.isnan(x)
        tokens = self.project(torch.where(valid, x, 0.0), self.find_valid(valid))
        rows, cols = (side // self.patch_size[0] for side in x.shape[2:])
        return tokens if self.flatten else tokens.reshape(tokens.shape[0], rows, cols, -1)

    def find_valid(self, valid: Tensor) -> Tensor:
        """Whether a band has a valid pixel in a patch: [B, C, H, W] -> [B, N, C] bool."""
        return split_patches(valid, self.patch_size[0]).any(dim=3)

    def project(self, x: Tensor, known: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens of all patches, or of those that are kept.

        Args:
            x: [B, C, H, W] float32, zero where invalid, so that it adds nothing.
            known: [B, K, C] bool, which bands have a valid pixel in each of these patches.
            keep: [B, K] int64, raster indices; None for all.

        Returns:
            [B, K, D]; zero for a patch that is valid in no band.
        """
        kernels = self.kernels
        if keep is None:
            total = nn.functional.conv2d(x, kernels, stride=self.patch_size).flatten(2).transpose(1, 2)  # [B, N, D]
        else:
            pixels = take_patches(split_patches(x, self.patch_size[0]).flatten(2), keep)  # [B, K, C*p*p]
            total = nn.functional.linear(pixels, kernels.flatten(1))  # [B, K, D]
        weight = known.to(total.dtype)  # [B, K, C]
        total = total + weight @ (self.codes @ self.channel_embed)
        tokens: Tensor = self.norm(total / weight.sum(dim=2, keepdim=True).clamp(min=1))
        return tokens


class ChannelVitBackbone(VitBackbone):
    """A channel transformer, evaluated on all patches, on some, or with a token in place of some."""

    reads_valid = True

    @property
    def embed(self) -> BandEmbed:
        """The layer that makes tokens of bands."""
        return cast(BandEmbed, self.network.patch_embed)

    def forward(self, view: View) -> Tokens:
        """Encode all patches that have a valid pixel; those of the others are nobody's context."""
        tokens, seen = self._project_seen(view)
        return self._encode(tokens, view, None, seen=find_gaps(seen))

    def visible(self, view: View, keep: Tensor) -> Tokens:
        """Encode the patches `keep` [B, K] or [B, M, K] alone, less those without a valid pixel."""
        x, known = self._shown(view)
        flat, rows = keep.flatten(1), keep.flatten(0, -2)  # [B, M*K], [B*M, K]
        known = take_patches(known, flat)  # [B, M*K, C]
        tokens = self.embed.project(x, known, flat).reshape(*rows.shape, -1)  # [B*M, K, D]
        seen = find_gaps(known.any(dim=2).reshape(rows.shape))
        return self._encode(tokens, view, rows, seen=seen)

    def masked(self, view: View, mask: Tensor, token: Tensor) -> Tokens:
        """Encode all positions with `token` [D] in place of the patches where `mask` [B, N] is true."""
        x, known = self._shown(view)
        projected = self.embed.project(x, known)  # [B, N, D]
        tokens = torch.where(mask[..., None], token.to(projected.dtype), projected)
        return self._encode(tokens, view, None, seen=find_gaps(known.any(dim=2) | mask))

    def mark_input(self, x: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixels that are NaN where invalid, and the mask of the keys for the network's attention."""
        seen = self.embed.find_valid(valid).any(dim=2)  # [B, N]
        return x.masked_fill(~valid, torch.nan), {"attn_mask": self._mask_keys(seen)}

    def for_bands(self, bands: tuple[str, ...], *, sensor: str) -> Self:
        """The same weights for other bands, known by their wavelength or polarisation; its own keep their codes.

        Raises:
            UserError: bands without either, or unknown to the sensor.
        """
        network = copy.deepcopy(self.network)
        embed = cast(BandEmbed, network.patch_embed)
        codes, own = encode_bands(sensor, bands).to(self.embed.codes), self.config
        for row, band in enumerate(bands):
            if sensor == own.sensor and band in own.bands:
                codes[row] = self.embed.codes[own.bands.index(band)]
        embed.codes = codes
        return type(self)(network, dataclasses.replace(self.config, bands=bands, sensor=sensor))

    def _shown(self, view: View) -> tuple[Tensor, Tensor]:
        """Pixels [B, C, H, W] of the bands that are shown, zero elsewhere, and where those are valid, [B, N, C]."""
        self._grid_of(view)  # refuses sizes that the patch does not divide
        view, model = self.order_bands(view), cast(ChannelVit, self.config.model)
        valid = view.valid
        if self.training and model.band_dropout and view.bands_seed is not None:
            rng = torch.Generator().manual_seed(view.bands_seed)
            shown = draw_bands(len(self.bands), fewest=model.fewest_bands, rng=rng)
            valid = valid & shown.to(valid.device)[:, None, None]
        return torch.where(valid, view.image, view.image.new_zeros(())), self.embed.find_valid(valid)

    def _project_seen(self, view: View) -> tuple[Tensor, Tensor]:
        x, known = self._shown(view)
        return self.embed.project(x, known), known.any(dim=2)


def draw_bands(bands: int, *, fewest: int, rng: torch.Generator) -> Tensor:
    """Which bands images are shown with, [C] bool: a number from `fewest` to all, then any of that many."""
    count = torch.randint(fewest, bands + 1, (), generator=rng)
    return torch.rand(bands, generator=rng).argsort().argsort() < count

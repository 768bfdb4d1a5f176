"""SatMAE (Cong et al. 2022, arXiv 2207.08051): a masked autoencoder over tokens of patches and groups of bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from eo_ssl.errors import UserError, expect
from eo_ssl.models import (
    Backbone,
    SpectralVitBackbone,
    View,
    make_group_positions,
    seed_weights,
    split_patches,
    take_patches,
)
from eo_ssl.objectives.base import Method, Objective
from eo_ssl.objectives.mae import normalise_patches
from eo_ssl.objectives.parts import Predictor, check_narrow, mean_of_valid, take_only_view
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.views import ViewSpec

Norm = Literal["none", "group", "band"]
NORMS: Mapping[str, Literal["patch", "patch_band"]] = {"group": "patch", "band": "patch_band"}


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class SatMae(Method):
    """SatMAE: encode the visible tokens of patches and groups of bands, predict the bands of the hidden ones."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        "tile": ViewSpec(crop=(0.2, 1.0))
    }  # the authors' util/datasets.py, SentinelIndividualImageDataset: crop and flip

    mask_ratio: float = 0.75
    """Share of the tokens that have a valid pixel that is hidden (the authors' main_pretrain.py)."""
    masks: Literal["independent", "shared"] = "independent"
    """Whether tokens are drawn, so that a patch may be hidden in one group alone, or patches, hidden in all groups
    (the authors' spatial_mask, off by default)."""
    norm: Norm = "none"
    """Statistics that normalise a target: none as published (the authors' command has no norm_pix_loss), of all bands
    of a token together, or of each."""
    decoder_dim: int = 128
    """Width of the decoder; the paper's code has 512."""
    decoder_depth: int = 2
    """Blocks of the decoder; the paper's code has 8."""
    decoder_heads: int = 4
    """Attention heads of the decoder; the paper's code has 16."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        expect(0 < self.mask_ratio < 1, expected="mask_ratio between 0 and 1", got=self.mask_ratio, remedy="try 0.75")
        for field, value, known in (
            ("masks", self.masks, ("independent", "shared")),
            ("norm", self.norm, ("none", *NORMS)),
        ):
            expect(value in known, expected=f"{field} out of {', '.join(known)}", got=f"'{value}'", remedy="choose one")
        check_narrow("decoder", width=self.decoder_dim, depth=self.decoder_depth, heads=self.decoder_heads)

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> SatMaeObjective:
        """Encoder and decoder; refuses a network without groups of bands, and a grid with nothing to hide."""
        return SatMaeObjective(require_groups(encoders["tile"], method=type(self).__name__), self, seed=seed)


class Masks(NamedTuple):
    """Tokens that are shown and hidden; rows differ in how many there are, the rest of a row is not there."""

    keep: Tensor
    """[B, K] int64, tokens that are shown."""
    shown: Tensor
    """[B, K] bool, those of them that there are."""
    hidden: Tensor
    """[B, M] int64, tokens that are hidden."""
    wanted: Tensor
    """[B, M] bool, those of them that there are."""


class SatMaeObjective(Objective):
    """Encode the visible tokens and the class token, decode all, predict the hidden ones.

    Tokens without a valid pixel are left out of everything: they are neither shown nor targets, and none attends to
    them; the mask ratio is a share of the others.
    """

    def __init__(self, encoder: SpectralVitBackbone, method: SatMae, *, seed: int = 0) -> None:
        """Build the decoder, its weights drawn from `seed`, around `encoder`."""
        super().__init__({"tile": encoder})
        self.method, self.patch_px, self.grid = method, encoder.patch_px, encoder.grid
        self.groups, self.n_patches = encoder.groups, encoder.grid[0] * encoder.grid[1]
        self.n_units = self.n_patches * (1 if method.masks == "shared" else self.groups)
        self.n_visible = max(1, int(self.n_units * (1 - method.mask_ratio)))  # floor, as in the authors' code
        if self.n_visible >= self.n_units:
            raise UserError(
                f"mask_ratio {method.mask_ratio} hides nothing of a {encoder.grid[0]} x {encoder.grid[1]} grid:"
                " use smaller patches"
            )
        bands = len(encoder.bands)
        members = torch.zeros(self.groups, bands, dtype=torch.bool)
        for group, channels in enumerate(encoder.patch_embed.members):
            members[group, channels] = True
        self.register_buffer("members", members, persistent=False)
        self.members: Tensor  # [G, C] bool, bands of each group
        with seed_weights(seed):
            self.decoder = Predictor(
                encoder.dim,
                make_group_positions(encoder.grid, method.decoder_dim, groups=self.groups),
                width=method.decoder_dim,
                depth=method.decoder_depth,
                heads=method.decoder_heads,
                out=bands * encoder.patch_px**2,  # a head for each group: its rows, which its tokens alone use
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the hidden tokens, `loss`."""
        encoder = require_groups(self.encoder, method="SatMae")
        view = take_only_view(batch, encoder, method="SatMae")
        masks = self.draw_tokens(encoder.present_tokens(view), batch.step.generator())
        tokens = encoder.encode_tokens(view, masks.keep, masks.shown)
        prediction = self.decoder(tokens, masks.keep, masks.hidden[:, None], present=masks.wanted[:, None])[
            :, 0
        ]  # [B, M, C*p*p]
        return {"loss": self.compare(prediction, view, masks)}

    def draw_tokens(self, present: Tensor, rng: torch.Generator) -> Masks:
        """A uniform random split of the tokens of each tile that are present [B, G*N] bool.

        A patch that is shared by all groups can be drawn if it has a token; a token that it lacks is not there.
        """
        shared = self.method.masks == "shared"
        units = present.reshape(-1, self.groups, self.n_patches).any(dim=1) if shared else present  # [B, U]
        noise = torch.rand(units.shape, generator=rng).to(present.device)
        order = (noise + 2 * ~units).argsort(dim=1)  # [B, U]: what is not there comes last
        count = units.sum(dim=1, keepdim=True)  # [B, 1]
        shown = (count.double() * (1 - self.method.mask_ratio)).floor().clamp(min=1).long()  # [B, 1]
        place = torch.arange(self.n_units, device=present.device)  # [U]
        first, rest = place[: self.n_visible], place[: self.n_units - self.n_visible]
        sides = ((order[:, : self.n_visible], first < shown), (order.gather(1, shown + rest), rest < count - shown))
        parts: list[Tensor] = []
        for index, there in sides:
            if shared:
                start = self.n_patches * torch.arange(self.groups, device=index.device)  # [G]
                index = (index[:, None] + start[:, None]).flatten(1)  # [B, G*K]
                there = there.repeat(1, self.groups)
            parts += [index, there & present.gather(1, index)]
        return Masks(*parts)

    def compare(self, prediction: Tensor, view: View, masks: Masks) -> Tensor:
        """Loss of what was predicted for the hidden tokens: [B, M, C*p*p] -> scalar."""
        encoder = require_groups(self.encoder, method="SatMae")
        patch, group = masks.hidden % self.n_patches, masks.hidden // self.n_patches  # [B, M]
        target = take_patches(split_patches(encoder.channels(view), self.patch_px), patch)  # [B, M, C, p*p]
        valid = take_patches(split_patches(encoder.order_bands(view).valid, self.patch_px), patch)
        valid = valid & self.members[group][..., None]  # none of a token that is not there
        return compute_token_loss(prediction.reshape(target.shape), target, valid, norm=self.method.norm)


@use_float32
def compute_token_loss(prediction: Tensor, target: Tensor, valid: Tensor, *, norm: Norm) -> Tensor:
    """Mean over tokens of the mean squared error over the valid pixels of a token; tokens without any do not count.

    With no missing pixel this is the loss of the authors' models_mae_group_channels.py as it is meant: a token weighs
    the same whatever its number of bands. Their code compares predictions in the order of the groups with targets in
    the order of the bands, so that two bands of the published groups are learned by the head of the other's group.

    Args:
        prediction: [B, M, C, p*p] of the hidden tokens.
        target: [B, M, C, p*p] pixels of their patches, zero where invalid.
        valid: [B, M, C, p*p] bool, valid pixels of the bands of the token's group.
        norm: statistics over the valid pixels of a token, or of each of its bands, that normalise its target.

    Returns:
        Scalar; zero when no pixel is valid.
    """
    if norm != "none":
        target = normalise_patches(target, valid, norm=NORMS[norm])
    weight = valid.to(prediction.dtype)
    weight = weight / weight.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return mean_of_valid((prediction - target).square(), weight)


def require_groups(backbone: Backbone, *, method: str) -> SpectralVitBackbone:
    """The backbone under its own type.

    Raises:
        UserError: a network without groups of bands.
    """
    if not isinstance(backbone, SpectralVitBackbone):
        raise UserError(
            f"expected a transformer over groups of bands for {method}, got {type(backbone).__name__};"
            " choose --model SpectralVit, or --objective Mae"
        )
    return backbone

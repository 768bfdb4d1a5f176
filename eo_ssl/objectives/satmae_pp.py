"""SatMAE++ (Noman et al. 2024, arXiv 2403.05419): SatMAE that also reconstructs the tile at finer scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, SpectralVitBackbone, View, seed_weights
from eo_ssl.objectives.parts import mean_of_valid, take_only_view
from eo_ssl.objectives.satmae import Masks, SatMae, SatMaeObjective, require_groups
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.views import ViewSpec
from eo_ssl.preprocessing import resample_masked


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class SatMaePp(SatMae):
    """SatMAE++: SatMAE on a view at the tile's size, and the whole view at twice and four times that size.

    The view is made at the finest scale and halved. Where the tile has no finer pixels than the encoder sees, as is the
    rule, the finer scales are interpolated, in the authors' runs too: they ask for smoothness, not for detail.
    """

    views: ClassVar[Mapping[str, ViewSpec]] = {
        "tile": ViewSpec(size=4.0, crop=(0.6, 1.0))
    }  # the authors' util/datasets.py, SentinelIndividualImageDataset: crops of four times the side

    scales: int = 2
    """Doublings of the side, each a target; the view is 2**scales tiles wide (engine_pretrain.py: 2x and 4x)."""
    scales_weight: float = 0.4
    """Share of the finer scales in the loss, the rest is SatMAE's (the authors' engine_pretrain.py)."""
    upsampling_width: int = 4
    """Channels of the upsampling blocks for each band (the authors' proj_ratio)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        expect(1 <= self.scales <= 3, expected="1 to 3 scales", got=self.scales, remedy="try 2")
        expect(
            0 <= self.scales_weight < 1, expected="scales_weight in [0, 1)", got=self.scales_weight, remedy="try 0.4"
        )
        expect(
            self.upsampling_width >= 1,
            expected="upsampling_width of 1 or more",
            got=self.upsampling_width,
            remedy="try 4",
        )

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> SatMaePpObjective:
        """Encoder, decoder and upsampling blocks; refuses what `SatMae` refuses."""
        return SatMaePpObjective(require_groups(encoders["tile"], method=type(self).__name__), self, seed=seed)


class SatMaePpObjective(SatMaeObjective):
    """SatMAE's loss, and the mean absolute error of the whole view at each finer scale, made from all predictions."""

    method: SatMaePp

    def __init__(self, encoder: SpectralVitBackbone, method: SatMaePp, *, seed: int = 0) -> None:
        """Build the decoder and the upsampling blocks, their weights drawn from `seed`, around `encoder`."""
        super().__init__(encoder, method, seed=seed)
        bands = len(encoder.bands)
        width = bands * method.upsampling_width
        with seed_weights(seed + 1):
            self.widen = nn.Sequential(nn.Conv2d(bands, width, 1), nn.GELU(), LayerNorm2d(width, eps=1e-6))
            self.upsampling = nn.ModuleList(UpsamplingBlock(width, bands) for _ in range(method.scales))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted sum `loss`, `masked`, SatMAE's, and `finer`, the mean over the scales."""
        encoder = require_groups(self.encoder, method="SatMaePp")
        finest = take_only_view(batch, encoder, method="SatMaePp", times=2**self.method.scales)
        pyramid = [encoder.order_bands(finest)]
        for _ in range(self.method.scales):
            pyramid.insert(0, shrink(pyramid[0]))
        view = pyramid[0]
        masks = self.draw_tokens(encoder.present_tokens(view), batch.step.generator())
        tokens = encoder.encode_tokens(view, masks.keep, masks.shown)
        answers = self.decoder.answer(tokens, masks.keep, masks.hidden[:, None], present=masks.wanted[:, None])[
            :, tokens.prefix.shape[1] :
        ]  # [B, K + M, d]
        prediction = self.decoder.head(self.decoder.norm(answers))  # [B, K + M, C*p*p]
        masked = self.compare(prediction[:, masks.keep.shape[1] :], view, masks)
        maps, errors = self.widen(self.paint(prediction, masks)), []
        for upsample, target in zip(self.upsampling, pyramid[1:], strict=True):
            maps, image = upsample(maps)
            errors.append(mean_of_valid((image - target.pixels).abs(), target.valid.to(image.dtype)))
        finer = torch.stack(errors).mean()
        share = self.method.scales_weight
        return {"loss": (1 - share) * masked + share * finer, "masked": masked.detach(), "finer": finer.detach()}

    def paint(self, prediction: Tensor, masks: Masks) -> Tensor:
        """Predictions of shown and hidden tokens [B, K + M, C*p*p] as an image [B, C, H, W]; 0 where no token is."""
        batch, _, size = prediction.shape
        total, bands = self.groups * self.n_patches, self.members.shape[1]
        index = torch.cat([masks.keep, masks.hidden], dim=1)
        there = torch.cat([masks.shown, masks.wanted], dim=1)
        index = index.masked_fill(~there, total)[..., None].expand(-1, -1, size)  # what is not there goes to the end
        canvas = prediction.new_zeros(batch, total + 1, size).scatter(1, index, prediction)[:, :total]
        canvas = canvas.reshape(batch, self.groups, self.n_patches, bands, -1)  # [B, G, N, C, p*p]
        own = self.members.long().argmax(dim=0)  # [C], the group of each band
        pixels = canvas[:, own, :, torch.arange(bands, device=own.device)].permute(1, 0, 3, 2)  # [B, C, p*p, N]
        rows, cols = (side * self.patch_px for side in self.grid)
        return functional.fold(pixels.flatten(1, 2), (rows, cols), self.patch_px, stride=self.patch_px)


class UpsamplingBlock(nn.Module):
    """Maps at twice the side, and the image that they make (the authors' UpsampleBlock)."""

    def __init__(self, width: int, bands: int) -> None:
        """Build it for maps of `width` channels and an image of `bands`."""
        super().__init__()
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), LayerNorm2d(width, eps=1e-6), nn.LeakyReLU()
        )
        self.change = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.norm = LayerNorm2d(width, eps=1e-6)
        self.image = nn.Conv2d(width, bands, 3, padding=1)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """[B, W, h, w] -> [B, W, 2h, 2w] and [B, C, 2h, 2w]."""
        larger = self.enlarge(maps)
        larger = self.norm(larger + 0.5 * self.change(larger))
        return larger, self.image(larger)


def shrink(view: View) -> View:
    """The view at half the side: means of the valid pixels among four, valid where more than half are."""
    values, known = resample_masked(view.pixels, view.valid, lambda x: functional.avg_pool2d(x, 2))
    return dataclasses.replace(view, image=values.where(known, values.new_zeros(())), valid=known)

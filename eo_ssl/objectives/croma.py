"""CROMA (Fuller et al. 2023, arXiv 2311.00566): two sensors of one ground find each other and fill each other in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import (
    Backbone,
    FusionEncoder,
    Tokens,
    View,
    VitBackbone,
    require_plain,
    seed_weights,
    split_patches,
    take_patches,
)
from eo_ssl.objectives.base import Method, Objective, list_encoders
from eo_ssl.objectives.mae import normalise_patches
from eo_ssl.objectives.parts import Predictor, check_narrow, gather, mean_of_valid
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.two_sensors import (
    ALIGNED_VIEWS,
    OPTICAL,
    RADAR,
    SENSORS,
    require_sensors,
    take_sensor_views,
)
from eo_ssl.objectives.two_views import check_several, check_temperature
from eo_ssl.objectives.views import ViewSpec

Split = tuple[Tensor, Tensor]
"""Visible and hidden patches of each tile, [B, K] and [B, M] int64."""
Norm = Literal["joint", "sensor", "band"]


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Croma(Method):
    """CROMA: encode the visible patches of each sensor, contrast the sensors, fuse them, predict what both hide.

    Differences from the authors' pretrain_croma.py: the encoders have the class token and the biases of timm and one
    depth, and the distances of radar patches among themselves are their own in the fusion too.
    """

    views: ClassVar[Mapping[str, ViewSpec]] = ALIGNED_VIEWS

    radar_mask_ratio: float = 0.75
    """Share of the radar patches that is hidden; of each sensor others, drawn by themselves (the authors' code)."""
    optical_mask_ratio: float = 0.75
    """Share of the optical patches that is hidden."""
    temperature: float = 0.07
    """Temperature of the contrast at the beginning; it is learned (the authors' code)."""
    norm: Norm = "joint"
    """Statistics that normalise a target: those of all bands of both sensors in a patch, as published, of all bands of
    a sensor, or of each."""
    fusion_depth: int = 2
    """Blocks that fuse the sensors; the authors' code has 6, half as many as the optical encoder."""
    fusion_heads: int = 4
    """Attention heads of the fusion; the authors' code has 16 for 768 channels, 48 channels each as in ours for 192."""
    decoder_dim: int = 128
    """Width of the decoder; the authors' code has 512."""
    decoder_depth: int = 1
    """Blocks of the decoder (the authors' code)."""
    decoder_heads: int = 4
    """Attention heads of the decoder; the authors' code has 8."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("radar_mask_ratio", "optical_mask_ratio"):
            value = getattr(self, name)
            expect(0 < value < 1, expected=f"{name} between 0 and 1", got=value, remedy="try 0.75")
        check_temperature(self.temperature, usual=0.07)
        known = ("joint", "sensor", "band")
        expect(
            self.norm in known, expected=f"norm out of {', '.join(known)}", got=f"'{self.norm}'", remedy="choose one"
        )
        for name in ("fusion_depth", "fusion_heads"):
            value = getattr(self, name)
            expect(value >= 1, expected=f"{name} of at least 1", got=value, remedy="raise it")
        check_narrow("decoder", width=self.decoder_dim, depth=self.decoder_depth, heads=self.decoder_heads)

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> CromaObjective:
        """Encoders of both sensors, their heads, fusion and decoder; refuses other items than pairs of these."""
        found = require_sensors(encoders, method="Croma")
        plain = {stream: require_plain(found[stream], method="Croma") for stream in SENSORS}  # all patches are fused
        return CromaObjective(plain, self, seed=seed)


class CromaObjective(Objective):
    """Encode the visible patches of each sensor, contrast their means, fuse the patches, predict the hidden ones."""

    told = ("incidence",)  # of the radar alone; both sensors are cut out alike

    def __init__(self, encoders: Mapping[str, VitBackbone], method: Croma, *, seed: int = 0) -> None:
        """Build heads, fusion and decoder, their weights drawn from `seed`, around `encoders`."""
        super().__init__(encoders)
        self.method, first = method, encoders[RADAR]
        expect(
            first.dim % method.fusion_heads == 0,
            expected=f"fusion_heads that divide the width of {first.dim}",
            got=method.fusion_heads,
            remedy="choose a divisor",
        )
        self.grid, self.patch_px = first.grid, first.patch_px
        rows, cols = self.grid
        ratios = (method.radar_mask_ratio, method.optical_mask_ratio)
        self.n_visible = [max(1, int(rows * cols * (1 - ratio))) for ratio in ratios]  # floor, as in the authors' code
        expect(
            max(self.n_visible) < rows * cols,
            expected=f"mask ratios that hide a patch of a {rows} x {cols} grid",
            got=ratios,
            remedy="use smaller patches",
        )
        dim, bands = first.dim, [len(encoders[stream].bands) for stream in SENSORS]
        self.bands = [range(bands[0]), range(bands[0], sum(bands))]
        with seed_weights(seed):
            self.heads = nn.ModuleDict({stream: _make_head(dim) for stream in SENSORS})
            self.fusion = FusionEncoder(dim, depth=method.fusion_depth, heads=method.fusion_heads)
            self.decoder = Predictor(
                dim,
                self.grid,
                width=method.decoder_dim,
                depth=method.decoder_depth,
                heads=method.decoder_heads,
                out=sum(bands) * self.patch_px**2,
            )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(method.temperature)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of contrast and both reconstructions, `loss`, and each of them."""
        radar, optical = views = self.take_sensors(batch)
        drawn = self.draw_splits(len(radar), batch.step.generator())
        splits = [(keep.to(radar.image.device), hidden.to(radar.image.device)) for keep, hidden in drawn]
        tokens = [
            require_plain(self.encoders[view.stream], method="Croma").visible(view, keep)  # type: ignore[arg-type]
            for view, (keep, _) in zip(views, splits, strict=True)
        ]
        measured = torch.stack([view.valid.flatten(1).any(dim=1) for view in views]).all(dim=0)  # [B]
        contrast = self.compare(tokens[0].pooled, tokens[1].pooled, measured)
        prediction = self.reconstruct(tokens[0], tokens[1], splits[0], splits[1])
        first, second = self.judge(prediction, (radar, optical), (splits[0][1], splits[1][1]))
        found = {"contrast": contrast, "radar": first, "optical": second}
        return {"loss": contrast + first + second} | {name: value.detach() for name, value in found.items()}

    def take_sensors(self, batch: Batch) -> tuple[View, View]:
        """The radar and the optical view of the batch, whole and of the same ground.

        Raises:
            UserError: another number of views than one of each, another size, or a batch of one item.
        """
        views = take_sensor_views(batch, list_encoders(self.encoders), method="Croma")
        check_several(views[0])
        return views

    @property
    def fused(self) -> FusionEncoder:
        """What joins the tokens of both sensors."""
        return self.fusion

    def draw_splits(self, batch: int, rng: torch.Generator) -> tuple[Split, Split]:
        """Uniform random splits of the patches of each tile: of its radar, and independently of its optical image."""
        n = self.grid[0] * self.grid[1]
        orders = torch.rand(2, batch, n, generator=rng).argsort(dim=2)  # [2, B, N]
        first, second = (
            (order[:, :visible], order[:, visible:]) for order, visible in zip(orders, self.n_visible, strict=True)
        )
        return first, second

    def compare(self, radar: Tensor, optical: Tensor, measured: Tensor) -> Tensor:
        """How well the sensors find each other in the batches of all processes: scalar.

        Args:
            radar: [B, D], means of the visible patches.
            optical: [B, D].
            measured: [B] bool, items of which both sensors have a valid pixel; the others are nobody's counterpart.
        """
        first, second = (
            gather(use_float32(nn.functional.normalize)(self.heads[stream](features), dim=1))
            for stream, features in ((RADAR, radar), (OPTICAL, optical))
        )  # [world * B, D]
        known = gather(measured.to(first.dtype)) > 0
        return compute_contrast(first[known], second[known], scale=self.log_scale.exp())

    def reconstruct(self, radar: Tokens, optical: Tokens, radar_split: Split, optical_split: Split) -> Tensor:
        """What stands at each patch in the bands of both sensors, radar first: [B, N, C, p*p]."""
        keep, hidden = radar_split
        joint = self.fusion(radar.patches, optical.patches, (keep, optical_split[0]), columns=self.grid[1])
        tokens = Tokens(joint.mean(dim=1), joint, joint[:, :0])
        answer = self.decoder.answer(tokens, keep, hidden[:, None])  # [B, N, width], radar's visible patches first
        values = self.decoder.head(self.decoder.norm(answer))  # [B, N, C*p*p]
        raster = torch.cat([keep, hidden], dim=1).argsort(dim=1)  # [B, N]
        return take_patches(values, raster).reshape(*raster.shape, -1, self.patch_px**2)

    def judge(self, prediction: Tensor, views: tuple[View, View], hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Mean squared error of the valid pixels that each sensor hides, radar's and optical.

        Args:
            prediction: [B, N, C, p*p] of `reconstruct`.
            views: of both sensors.
            hidden: [B, M] int64 of each.
        """
        pixels, valid = (
            torch.cat([split_patches(getattr(view, name), self.patch_px) for view in views], dim=2)  # [B, N, C, p*p]
            for name in ("pixels", "valid")
        )
        norms: Mapping[Norm, Literal["patch", "patch_group", "patch_band"]] = {
            "joint": "patch",
            "sensor": "patch_group",
            "band": "patch_band",
        }
        target = normalise_patches(pixels, valid, norm=norms[self.method.norm], groups=self.bands)
        error = (prediction - target).square()
        losses = []
        for bands, places in zip(self.bands, hidden, strict=True):
            wanted = torch.zeros_like(valid[:, :, 0, 0]).scatter(1, places, True)[..., None, None]  # [B, N, 1, 1]
            own = slice(bands.start, bands.stop)
            losses.append(mean_of_valid(error[:, :, own], (valid[:, :, own] & wanted).to(error.dtype)))
        return tuple(losses)


@use_float32
def compute_contrast(first: Tensor, second: Tensor, *, scale: Tensor) -> Tensor:
    """Mean cross-entropy of finding the second vector of an item by its first among all second ones, and vice versa.

    Args:
        first: [B, D], of length 1.
        second: [B, D], of length 1.
        scale: inverse of the temperature.

    Returns:
        Scalar; 0 without items.
    """
    scores = scale * first @ second.T  # [B, B]
    both = scores.log_softmax(dim=1).diagonal() + scores.log_softmax(dim=0).diagonal()  # [B]
    return -both.sum() / (2 * max(len(first), 1))


def _make_head(dim: int) -> nn.Sequential:
    """What the contrast sees of the mean of the patches: a network of two layers, then a linear map."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Linear(dim, dim)
    )

"""MultiMAE (Bachmann et al. 2022, arXiv 2204.01678) of two sensors: one transformer sees some patches of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.models import (
    Backbone,
    JointSequence,
    MaskableBackbone,
    View,
    VitBackbone,
    encode_together,
    make_group_positions,
    seed_weights,
    split_patches,
    take_patches,
    unite_trunks,
)
from eo_ssl.objectives.base import Method, Objective, list_encoders
from eo_ssl.objectives.mae import normalise_patches
from eo_ssl.objectives.parts import Predictor, check_narrow, find_seen, mean_of_valid
from eo_ssl.objectives.satmae import Masks
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.two_sensors import ALIGNED_VIEWS, RADAR, SENSORS, require_sensors, take_sensor_views
from eo_ssl.objectives.views import ViewSpec

Norm = Literal["sensor", "band"]
_NORMS: Mapping[Norm, Literal["patch", "patch_band"]] = {"sensor": "patch", "band": "patch_band"}


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class MultiMae(Method):
    """MultiMAE: encode some patches of both sensors as one sequence, predict the others of each sensor.

    A patch without a valid pixel of a sensor is neither shown nor predicted for that sensor; the other's still is.
    Further differences from the authors' multimae.py, output_adapters.py and criterion.py: one decoder of
    self-attention fills in both sensors, each by a head of its own, where they have one for each that attends to the
    encoded patches first; the encoder ends with timm's norm; errors are averaged over all pixels of a batch.
    """

    views: ClassVar[Mapping[str, ViewSpec]] = ALIGNED_VIEWS

    mask_ratio: float = 0.75
    """Share of the patches of both sensors together that is hidden; their config shows 98 patches, half of those that
    one image has. How many of them are of which sensor is drawn for each item, all shares with equal chance (their
    alphas of 1), and then of each sensor which."""
    alone: float = 0.25
    """Chance of an item to show one sensor alone, either with equal chance, so that the encoder is used to that (ours;
    2/3 where the authors' code samples tasks uniformly, and 0 in their configs)."""
    norm: Norm = "band"
    """Statistics that normalise a target: of each band of a patch, or of all bands of a sensor together as published
    (criterion.py)."""
    decoder_dim: int = 128
    """Width of the decoder; 256 in the authors' config."""
    decoder_depth: int = 2
    """Blocks of the decoder; 2 in the authors' config, behind one of cross-attention."""
    decoder_heads: int = 4
    """Attention heads of the decoder; 8 in the authors' code."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        expect(0 < self.mask_ratio < 1, expected="mask_ratio between 0 and 1", got=self.mask_ratio, remedy="try 0.75")
        expect(0 <= self.alone <= 1, expected="alone within 0 and 1", got=self.alone, remedy="try 0.25")
        expect(
            self.norm in _NORMS, expected=f"norm out of {', '.join(_NORMS)}", got=f"'{self.norm}'", remedy="choose one"
        )
        check_narrow("decoder", width=self.decoder_dim, depth=self.decoder_depth, heads=self.decoder_heads)

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> MultiMaeObjective:
        """Encoders of both sensors, of which the radar's transformer becomes that of both, and a decoder."""
        return MultiMaeObjective(require_sensors(encoders, method="MultiMae"), self, seed=seed)


class MultiMaeObjective(Objective):
    """Encode the patches that are shown of both sensors together, decode all, predict the hidden ones of each."""

    def __init__(self, encoders: Mapping[str, MaskableBackbone], method: MultiMae, *, seed: int = 0) -> None:
        """Make one transformer of both, and build the decoder, its weights drawn from `seed`."""
        super().__init__(encoders)
        unite_trunks(*(encoders[stream] for stream in SENSORS))
        self.method, first = method, encoders[RADAR]
        self.patch_px, self.n_patches = first.patch_px, first.grid[0] * first.grid[1]
        counts = [len(encoders[stream].bands) for stream in SENSORS]
        self.bands = [range(counts[0]), range(counts[0], sum(counts))]
        members = torch.zeros(len(SENSORS), sum(counts), dtype=torch.bool)
        for sensor, own in enumerate(self.bands):
            members[sensor, own.start : own.stop] = True
        self.register_buffer("members", members, persistent=False)
        self.members: Tensor  # [2, C] bool, bands of each sensor
        with seed_weights(seed):
            self.decoder = Predictor(
                first.dim,
                make_group_positions(first.grid, method.decoder_dim, groups=len(SENSORS)),
                width=method.decoder_dim,
                depth=method.decoder_depth,
                heads=method.decoder_heads,
                out=sum(counts) * self.patch_px**2,  # a head for each sensor: its rows, which its tokens alone use
            )

    @property
    def fused(self) -> JointSequence:
        """What makes one vector of both sensors: the transformer that their encoders share."""
        return JointSequence()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of the mean squared errors of both sensors' hidden patches, `loss`, and each of them."""
        encoders = list_encoders(self.encoders)
        views = take_sensor_views(batch, encoders, method="MultiMae")
        present = torch.cat([find_seen(view, self.patch_px) for view in views], dim=1)  # [B, 2*N]
        masks = self.draw_tokens(present, batch.step.generator())
        order = [cast(VitBackbone, encoders[stream]) for stream in SENSORS]
        tokens = encode_together(order, views, keep=masks.keep, shown=masks.shown)
        prediction = self.decoder(tokens, masks.keep, masks.hidden[:, None], present=masks.wanted[:, None])[
            :, 0
        ]  # [B, M, C*p*p]
        radar, optical = self.compare(prediction, views, masks)
        return {"loss": radar + optical, "radar": radar.detach(), "optical": optical.detach()}

    def draw_tokens(self, present: Tensor, rng: torch.Generator) -> Masks:
        """A split of the patches of both sensors that are present [B, 2*N] bool, patch n of sensor s being s * N + n.

        The share of the radar among the patches that are shown is uniform within 0 and 1, or one of both where one
        sensor is shown alone; which patches of a sensor are shown is uniform. A sensor that has fewer shows all it has.
        """
        batch = len(present)
        share, lot, side = torch.rand(3, batch, generator=rng, dtype=torch.float64).to(present.device)
        noise = torch.rand(batch, len(SENSORS), self.n_patches, generator=rng).to(present.device)
        there = present.reshape(noise.shape)
        count = there.sum(dim=2)  # [B, 2]
        share = torch.where(lot < self.method.alone, side.round(), share)  # of the radar
        share = torch.where(count[:, 1] == 0, 1.0, torch.where(count[:, 0] == 0, 0.0, share))
        total = (count.sum(dim=1).double() * (1 - self.method.mask_ratio)).floor().long().clamp(min=1)  # [B]
        radar = (share * total).round().long()
        wanted = torch.stack([radar, total - radar], dim=1).minimum(count)  # [B, 2]
        rank = (noise + ~there).argsort(dim=2).argsort(dim=2)  # what is not there comes last
        shown = (rank < wanted[..., None]).flatten(1)  # [B, 2*N]
        return Masks(*_list_tokens(shown), *_list_tokens(present & ~shown))

    def compare(self, prediction: Tensor, views: tuple[View, View], masks: Masks) -> tuple[Tensor, Tensor]:
        """Mean squared error of the valid pixels of the hidden patches, radar's and optical.

        Args:
            prediction: [B, M, C*p*p] of the hidden patches, C the bands of both, radar first.
            views: of both sensors.
            masks: which patches are hidden.
        """
        encoders = list_encoders(self.encoders)
        ordered = [encoders[stream].order_bands(view) for stream, view in zip(SENSORS, views, strict=True)]
        place, sensor = masks.hidden % self.n_patches, masks.hidden // self.n_patches  # [B, M]
        target, valid = (
            take_patches(torch.cat([split_patches(getattr(v, name), self.patch_px) for v in ordered], dim=2), place)
            for name in ("pixels", "valid")
        )  # [B, M, C, p*p]
        valid = valid & (self.members[sensor] & masks.wanted[..., None])[..., None]
        wanted = normalise_patches(target, valid, norm=_NORMS[self.method.norm])
        error = (prediction.reshape(target.shape) - wanted).square()
        radar, optical = (
            mean_of_valid(error[:, :, own], valid[:, :, own].to(error.dtype))
            for own in (slice(bands.start, bands.stop) for bands in self.bands)
        )
        return radar, optical


def _list_tokens(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the tokens that are chosen [B, T] bool, one or as many as any row has, and which of them there are."""
    most = max(int(chosen.sum(dim=1).max()), 1)
    index = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    return index, chosen.gather(1, index)

"""Masked autoencoder (He et al. 2022, arXiv 2111.06377) with targets normalised per patch and band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from eo_ssl.errors import UserError, expect
from eo_ssl.models import (
    Backbone,
    MaskableBackbone,
    View,
    require_maskable,
    seed_weights,
    split_patches,
    take_patches,
)
from eo_ssl.objectives.base import Method, Objective, Teacher, compute_momentum
from eo_ssl.objectives.cross_decoder import CrossDecoder
from eo_ssl.objectives.hard_patches import HardPatches, compute_ranking_loss, move_hard_last
from eo_ssl.objectives.parts import Predictor, check_narrow, find_seen, mean_of_valid, take_only_view
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.views import ViewSpec

VARIANCE_FLOOR = 1e-6  # squared normalised units; keeps constant patches finite (released code of He et al. 2022)
Norm = Literal["patch_band", "patch", "patch_group"]


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Mae(Method):
    """Masked autoencoder: encode the visible patches, predict the pixels of the hidden ones."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        "tile": ViewSpec(crop=(0.2, 1.0))
    }  # He et al. 2022, table 8: crop and flip

    mask_ratio: float = 0.75
    """Share of the patches that is hidden (He et al. 2022, section 4)."""
    norm: Norm = "patch_band"
    """Statistics that normalise a target: of each band of a patch, of all its bands together as in the paper, or of
    groups of bands. Joint statistics let bright bands dominate the loss of a multispectral patch."""
    groups: tuple[tuple[str, ...], ...] = ()
    """Bands that share statistics where norm is `patch_group`: each band once, such as [[B02, B03, B04], [B08]]."""
    decoder: Literal["full", "cross"] = "full"
    """What a hidden patch looks at in the decoder: all patches as in the paper, or, cheaper, the visible ones alone
    (CrossMAE, Fu et al. 2024, arXiv 2401.14391)."""
    predicted: float = 1.0
    """Share of the hidden patches that is predicted; a third in the authors' command of CrossMAE (0.25 of 0.75)."""
    decoder_dim: int = 128
    """Width of the decoder, a multiple of 4 and of decoder_heads."""
    decoder_depth: int = 2
    """Blocks of the decoder; its size is the largest lever on the cost of a step."""
    decoder_heads: int = 4
    """Attention heads of the decoder."""
    hard: HardPatches = field(default_factory=HardPatches)
    """How many of the hidden patches are those that a teacher finds hard."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}: try 0.75")
        for name, options in (("norm", ("patch_band", "patch", "patch_group")), ("decoder", ("full", "cross"))):
            value = getattr(self, name)
            expect(
                value in options, expected=f"{name} out of {', '.join(options)}", got=repr(value), remedy="choose one"
            )
        expect(
            0 < self.predicted <= 1, expected="predicted above 0 and at most 1", got=self.predicted, remedy="try 0.33"
        )
        expect(
            bool(self.groups) == (self.norm == "patch_group"),
            expected="groups of bands where norm is patch_group, and only there",
            got=f"norm {self.norm} and {len(self.groups)} groups",
            remedy="give both or neither",
        )
        check_narrow("decoder", width=self.decoder_dim, depth=self.decoder_depth, heads=self.decoder_heads)

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> MaeObjective:
        """Encoder and decoder; refuses a network that cannot leave out patches, and a grid with none to hide."""
        return MaeObjective(require_maskable(encoders["tile"], method="Mae"), self, seed=seed)


class MaeObjective(Objective):
    """Encode the visible patches and the class token, decode, predict the hidden ones."""

    decoder: Predictor | CrossDecoder
    judge: Predictor | None
    """Ranks the errors of the decoder, where hard patches are looked for."""

    def __init__(self, encoder: MaskableBackbone, method: Mae, *, seed: int = 0) -> None:
        """Build the decoder, its weights drawn from `seed`, around `encoder`."""
        super().__init__({"tile": encoder})
        self.method, self.patch_px = method, encoder.patch_px
        rows, cols = encoder.grid
        self.n_patches = rows * cols
        self.n_visible = max(1, int(self.n_patches * (1 - method.mask_ratio)))  # floor, as in the paper's code
        if self.n_visible >= self.n_patches:
            raise UserError(
                f"mask_ratio {method.mask_ratio} hides no patch of a {rows} x {cols} grid: use smaller patches"
            )
        self.n_predicted = max(1, round((self.n_patches - self.n_visible) * method.predicted))
        self.groups = index_groups(method.groups, encoder.bands)
        sizes: dict[str, Any] = {
            "width": method.decoder_dim,
            "depth": method.decoder_depth,
            "heads": method.decoder_heads,
        }
        out = len(encoder.bands) * encoder.patch_px**2
        with seed_weights(seed):
            if method.decoder == "full":
                self.decoder = Predictor(encoder.dim, encoder.grid, **sizes, out=out)
            else:
                self.decoder = CrossDecoder(encoder.dim, encoder.grid, sources=encoder.depth + 1, **sizes, out=out)
            self.judge = Predictor(encoder.dim, encoder.grid, **sizes, out=1) if method.hard.share else None
        if self.judge is not None:
            self.teacher, self.slow_judge = Teacher(encoder), Teacher(self.judge)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the predicted valid pixels, `loss`.

        Where hard patches are looked for, the loss of their ranking is added, and both stand beside it.
        """
        encoder = require_maskable(self.encoder, method="Mae")
        view = take_only_view(batch, encoder, method="Mae")
        keep, hidden = (x.to(view.image.device) for x in self.draw_mask(len(view), batch.step.generator()))
        if self.judge is not None:
            keep, hidden = self.hide_hard(view, keep, hidden, batch.step)
        hidden = hidden[:, -self.n_predicted :]  # [B, M]
        if isinstance(self.decoder, CrossDecoder):
            tokens, entered = encoder.visible_layers(view, keep)
            prediction = self.decoder(tokens, entered, hidden)  # [B, M, C*p*p]
        else:
            tokens = encoder.visible(view, keep)
            prediction = self.decoder(tokens, keep, hidden[:, None])[:, 0]  # [B, M, C*p*p]
        target = take_patches(split_patches(view.pixels, self.patch_px), hidden)  # [B, M, C, p*p]
        valid = take_patches(split_patches(view.valid, self.patch_px), hidden)  # [B, M, C, p*p]
        prediction = prediction.reshape(target.shape)
        loss = compute_masked_loss(prediction, target, valid, norm=self.method.norm, groups=self.groups)
        if self.judge is None:
            return {"loss": loss}
        wanted = normalise_patches(target, valid, norm=self.method.norm, groups=self.groups)
        pixels = valid.sum(dim=(2, 3))  # [B, M]
        errors = ((prediction.detach() - wanted).square() * valid).sum(dim=(2, 3)) / pixels.clamp(min=1)  # [B, M]
        scores = self.judge(tokens, keep, hidden[:, None])[:, 0, :, 0]  # [B, M]
        ranking = compute_ranking_loss(scores, errors, pixels > 0)
        return {"loss": loss + ranking, "reconstruction": loss.detach(), "ranking": ranking.detach()}

    def draw_mask(self, batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Visible and hidden patches of each tile, a uniform random split: [B, K] and [B, M] int64."""
        order = torch.rand(batch, self.n_patches, generator=rng).argsort(dim=1)  # [B, N]
        return order[:, : self.n_visible], order[:, self.n_visible :]

    @torch.no_grad()
    def hide_hard(self, view: View, keep: Tensor, hidden: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """A random split so changed that the patches of which the teacher expects the largest error are hidden, last.

        Patches without a valid pixel are never among them.
        """
        hard = int(hidden.shape[1] * step.linear(0.0, self.method.hard.share))
        if hard < 1:
            return keep, hidden
        every = torch.arange(self.n_patches, device=keep.device).expand(len(view), -1)  # [B, N]
        scores = self.slow_judge.network.judge_context(self.teacher.network.forward(view), every)[..., 0]  # [B, N]
        seen = find_seen(view, self.patch_px)  # [B, N]
        order = move_hard_last(torch.cat([keep, hidden], dim=1), scores.masked_fill(~seen, -torch.inf), hard=hard)
        return order[:, : self.n_visible], order[:, self.n_visible :]

    def after_step(self, step: Step) -> None:
        """Move the teacher that finds hard patches, where there is one, towards the student."""
        if self.judge is not None:
            momentum = compute_momentum(step, self.method.hard.momentum, ramp=self.method.hard.momentum_ramp)
            self.teacher.follow(self.encoder, momentum=momentum)
            self.slow_judge.follow(self.judge, momentum=momentum)


def index_groups(groups: Sequence[Sequence[str]], bands: Sequence[str]) -> list[list[int]]:
    """Channels of each group of bands.

    Raises:
        UserError: groups that do not name each band once.
    """
    named = [band for group in groups for band in group]
    expect(
        not groups or sorted(named) == sorted(bands),
        expected=f"groups that name each of {', '.join(bands)} once",
        got=" | ".join(", ".join(group) for group in groups),
        remedy="name every band in one group",
    )
    return [[bands.index(band) for band in group] for group in groups]


def normalise_patches(target: Tensor, valid: Tensor, *, norm: Norm, groups: Sequence[Sequence[int]] = ()) -> Tensor:
    """Targets with mean 0 and variance 1 over their valid pixels (He et al. 2022, section 3; unbiased as in code).

    Args:
        target: [B, M, C, p*p] float32, zero where invalid.
        valid: [B, M, C, p*p] bool.
        norm: `patch_band` for statistics of each band of a patch, `patch` for those of all its bands, `patch_group` for
            those of groups of bands.
        groups: channels of each group.

    Returns:
        [B, M, C, p*p] float32; zero where invalid, and where fewer than two pixels are valid.
    """
    if norm == "patch_group":
        result = torch.zeros_like(target)
        for group in groups:
            result[:, :, list(group)] = normalise_patches(
                target[:, :, list(group)], valid[:, :, list(group)], norm="patch"
            )
        return result
    dims = (3,) if norm == "patch_band" else (2, 3)
    weight = valid.to(target.dtype)
    count = weight.sum(dims, keepdim=True)  # [B, M, C or 1, 1]
    centred = target * weight  # [B, M, C, p*p]; changed in place from here on, since fresh memory costs more than sums
    mean = centred.sum(dims, keepdim=True) / count.clamp(min=1)
    centred.sub_(mean).mul_(weight)
    variance = centred.square().sum(dims, keepdim=True) / (count - 1).clamp(min=1)
    return centred.div_((variance + VARIANCE_FLOOR).sqrt())


@use_float32
def compute_masked_loss(
    prediction: Tensor, target: Tensor, valid: Tensor, *, norm: Norm, groups: Sequence[Sequence[int]] = ()
) -> Tensor:
    """Mean squared error over the valid pixels; patches without any count for nothing.

    With no missing pixel this is the loss of He et al. 2022, equation in section 3 (mean over hidden patches).

    Args:
        prediction: [B, M, C, p*p] of the hidden patches.
        target: [B, M, C, p*p] their pixels, normalised per band of the corpus, zero where invalid.
        valid: [B, M, C, p*p] bool.
        norm: see `normalise_patches`.
        groups: see `normalise_patches`.

    Returns:
        Scalar; zero when no pixel is valid.
    """
    weight = valid.to(prediction.dtype)
    wanted = normalise_patches(target, valid, norm=norm, groups=groups)
    error = nn.functional.mse_loss(prediction, wanted, reduction="none")  # [B, M, C, p*p]
    return mean_of_valid(error, weight)

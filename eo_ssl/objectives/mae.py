"""Masked autoencoder (He et al. 2022, arXiv 2111.06377) with targets normalised per patch and band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from eo_ssl.errors import UserError
from eo_ssl.models import Backbone, MaskableBackbone, require_maskable, seed_weights, split_patches, take_patches
from eo_ssl.objectives.base import Method, Objective
from eo_ssl.objectives.parts import Predictor, check_narrow, mean_of_valid, take_only_view
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.views import ViewSpec

VARIANCE_FLOOR = 1e-6  # squared normalised units; keeps constant patches finite (He et al. 2022, section 4)


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Mae(Method):
    """Masked autoencoder: encode the visible patches, predict the pixels of the hidden ones."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        "tile": ViewSpec(crop=(0.2, 1.0))
    }  # He et al. 2022, table 8: crop and flip

    mask_ratio: float = 0.75
    """Share of the patches that is hidden (He et al. 2022, section 4)."""
    norm: Literal["patch_band", "patch"] = "patch_band"
    """Statistics that normalise a target: of each band of a patch, or of all its bands together as in the paper.
    Joint statistics let bright bands dominate the loss of a multispectral patch."""
    decoder_dim: int = 128
    """Width of the decoder, a multiple of 4 and of decoder_heads."""
    decoder_depth: int = 2
    """Blocks of the decoder; its size is the largest lever on the cost of a step."""
    decoder_heads: int = 4
    """Attention heads of the decoder."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}: try 0.75")
        if self.norm not in ("patch_band", "patch"):
            raise UserError(f"norm must be 'patch_band' or 'patch', got '{self.norm}': choose one of the two")
        check_narrow("decoder", width=self.decoder_dim, depth=self.decoder_depth, heads=self.decoder_heads)

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> MaeObjective:
        """Encoder and decoder; refuses a network that cannot leave out patches, and a grid with none to hide."""
        return MaeObjective(require_maskable(encoders["tile"], method="Mae"), self, seed=seed)


class MaeObjective(Objective):
    """Encode the visible patches and the class token, decode all, predict the hidden ones."""

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
        with seed_weights(seed):
            self.decoder = Predictor(
                encoder.dim,
                encoder.grid,
                width=method.decoder_dim,
                depth=method.decoder_depth,
                heads=method.decoder_heads,
                out=len(encoder.bands) * encoder.patch_px**2,
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the hidden valid pixels, `loss`."""
        encoder = require_maskable(self.encoder, method="Mae")
        view = take_only_view(batch, encoder, method="Mae")
        keep, hidden = self.draw_mask(len(view), batch.step.generator())  # [B, K], [B, M]
        keep, hidden = keep.to(view.image.device), hidden.to(view.image.device)
        tokens = encoder.visible(view, keep)
        prediction = self.decoder(tokens, keep, hidden[:, None])[:, 0]  # [B, M, C*p*p]
        target = take_patches(split_patches(view.pixels, self.patch_px), hidden)  # [B, M, C, p*p]
        valid = take_patches(split_patches(view.valid, self.patch_px), hidden)  # [B, M, C, p*p]
        return {"loss": compute_masked_loss(prediction.reshape(target.shape), target, valid, norm=self.method.norm)}

    def draw_mask(self, batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Visible and hidden patches of each tile, a uniform random split: [B, K] and [B, M] int64."""
        order = torch.rand(batch, self.n_patches, generator=rng).argsort(dim=1)  # [B, N]
        return order[:, : self.n_visible], order[:, self.n_visible :]


def normalise_patches(target: Tensor, valid: Tensor, *, norm: Literal["patch_band", "patch"]) -> Tensor:
    """Targets with mean 0 and variance 1 over their valid pixels (He et al. 2022, section 4; unbiased variance).

    Args:
        target: [B, M, C, p*p] float32, zero where invalid.
        valid: [B, M, C, p*p] bool.
        norm: `patch_band` for statistics of each band of a patch, `patch` for those of all its bands.

    Returns:
        [B, M, C, p*p] float32; zero where invalid, and where fewer than two pixels are valid.
    """
    dims = (3,) if norm == "patch_band" else (2, 3)
    weight = valid.to(target.dtype)
    count = weight.sum(dims, keepdim=True)  # [B, M, C or 1, 1]
    mean = (target * weight).sum(dims, keepdim=True) / count.clamp(min=1)
    centred = (target - mean) * weight  # [B, M, C, p*p]
    variance = centred.square().sum(dims, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance + VARIANCE_FLOOR).sqrt()


def compute_masked_loss(
    prediction: Tensor, target: Tensor, valid: Tensor, *, norm: Literal["patch_band", "patch"]
) -> Tensor:
    """Mean squared error over the valid pixels; patches without any count for nothing.

    With no missing pixel this is the loss of He et al. 2022, equation in section 3 (mean over hidden patches).

    Args:
        prediction: [B, M, C, p*p] of the hidden patches.
        target: [B, M, C, p*p] their pixels, normalised per band of the corpus, zero where invalid.
        valid: [B, M, C, p*p] bool.
        norm: see `normalise_patches`.

    Returns:
        Scalar; zero when no pixel is valid.
    """
    weight = valid.to(prediction.dtype)
    error = (prediction - normalise_patches(target, valid, norm=norm)).square()  # [B, M, C, p*p]
    return mean_of_valid(error, weight)

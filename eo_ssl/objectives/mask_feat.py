"""MaskFeat (Wei et al. 2022, arXiv 2112.09133): predict the oriented gradients of hidden patches, of each band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from eo_ssl.errors import UserError, expect
from eo_ssl.models import Backbone, MaskableBackbone, View, require_maskable, seed_weights
from eo_ssl.objectives.base import Method
from eo_ssl.objectives.hog import Hog, compute_hog_patches
from eo_ssl.objectives.masked_targets import MaskedTargets
from eo_ssl.objectives.rectangle_masks import draw_rectangles
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class MaskFeat(Method):
    """MaskFeat: hide rectangles, predict histograms of oriented gradients there by a linear map of the encoder."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        "tile": ViewSpec(crop=(0.5, 1.0))  # SlowFast's in1k_VIT_B_MaskFeat_PT.yaml: crop and flip
    }

    mask_ratio: float = 0.4
    """Share of the patches that is hidden (in1k_VIT_B_MaskFeat_PT.yaml)."""
    hog: Hog = field(default_factory=Hog)
    """Cells and orientations of the targets."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}: try 0.4")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> MaskFeatObjective:
        """Encoder and linear head; refuses a network that takes no tokens, and patches of no whole cells."""
        return MaskFeatObjective(require_maskable(encoders["tile"], method="MaskFeat"), self, seed=seed)


class MaskFeatObjective(MaskedTargets):
    """Encode all positions, a token at the hidden ones, and map what comes out to their histograms."""

    def __init__(self, encoder: MaskableBackbone, method: MaskFeat, *, seed: int = 0) -> None:
        """Build the head, its weights drawn from `seed`, around `encoder`."""
        super().__init__(encoder, seed=seed)
        self.method, self.n_patches = method, self.grid[0] * self.grid[1]
        method.hog.check_patch(self.patch_px)
        self.n_hidden = round(self.n_patches * method.mask_ratio)
        expect(
            0 < self.n_hidden < self.n_patches,
            expected="a grid of patches of which a part is hidden",
            got=f"{self.n_hidden} of {self.n_patches} patches",
            remedy="use smaller patches or another mask_ratio",
        )
        cells = (self.patch_px // method.hog.cell_px) ** 2
        with seed_weights(seed + 1):
            self.head = nn.Linear(encoder.dim, len(encoder.bands) * method.hog.orientations * cells)

    def draw_parts(self, batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The whole image as its only part, and rectangles of hidden patches: [B, 1, N] twice."""
        hidden = draw_rectangles(self.grid, batch, hidden=self.n_hidden, rng=rng)
        return torch.arange(self.n_patches).expand(batch, 1, -1), hidden[:, None]

    def predict(self, view: View, places: Tensor, hidden: Tensor) -> Tensor:
        """Histograms at every patch: [B, 1, N, T]."""
        encoder = require_maskable(self.encoder, method="MaskFeat")
        answer: Tensor = self.head(encoder.masked(view, hidden[:, 0], self.mask_token).patches)
        return answer[:, None]

    def measure_targets(self, view: View) -> tuple[Tensor, Tensor]:
        """Histograms of the cells of every patch, and whether each is known: [B, N, T] twice."""
        return compute_hog_patches(view, self.method.hog, patch_px=self.patch_px)

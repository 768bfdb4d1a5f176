"""SAR-JEPA (Li et al. 2024, ISPRS Journal 218, arXiv 2311.15153): predict radar gradients of hidden patches in windows.

Despite its name there is no teacher: it is LoMaR (Chen et al. 2022, arXiv 2206.00790) with a fixed target. Numbers from
the authors' `Pretraining/models_lomar.py` and `main_pretrain.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import (
    Backbone,
    RelativeBlock,
    Tokens,
    View,
    VitBackbone,
    index_pairs,
    require_plain,
    seed_weights,
    split_patches,
)
from eo_ssl.objectives.base import Method
from eo_ssl.objectives.hog import Hog, compute_hog_patches
from eo_ssl.objectives.mae import normalise_patches
from eo_ssl.objectives.masked_targets import MaskedTargets
from eo_ssl.objectives.parts import check_narrow
from eo_ssl.objectives.ratio_gradients import RatioGradients, compute_gradient_patches
from eo_ssl.objectives.views import ViewSpec
from eo_ssl.objectives.window_masks import WindowMasks, draw_windows
from eo_ssl.preprocessing import Preprocessing, require_backscatter


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class SarJepa(Method):
    """SAR-JEPA: in windows of a radar image, predict the gradients of hidden patches at several scales."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        "tile": ViewSpec(crop=(0.2, 1.0), gain=0.5)  # main_pretrain.py: crop, flip; a gain for its jitter of contrast
    }

    target: Literal["gradients", "pixels", "hog"] = "gradients"
    """What is predicted: ratio gradients of the linear amplitude; to compare with, pixels normalised per patch and band
    as in Mae, or oriented gradients of the normalised image as in MaskFeat."""
    gradients: RatioGradients = field(default_factory=RatioGradients)
    """Scales and windows of the ratio gradients."""
    hog: Hog = field(default_factory=Hog)
    """Cells and orientations of the oriented gradients."""
    masks: WindowMasks = field(default_factory=WindowMasks)
    """Windows, and how much of them is hidden."""
    decoder_dim: int = 128
    """Width of the decoder, a multiple of decoder_heads."""
    decoder_depth: int = 2
    """Blocks of the decoder, with relative attention."""
    decoder_heads: int = 4
    """Attention heads of the decoder."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        options = ("gradients", "pixels", "hog")
        expect(
            self.target in options, expected=f"target out of {', '.join(options)}", got=self.target, remedy="choose one"
        )
        check_narrow("decoder", width=self.decoder_dim, depth=self.decoder_depth, heads=self.decoder_heads)

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> SarJepaObjective:
        """Encoder and decoder; refuses a network that encodes no windows, and tiles too small for them."""
        return SarJepaObjective(require_plain(encoders["tile"], method="SarJepa"), self, seed=seed)


class SarJepaObjective(MaskedTargets):
    """Encode windows with a token at hidden patches, decode them, compare with what the whole image gives there."""

    def __init__(self, encoder: VitBackbone, method: SarJepa, *, seed: int = 0) -> None:
        """Build the decoder, its weights drawn from `seed`, around `encoder`."""
        super().__init__(encoder, seed=seed)
        self.method = method
        self.contract: Preprocessing | None = None
        method.masks.choose_side(self.grid)
        if method.target == "gradients":
            method.gradients.check_size(encoder.config.size_px)
        if method.target == "hog":
            method.hog.check_patch(self.patch_px)
        numbers = {
            "gradients": len(method.gradients.scales) * self.patch_px**2,
            "pixels": self.patch_px**2,
            "hog": method.hog.orientations * (self.patch_px // method.hog.cell_px) ** 2,
        }
        with seed_weights(seed + 1):
            self.decoder = WindowDecoder(
                encoder.dim,
                self.grid[1],
                width=method.decoder_dim,
                depth=method.decoder_depth,
                heads=method.decoder_heads,
                out=len(encoder.bands) * numbers[method.target],
            )

    def accept(self, contracts: Mapping[str, Preprocessing]) -> None:
        """Learn what the values of the stream mean.

        Raises:
            UserError: gradients of a stream that is no radar's.
        """
        if self.method.target == "gradients":
            require_backscatter(contracts["tile"], method="SarJepa")
        self.contract = contracts["tile"]

    def draw_parts(self, batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Windows and their hidden patches: [B, M, K] twice."""
        return draw_windows(self.grid, batch, masks=self.method.masks, rng=rng)

    def predict(self, view: View, places: Tensor, hidden: Tensor) -> Tensor:
        """Targets at every patch of every window: [B, M, K, T]."""
        encoder: VitBackbone = self.encoder  # type: ignore[assignment]
        tokens = encoder.windows(view, places, hidden, self.mask_token)
        answer: Tensor = self.decoder(tokens, places.flatten(0, 1))
        return answer.reshape(*places.shape, -1)

    def measure_targets(self, view: View) -> tuple[Tensor, Tensor]:
        """What `target` names, of every patch, and whether each number is known: [B, N, T] twice."""
        if self.method.target == "hog":
            return compute_hog_patches(view, self.method.hog, patch_px=self.patch_px)
        if self.method.target == "pixels":
            pixels, valid = (split_patches(x, self.patch_px) for x in (view.pixels, view.valid))  # [B, N, C, p*p]
            return normalise_patches(pixels, valid, norm="patch_band").flatten(2), valid.flatten(2)
        return compute_gradient_patches(view, self.contract, self.method.gradients, patch_px=self.patch_px)


class WindowDecoder(nn.Module):
    """A narrow transformer with relative attention over the tokens of a window."""

    def __init__(self, dim: int, columns: int, *, width: int, depth: int, heads: int, out: int) -> None:
        """Build it for tokens of `dim` channels on a grid of `columns`; `out` numbers for each patch."""
        super().__init__()
        self.columns = columns
        self.embed = nn.Linear(dim, width)
        self.blocks = nn.ModuleList([RelativeBlock(width, heads, mlp_ratio=4.0, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, out)

    def forward(self, tokens: Tokens, places: Tensor) -> Tensor:
        """Numbers [B, K, out] of the patches `places` [B, K] int64; prefix tokens take part."""
        prefix = tokens.prefix.shape[1]
        buckets = index_pairs(places, columns=self.columns, prefix=prefix)
        x = self.embed(torch.cat([tokens.prefix, tokens.patches], dim=1))  # [B, P + K, width]
        for block in self.blocks:
            x = block(x, buckets)
        numbers: Tensor = self.head(self.norm(x[:, prefix:]))
        return numbers

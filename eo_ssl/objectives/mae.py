"""Masked autoencoder (He et al. 2022, arXiv 2111.06377) with targets normalised per patch and band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from eo_ssl.errors import UserError
from eo_ssl.models import VitConfig, encode_tokens, make_vit, seeded_init, sincos_positions, split_patches, take_patches
from eo_ssl.objectives.base import Batch, Objective, generator, zero_invalid

VARIANCE_FLOOR = 1e-6  # squared normalised units; keeps constant patches finite (He et al. 2022, section 4)


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class MaeConfig:
    """Options of the masked autoencoder."""

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
        if self.decoder_depth < 1 or self.decoder_heads < 1 or self.decoder_dim % self.decoder_heads:
            raise UserError(
                f"decoder_dim must be a multiple of decoder_heads with at least one block, got {self.decoder_dim},"
                f" {self.decoder_heads} heads and {self.decoder_depth} blocks: change one of them"
            )


class Mae(Objective):
    """Encode the visible patches and the class token, decode all, predict the hidden ones."""

    def __init__(self, architecture: VitConfig, config: MaeConfig | None = None, *, seed: int = 0) -> None:
        """Build encoder and decoder.

        Args:
            architecture: the encoder.
            config: options.
            seed: of the initial weights.
        """
        super().__init__()
        self.config = config = config or MaeConfig()
        self.patch_size = architecture.patch_size
        self.encoder = make_vit(architecture, seed=seed)
        rows, cols = architecture.grid
        self.n_visible = max(1, int(rows * cols * (1 - config.mask_ratio)))  # floor, as in the paper's code
        if self.n_visible >= rows * cols:
            raise UserError(
                f"mask_ratio {config.mask_ratio} hides no patch of a {rows} x {cols} grid: use smaller patches"
            )
        width = config.decoder_dim
        with seeded_init(seed + 1):
            self.decoder_embed = nn.Linear(self.encoder.embed_dim, width)
            self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
            self.decoder_blocks = nn.Sequential(
                *[Block(width, config.decoder_heads, mlp_ratio=4.0, qkv_bias=True) for _ in range(config.decoder_depth)]
            )
            self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
            self.decoder_head = nn.Linear(width, architecture.in_chans * self.patch_size**2)
        self.register_buffer("positions", sincos_positions(architecture.grid, width, prefix=0), persistent=False)
        self.positions: Tensor  # [1, N, width]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the hidden valid pixels, `loss`."""
        image = zero_invalid(batch)  # [B, C, H, W]
        keep, hidden = self.draw_mask(image.shape[0], generator(batch))  # [B, K], [B, M]
        keep, hidden = keep.to(image.device), hidden.to(image.device)
        tokens = encode_tokens(self.encoder, image, keep)  # [B, P + K, D]
        prediction = self.decode(tokens, keep, hidden)  # [B, M, C*p*p]
        target = take_patches(split_patches(image, self.patch_size), hidden)  # [B, M, C, p*p]
        valid = take_patches(split_patches(batch["valid"], self.patch_size), hidden)  # [B, M, C, p*p]
        return {"loss": masked_loss(prediction.reshape(target.shape), target, valid, norm=self.config.norm)}

    def draw_mask(self, batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Visible and hidden patches of each tile, a uniform random split: [B, K] and [B, M] int64."""
        order = torch.rand(batch, self.positions.shape[1], generator=rng).argsort(dim=1)  # [B, N]
        return order[:, : self.n_visible], order[:, self.n_visible :]

    def decode(self, tokens: Tensor, keep: Tensor, hidden: Tensor) -> Tensor:
        """Predicted normalised pixels of the hidden patches: [B, P + K, D] -> [B, M, C*p*p]."""
        prefix = tokens.shape[1] - keep.shape[1]
        known = self.decoder_embed(tokens)  # [B, P + K, d]
        positions = self.positions.expand(tokens.shape[0], -1, -1)  # [B, N, d]
        placed = known[:, prefix:] + take_patches(positions, keep)  # [B, K, d]
        known = torch.cat([known[:, :prefix], placed], dim=1)  # [B, P + K, d]
        unknown = self.mask_token + take_patches(positions, hidden)  # [B, M, d]
        decoded = self.decoder_blocks(torch.cat([known, unknown], dim=1))[:, known.shape[1] :]  # [B, M, d]
        pixels: Tensor = self.decoder_head(self.decoder_norm(decoded))  # [B, M, C*p*p]
        return pixels


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


def masked_loss(prediction: Tensor, target: Tensor, valid: Tensor, *, norm: Literal["patch_band", "patch"]) -> Tensor:
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
    error = (prediction - normalise_patches(target, valid, norm=norm)).square() * weight  # [B, M, C, p*p]
    return error.sum() / weight.sum().clamp(min=1)

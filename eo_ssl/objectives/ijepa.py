"""I-JEPA (Assran et al. 2023, arXiv 2301.08243): predict a teacher's features of hidden blocks."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from eo_ssl.errors import UserError
from eo_ssl.models import VitConfig, encode_tokens, make_vit, seeded_init, sincos_positions, split_patches, take_patches
from eo_ssl.objectives.base import Batch, Objective, generator, zero_invalid
from eo_ssl.objectives.block_masks import BlockMaskConfig, draw_blocks


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class IJepaConfig:
    """Options of I-JEPA."""

    predictor_dim: int = 96
    """Width of the predictor, a multiple of 4 and of predictor_heads."""
    predictor_depth: int = 2
    """Blocks of the predictor."""
    predictor_heads: int = 3
    """Attention heads of the predictor."""
    momentum: float = 0.996
    """Share of itself that the teacher keeps at the first step; grows linearly to 1 (appendix A.1)."""
    masks: BlockMaskConfig = field(default_factory=BlockMaskConfig)
    """Sizes of context and target blocks."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.momentum <= 1:
            raise UserError(f"momentum must lie between 0 and 1, got {self.momentum}: the paper uses 0.996")
        if self.predictor_depth < 1 or self.predictor_heads < 1 or self.predictor_dim % self.predictor_heads:
            raise UserError(
                f"predictor_dim must be a multiple of predictor_heads with at least one block, got"
                f" {self.predictor_dim}, {self.predictor_heads} heads and {self.predictor_depth} blocks:"
                " change one of them"
            )


class Predictor(nn.Module):
    """A narrow transformer that fills in the features of named positions from encoded context tokens."""

    def __init__(self, dim: int, grid: tuple[int, int], config: IJepaConfig) -> None:
        """Build the predictor of features with `dim` channels on `grid`."""
        super().__init__()
        width = config.predictor_dim
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.blocks = nn.Sequential(
            *[Block(width, config.predictor_heads, mlp_ratio=4.0, qkv_bias=True) for _ in range(config.predictor_depth)]
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, dim)
        self.register_buffer("positions", sincos_positions(grid, width, prefix=0), persistent=False)
        self.positions: Tensor  # [1, N, width]

    def forward(self, tokens: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        """Predicted features of each target block, each block by itself.

        Args:
            tokens: [B, P + K, D] encoded context, P prefix tokens first.
            context: [B, K] int64, raster indices of the context.
            targets: [B, n, T] int64, raster indices of the target blocks.

        Returns:
            [B, n, T, D].
        """
        batch, blocks, size = targets.shape
        prefix = tokens.shape[1] - context.shape[1]
        positions = self.positions.expand(batch, -1, -1)  # [B, N, d]
        known = self.embed(tokens)  # [B, P + K, d]
        placed = known[:, prefix:] + take_patches(positions, context)  # [B, K, d]
        known = torch.cat([known[:, :prefix], placed], dim=1)  # [B, P + K, d]
        known = known.repeat_interleave(blocks, dim=0)  # [B*n, P + K, d]
        asked = self.mask_token + take_patches(positions, targets.flatten(1))  # [B, n*T, d]
        asked = asked.reshape(batch * blocks, size, -1)  # [B*n, T, d]
        answer = self.blocks(torch.cat([known, asked], dim=1))[:, known.shape[1] :]  # [B*n, T, d]
        features: Tensor = self.head(self.norm(answer))  # [B*n, T, D]
        return features.reshape(batch, blocks, size, -1)


class IJepa(Objective):
    """Encode a context block without the targets, predict the teacher's features of the targets.

    The class token joins the context, so that it is trained too; the teacher sees the whole tile.
    """

    def __init__(self, architecture: VitConfig, config: IJepaConfig | None = None, *, seed: int = 0) -> None:
        """Build student, teacher and predictor.

        Args:
            architecture: of student and teacher.
            config: options.
            seed: of the initial weights.
        """
        super().__init__()
        self.config = config = config or IJepaConfig()
        self.grid, self.patch_size = architecture.grid, architecture.patch_size
        self.encoder = make_vit(architecture, seed=seed)
        self.teacher: VisionTransformer = copy.deepcopy(self.encoder).requires_grad_(False).eval()
        with seeded_init(seed + 1):
            self.predictor = Predictor(self.encoder.embed_dim, self.grid, config)

    @property
    def embedder(self) -> VisionTransformer:
        """The EMA teacher (Assran et al. 2023, appendix A.1, evaluate the target encoder)."""
        return self.teacher

    def train(self, mode: bool = True) -> IJepa:
        """Switch modes; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Smooth-L1 distance of predicted and teacher features, `loss`; patches without a valid pixel are left out."""
        image = zero_invalid(batch)  # [B, C, H, W]
        context, targets = draw_blocks(self.grid, image.shape[0], config=self.config.masks, rng=generator(batch))
        context, targets = context.to(image.device), targets.to(image.device)  # [B, K], [B, n, T]
        seen = split_patches(batch["valid"], self.patch_size).flatten(2).any(dim=2)  # [B, N]
        tokens = encode_tokens(self.encoder, image, context)  # [B, P + K, D]
        prediction = self.predictor(tokens, context, targets)  # [B, n, T, D]
        wanted = take_patches(self.target_features(image), targets.flatten(1)).reshape(prediction.shape)  # [B, n, T, D]
        weight = take_patches(seen, targets.flatten(1)).reshape(targets.shape).to(prediction.dtype)  # [B, n, T]
        return {"loss": feature_loss(prediction, wanted, weight)}

    @torch.no_grad()
    def target_features(self, image: Tensor) -> Tensor:
        """Teacher's patch features, each normalised over its channels: [B, C, H, W] -> [B, N, D]."""
        tokens = encode_tokens(self.teacher, image)[:, self.teacher.num_prefix_tokens :]  # [B, N, D]
        return nn.functional.layer_norm(tokens, tokens.shape[-1:])

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """Move the teacher towards the student: t <- m t + (1 - m) s, m linear in steps from `momentum` to 1."""
        momentum = self.config.momentum + (1 - self.config.momentum) * min(step / total, 1.0)
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.encoder.parameters())
        torch._foreach_lerp_(teacher, student, 1 - momentum)


def feature_loss(prediction: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Smooth-L1 with beta 1 (Assran et al. 2023, appendix A.1), mean over weighted patches and channels.

    Args:
        prediction: [B, n, T, D].
        wanted: [B, n, T, D], no gradient.
        weight: [B, n, T], 1 for patches that count, 0 else.

    Returns:
        Scalar; zero when no patch counts.
    """
    error = nn.functional.smooth_l1_loss(prediction, wanted, reduction="none").mean(dim=3)  # [B, n, T]
    return (error * weight).sum() / weight.sum().clamp(min=1)

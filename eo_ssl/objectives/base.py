"""What every objective is: a batch in, a loss out, an encoder inside and no trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, TypedDict

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eo_ssl.models import encode_tokens, mean_patch_token


class Batch(TypedDict, total=False):
    """A batch of tiles; `views` replaces image and valid for objectives that compare views."""

    image: Tensor
    """[B, C, H, W] float32, normalised; invalid pixels hold any value."""
    valid: Tensor
    """[B, C, H, W] bool."""
    row: Tensor
    """[B] int64, global rows of the tiles in the source."""
    seed: int
    """Seed of everything random in this step; derived from the run's seed and the step alone."""
    views: list[Batch]
    """Two batches of the same tiles under independent augmentations."""


class Objective(nn.Module, ABC):
    """A self-supervised task around an encoder; a pure function of the weights and the batch."""

    encoder: VisionTransformer
    views: ClassVar[int] = 1
    """Number of views of a tile that a batch holds."""
    pooling: ClassVar[Literal["mean", "cls"]] = "mean"
    """How the tokens of this objective's encoder become one feature: mean of the patches or the class token."""

    @property
    def embedder(self) -> VisionTransformer:
        """The network whose features are used: the EMA teacher where there is one, else the trained encoder."""
        return self.encoder

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of the batch under the key `loss` (a scalar), and further scalars worth logging."""

    def after_step(self, step: int, total: int) -> None:
        """Update what no gradient moves (EMA teachers); called once per optimizer step.

        Args:
            step: optimizer steps done so far, 1 after the first.
            total: optimizer steps of the whole run.
        """

    def embed(self, image: Tensor) -> Tensor:
        """Features of the embedder: [B, C, H, W] float32 normalised -> [B, D]."""
        tokens = encode_tokens(self.embedder, image)  # [B, P + N, D]
        return mean_patch_token(self.embedder, tokens) if self.pooling == "mean" else tokens[:, 0]


def generator(batch: Batch) -> torch.Generator:
    """A fresh CPU generator seeded by the batch: the same step draws the same numbers on every device."""
    return torch.Generator().manual_seed(batch["seed"])


def zero_invalid(batch: Batch) -> Tensor:
    """The image with invalid pixels set to zero, the band's mean after normalisation: [B, C, H, W] float32.

    What a file holds in place of missing data must reach neither the encoder nor the loss.
    """
    image = batch["image"]
    return torch.where(batch["valid"], image, image.new_zeros(()))

"""SimCLR (Chen et al. 2020, arXiv 2002.05709) with lightly's loss and projection head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from eo_ssl.errors import UserError
from eo_ssl.models import VitConfig, encode_tokens, make_vit, mean_patch_token, seeded_init
from eo_ssl.objectives.base import Batch, Objective, zero_invalid


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class SimClrConfig:
    """Options of SimCLR."""

    temperature: float = 0.5
    """Temperature of NT-Xent; 0.5 suits small batches (Chen et al. 2020, table 5 and appendix B.9)."""
    hidden_dim: int = 512
    """Width of the projector's hidden layer."""
    output_dim: int = 128
    """Width of the projection (Chen et al. 2020, section 2.1)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.temperature <= 0:
            raise UserError(f"temperature must be above 0, got {self.temperature}: try 0.5")
        if self.hidden_dim < 1 or self.output_dim < 1:
            raise UserError(
                f"the projector's widths must be at least 1, got {self.hidden_dim} and {self.output_dim}: enlarge them"
            )


class SimClr(Objective):
    """Two views of a tile attract, views of other tiles repel; the mean patch token is projected."""

    views = 2

    def __init__(self, architecture: VitConfig, config: SimClrConfig | None = None, *, seed: int = 0) -> None:
        """Build encoder and projector.

        Args:
            architecture: the encoder.
            config: options.
            seed: of the initial weights.
        """
        super().__init__()
        self.config = config = config or SimClrConfig()
        self.encoder = make_vit(architecture, seed=seed)
        with seeded_init(seed + 1):
            self.projector = SimCLRProjectionHead(self.encoder.embed_dim, config.hidden_dim, config.output_dim)
        self.nt_xent = NTXentLoss(temperature=config.temperature)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """NT-Xent of the two views, `loss`.

        Raises:
            UserError: for a batch of one tile, whose loss is 0 whatever the weights.
        """
        if len(batch["views"][0]["image"]) < 2:
            raise UserError("expected at least two tiles per step to tell apart, got 1: raise batch_size")
        image = torch.cat([zero_invalid(view) for view in batch["views"]])  # [2B, C, H, W]
        features = mean_patch_token(self.encoder, encode_tokens(self.encoder, image))  # [2B, D]
        first, second = self.projector(features).chunk(2)  # [B, d], [B, d]
        return {"loss": self.nt_xent(first, second)}

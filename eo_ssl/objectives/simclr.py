"""SimCLR (Chen et al. 2020, arXiv 2002.05709) with lightly's loss and projection head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from eo_ssl.errors import UserError
from eo_ssl.models import Backbone, View, seed_weights
from eo_ssl.objectives.base import Method, Objective
from eo_ssl.objectives.parts import gather
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class SimClr(Method):
    """SimCLR: two views of an item attract, views of other items repel."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # crop as Wang et al. 2023 (SSL4EO-S12), MoCo
        "tile": ViewSpec(count=2, crop=(0.2, 1.0), gain=0.2, noise=0.1)
    }

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

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> SimClrObjective:
        """Encoders, one for each stream, and the projector that they share; refuses encoders of different widths."""
        return SimClrObjective(encoders, self, seed=seed)


class SimClrObjective(Objective):
    """Two views of an item attract, views of other items repel; each is encoded by the encoder of its stream."""

    def __init__(self, encoders: Mapping[str, Backbone], method: SimClr, *, seed: int = 0) -> None:
        """Build the projector, its weights drawn from `seed`, behind `encoders`."""
        super().__init__(encoders)
        widths = {encoder.dim for encoder in encoders.values()}
        if len(widths) > 1:
            raise UserError(
                f"expected encoders of one width in front of one projector, got {sorted(widths)}:"
                " choose one architecture"
            )
        with seed_weights(seed):
            self.projector = SimCLRProjectionHead(self.encoder.dim, method.hidden_dim, method.output_dim)
        self.nt_xent = NTXentLoss(temperature=method.temperature)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """NT-Xent of the two views over the batches of all processes, `loss`.

        Raises:
            UserError: for another number of views than two, or a batch of one item, whose loss is 0 whatever the
                weights.
        """
        views = batch.all_views()
        if len(views) != 2:
            raise UserError(
                f"expected two views of each item for SimClr, got {len(views)}: set the count of its views to 2"
            )
        if len(views[0]) < 2:
            raise UserError("expected at least two tiles per step to tell apart, got 1: raise batch_size")
        # The projector normalises over the batch (Chen et al. 2020, section 2.1): it sees that of all processes.
        features = torch.cat([gather(encoded) for encoded in self.encode(views)])  # [2B, D]
        first, second = self.projector(features).chunk(2)  # [B, d], [B, d]
        return {"loss": self.nt_xent(first, second)}

    def encode(self, views: Sequence[View]) -> tuple[Tensor, ...]:
        """Features of each view, [B, D]; views that one encoder takes pass through it together."""
        if len({(view.stream, view.bands, view.image.shape) for view in views}) > 1:
            return tuple(self.encoders[view.stream](view).pooled for view in views)
        first = views[0]
        both = View(
            torch.cat([view.image for view in views]),
            torch.cat([view.valid for view in views]),
            first.bands,
            first.stream,
        )
        features: Tensor = self.encoders[first.stream](both).pooled  # [2B, D]
        return features.chunk(len(views))

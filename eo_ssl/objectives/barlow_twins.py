"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230) with lightly's loss and projection head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, seed_weights
from eo_ssl.objectives.base import Method
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.two_views import TwoViews, check_widths
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class BarlowTwins(Method):
    """Barlow Twins: the features of two views correlate channel by channel, and no channel repeats another."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # crop as Wang et al. 2023 (SSL4EO-S12), MoCo
        "tile": ViewSpec(count=2, crop=(0.2, 1.0), gain=0.2, noise=0.1)
    }

    redundancy: float = 5e-3
    """Weight of the correlations between different channels (Zbontar et al. 2021, section 2.2: lambda)."""
    hidden_dim: int = 1024
    """Width of the projector's hidden layers; the paper has 8192 (section 2.2)."""
    output_dim: int = 1024
    """Channels of the projection; the paper has 8192 (section 2.2)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_widths(hidden_dim=self.hidden_dim, output_dim=self.output_dim)
        expect(self.redundancy >= 0, expected="redundancy of at least 0", got=self.redundancy, remedy="try 0.005")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> BarlowTwinsObjective:
        """Encoders, one for each stream, and the projector that they share; refuses encoders of different widths."""
        return BarlowTwinsObjective(encoders, self, seed=seed)


class BarlowTwinsObjective(TwoViews):
    """The cross-correlation of two views' projections over the batches of all processes becomes the identity."""

    channels_differ = True

    def __init__(self, encoders: Mapping[str, Backbone], method: BarlowTwins, *, seed: int = 0) -> None:
        """Build the projector, its weights drawn from `seed`, behind `encoders`."""
        super().__init__(encoders)
        with seed_weights(seed):
            self.projector = BarlowTwinsProjectionHead(self.encoder.dim, method.hidden_dim, method.output_dim)
        self.correlate = BarlowTwinsLoss(method.redundancy)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Squared distance of the cross-correlation from the identity, `loss`."""
        first, second = (self.projector(features) for features in self.encode(self.take_views(batch)))  # [B, d], [B, d]
        return {"loss": use_float32(self.correlate)(first, second)}

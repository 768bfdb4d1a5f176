"""VICReg (Bardes, Ponce and LeCun 2022, arXiv 2105.04906) with lightly's loss and projection head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, seed_weights
from eo_ssl.objectives.base import Method
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.two_views import TwoViews, check_widths
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class VicReg(Method):
    """VICReg: the features of two views agree, every channel keeps its spread, and no channel repeats another."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # crop as Wang et al. 2023 (SSL4EO-S12), MoCo
        "tile": ViewSpec(count=2, crop=(0.2, 1.0), gain=0.2, noise=0.1)
    }

    invariance: float = 25.0
    """Weight of the distance of the two views (Bardes et al. 2022, section 4.2: lambda)."""
    variance: float = 25.0
    """Weight of a standard deviation below 1 (section 4.2: mu)."""
    covariance: float = 1.0
    """Weight of the covariances between channels (section 4.2: nu)."""
    hidden_dim: int = 1024
    """Width of the projector's hidden layers; the paper has 8192 (section 4.2)."""
    output_dim: int = 1024
    """Channels of the projection; the paper has 8192 (section 4.2)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_widths(hidden_dim=self.hidden_dim, output_dim=self.output_dim)
        for name in ("invariance", "variance", "covariance"):
            value = getattr(self, name)
            expect(value >= 0, expected=f"{name} of at least 0", got=value, remedy="the paper has 25, 25 and 1")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> VicRegObjective:
        """Encoders, one for each stream, and the projector that they share; refuses encoders of different widths."""
        return VicRegObjective(encoders, self, seed=seed)


class VicRegObjective(TwoViews):
    """Projections of two views agree while their channels keep spread and independence over all processes."""

    channels_differ = True

    def __init__(self, encoders: Mapping[str, Backbone], method: VicReg, *, seed: int = 0) -> None:
        """Build the projector, its weights drawn from `seed`, behind `encoders`."""
        super().__init__(encoders)
        with seed_weights(seed):
            self.projector = VICRegProjectionHead(self.encoder.dim, method.hidden_dim, method.output_dim)
        self.regularise = VICRegLoss(method.invariance, method.variance, method.covariance)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Invariance, variance and covariance terms in their weights, `loss`."""
        first, second = (self.projector(features) for features in self.encode(self.take_views(batch)))  # [B, d], [B, d]
        return {"loss": use_float32(self.regularise)(first, second)}

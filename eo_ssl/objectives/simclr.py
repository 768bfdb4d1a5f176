"""SimCLR (Chen et al. 2020, arXiv 2002.05709) with lightly's loss and projection head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightly.loss import DCLLoss, NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, seed_weights
from eo_ssl.objectives.base import Method
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.two_views import TwoViews, check_temperature, check_widths
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class SimClr(Method):
    """SimCLR: two views of an item attract, views of other items repel."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # crop as Wang et al. 2023 (SSL4EO-S12), MoCo
        "tile": ViewSpec(count=2, crop=(0.2, 1.0), gain=0.2, noise=0.1)
    }

    temperature: float = 0.5
    """Temperature of NT-Xent: 0.5 is best on CIFAR-10 (Chen et al. 2020, appendix B.9), 0.1 on ImageNet (table 5)."""
    temperature_range: tuple[float, float] | None = None
    """Least and largest temperature of a schedule in the place of the constant one, such as (0.1, 1): it goes from the
    largest to the least and back along a cosine, which helps rare kinds (Kukleva et al. 2023, arXiv 2303.13664)."""
    temperature_period: int = 0
    """Optimizer steps from one largest temperature of the schedule to the next."""
    hidden_dim: int = 512
    """Width of the projector's hidden layer."""
    output_dim: int = 128
    """Width of the projection (Chen et al. 2020, section 2.3)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_temperature(self.temperature, usual=0.5)
        check_widths(hidden_dim=self.hidden_dim, output_dim=self.output_dim)
        if self.temperature_range is not None:
            object.__setattr__(self, "temperature_range", tuple(self.temperature_range))
            expect(
                len(self.temperature_range) == 2 and 0 < self.temperature_range[0] <= self.temperature_range[1],
                expected="temperature_range as an increasing pair above 0",
                got=self.temperature_range,
                remedy="try (0.1, 1.0)",
            )
        expect(
            (self.temperature_range is None) == (self.temperature_period == 0) and self.temperature_period >= 0,
            expected="temperature_range and temperature_period together",
            got=f"{self.temperature_range} and {self.temperature_period}",
            remedy="give both, a fifth of the steps for the period, or neither",
        )

    def compute_temperature(self, step: int) -> float:
        """Temperature after ``step`` optimizer steps."""
        if self.temperature_range is None:
            return self.temperature
        low, high = self.temperature_range
        return low + (high - low) * (1 + math.cos(2 * math.pi * step / self.temperature_period)) / 2

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> SimClrObjective:
        """Encoders, one for each stream, and the projector that they share; refuses encoders of different widths."""
        return SimClrObjective(encoders, self, seed=seed)


class SimClrObjective(TwoViews):
    """Two views of an item attract, views of other items repel; each is encoded by the encoder of its stream."""

    def __init__(self, encoders: Mapping[str, Backbone], method: SimClr, *, seed: int = 0) -> None:
        """Build the projector, its weights drawn from `seed`, behind `encoders`."""
        super().__init__(encoders)
        with seed_weights(seed):
            self.projector = SimCLRProjectionHead(self.encoder.dim, method.hidden_dim, method.output_dim)
        self.method = method
        self.compare: NTXentLoss | DCLLoss = NTXentLoss(temperature=method.temperature)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """How well the two views of each item find each other in the batches of all processes, `loss`."""
        # The projector normalises over both views together (Chen et al. 2020, section 2.2: statistics over all).
        features = torch.cat(self.encode(self.take_views(batch)))  # [2B, D]
        first, second = self.projector(features).chunk(2)  # [B, d], [B, d]
        self.compare.temperature = self.method.compute_temperature(batch.step.number)
        return {"loss": use_float32(self.compare)(first, second)}

"""Decoupled contrastive learning (Yeh et al. 2022, arXiv 2110.06848) with lightly's loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightly.loss import DCLLoss

from eo_ssl.models import Backbone
from eo_ssl.objectives.simclr import SimClr, SimClrObjective


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Dcl(SimClr):
    """DCL: SimCLR whose denominator leaves out the pair that attracts, which lets small batches learn."""

    temperature: float = 0.2
    """Of the similarities; ours."""

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> DclObjective:
        """Encoders, one for each stream, and the projector that they share; refuses encoders of different widths."""
        return DclObjective(encoders, self, seed=seed)


class DclObjective(SimClrObjective):
    """Two views of an item attract, views of other items repel, each by itself (Yeh et al. 2022, equation 6)."""

    def __init__(self, encoders: Mapping[str, Backbone], method: Dcl, *, seed: int = 0) -> None:
        """Build the projector, its weights drawn from `seed`, behind `encoders`."""
        super().__init__(encoders, method, seed=seed)
        self.compare = DCLLoss(temperature=method.temperature)

"""BYOL (Grill et al. 2020, arXiv 2006.07733) with lightly's heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from torch import Tensor, nn

from eo_ssl.models import Backbone, seed_weights
from eo_ssl.objectives.base import Method, Teacher, check_momentum
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.two_views import TwoViews, check_widths
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Byol(Method):
    """BYOL: predict a slow teacher's projection of one view from the other view; nothing repels."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # crop as Wang et al. 2023 (SSL4EO-S12), MoCo
        "tile": ViewSpec(count=2, crop=(0.2, 1.0), gain=0.2, noise=0.1)
    }

    momentum: float = 0.99
    """Share of itself that the teacher keeps at the first step; grows to its end along a cosine."""
    momentum_end: float = 1.0
    """That share at the end; an infinite schedule needs one below 1, or its teacher would stand still."""
    hidden_dim: int = 1024
    """Width of the hidden layers of projector and predictor; lightly's heads of the paper have 4096."""
    output_dim: int = 256
    """Width of projection and prediction."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_widths(hidden_dim=self.hidden_dim, output_dim=self.output_dim)
        check_momentum(self.momentum)
        check_momentum(self.momentum_end)

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> ByolObjective:
        """Student, teacher, projector and predictor; refuses encoders of different widths."""
        return ByolObjective(encoders, self, seed=seed)


class ByolObjective(TwoViews):
    """The prediction from each view meets the teacher's projection of the other; the student is used."""

    def __init__(self, encoders: Mapping[str, Backbone], method: Byol, *, seed: int = 0) -> None:
        """Build the heads, their weights drawn from `seed`, and the teacher."""
        super().__init__(encoders)
        self.method = method
        with seed_weights(seed):
            self.projector = BYOLProjectionHead(self.encoder.dim, method.hidden_dim, method.output_dim)
            self.predictor = BYOLPredictionHead(method.output_dim, method.hidden_dim, method.output_dim)
        self.teacher = Teacher(self.encoders, batch_statistics=True)
        self.teacher_projector = Teacher(self.projector, batch_statistics=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Squared distance of the prediction from each view to the projection of the other, both of length 1, `loss`.

        The sum of both directions, 0 to 8.
        """
        views = self.take_views(batch)
        predictions = [self.predictor(self.projector(features)) for features in self.encode(views)]  # [B, d]
        with torch.no_grad():
            features = self.encode(views, self.teacher.network)
            targets = [self.teacher_projector.network(vectors) for vectors in features]  # [B, d]
        agreement = [
            use_float32(nn.functional.cosine_similarity)(prediction, target, dim=1).mean()
            for prediction, target in zip(predictions, reversed(targets), strict=True)
        ]
        return {"loss": 4 - 2 * torch.stack(agreement).sum()}

    def after_step(self, step: Step) -> None:
        """Move the teacher towards the student, momentum along a cosine from its start to its end."""
        momentum = step.cosine(self.method.momentum, self.method.momentum_end)
        self.teacher.follow(self.encoders, momentum=momentum)
        self.teacher_projector.follow(self.projector, momentum=momentum)

"""MoCo v3 (Chen, Xie and He 2021, arXiv 2104.02057) with lightly's heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightly.models.modules import MoCoProjectionHead
from torch import Tensor, nn

from eo_ssl.models import Backbone, VitBackbone, seed_weights
from eo_ssl.objectives.base import Method, Teacher, check_momentum
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.two_views import TwoViews, check_temperature, check_widths
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class MocoV3(Method):
    """MoCo v3: the prediction from one view finds a slow teacher's key of the other view among those of the batch."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # crop as Wang et al. 2023 (SSL4EO-S12), MoCo
        "tile": ViewSpec(count=2, crop=(0.2, 1.0), gain=0.2, noise=0.1)
    }

    temperature: float = 0.2
    """Of the similarities (script of SSL4EO-S12 for ViT-S/16)."""
    momentum: float = 0.99
    """Share of itself that the teacher keeps at the first step; grows to its end along a cosine (the same script)."""
    momentum_end: float = 1.0
    """That share at the end; an infinite schedule needs one below 1, or its teacher would stand still."""
    hidden_dim: int = 1024
    """Width of the hidden layers of projector and predictor; 4096 in the paper."""
    output_dim: int = 256
    """Width of queries and keys."""
    frozen_patches: bool = True
    """Keep the patch projection of a transformer at its initial weights, which the paper found to be more stable."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_temperature(self.temperature, usual=0.2)
        check_widths(hidden_dim=self.hidden_dim, output_dim=self.output_dim)
        check_momentum(self.momentum)
        check_momentum(self.momentum_end)

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> MocoV3Objective:
        """Student, teacher, projector and predictor; refuses encoders of different widths."""
        return MocoV3Objective(encoders, self, seed=seed)


class MocoV3Objective(TwoViews):
    """Queries of each view find their keys of the other among the batches of all processes; the student is used."""

    def __init__(self, encoders: Mapping[str, Backbone], method: MocoV3, *, seed: int = 0) -> None:
        """Build the heads, their weights drawn from `seed`, and the teacher."""
        super().__init__(encoders)
        self.method = method
        with seed_weights(seed):
            self.projector = MoCoProjectionHead(
                self.encoder.dim, method.hidden_dim, method.output_dim, num_layers=3, batch_norm=True
            )
            self.predictor = MoCoProjectionHead(
                method.output_dim, method.hidden_dim, method.output_dim, num_layers=2, batch_norm=True
            )
        if method.frozen_patches:
            for encoder in self.encoders.values():
                if isinstance(encoder, VitBackbone):
                    encoder.network.patch_embed.requires_grad_(False)
        self.teacher = Teacher(self.encoders, batch_statistics=True)
        self.teacher_projector = Teacher(self.projector, batch_statistics=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of finding the keys from both views, times twice the temperature (algorithm 1), `loss`."""
        views = self.take_views(batch)
        queries = [self.predictor(self.projector(features)) for features in self.encode(views)]  # [B, d]
        with torch.no_grad():
            features = self.encode(views, self.teacher.network)
            keys = [self.teacher_projector.network(vectors) for vectors in features]  # [B, d]
        losses = [
            compute_key_loss(query, key, temperature=self.method.temperature)
            for query, key in zip(queries, reversed(keys), strict=True)
        ]
        return {"loss": 2 * self.method.temperature * torch.stack(losses).sum()}

    def after_step(self, step: Step) -> None:
        """Move the teacher towards the student, momentum along a cosine from its start to its end."""
        momentum = step.cosine(self.method.momentum, self.method.momentum_end)
        self.teacher.follow(self.encoders, momentum=momentum)
        self.teacher_projector.follow(self.projector, momentum=momentum)


@use_float32
def compute_key_loss(queries: Tensor, keys: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of finding key i from query i among all keys by their cosine over the temperature: a scalar.

    Args:
        queries: [B, d].
        keys: [B, d].
        temperature: above 0.
    """
    normalize = nn.functional.normalize
    logits = normalize(queries, dim=1) @ normalize(keys, dim=1).T / temperature  # [B, B]
    return nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))

"""MoCo v2 (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297) with lightly's head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightly.models.modules import MoCoProjectionHead
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, seed_weights
from eo_ssl.objectives.base import Method, Teacher, check_momentum
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.two_views import TwoViews, check_temperature, check_widths
from eo_ssl.objectives.views import ViewSpec

SHARE = 4  # a queue holds at most one in so many items of a run


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class MocoV2(Method):
    """MoCo v2: one view finds a slow teacher's key of the other among a queue of keys of earlier batches."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # crop as Wang et al. 2023 (SSL4EO-S12), MoCo
        "tile": ViewSpec(count=2, crop=(0.2, 1.0), gain=0.2, noise=0.1)
    }

    temperature: float = 0.2
    """Of the similarities (script of SSL4EO-S12 for ResNet-50)."""
    momentum: float = 0.999
    """Share of itself that the teacher keeps at every step (the same script)."""
    queue: int = 65536
    """Keys to tell an item's own from (the same script); a run over fewer than four times as many items holds a quarter
    of them, for a longer queue would hold keys of the very items of a batch."""
    hidden_dim: int = 512
    """Width of the projector's hidden layer; that of the encoder's features in the paper."""
    output_dim: int = 128
    """Width of queries and keys (the same script)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_temperature(self.temperature, usual=0.2)
        check_widths(hidden_dim=self.hidden_dim, output_dim=self.output_dim)
        check_momentum(self.momentum)
        expect(self.queue >= 1, expected="a queue of at least 1 key", got=self.queue, remedy="try 4096")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> MocoV2Objective:
        """Student, teacher, projector and queue; refuses encoders of different widths."""
        return MocoV2Objective(encoders, self, seed=seed)


class MocoV2Objective(TwoViews):
    """Queries of the first view find the teacher's keys of the second among the queue; the student is used.

    The teacher normalises by running statistics and not by those of its batch, so that these tell no query its key;
    that is what shuffling batches between devices is for (He et al. 2020, section 3.3), which one device cannot do.
    """

    queue: Tensor
    """[K, d], keys of length 1, the oldest at `oldest`."""
    oldest: Tensor
    """int64 scalar."""

    def __init__(self, encoders: Mapping[str, Backbone], method: MocoV2, *, seed: int = 0) -> None:
        """Build projector, teacher and a queue of random directions, drawn from `seed`."""
        super().__init__(encoders)
        self.method, self._seed = method, seed
        with seed_weights(seed):
            self.projector = MoCoProjectionHead(self.encoder.dim, method.hidden_dim, method.output_dim)
        self.teacher, self.teacher_projector = Teacher(self.encoders), Teacher(self.projector)
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))
        self.prepare(SHARE * method.queue)
        self._fresh: list[Tensor] = []  # keys since the latest step

    def prepare(self, items: int, *, rows: int | None = None) -> None:
        """Shorten the queue to a quarter of the items."""
        size = max(min(self.method.queue, items // SHARE), 1)
        with seed_weights(self._seed):
            keys = torch.randn(size, self.method.output_dim)
        self.register_buffer("queue", nn.functional.normalize(keys, dim=1))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of finding the own key beside those of the queue, `loss`, and the length of the queue."""
        first, second = self.take_views(batch)
        normalize = use_float32(nn.functional.normalize)
        (features,) = self.encode([first])
        query = normalize(self.projector(features), dim=1)  # [B, d]
        with torch.no_grad():
            (features,) = self.encode([second], self.teacher.network)
            key = normalize(self.teacher_projector.network(features), dim=1)  # [B, d]
        if self.training:
            self._fresh.append(key)
        loss = self.find_keys(query, key)
        return {"loss": loss, "queue": loss.new_tensor(len(self.queue))}

    @use_float32
    def find_keys(self, query: Tensor, key: Tensor) -> Tensor:
        """Mean cross-entropy of finding key i from query i, [B, d] of length 1 each, among the queue: a scalar."""
        own = (query * key).sum(dim=1, keepdim=True)  # [B, 1]
        logits = torch.cat([own, query @ self.queue.T.to(query)], dim=1) / self.method.temperature  # [B, 1 + K]
        return nn.functional.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Move the teacher towards the student, and put the keys of the step in the place of the oldest."""
        self.teacher.follow(self.encoders, momentum=self.method.momentum)
        self.teacher_projector.follow(self.projector, momentum=self.method.momentum)
        keys = torch.cat(self._fresh)[-len(self.queue) :]
        self._fresh.clear()
        places = (self.oldest + torch.arange(len(keys), device=self.queue.device)) % len(self.queue)
        self.queue[places] = keys.to(self.queue)
        self.oldest.copy_((self.oldest + len(keys)) % len(self.queue))

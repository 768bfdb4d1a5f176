"""SwAV (Caron et al. 2020, arXiv 2006.09882) with lightly's loss and head: each crop predicts the class of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightly.loss import SwaVLoss
from lightly.models.modules import SwaVProjectionHead
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, seed_weights
from eo_ssl.objectives.base import Method, Objective, list_encoders
from eo_ssl.objectives.parts import gather
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.prototypes import freeze_weight, measure_entropy, take_global_views
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.two_views import (
    OF_A_VIEW,
    check_one_width,
    check_several,
    check_temperature,
    check_widths,
    encode_views,
)
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Swav(Method):
    """SwAV: every crop predicts the class of a large one, classes that the whole batch shares out evenly."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # areas of the authors' scripts/swav_100ep_pretrain.sh; its six local crops have 96 of 224 pixels
        "global": ViewSpec(count=2, crop=(0.14, 1.0), gain=0.2, noise=0.1),
        "local": ViewSpec(count=4, size=0.5, crop=(0.05, 0.14), gain=0.2, noise=0.1),
    }

    temperature: float = 0.1
    """Of the predictions (scripts/swav_100ep_pretrain.sh)."""
    epsilon: float = 0.05
    """Of the scores that Sinkhorn-Knopp shares out (the same script)."""
    sinkhorn_iterations: int = 3
    """Of Sinkhorn-Knopp (the same script)."""
    prototypes: int = 512
    """Classes that the network makes up; 3000 in the same script, for batches of 4096."""
    hidden_dim: int = 512
    """Width of the projector's hidden layer; 2048 in the authors' main_swav.py."""
    output_dim: int = 128
    """Width of the projection (scripts/swav_100ep_pretrain.sh)."""
    frozen_prototypes: float = 0.01
    """Share of the run in which the prototypes keep their initial weights (the same script: 1 of 100 epochs)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_temperature(self.temperature, usual=0.1)
        check_temperature(self.epsilon, name="epsilon", usual=0.05)
        check_widths(prototypes=self.prototypes, hidden_dim=self.hidden_dim, output_dim=self.output_dim)
        for name, value, low in (
            ("sinkhorn_iterations", self.sinkhorn_iterations, 1),
            ("frozen_prototypes", self.frozen_prototypes, 0),
        ):
            expect(value >= low, expected=f"{name} of at least {low}", got=value, remedy="raise it")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> SwavObjective:
        """Encoders, projector and prototypes; refuses encoders of different widths."""
        return SwavObjective(encoders, self, seed=seed)


class SwavObjective(Objective):
    """Each crop predicts the codes of the large ones, which Sinkhorn-Knopp makes over the batches of all processes."""

    told = OF_A_VIEW

    def __init__(self, encoders: Mapping[str, Backbone], method: Swav, *, seed: int = 0) -> None:
        """Build projector and prototypes, their weights drawn from `seed`, behind `encoders`."""
        super().__init__(encoders)
        check_one_width(encoders)
        self.method = method
        with seed_weights(seed):
            self.projector = SwaVProjectionHead(self.encoder.dim, method.hidden_dim, method.output_dim)
            # not lightly's, which have a bias: the authors score by cosines
            self.prototypes = nn.Linear(method.output_dim, method.prototypes, bias=False)
        self.normalise_prototypes()
        self.swap = SwaVLoss(method.temperature, method.sinkhorn_iterations, method.epsilon)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropy of predictions and codes of other crops, `loss`.

        Beside it `class_entropy`, of the mean prediction over all items, as a share of its largest: near 0 all items
        are of one class, a sign of collapse.

        Raises:
            UserError: another number of global views than two, or a batch of one item.
        """
        check_several(take_global_views(batch, method="Swav")[0])
        groups = [encode_views(group, list_encoders(self.encoders)) for group in batch.views.values()]
        features = [gather(x) for group in groups for x in group]  # [B, D] each, of all processes
        # The projector normalises over all crops together, as the authors' does.
        vectors = self.projector(torch.cat(features))  # [crops * B, d]
        learn = batch.step.number >= self.method.frozen_prototypes * batch.step.total
        return self.compare(vectors, freeze_weight(self.prototypes.weight, learn=learn), crops=len(features))

    @use_float32
    def compare(self, vectors: Tensor, prototypes: Tensor, *, crops: int) -> dict[str, Tensor]:
        """What `forward` gives, from projections [crops * B, d] and prototypes of length 1, [K, d]."""
        scores = (nn.functional.normalize(vectors, dim=1) @ prototypes.T).chunk(crops)
        shares = (torch.cat(scores).detach() / self.method.temperature).softmax(dim=1)
        return {
            "loss": self.swap(scores[:2], scores[2:]).squeeze(),
            "class_entropy": measure_entropy(shares.mean(dim=0)),
        }

    def after_step(self, step: Step) -> None:
        """Bring the prototypes back to length 1, as the authors do before every step."""
        self.normalise_prototypes()

    @torch.no_grad()
    def normalise_prototypes(self) -> None:
        """Give every prototype length 1."""
        self.prototypes.weight.copy_(nn.functional.normalize(self.prototypes.weight, dim=1))

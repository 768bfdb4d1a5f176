"""PMSN (Assran et al. 2022, arXiv 2210.07277) with lightly's loss and head: classes that follow a long-tailed prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightly.loss import PMSNCustomLoss
from lightly.loss.msn_loss import prototype_probabilities
from lightly.models.modules.heads import MSNProjectionHead
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, MaskableBackbone, View, require_maskable, seed_weights
from eo_ssl.objectives.base import Method, Objective, Teacher, check_momentum, list_encoders
from eo_ssl.objectives.parts import gather
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.prototypes import measure_entropy
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
class Pmsn(Method):
    """PMSN: views with patches left out get the class of a whole one, and all classes together follow a power law."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # areas of MSN's src/data_manager.py; its ten focal views have 96 of 224 pixels
        "target": ViewSpec(crop=(0.3, 1.0), gain=0.2, noise=0.1),
        "anchor": ViewSpec(crop=(0.3, 1.0), gain=0.2, noise=0.1),
        "focal": ViewSpec(count=4, size=0.5, crop=(0.05, 0.3), gain=0.2, noise=0.1),
    }

    exponent: float = 0.25
    """Of the prior: the share of class k falls as k to the power of minus this (lightly's default; 0: even classes)."""
    prior_weight: float = 1.0
    """Of KL(prior, mean prediction), the direction of lightly's loss (memax_weight in MSN's msn_vits16.yaml)."""
    patch_drop: float = 0.15
    """Share of the patches that anchors lack, focal views keep all (msn_vits16.yaml and src/deit.py)."""
    prototypes: int = 1024
    """Classes that the network makes up (msn_vits16.yaml)."""
    temperature: float = 0.1
    """Of the scores (msn_vits16.yaml)."""
    sharpen: float = 0.25
    """Temperature that sharpens the targets (msn_vits16.yaml)."""
    sinkhorn_iterations: int = 0
    """Of Sinkhorn-Knopp on the targets, 0 for none; MSN's file asks for it and lightly does 3, but it pulls the targets
    to the even classes that the prior is there to replace."""
    momentum: float = 0.996
    """Share of itself that the teacher keeps at first; grows in a line, 0.8 of the way to its end (msn_train.py)."""
    momentum_end: float = 1.0
    """That share after 1.25 of the run; an infinite schedule needs one below 1, or its teacher would stand still."""
    hidden_dim: int = 512
    """Width of the two hidden layers of the head; 2048 in msn_vits16.yaml."""
    output_dim: int = 256
    """Width of the projection (msn_vits16.yaml)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_temperature(self.temperature, usual=0.1)
        check_temperature(self.sharpen, name="sharpen", usual=0.25)
        check_widths(prototypes=self.prototypes, hidden_dim=self.hidden_dim, output_dim=self.output_dim)
        check_momentum(self.momentum)
        check_momentum(self.momentum_end)
        expect(0 <= self.patch_drop < 1, expected="patch_drop within 0 and 1", got=self.patch_drop, remedy="try 0.15")
        for name in ("exponent", "prior_weight", "sinkhorn_iterations"):
            value = getattr(self, name)
            expect(value >= 0, expected=f"{name} of at least 0", got=value, remedy="raise it")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> PmsnObjective:
        """Student, teacher, head and prototypes; refuses networks that leave out no patches, and different widths."""
        checked = {stream: require_maskable(encoder, method="Pmsn") for stream, encoder in encoders.items()}
        return PmsnObjective(checked, self, seed=seed)


class PmsnObjective(Objective):
    """Cross-entropy of masked views with the teacher's class of a whole one, and the prior; the teacher is used.

    An image is the vector that the encoder pools: with `pooling: cls` its class token, as in the paper.
    """

    told = OF_A_VIEW

    prior: Tensor
    """[K], shares of the classes that the mean prediction is to have."""

    def __init__(self, encoders: Mapping[str, MaskableBackbone], method: Pmsn, *, seed: int = 0) -> None:
        """Build head and prototypes, their weights drawn from `seed`, and the teacher."""
        super().__init__(encoders)
        check_one_width(encoders)
        self.method = method
        with seed_weights(seed):
            self.projector = MSNProjectionHead(self.encoder.dim, method.hidden_dim, method.output_dim)
            self.prototypes = nn.Linear(method.output_dim, method.prototypes, bias=False)
        self.teacher = Teacher(self.encoders)
        self.teacher_projector = Teacher(self.projector, batch_statistics=True)
        self.register_buffer("prior", compute_power_law(method.prototypes, exponent=method.exponent), persistent=False)
        self.agree = PMSNCustomLoss(
            target_distribution=lambda mean: self.prior.to(mean),
            temperature=method.temperature,
            sinkhorn_iterations=method.sinkhorn_iterations,
            regularization_weight=method.prior_weight,
        )

    @property
    def embedders(self) -> Mapping[str, Backbone]:
        """The EMA teachers (Assran et al. 2022, arXiv 2204.07141, evaluate the target encoder)."""
        return list_encoders(self.teacher.network)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropy of the anchors and the distance of their mean prediction from the prior, `loss`.

        Beside it `class_entropy`, of the mean prediction over all views, as a share of its largest: near 0 all items
        are of one class, a sign of collapse.

        Raises:
            UserError: another number of target views than one, or a batch of one item.
        """
        targets = batch.views["target"]
        expect(
            len(targets) == 1, expected="one target view of each item for Pmsn", got=len(targets), remedy="set it to 1"
        )
        check_several(targets[0])
        masked = [self.encode_masked(view, batch.step, i) for i, view in enumerate(batch.views["anchor"])]
        focal = encode_views(batch.views["focal"], list_encoders(self.encoders)) if "focal" in batch.views else ()
        # The head normalises over the views of one size together and over all processes, as the authors' does.
        anchors = torch.cat([self.project_views(group) for group in (masked, focal) if group])  # [views * B, d]
        with torch.no_grad():
            (whole,) = encode_views(targets, self.embedders)
            wanted = self.teacher_projector.network(gather(whole))  # [B, d]
        return self.compare(anchors, wanted, self.prototypes.weight)

    @use_float32
    def compare(self, anchors: Tensor, wanted: Tensor, prototypes: Tensor) -> dict[str, Tensor]:
        """What `forward` gives, from projections of anchors [views * B, d] and targets [B, d], prototypes [K, d]."""
        loss = self.agree(anchors, wanted, prototypes, target_sharpen_temperature=self.method.sharpen)
        with torch.no_grad():
            unit = (nn.functional.normalize(x, dim=1) for x in (anchors, prototypes))
            shares = prototype_probabilities(*unit, self.method.temperature).mean(dim=0)
        return {"loss": loss, "class_entropy": measure_entropy(shares)}

    def project_views(self, features: Sequence[Tensor]) -> Tensor:
        """Projections of views of one size, view by view over all processes: [views * B, d]."""
        projected: Tensor = self.projector(torch.cat([gather(x) for x in features]))
        return projected

    def encode_masked(self, view: View, step: Step, index: int) -> Tensor:
        """Features of a view from the patches that are kept, others for each item: [B, D]."""
        encoder = require_maskable(list_encoders(self.encoders)[view.stream], method="Pmsn")
        rows, cols = (side // encoder.patch_px for side in view.image.shape[-2:])
        keep = self.draw_kept(len(view), rows * cols, step.generator(index)).to(view.image.device)
        return encoder.visible(view, keep).pooled

    def draw_kept(self, batch: int, patches: int, rng: torch.Generator) -> Tensor:
        """Raster indices of the patches that are kept: [B, K] int64, K at least 1."""
        kept = max(int(patches * (1 - self.method.patch_drop)), 1)
        return torch.rand(batch, patches, generator=rng).argsort(dim=1)[:, :kept]

    def after_step(self, step: Step) -> None:
        """Move the teacher towards the student; the momentum reaches its end after 1.25 of the run."""
        momentum = step.linear(self.method.momentum, self.method.momentum_end, share=1.25)
        self.teacher.follow(self.encoders, momentum=momentum)
        self.teacher_projector.follow(self.projector, momentum=momentum)


def compute_power_law(classes: int, *, exponent: float) -> Tensor:
    """Shares of classes 1, 2, ... that fall as their number to the power of -exponent: [K], of sum 1."""
    shares = torch.arange(1, classes + 1, dtype=torch.float64) ** -exponent
    return (shares / shares.sum()).float()

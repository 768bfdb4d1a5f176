"""DINO (Caron et al. 2021, arXiv 2104.14294) with lightly's loss: a student of many crops agrees with its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightly.loss import DINOLoss
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, seed_weights
from eo_ssl.objectives.base import Method, Objective, Teacher, check_momentum, list_encoders
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.prototypes import PrototypeHead, measure_classes, take_global_views
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.two_views import OF_A_VIEW, check_one_width, check_temperature, check_widths, encode_views
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Dino(Method):
    """DINO: the student gives each crop the class that its slow teacher gives the other large crop."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # areas as the script of SSL4EO-S12 for ViT-S/16; its eight local crops have 96 of 224 pixels
        "global": ViewSpec(count=2, crop=(0.4, 1.0), gain=0.2, noise=0.1),
        "local": ViewSpec(count=4, size=0.5, crop=(0.05, 0.4), gain=0.2, noise=0.1),
    }

    momentum: float = 0.996
    """Share of itself that the teacher keeps at the first step, towards its end by a cosine (script of SSL4EO-S12)."""
    momentum_end: float = 1.0
    """That share at the end; an infinite schedule needs one below 1, or its teacher would stand still."""
    prototypes: int = 4096
    """Classes that the network makes up; 65536 in the script of SSL4EO-S12."""
    hidden_dim: int = 512
    """Width of the two hidden layers of the head; lightly's head of the paper has 2048."""
    bottleneck_dim: int = 256
    """Width of the layer before the prototypes."""
    student_temperature: float = 0.1
    """Of the student's scores (script of SSL4EO-S12)."""
    teacher_temperature: tuple[float, float] = (0.04, 0.04)
    """Of the teacher's scores at the first step and after the warm-up (script of SSL4EO-S12: constant)."""
    teacher_warmup: float = 0.3
    """Share of the run over which the teacher's temperature changes in a straight line."""
    center_momentum: float = 0.9
    """Share of itself that the mean of the teacher's scores keeps from batch to batch."""
    frozen_prototypes: float = 0.01
    """Share of the run in which the prototypes keep their initial weights (script of SSL4EO-S12: 1 of 100 epochs)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "teacher_temperature", tuple(self.teacher_temperature))
        check_widths(prototypes=self.prototypes, hidden_dim=self.hidden_dim, bottleneck_dim=self.bottleneck_dim)
        check_temperature(self.student_temperature, name="student_temperature", usual=0.1)
        for value in self.teacher_temperature:
            check_temperature(value, name="teacher_temperature", usual=0.04)
        check_momentum(self.momentum)
        check_momentum(self.momentum_end)
        for name in ("teacher_warmup", "frozen_prototypes", "center_momentum"):
            value = getattr(self, name)
            expect(0 <= value <= 1, expected=f"{name} between 0 and 1", got=value, remedy="give a share")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> DinoObjective:
        """Student, teacher and their heads; refuses encoders of different widths."""
        return DinoObjective(encoders, self, seed=seed)

    def prototypes_learn(self, step: Step) -> bool:
        """Whether the prototypes no longer keep their initial weights."""
        return step.number >= self.frozen_prototypes * step.total

    def teacher_temperature_at(self, step: Step) -> float:
        """Temperature of the teacher's scores."""
        return step.linear(*self.teacher_temperature, share=self.teacher_warmup or 1e-9)

    def make_head(self, dim: int) -> PrototypeHead:
        """A head for features of `dim` channels."""
        return PrototypeHead(
            dim, hidden_dim=self.hidden_dim, bottleneck_dim=self.bottleneck_dim, prototypes=self.prototypes
        )


class DinoObjective(Objective):
    """Cross-entropy of the student's and the teacher's classes of different crops; the teacher is used."""

    told = OF_A_VIEW

    def __init__(self, encoders: Mapping[str, Backbone], method: Dino, *, seed: int = 0) -> None:
        """Build the heads, their weights drawn from `seed`, and the teacher."""
        super().__init__(encoders)
        check_one_width(encoders)
        self.method = method
        with seed_weights(seed):
            self.head = method.make_head(self.encoder.dim)
        self.teacher, self.teacher_head = Teacher(self.encoders), Teacher(self.head)
        self.agree = DINOLoss(
            method.prototypes, student_temp=method.student_temperature, center_momentum=method.center_momentum
        )

    @property
    def embedders(self) -> Mapping[str, Backbone]:
        """The EMA teachers (Caron et al. 2021, section 3.1)."""
        return list_encoders(self.teacher.network)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropy over pairs of a global crop of the teacher and another crop of the student, `loss`.

        Beside it the signs of collapse of `measure_classes`.

        Raises:
            UserError: another number of global views than two.
        """
        crops, learn = take_global_views(batch, method="Dino"), self.method.prototypes_learn(batch.step)
        views = [encode_views(group, list_encoders(self.encoders)) for group in batch.views.values()]
        student = [self.head(features, learn=learn) for group in views for features in group]  # [B, K] each
        with torch.no_grad():
            features = encode_views(crops, self.embedders)
            teacher = [self.teacher_head.network(vectors) for vectors in features]  # [B, K] each
            temperature = self.method.teacher_temperature_at(batch.step)
            classes = ((torch.cat(teacher) - self.agree.center[0]) / temperature).softmax(dim=1)  # [2B, K]
        return {"loss": use_float32(self.agree)(teacher, student, teacher_temp=temperature), **measure_classes(classes)}

    def project(self, features: Tensor) -> Tensor:
        """Scores that the teacher gives, [B, K]."""
        scores: Tensor = self.teacher_head.network(features)
        return scores

    def after_step(self, step: Step) -> None:
        """Move the teacher towards the student, momentum along a cosine from its start to its end."""
        momentum = step.cosine(self.method.momentum, self.method.momentum_end)
        self.teacher.follow(self.encoders, momentum=momentum)
        self.teacher_head.follow(self.head, momentum=momentum)

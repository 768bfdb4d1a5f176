"""What every method is: a table of views, numbers with their source, and an objective without a trainer inside."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from eo_ssl.errors import UserError, expect
from eo_ssl.image_metadata import KINDS, MetadataKind
from eo_ssl.models import Backbone, SensorFusion, Tokens, View
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.views import ViewSpec
from eo_ssl.preprocessing import Preprocessing


class Objective(nn.Module, ABC):
    """A self-supervised task around encoders; a pure function of the weights and the batch."""

    encoders: nn.ModuleDict
    """By the stream of the item that each encodes: one named `tile`, or one for each stream of a pair."""
    channels_differ: bool = False
    """Whether the loss asks the channels of what it compares to be no copies of each other."""
    told: tuple[MetadataKind, ...] = KINDS
    """What its encoders may be told of images: nothing that views share which it asks to match, or the answer would be
    what they were told and not what they show."""
    by_row: bool = False
    """Whether it keeps numbers of each row of the source, so that a run on other rows cannot go on with them."""

    def __init__(self, encoders: Mapping[str, Backbone]) -> None:
        """Hold the encoders."""
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)

    @property
    def encoder(self) -> Backbone:
        """The first encoder: the only one of most methods."""
        first: Backbone = next(iter(self.encoders.values()))  # type: ignore[assignment]
        return first

    @property
    def embedders(self) -> Mapping[str, Backbone]:
        """Networks whose features are used, by stream: EMA teachers if the paper evaluates them, else the encoders."""
        return list_encoders(self.encoders)

    @property
    def fused(self) -> SensorFusion | None:
        """What joins the tokens of its two encoders, radar and optical; None for encoders that stand alone."""
        return None

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints by name of what the task rests on beside the data, such as a teacher made elsewhere."""
        return {}

    @property
    def licences(self) -> list[dict[str, Any]]:
        """What is owed to the owners of `inputs`, as a corpus says it of its cards."""
        return []

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of the batch under the key `loss` (a scalar), and further scalars worth logging.

        Float32 also under autocast: what networks give is compared by functions under `precision.use_float32`.
        """

    def accept(self, contracts: Mapping[str, Preprocessing]) -> None:
        """Learn what the normalised values of each stream mean, before anything is trained or written.

        Raises:
            UserError: a stream that the method cannot be trained on.
        """

    def prepare(self, items: int, *, rows: int | None = None) -> None:
        """Learn how many items a run draws from, before its first step and before a checkpoint is read.

        Args:
            items: of the pool.
            rows: items of the source, of which `Batch.rows` are numbers; None where the pool is all of it.
        """

    def after_step(self, step: Step) -> None:
        """Update what no gradient moves (EMA teachers); once per optimizer step, `step.number` is 1 after the first."""

    def embed(self, view: View) -> Tensor:
        """Features of the embedder of the view's stream: [B, D]."""
        tokens: Tokens = self.embedders[view.stream](view)
        return tokens.pooled

    def project(self, features: Tensor) -> Tensor | None:
        """What the loss compares, [B, d], from features [B, D] of the embedder; None without such a head."""
        return None


class Method(ABC):
    """A frozen dataclass per method, chosen by its class name: its numbers, each with its source.

    A subclass in a file of this folder is found by the command line; nothing else names it.
    """

    views: ClassVar[Mapping[str, ViewSpec]]
    """The augmentation table of the paper, by name of the group of views."""

    @abstractmethod
    def build(self, encoders: Mapping[str, Backbone], seed: int) -> Objective:
        """The objective around fresh encoders.

        Args:
            encoders: by stream of the items.
            seed: of the initial weights of everything but the encoders.

        Raises:
            UserError: encoders that the method cannot train, or options that do not fit them.
        """


def list_encoders(modules: nn.ModuleDict) -> dict[str, Backbone]:
    """The encoders that a module dict holds, by stream."""
    return dict(modules.items())  # type: ignore[arg-type]


Student = TypeVar("Student", bound=nn.Module)


class Teacher(nn.Module, Generic[Student]):
    """An exponential moving average of a network, never trained, always in evaluation mode."""

    network: Student

    def __init__(self, student: Student, *, batch_statistics: bool = False) -> None:
        """Begin as a copy of `student`; what is not trained in it is held once, by both.

        Args:
            student: what is averaged.
            batch_statistics: while the objective trains, batch normalisation alone uses the statistics of the batch.
        """
        super().__init__()
        self.batch_statistics = batch_statistics
        shared = {id(part): part for part in student.parameters() if not part.requires_grad}
        self.network = copy.deepcopy(student, shared).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked, but for batch normalisation where it is to see the batch."""
        super().train(False)
        for part in self.network.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.train(mode and self.batch_statistics)
        return self

    @torch.no_grad()
    def follow(self, student: nn.Module, *, momentum: float) -> None:
        """Move towards the student's trained parameters, t <- m t + (1 - m) s, and take over its buffers."""
        both = zip(self.network.parameters(), student.parameters(), strict=True)
        moving = [(mine, source) for mine, source in both if source.requires_grad]
        torch._foreach_lerp_([mine for mine, _ in moving], [source for _, source in moving], 1 - momentum)
        for buffer, source in zip(self.network.buffers(), student.buffers(), strict=True):
            buffer.copy_(source)


def list_methods() -> dict[str, type[Method]]:
    """Every method by its class name, in alphabetical order."""
    found: list[type[Method]] = []
    waiting = list(Method.__subclasses__())
    while waiting:
        method = waiting.pop()
        waiting += method.__subclasses__()
        found.append(method)
    return {method.__name__: method for method in sorted(found, key=lambda method: method.__name__)}


def check_momentum(value: float) -> None:
    """Refuse a share of itself that no teacher can keep.

    Raises:
        UserError: naming momentum.
    """
    if not 0 <= value <= 1:
        raise UserError(f"momentum must lie between 0 and 1, got {value}: try 0.996")


def compute_momentum(step: Step, momentum: tuple[float, float], *, ramp: float) -> float:
    """Share of itself that a teacher keeps: from the first to the second in a straight line over `ramp`, then so.

    Args:
        step: where the run stands.
        momentum: at the beginning and at the end of the ramp.
        ramp: share of the run; 0 for the end's value throughout.
    """
    return momentum[1] if ramp == 0 else step.linear(*momentum, share=ramp)


def check_ramp(momentum: tuple[float, float], *, ramp: float) -> None:
    """Refuse a course of the momentum that no teacher can take.

    Raises:
        UserError: naming momentum or momentum_ramp.
    """
    for value in momentum:
        check_momentum(value)
    expect(0 <= ramp <= 1, expected="momentum_ramp between 0 and 1", got=ramp, remedy="give a share of the run")

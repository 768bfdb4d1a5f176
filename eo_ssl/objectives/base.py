"""What every method is: a table of views, numbers with their source, and an objective without a trainer inside."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from eo_ssl.errors import UserError
from eo_ssl.models import Backbone, Tokens, View
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.views import ViewSpec


class Objective(nn.Module, ABC):
    """A self-supervised task around encoders; a pure function of the weights and the batch."""

    encoders: nn.ModuleDict
    """By the stream of the item that each encodes: one named `tile`, or one for each stream of a pair."""

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

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of the batch under the key `loss` (a scalar), and further scalars worth logging."""

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
        """Begin as a copy of `student`.

        Args:
            student: what is averaged.
            batch_statistics: while the objective trains, batch normalisation alone uses the statistics of the batch.
        """
        super().__init__()
        self.batch_statistics = batch_statistics
        self.network = copy.deepcopy(student).requires_grad_(False)
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
        """Move every parameter towards the student's, t <- m t + (1 - m) s, and take over its buffers."""
        mine: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(mine, list(student.parameters()), 1 - momentum)
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

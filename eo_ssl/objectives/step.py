"""What changes from batch to batch: time, chance, and the views of some items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eo_ssl.models import View


@dataclass(frozen=True, slots=True)
class Step:
    """Where a run stands, and the only source of chance of its objective and views."""

    number: int
    """Optimizer steps done so far: 0 in the first forward pass, 1 in the first `after_step`."""
    total: int
    """Optimizer steps of the whole run, or of its part in which what changes with time changes."""
    seed: int
    """Of everything random in this step; derived from the run's seed, the step and the rank alone, below 2**63."""
    common_seed: int = 0
    """Of what is random alike in all processes and views of this step; derived from the run's seed and the step."""

    def linear(self, start: float, end: float, *, share: float = 1.0) -> float:
        """A value that goes from `start` to `end` in a straight line over the first `share` of the run, then stays."""
        return start + (end - start) * min(self.number / (self.total * share), 1.0)

    def cosine(self, start: float, end: float) -> float:
        """A value that goes from `start` to `end` along half a cosine over the run."""
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(self.number / self.total, 1.0)))

    def generator(self, stream: int = 0) -> torch.Generator:
        """A fresh CPU generator: the same step draws the same numbers on every device, each `stream` others."""
        return torch.Generator().manual_seed(self.seed if stream == 0 else derive_seed(self.seed, stream))


def derive_seed(*parts: int) -> int:
    """A seed below 2**63 for a combination of whole numbers >= 0, different for each."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """What an objective gets: the views that its method declared, of the same items in the same order."""

    views: Mapping[str, Sequence[View]]
    """By the name of their `ViewSpec`: {"global": [v, v], "local": 6 x v}, {"s1": [v], "s2": [v]} ..."""
    rows: Tensor
    """[B] int64, items of the source."""
    step: Step
    """Where the run stands."""

    def all_views(self) -> list[View]:
        """Every view, in the order of the method's table."""
        return [view for views in self.views.values() for view in views]

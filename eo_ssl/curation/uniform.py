"""The uniform draw: the baseline that every selector has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eo_ssl.curation.embeddings import Scaling
from eo_ssl.curation.selectors import Candidates, Selector, SelectorResult


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Random(Selector):
    """Uniform draw without replacement: the baseline every selector has to beat."""

    name: ClassVar[str] = "random"

    scaling: Scaling = "auto"
    "scale of the figures of the report"

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick ``target`` rows uniformly."""
        return SelectorResult(np.sort(rng.choice(len(candidates), target, replace=False)).astype(np.int64))

"""What a run has cost in forward passes of its encoder, the one axis on which runs with and without curation compare.

The convention, ours: a view that is trained on counts three forward passes, one forward and a backward of twice its
work (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), whatever its size, however many of its patches are masked, and
whether a teacher or a student looks at it; a tile that is embedded for curation counts one:

    forward equivalents = 3 x presentations x views + tiles embedded for curation.

Looks of monitors are not counted: they change nothing that is learned. Nor is what chose a subset before the run
(`eo-ssl curate`), which serves any number of runs and says its own cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eo_ssl.objectives import ViewSpec

PASSES_PER_VIEW = 3
"""Forward passes that the forward and backward pass of a view are worth."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """Counts up to a step of a run, over all processes."""

    step: int
    """Optimizer steps."""
    presentations: int
    """Items presented."""
    views: int
    """Views made of each item."""
    curation_passes: int
    """Forward passes for embeddings that pools were redrawn from."""

    @property
    def forward_equivalents(self) -> int:
        """Forward passes that all of it is worth."""
        return PASSES_PER_VIEW * self.presentations * self.views + self.curation_passes

    def to_json(self) -> dict[str, int]:
        """Plain values, as an encoder and its manifest say them."""
        return {
            "step": self.step,
            "presentations": self.presentations,
            "views": self.views,
            "curation_passes": self.curation_passes,
            "forward_equivalents": self.forward_equivalents,
        }


def count_views(views: Mapping[str, ViewSpec]) -> int:
    """Views of an item, over all groups."""
    return sum(spec.count for spec in views.values())


def describe_cost(cost: RunCost, *, clustering_s: float) -> str:
    """What a finished run took, in a line."""
    seen = f"{cost.presentations:,} presentations x {cost.views} views x {PASSES_PER_VIEW}"
    if not cost.curation_passes:
        return f"{cost.forward_equivalents:,} forward equivalents: {seen}"
    curated = f"{cost.curation_passes:,} embeddings for curation"
    return f"{cost.forward_equivalents:,} forward equivalents: {seen} and {curated}, clustered in {clustering_s:.1f} s"

"""The density selector: rows weigh the more, the farther their neighbours are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eo_ssl.curation.embeddings import Floats, Scaling
from eo_ssl.curation.neighbours import find_nearest_others
from eo_ssl.curation.selectors import Candidates, Form, Selector, SelectorResult
from eo_ssl.curation.weights import CAP, temper
from eo_ssl.errors import expect

_SPREAD_NEIGHBOURS = 10
"rows over which the spread of augmented views is averaged"
_NEAREST = 0.01
"distances below this share of their median count as that: copies have no density to speak of"


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Density(Selector):
    """Weights exp(beta z(log r - gamma s)): r the distance to a near neighbour, s the spread of augmented views there.

    Self-supervised features spread frequent classes over the space, so that clusters of them come out nearly equal;
    local density carries the shares. Where the objective has two views of a row, their distance says how far apart
    equal things lie, and density is taken relative to it. Our own method; beta is found so that as many rows as wanted
    are effective.
    """

    name: ClassVar[str] = "density"

    neighbour: int = 5
    "r is the distance to this nearest other row"
    gamma: float = 0.5
    "part of the spread of augmented views that is taken off, where a training tells it; 0 for density alone"
    form: Form = "weights"
    "weights of all rows, or rows drawn by them"
    cap: float = CAP
    "largest weight, in times the mean"
    reference_rows: int | None = 50_000
    "rows among which neighbours are searched at most, drawn uniformly, to bound the cost; None: all"
    scaling: Scaling = "auto"
    "scale of the embeddings: auto (what suits the encoder), l2, zscore, zscore_l2 or none"

    def __post_init__(self) -> None:
        expect(
            self.neighbour >= 1 and self.gamma >= 0 and (self.reference_rows or self.neighbour + 1) > self.neighbour,
            expected="neighbour >= 1, gamma >= 0 and more reference_rows than neighbours",
            got=f"{self.neighbour}, {self.gamma} and {self.reference_rows}",
            remedy="5, 0.5 and 50000 are usual",
        )

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Weigh all rows by their density, or draw ``target`` of them by these weights."""
        n, relative = len(candidates), candidates.spread is not None and self.gamma > 0
        most = n if self.reference_rows is None else min(n, self.reference_rows)
        reference = np.arange(n) if most == n else np.sort(rng.choice(n, most, replace=False))
        wanted = max(self.neighbour, _SPREAD_NEIGHBOURS if relative else 0)
        if most <= self.neighbour:
            note = f"{most} rows are too few for a neighbour {self.neighbour}: all weigh the same"
            return SelectorResult.of_weights(np.ones(n), target, self.form, rng, notes=(note,))
        distance, found = find_nearest_others(candidates.points, min(wanted, most - 1), reference=reference)
        scores = score_sparseness(distance[:, self.neighbour - 1])
        notes: tuple[str, ...] = ()
        if candidates.spread is not None and self.gamma > 0:
            scores = scores - self.gamma * candidates.spread[found[:, :_SPREAD_NEIGHBOURS]].mean(axis=1)
        elif self.gamma > 0:
            notes = ("density alone: no training tells how far apart two views of a row lie",)
        weights = temper(scores, target, cap=self.cap)
        return SelectorResult.of_weights(weights, target, self.form, rng, notes=notes)


def score_sparseness(distance: Floats) -> Floats:
    """Return the logarithm of distances [n] to a neighbour, those of copies raised to a small share of the median."""
    least = max(float(np.median(distance)) * _NEAREST, float(np.finfo(np.float32).tiny))
    return np.log(np.maximum(distance, least))

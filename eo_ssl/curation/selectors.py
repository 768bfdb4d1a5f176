"""What a selector is: a frozen configuration that picks rows of embeddings, or weighs them. Any fits any schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eo_ssl.curation.embeddings import Floats, Rows, Scale, Scaling
from eo_ssl.curation.hierarchy import Clusters
from eo_ssl.curation.mapped_rows import take_rows
from eo_ssl.curation.report import to_plain
from eo_ssl.curation.weights import Doubles, check_weights, count_effective_rows, draw_without_replacement, temper
from eo_ssl.errors import expect

Form = Literal["rows", "weights"]
"""What a selector gives: so many different rows, each presented equally often, or weights of as many effective rows,
by which rows come up more or less often and none is lost."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The rows to select from, n of them."""

    points: Floats
    "finite embeddings on the selector's scale: float32 [n, d], in memory or mapped to a file"
    columns: pa.Table | None = None
    "columns of the index that the selector asked for"
    spread: Floats | None = None
    """logarithm of the distance between two augmented views of each row, less its mean: float32 [n]; None where no
    training tells"""
    towards: Floats | None = None
    "embeddings of a target set by the same encoder, on the scale of the points: float32 [m, d]"

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: Rows) -> Candidates:
        """Return these ``rows`` int64 [m] alone."""
        return replace(
            self,
            points=take_rows(self.points, rows),
            columns=None if self.columns is None else self.columns.take(pa.array(rows)),
            spread=None if self.spread is None else self.spread[rows],
        )


@dataclass(frozen=True, slots=True)
class SelectorResult:
    """The rows that a selector picked, what they weigh, and its clusters if it made some."""

    rows: Rows
    "the rows that are drawn from, sorted"
    weights: Floats | None = None
    "how often each is to come up, in times the mean: float32 [len(rows)] above 0, mean 1; None for equally often"
    clusters: Clusters | None = None
    notes: tuple[str, ...] = ()

    @property
    def effective_rows(self) -> float:
        """Number of equally weighted rows that would scatter as much (Kish)."""
        return float(len(self.rows)) if self.weights is None else count_effective_rows(self.weights)

    @classmethod
    def of_weights(
        cls,
        weights: Doubles,
        target: int,
        form: Form,
        rng: np.random.Generator,
        *,
        notes: tuple[str, ...] = (),
        clusters: Clusters | None = None,
    ) -> SelectorResult:
        """What ``weights`` float64 [n] above 0 of all rows give: themselves, or ``target`` rows drawn by them."""
        effective = count_effective_rows(weights)
        if effective > 1.01 * target:
            notes = (*notes, f"{effective:.0f} rows are effective, not {target}: too many cannot be told apart")
        if form == "rows":
            return cls(draw_without_replacement(weights, target, rng), None, clusters, notes)
        return cls(np.arange(len(weights), dtype=np.int64), check_weights(weights), clusters, notes)

    @classmethod
    def of_scores(
        cls,
        scores: NDArray[np.floating],
        target: int,
        form: Form,
        rng: np.random.Generator,
        *,
        cap: float,
        notes: tuple[str, ...] = (),
        clusters: Clusters | None = None,
    ) -> SelectorResult:
        """What ``scores`` [n] give: the ``target`` highest rows, of equals at random; or, of finite ones, weights.

        The weights are those of `temper`.
        """
        if form == "weights":
            weights = temper(scores, target, cap=cap)
            return cls.of_weights(weights, target, form, rng, notes=notes, clusters=clusters)
        order = np.lexsort((rng.permutation(len(scores)), -scores))
        return cls(np.sort(order[:target]).astype(np.int64), None, clusters, notes)


class Selector(ABC):
    """Picks or weighs rows; a frozen dataclass of plain values, chosen by its class name (`--method`)."""

    name: ClassVar[str]
    "in reports and manifests"
    needs_target: ClassVar[bool] = False
    "whether it selects towards a target set, which it must be given"
    scaling: Scaling
    "the scale on which it wants its points"

    def scale(self, suited: Scale) -> Scale:
        """Return the scale that it asks for, or where that is auto the one that is ``suited`` to the encoder."""
        return suited if self.scaling == "auto" else self.scaling

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the index that it reads beside the embeddings."""
        return ()

    def check(self, columns: pa.Table | None, *, targeted: bool = False) -> None:
        """Refuse what it cannot select by, before anything is embedded.

        Args:
            columns: of the index.
            targeted: whether it is given a target set.

        Raises:
            UserError: a column that nobody gave, of another kind, or with values missing; no target set where it needs
                one, or one that it would not look at.
        """
        expect(
            targeted == self.needs_target,
            expected=f"a target set for {self.name}" if self.needs_target else "a selector towards a target set",
            got="none" if self.needs_target else self.name,
            remedy="give both, --method SimCore and --towards, or neither",
        )
        there = () if columns is None else columns.column_names
        for name in self.columns:
            expect(
                name in there,
                expected=f"a column {name} beside the embeddings, which the selector reads",
                got=", ".join(there) or "none",
                remedy="name a column of the index",
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """Its fields as plain values that JSON can hold."""
        plain: dict[str, Any] = to_plain(asdict(self))  # type: ignore[call-overload]
        return plain

    @abstractmethod
    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick ``target`` (between 1 and n) of n rows, or weigh all so that as many are effective."""

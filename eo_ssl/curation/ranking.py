"""Rows in the order of one number that the index knows of them, such as their spectral entropy or cloud fraction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from eo_ssl.curation.embeddings import Scaling
from eo_ssl.curation.selectors import Candidates, Form, Selector, SelectorResult
from eo_ssl.curation.weights import CAP, Doubles
from eo_ssl.errors import expect


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Ranked(Selector):
    """The rows with the highest or the lowest values of one column of numbers, or weights that rise or fall with it.

    Embeddings do not count. The default follows Kaur et al. 2026 (arXiv 2604.21104): of what they measured of seven
    corpora, only the spectral entropy of single samples went along with the scores of the encoders.
    """

    name: ClassVar[str] = "ranked"

    by: str = "spectral_entropy"
    "column of the index that holds numbers"
    prefer: Literal["highest", "lowest"] = "highest"
    "which values to keep, or to weigh most"
    unknown: Literal["refuse", "last"] = "refuse"
    """rows without a value: an error, or behind all others (of equal weight with the last of those, where rows are
    weighed)"""
    form: Form = "rows"
    "the first rows of the order, or weights exp(beta z) of all rows by their standardised value"
    cap: float = CAP
    "largest weight, in times the mean"
    scaling: Scaling = "auto"
    "scale of the figures of the report"

    @property
    def columns(self) -> tuple[str, ...]:
        """The one ranked by."""
        return (self.by,)

    def check(self, columns: pa.Table | None, *, targeted: bool = False) -> None:
        """Refuse a column without numbers, or with some missing where none may be."""
        super().check(columns, targeted=targeted)
        self.score(columns)

    def score(self, columns: pa.Table | None) -> tuple[Doubles, int]:
        """Return the score of each row by its column, float64 [n], -inf or that of the last, and how many have none.

        Raises:
            UserError: the column holds no numbers, or some are missing and must not be.
        """
        assert columns is not None  # as asked for by `columns`
        values = read_numbers(columns, self.by)
        scores = values if self.prefer == "highest" else -values
        known = np.isfinite(scores)
        missing = int((~known).sum())
        expect(
            self.unknown == "last" or not missing,
            expected=f"a value of {self.by} for each of {len(scores)} rows",
            got=f"{missing} without",
            remedy=f"leave them out with --where, put them last, or ingest again if {self.by} is new",
        )
        expect(
            known.any(),
            expected=f"rows with a value of {self.by}",
            got="none",
            remedy="rank by a column that is known",
        )
        last = float(scores[known].min()) if self.form == "weights" else -np.inf
        return np.where(known, scores, last), missing

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick the ``target`` first rows of the order, of equals at random, or weigh all."""
        scores, missing = self.score(candidates.columns)
        notes = (f"{missing} of {len(scores)} rows have no {self.by}: last",) if missing else ()
        return SelectorResult.of_scores(scores, target, self.form, rng, cap=self.cap, notes=notes)


def read_numbers(columns: pa.Table, name: str) -> Doubles:
    """Return a column as float64 [n], NaN where it is null.

    Raises:
        UserError: it holds no numbers.
    """
    column = columns[name].combine_chunks()
    expect(
        pa.types.is_integer(column.type) or pa.types.is_floating(column.type),
        expected="a column of numbers to rank by",
        got=f"{name}, which holds {column.type}",
        remedy="choose another one",
    )
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False))

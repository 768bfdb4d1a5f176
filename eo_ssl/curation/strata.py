"""Strata by columns of the index, such as month or orbit: rows spread evenly over them, or weighed by their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from eo_ssl.curation.balanced_sampling import allocate_evenly
from eo_ssl.curation.embeddings import Labels, Rows, Scaling
from eo_ssl.curation.hierarchy import take_per_cluster
from eo_ssl.curation.selectors import Candidates, Form, Selector, SelectorResult
from eo_ssl.curation.weights import CAP, flatten_sizes
from eo_ssl.errors import expect


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Stratified(Selector):
    """Rows spread over the values of columns of the index: as evenly as the sizes allow, or by a power of them.

    Rows of equal values in all columns are a stratum, and those of which nothing is known (null) one of their own. Rows
    are shared by water-filling and drawn uniformly within; weights are n^(alpha - 1) for a stratum of n rows, alpha
    found so that as many rows as wanted are effective. Embeddings do not count.
    """

    name: ClassVar[str] = "stratified"

    by: tuple[str, ...] = ("month",)
    "columns of the index that hold words or whole numbers"
    form: Form = "rows"
    "rows picked, or weights of all rows"
    cap: float = CAP
    "largest weight, in times the mean"
    scaling: Scaling = "auto"
    "scale of the figures of the report"

    def __post_init__(self) -> None:
        expect(
            self.by and len(set(self.by)) == len(self.by),
            expected="one or more different columns to stratify by",
            got=list(self.by),
            remedy="month,orbit for example",
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Those stratified by."""
        return self.by

    def check(self, columns: pa.Table | None, *, targeted: bool = False) -> None:
        """Refuse columns of measures."""
        super().check(columns, targeted=targeted)
        assert columns is not None
        number_strata(columns.select(list(self.by)))

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        """Pick ``target`` rows, as evenly out of the strata as these allow, or weigh the rows of each alike."""
        assert candidates.columns is not None  # as asked for by `columns`
        strata = number_strata(candidates.columns)
        sizes = np.bincount(strata).astype(np.int64)
        note = f"{len(sizes)} strata by {', '.join(self.by)} of {sizes.min()} to {sizes.max()} rows"
        if self.form == "weights":
            weights = flatten_sizes(sizes, target, cap=self.cap)[strata]
            return SelectorResult.of_weights(weights, target, self.form, rng, notes=(note,))
        shares = allocate_evenly(sizes, target, rng=rng)
        note = f"{note}, of which {shares.min()} to {shares.max()} are kept"
        return SelectorResult(take_per_cluster(strata, rng.random(len(strata)), shares), notes=(note,))


def number_strata(columns: pa.Table) -> Labels:
    """Return a number from 0 per combination of values in ``columns``, null among them, without gaps: int32 [n].

    Raises:
        UserError: a column of measures, nearly each value of which would be a stratum.
    """
    strata = np.zeros(len(columns), dtype=np.int64)
    for name in columns.column_names:
        values = columns[name].combine_chunks()
        expect(
            not pa.types.is_floating(values.type),
            expected="columns of words or whole numbers to stratify by",
            got=f"the measures {name}",
            remedy="choose another column, or rank by it",
        )
        codes = values.dictionary_encode(null_encoding="encode").indices.to_numpy()
        strata = np.unique(strata * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)[1]
    return strata.astype(np.int32)


def thin_strata(columns: pa.Table, most: int, rng: np.random.Generator) -> Rows:
    """Return at most ``most`` rows of each stratum of ``columns``, drawn uniformly: int64, sorted.

    Raises:
        UserError: less than one row of each.
    """
    expect(most >= 1, expected="at least 1 row of each", got=most, remedy="1 keeps one of each")
    strata = number_strata(columns)
    counts = np.full(int(strata.max(initial=-1)) + 1, most, dtype=np.int64)
    return take_per_cluster(strata, rng.random(len(strata)), counts)

"""Are features good enough to curate by? Whether a row is found again among others by another look at it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eo_ssl.curation.embeddings import Floats, rescale
from eo_ssl.curation.report import Gate
from eo_ssl.errors import UserError, expect


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Readiness:
    """How far an event trusts the features: it keeps keep^r of the rows, r from 0 (nothing is curated) to 1.

    Features of the first steps tell nuisance apart, and curating by them does harm; agreement of clusterings does not
    notice, since nuisance is clustered the same way twice. A row that another crop of it, with another gain, does not
    find again among others has no place among them that could be trusted. The numbers are choices of ours.
    """

    threshold: float = 0.3
    "share of rows found again from which features are trusted in full; 0 or less trusts them from the start"
    rows: int = 512
    "rows the question is asked on at most, each with two looks"
    retry: int | None = None
    "sample presentations until the next event where trust was not full; None: the interval of the schedule"

    def __post_init__(self) -> None:
        if self.threshold > 1 or self.rows < 4 or (self.retry is not None and self.retry < 1):
            raise UserError(
                f"expected threshold <= 1, rows >= 4 and retry >= 1, got {self}; a threshold of 0 switches the gate off"
            )


def judge_readiness(first: Floats, second: Floats, config: Readiness) -> Gate:
    """Return how many of n rows are nearest to themselves between two looks at them, by the cosine, both ways.

    Args:
        first: features of one look at n rows, float32 [n, d].
        second: those of another look at the same rows.
        config: the threshold.

    Raises:
        UserError: looks at different numbers of rows.
    """
    expect(
        first.shape == second.shape,
        expected="two looks at the same rows",
        got=f"{list(first.shape)} and {list(second.shape)}",
        remedy="embed the same rows twice",
    )
    similarity = rescale(first, "l2") @ rescale(second, "l2").T
    own = np.diagonal(similarity).copy()
    # Strictly above all others: rows that look all alike are not found.
    np.fill_diagonal(similarity, -np.inf)
    found = [float(np.mean(own > similarity.max(axis=axis))) for axis in (0, 1)] if len(first) > 1 else [0.0]
    agreement = float(np.mean(found))
    return Gate(agreement=agreement, threshold=config.threshold, ready=agreement >= config.threshold)

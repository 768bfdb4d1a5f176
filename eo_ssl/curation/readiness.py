"""Are features good enough to curate by? Whether a row is found again among others by another look at it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eo_ssl.curation.embeddings import Floats, rescale
from eo_ssl.curation.report import Gate
from eo_ssl.errors import expect


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Readiness:
    """How far an event trusts the features: it keeps keep^r of the rows, r from 0 (nothing is curated) to 1.

    Features of the first steps tell nuisance apart, and curating by them does harm. Agreement of clusterings does not
    notice, since nuisance is clustered the same way twice; a row that another crop of it in another light does not find
    again among others has no place among them to be trusted. The numbers are ours, read off generated textures (bench
    study_trust): with untrained weights brightness alone finds some rows again, for an agreement of about an eighth.
    """

    none: float = 0.12
    "agreement of two looks up to which features are not trusted at all"
    full: float = 0.2
    "agreement from which they are trusted in full; 0 or less trusts them from the start, and looks at nothing"
    rows: int = 512
    "rows the question is asked on at most, each with two looks"
    retry: int | None = None
    "sample presentations until the next event where trust was not full; None: the interval of the schedule"

    def __post_init__(self) -> None:
        expect(
            self.full <= 1 and (self.full <= 0 or self.none < self.full),
            expected="none < full <= 1",
            got=f"{self.none} and {self.full}",
            remedy="a full of 0 switches the gate off",
        )
        expect(
            self.rows >= 4 and (self.retry is None or self.retry >= 1),
            expected="rows >= 4 and retry >= 1",
            got=f"{self.rows} and {self.retry}",
            remedy="leave them out",
        )


def judge_readiness(first: Floats, second: Floats, config: Readiness) -> Gate:
    """Return how well n rows are found again between two looks at them, and how far features are to be trusted by that.

    The agreement is 1 where each row is the nearest to itself by the cosine, and 0 on average where any other is as
    near: 1 less the mean logarithm of the place of its own among all n looks, over that of a place drawn uniformly. A
    logarithm, for being fifth of five hundred is nearly as good as first, and textures have no better.

    Args:
        first: features of one look at n rows, float32 [n, d].
        second: those of another look at the same rows.
        config: from where to where trust grows.

    Raises:
        UserError: looks at different numbers of rows, or at one alone.
    """
    expect(
        first.shape == second.shape and len(first) > 1,
        expected="two looks at the same rows, at least two",
        got=f"{list(first.shape)} and {list(second.shape)}",
        remedy="embed the same rows twice",
    )
    similarity = rescale(first, "l2") @ rescale(second, "l2").T
    own = np.diagonal(similarity)
    uniform = np.log(np.arange(1, len(own) + 1)).mean()
    found = []
    for looks in (similarity, similarity.T):
        nearer, as_near = (looks > own[:, None]).sum(axis=1), (looks == own[:, None]).sum(axis=1)
        found.append(1 - np.log(nearer + (as_near + 1) / 2).mean() / uniform)
    agreement = max(0.0, float(np.mean(found)))
    return Gate(agreement, config.full, agreement >= config.full, config.none)

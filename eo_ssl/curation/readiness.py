"""The readiness gate: the agreement of two k-means fits on disjoint halves says if embeddings can be clustered.

Early features cluster nuisance, and pruning on them makes the pool less balanced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import adjusted_rand_score

from eo_ssl.curation.embeddings import Floats, derive_generator, find_distinct_rows
from eo_ssl.curation.kmeans import assign, find_nearest_centroid, fit_centroids
from eo_ssl.curation.report import Gate
from eo_ssl.errors import UserError

_RESTARTS = 5


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Readiness:
    """The gate before the first event of a dynamic schedule. Its numbers are choices of ours, no paper's."""

    threshold: float = 0.3
    "smallest adjusted Rand index of two fits on disjoint halves; 0 or less lets everything pass"
    clusters: tuple[int, ...] = (3, 5, 10, 20)
    """numbers of clusters tried; the best agreement counts, since groups of unknown number are stable at their own
    number only"""
    rows: int = 5000
    "rows the question is asked on at most"
    retry: int | None = None
    "sample presentations until the next try; None: the interval of the schedule"

    def __post_init__(self) -> None:
        if (
            self.threshold > 1
            or min(self.clusters, default=0) < 2
            or self.rows < 4
            or (self.retry is not None and self.retry < 1)
        ):
            raise UserError(
                f"expected threshold <= 1, clusters >= 2, rows >= 4 and retry >= 1, got {self}; a threshold of 0 "
                "switches the gate off"
            )


def judge_readiness(points: Floats, config: Readiness, *, rng: np.random.Generator) -> Gate:
    """Fit k-means on two disjoint random halves of ``points`` float32 [n, d] and compare how they split all of them.

    The adjusted Rand index (Hubert & Arabie 1985) is 1 for equal partitions and 0 on average for unrelated ones; the
    best over ``config.clusters`` is compared with the threshold. Too few different rows for two fits count as not
    ready. The gate finds features without structure; a strong but meaningless axis, such as gain, is reproducible and
    passes.
    """
    if config.threshold <= 0:
        return Gate(agreement=1.0, threshold=config.threshold, ready=True)
    asked = rng.permutation(len(points))[: config.rows]
    rows = asked[find_distinct_rows(points[asked])]
    # ``find_distinct_rows`` keeps the random order, so the halves are random.
    left, right = rows[::2], rows[1::2]
    agreement = 0.0
    for k in config.clusters:
        if k <= len(right):
            splits = [assign(points[rows], _fit_best(points[half], k, derive_generator(rng))) for half in (left, right)]
            agreement = max(agreement, float(adjusted_rand_score(*splits)))
    return Gate(agreement=agreement, threshold=config.threshold, ready=agreement >= config.threshold)


def _fit_best(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Return the tightest of a few fits: a poor local minimum must not pass for instability."""
    fits = [fit_centroids(points, k, rng=rng) for _ in range(_RESTARTS)]
    return min(
        fits,
        key=lambda centroids: float(np.square(find_nearest_centroid(points, centroids)[1], dtype=np.float64).sum()),
    )

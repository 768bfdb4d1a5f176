"""Measures of balance and diversity: entropy, Gini, Vendi score, coverage, neighbour distance, turnover."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eo_ssl.curation.embeddings import Floats, Rows, rescale
from eo_ssl.curation.mapped_rows import Values, gather_rows
from eo_ssl.curation.neighbours import find_nearest

QUERIES = 2000
"rows that nearest-neighbour figures and the Vendi score are computed on (all rows are searched); bounds their cost"


def compute_normalised_entropy(counts: Rows | NDArray[np.float64]) -> float:
    """Return the entropy of k counts over ln k: 1 when all are equal (and for k = 1), 0 when one holds everything."""
    total = float(counts.sum())
    if len(counts) <= 1:
        return 1.0
    share = np.asarray(counts, dtype=np.float64)[counts > 0] / max(total, 1e-300)
    return float(abs(np.sum(share * np.log(share))) / np.log(len(counts)))


def compute_gini(counts: Rows | NDArray[np.float64]) -> float:
    """Return the Gini coefficient of k counts: 0 when all are equal, 1 - 1/k when one holds everything."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    k, total = len(ordered), ordered.sum()
    if k == 0 or total == 0:
        return 0.0
    return float(2 * np.sum(np.arange(1, k + 1) * ordered) / (k * total) - (k + 1) / k)


def measure_neighbour_distance(
    points: Values, rows: Rows | None = None, *, rng: np.random.Generator, queries: int = QUERIES
) -> float:
    """Return the mean cosine distance of up to ``queries`` of ``rows`` of ``points`` [n, d] to their nearest other.

    ``rows`` int64 [m] may name one twice, which are then copies; None: all.
    """
    rows = np.arange(len(points)) if rows is None else rows
    if len(rows) < 2:
        return 0.0
    asked = draw_some(len(rows), queries, rng)
    unit = rescale(gather_rows(points, rows[asked]), "l2")
    similarity, hits = find_nearest(unit, points, 2, rows=rows, cosine=True)
    # Among identical rows a row need not find itself first; then its first hit is the answer.
    best = np.where(hits[:, 0] == asked, similarity[:, 1], similarity[:, 0])
    return float(np.mean(np.maximum(1.0 - best, 0.0), dtype=np.float64))


def compute_vendi_score(
    points: Values, rows: Rows | None = None, *, rng: np.random.Generator, queries: int = QUERIES
) -> float:
    """Return exp of the von Neumann entropy of the cosine kernel over up to ``queries`` of ``rows`` of ``points``.

    Friedman & Dieng 2023 (arXiv 2210.02410): the effective number of different rows, from 1 (all alike) to n. The
    kernel's eigenvalues are taken from the smaller of the two Gram matrices.
    """
    rows = np.arange(len(points)) if rows is None else rows
    unit = rescale(gather_rows(points, rows[draw_some(len(rows), queries, rng)]), "l2").astype(np.float64)
    gram = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit
    values = np.linalg.eigvalsh(gram / len(unit))
    values = values[values > 1e-12]
    return float(np.exp(-np.sum(values * np.log(values))))


def measure_neighbourhood_radius(
    points: Values,
    rows: Rows | None = None,
    *,
    rng: np.random.Generator,
    queries: int = QUERIES,
    neighbour: int = 10,
) -> float:
    """Return the median distance from ``rows`` of ``points`` to their tenth nearest other: the radius of coverage."""
    rows = np.arange(len(points)) if rows is None else rows
    asked = gather_rows(points, rows[draw_some(len(rows), queries, rng)])
    squared, _ = find_nearest(asked, points, min(neighbour + 1, len(rows)), rows=rows)
    return float(np.median(np.sqrt(np.maximum(squared[:, -1], 0.0))))


def measure_coverage(
    points: Values,
    pool: Rows,
    rows: Rows | None = None,
    *,
    radius: float,
    rng: np.random.Generator,
    queries: int = QUERIES,
) -> float:
    """Return the share of up to ``queries`` of ``rows`` of ``points`` with a row of ``pool`` within ``radius``."""
    if not len(pool):
        return 0.0
    rows = np.arange(len(points)) if rows is None else rows
    asked = gather_rows(points, rows[draw_some(len(rows), queries, rng)])
    _, nearest = find_nearest(asked, points, 1, rows=pool)
    # The search expands |x - y|^2, which rounds badly where it is small; the distances are therefore taken anew.
    distance = np.linalg.norm(asked - gather_rows(points, pool[nearest[:, 0]]), axis=1)
    return float(np.mean(distance <= radius))


def measure_turnover(
    previous: Rows, current: Rows, *, weights: tuple[Floats | None, Floats | None] = (None, None)
) -> float:
    """Return the share of draws of ``current`` that ``previous`` would not have given: their total variation distance.

    Between pools of one size without ``weights`` (of the two, None for equal ones) that is the share of new rows.
    """
    rows = np.union1d(previous, current)
    shares = np.zeros((2, len(rows)))
    for share, pool, weight in zip(shares, (previous, current), weights, strict=True):
        share[np.searchsorted(rows, pool)] = 1 if weight is None else weight
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
    return float(1 - np.minimum(*shares).sum())


def draw_some(n: int, most: int, rng: np.random.Generator) -> Rows:
    """Return ``most`` of the numbers below ``n``, drawn uniformly, or all where there are no more: int64, sorted."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))

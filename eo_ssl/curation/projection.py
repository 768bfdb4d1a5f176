"""Rows on a plane: the first two principal components of some of them, to be looked at and never selected by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from eo_ssl.curation.diversity import draw_some
from eo_ssl.curation.embeddings import Floats, Rows
from eo_ssl.curation.mapped_rows import Values, gather_rows

MOST_ROWS = 4000
"rows that are placed at most: more dots cannot be told apart, and memory does not grow with the rows"
_ALIKE = 1e-6
"root mean square along a direction, in lengths of a row, up to which single precision has rounded and rows are alike"


@dataclass(frozen=True, slots=True)
class Projection:
    """Where some rows lie along the two directions in which they differ most."""

    rows: Rows
    "those that are placed, drawn uniformly: int64 [m], sorted"
    places: Floats
    "float32 [m, 2], from their mean; 0 along a direction in which they do not differ"
    variance: tuple[float, float]
    "share of their variance along each direction"


def project_rows(points: Values, group: Rows, rng: np.random.Generator) -> Projection:
    """Place up to `MOST_ROWS` of n rows by principal components; the farthest row along each lies at a positive place.

    Args:
        points: different rows, [m, d].
        group: which of them each row is: int64 [n].
        rng: draws the rows.
    """
    rows = draw_some(len(group), MOST_ROWS, rng)
    raw = gather_rows(points, group[rows]).astype(np.float64)
    rounding = _ALIKE**2 * float(np.square(raw).sum())
    centred = raw - raw.mean(axis=0)
    tall = len(centred) > centred.shape[1]
    gram = centred.T @ centred if tall else centred @ centred.T  # the smaller one has the same eigenvalues
    count = min(2, len(gram))
    values, vectors = eigh(gram, subset_by_index=[len(gram) - count, len(gram) - 1])
    values, vectors = np.where(values > rounding, values, 0.0)[::-1], vectors[:, ::-1]
    along = (centred @ vectors if tall else vectors * np.sqrt(values)) * (values > 0)
    along *= np.where(along[np.abs(along).argmax(axis=0), np.arange(count)] < 0, -1.0, 1.0)
    places = np.zeros((len(rows), 2), dtype=np.float32)
    places[:, :count] = along
    shares = [*(values / max(float(np.square(centred).sum()), np.finfo(np.float64).tiny)).tolist(), 0.0]
    return Projection(rows.astype(np.int64), places, (shares[0], shares[1]))

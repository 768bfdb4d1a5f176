"""Covariance of embeddings added up part by part: effective rank (RankMe), principal components, projections."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eo_ssl.embedding.table import Matrix
from eo_ssl.errors import expect

Wide = npt.NDArray[np.float64]
_EPSILON = 1e-7  # added to each share of the spectrum (Garrido et al. 2023, equation 1)


@dataclass(frozen=True, slots=True)
class Covariance:
    """Second moments of vectors; memory does not grow with their number."""

    count: int
    "vectors"
    mean: Wide
    "float64 [D]"
    moments: Wide
    "float64 [D, D], sum of the outer products of the vectors with themselves"

    @classmethod
    def of(cls, parts: Iterable[Matrix]) -> Covariance:
        """Return the moments of the rows of all ``parts``, each [n, D] float32 and finite.

        Raises:
            UserError: there is no row.
        """
        count, total, moments = 0, np.zeros(0), np.zeros((0, 0))
        for part in parts:
            wide = part.astype(np.float64)
            count += len(wide)
            total = wide.sum(axis=0) + (total if total.size else 0.0)
            moments = wide.T @ wide + (moments if moments.size else 0.0)
        expect(count, expected="at least one embedding to measure", got="none", remedy="embed again")
        return cls(count, total / count, moments)

    @property
    def singular_values(self) -> Wide:
        """Singular values of the matrix of all vectors, not centred, descending, float64 [D]."""
        values: Wide = np.sqrt(np.clip(np.linalg.eigvalsh(self.moments)[::-1], 0.0, None))
        return values

    @property
    def rank_me(self) -> float:
        """Effective rank: exp of the entropy of the normalised singular values, from 1 (a line) to D.

        RankMe, Garrido et al. 2023 (arXiv 2210.02885), equations 1 and 2.
        """
        values = self.singular_values
        share = values / max(float(values.sum()), np.finfo(np.float64).tiny) + _EPSILON
        return float(np.exp(-(share * np.log(share)).sum()))

    def components(self, number: int) -> tuple[Wide, Wide]:
        """Return the first principal components [number, D] and their shares of the variance [number].

        The largest entry of each component is positive.
        """
        covariance = self.moments / self.count - np.outer(self.mean, self.mean)
        variance, vectors = np.linalg.eigh(covariance)
        axes = vectors.T[::-1][:number]
        signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
        kept = np.clip(variance[::-1], 0.0, None)
        return axes * signs[:, None], kept[:number] / max(float(kept.sum()), np.finfo(np.float64).tiny)

    def project(self, x: Matrix, axes: Wide) -> Wide:
        """Return where vectors ``x`` [n, D] lie along ``axes`` [k, D], from the mean: float64 [n, k]."""
        placed: Wide = (x - self.mean) @ axes.T
        return placed

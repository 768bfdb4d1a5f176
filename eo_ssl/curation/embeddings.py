"""The door of the room: embeddings are checked once, and put on the scale the clustering is to see."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_ssl.errors import expect

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Labels = NDArray[np.int32]
Scaling = Literal["l2", "zscore", "none"]
_UNIT = 1e-6
"how far from 1 the length of a row may be that is called 1, in single precision"


def check_embeddings(embeddings: ArrayLike) -> Floats:
    """Return ``embeddings`` as C-contiguous float32 [n, d], n and d at least 1.

    Raises:
        UserError: not a matrix, empty, or with a NaN or an infinite value (an encoder that diverged, or a tile without
            a valid pixel).
    """
    array = np.asarray(embeddings)
    expect(
        array.ndim == 2 and array.size,
        expected="embeddings of shape [rows, features]",
        got=list(array.shape),
        remedy="pass one vector per row",
    )
    points = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(points).all(axis=1)
    expect(
        finite.all(),
        expected="finite embeddings",
        got=f"NaN or infinity in {int((~finite).sum())} of {len(points)} rows (first: row {int(np.argmin(finite))})",
        remedy="check the encoder, or leave out tiles without valid pixels",
    )
    return points


def rescale(points: Floats, scaling: Scaling, *, reference: Floats | None = None) -> Floats:
    """Return ``points`` [n, d] on the scale distances are measured in.

    ``l2`` puts every row on the unit sphere (rows of zeros stay zero), so that squared distance is twice the cosine
    distance; ``zscore`` gives every column mean 0 and deviation 1 (constant columns become 0); ``none`` takes the
    column means off, which changes no distance but keeps the digits that a far-off origin would cost in single
    precision. Means and deviations are those of ``reference`` [m, d] where it is given. Points that lie on the unit
    sphere already come back as they are.
    """
    if scaling == "l2":
        norm = np.linalg.norm(points, axis=1, keepdims=True)
        if (np.abs(norm - 1) <= _UNIT).all():
            return points
        unit: Floats = np.divide(points, norm, out=np.zeros_like(points), where=norm > 0)
        return unit
    measured = points if reference is None else reference
    if scaling == "zscore":
        mean, deviation = measured.mean(axis=0, dtype=np.float64), measured.std(axis=0, dtype=np.float64)
        # Rounding leaves a constant column a deviation near, not at, zero; dividing by it would make noise a feature.
        constant = deviation <= 1e-6 * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)
        scaled: Floats = np.where(constant, 0.0, (points - mean) / np.where(constant, 1.0, deviation)).astype(
            np.float32
        )
        return scaled
    centred: Floats = (points - measured.mean(axis=0, dtype=np.float64)).astype(np.float32)
    return centred


def find_distinct_rows(points: Floats) -> Rows:
    """Return the first row of every group of identical rows of ``points`` [n, d], sorted: int64 [m]."""
    # Adding 0 turns -0.0 into 0.0: equal values must have equal bytes.
    raw: NDArray[Any] = (
        np.ascontiguousarray(points + np.float32(0)).view(np.dtype((np.void, points.shape[1] * 4))).ravel()
    )
    return np.sort(np.unique(raw, return_index=True)[1]).astype(np.int64)


def derive_generator(rng: np.random.Generator) -> np.random.Generator:
    """Return a generator seeded from ``rng``, independent of how much is drawn from it later.

    ``Generator.spawn`` is not used: its counter is no part of the state that a checkpoint keeps.
    """
    return np.random.default_rng(rng.integers(0, 2**63 - 1, size=4))

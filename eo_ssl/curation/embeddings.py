"""The door of the room: embeddings are checked once, and put on the scale the clustering is to see."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eo_ssl.curation.mapped_rows import Values, allocate_like, read_parts, release_pages
from eo_ssl.errors import expect
from eo_ssl.sensors import Quantity

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Labels = NDArray[np.int32]
Scale = Literal["l2", "zscore", "zscore_l2", "none"]
"""What is done to embeddings before distances are measured; see `rescale`."""
Scaling = Literal["auto", "l2", "zscore", "zscore_l2", "none"]
"""What a selector asks for; auto: what suits the encoder, see `choose_scaling`."""
_UNIT = 1e-6
"how far from 1 the length of a row may be that is called 1, in single precision"


def choose_scaling(encoder_name: str, quantity: Quantity) -> Scale:
    """Return the scale on which embeddings of an encoder are best curated.

    Image statistics are means, deviations and extremes of bands, each of another spread: every column counts the same
    after a z-score. Of reflectance their rows are then put on the unit sphere, since balanced sampling else takes all
    radial outliers (snow, clouds, mixed offsets) in full: in our own experiments on optical tiles the entropy of
    classes rose from .86 without and .63 to .78 with the z-score alone to .88 to .89. Of radar (power, amplitude, dB)
    they stay where the z-score puts them: the length of a row tells bright targets from clutter, and on MSTAR the unit
    sphere cost. Digital numbers count as reflectance (untested). Trained encoders are compared by the cosine, as Vo
    et al. (2024) curate, and so are random features (`rcf`, `random_init`).

    Args:
        encoder_name: `name` of the encoder.
        quantity: of the tiles.
    """
    if encoder_name != "imagestats":
        return "l2"
    return "zscore" if quantity.is_power or quantity.is_db or quantity == Quantity.AMPLITUDE else "zscore_l2"


def check_embeddings(embeddings: ArrayLike) -> Values:
    """Return ``embeddings`` as C-contiguous float32 [n, d], n and d at least 1; a memory map as it is.

    Raises:
        UserError: not a matrix, empty, or with a NaN or an infinite value (an encoder that diverged, or a tile without
            a valid pixel).
    """
    array = embeddings if isinstance(embeddings, np.memmap) else np.asarray(embeddings)
    expect(
        array.ndim == 2 and array.size,
        expected="embeddings of shape [rows, features]",
        got=list(array.shape),
        remedy="pass one vector per row",
    )
    points = array if isinstance(array, np.memmap) else np.ascontiguousarray(array, dtype=np.float32)
    finite = np.empty(len(points), dtype=bool)
    for part, values in read_parts(points):
        finite[part] = np.isfinite(values).all(axis=1)
    expect(
        finite.all(),
        expected="finite embeddings",
        got=f"NaN or infinity in {int((~finite).sum())} of {len(points)} rows (first: row {int(np.argmin(finite))})",
        remedy="check the encoder, or leave out tiles without valid pixels",
    )
    return points


def rescale(
    points: Values, scale: Scale, rows: Rows | None = None, *, reference: tuple[Values, Rows | None] | None = None
) -> Floats:
    """Return ``rows`` int64 [m] (None: all) of ``points`` [n, d] on a scale to measure distances in, float32 [m, d].

    ``l2`` puts every row on the unit sphere (rows of zeros stay zero), so that squared distance is twice the cosine
    distance; ``zscore`` gives every column mean 0 and deviation 1 (constant columns become 0); ``zscore_l2`` does both,
    the z-score first; ``none`` takes the column means off, which changes no distance but keeps the digits that a
    far-off origin would cost in single precision. Means and deviations are those of ``reference``, points and rows of
    them, where it is given. What comes of a memory map is one again, beside it; points that lie on the unit sphere
    already come back as they are.
    """
    if scale == "l2" and rows is None and _lies_on_sphere(points):
        return points
    measured = (points, rows) if reference is None else reference
    scaled = allocate_like(points, (len(points) if rows is None else len(rows), points.shape[1]))
    mean, deviation = (np.zeros(1), np.ones(1)) if scale == "l2" else _measure_columns(*measured)
    # Rounding leaves a constant column a deviation near, not at, zero; dividing by it would make noise a feature.
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)
    for part, values in read_parts(points, rows):
        if scale == "none":
            values = (values - mean).astype(np.float32)
        elif scale != "l2":
            standard = (values - mean) / np.where(constant, 1.0, deviation)
            values = np.where(constant, 0.0, standard).astype(np.float32)
        scaled[part] = _put_on_sphere(values) if scale in ("l2", "zscore_l2") else values
        release_pages(scaled)
    return scaled


def _measure_columns(points: Values, rows: Rows | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of every column, in double precision: the deviation from the mean, not from 0."""
    count = len(points) if rows is None else len(rows)
    mean, variance = np.zeros(points.shape[1]), np.zeros(points.shape[1])
    for _, values in read_parts(points, rows):
        mean += values.sum(axis=0, dtype=np.float64)
    mean /= count
    for _, values in read_parts(points, rows):
        variance += np.square(values - mean).sum(axis=0)
    return mean, np.sqrt(variance / count)


def _put_on_sphere(points: Floats) -> Floats:
    norm = np.linalg.norm(points, axis=1, keepdims=True)
    unit: Floats = np.divide(points, norm, out=np.zeros_like(points), where=norm > 0)
    return unit


def _lies_on_sphere(points: Values) -> bool:
    if points.dtype != np.float32:
        return False
    return all((np.abs(np.linalg.norm(part, axis=1) - 1) <= _UNIT).all() for _, part in read_parts(points, None))


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

"""Which rows lie near test images, or look like them: none to train an encoder on that these judge."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from eo_ssl.curation.embeddings import Scale, rescale
from eo_ssl.curation.kmeans import use_faiss_threads
from eo_ssl.curation.mapped_rows import Values, read_parts
from eo_ssl.errors import expect

EARTH_M = 6_371_008.8
"mean radius of the Earth (IUGG)"
_CHUNK = 1 << 14
_ROUNDING = 1e-6
"by how much the cosine of equal images in single precision may fall short of 1"
Boxes = NDArray[np.float64]


def find_rows_near(boxes: Boxes, tested: Boxes, *, distance_m: float) -> NDArray[np.bool_]:
    """Return which ``boxes`` lie within ``distance_m`` of one of ``tested``, edge to edge: bool [n].

    Args:
        boxes: xmin, ymin, xmax, ymax in degrees (OGC:CRS84), float64 [n, 4]; xmin > xmax across the antimeridian. NaN
            for rows without a place, which are near nothing.
        tested: the same of test images, [m, 4].
        distance_m: metres, at least 0. Gaps are measured along meridians and parallels, these at the latitude of the
            two boxes that is nearer to a pole: never longer than they are.

    Raises:
        UserError: a negative distance.
    """
    expect(distance_m >= 0, expected="a distance of at least 0 m", got=distance_m, remedy="0 finds what overlaps")
    near = np.zeros(len(boxes), dtype=bool)
    placed, tested = np.flatnonzero(np.isfinite(boxes).all(axis=1)), tested[np.isfinite(tested).all(axis=1)]
    if not len(placed) or not len(tested):
        return near
    tree, reach = cKDTree(_centre(tested)), _measure_reach(tested).max()
    for start in range(0, len(placed), _CHUNK):
        rows = placed[start : start + _CHUNK]
        within = _to_chord(_measure_reach(boxes[rows]) + reach + distance_m)
        found = tree.query_ball_point(_centre(boxes[rows]), within)
        counts = np.fromiter(map(len, found), dtype=np.int64, count=len(rows))
        if counts.any():
            mine, other = np.repeat(rows, counts), np.concatenate([np.asarray(f, dtype=np.int64) for f in found])
            hit = _measure_gap(boxes[mine], tested[other]) <= distance_m
            near[mine[hit]] = True
    return near


def find_rows_alike(points: Values, tested: Values, *, scale: Scale, cosine: float) -> NDArray[np.bool_]:
    """Return which of ``points`` [n, d] have at least the ``cosine`` with one of ``tested`` [m, d]: bool [n].

    Args:
        points: embeddings, which may be mapped: they are read by parts.
        tested: of test images, by the same encoder.
        scale: on which they are compared (`choose_scaling`), always at unit length; z-scores are those of ``points``.
        cosine: above 0 and at most 1.

    Raises:
        UserError: another number of features, or no such cosine.
    """
    expect(
        points.shape[1] == tested.shape[1],
        expected=f"test images of {points.shape[1]} features, as many as a tile's",
        got=tested.shape[1],
        remedy="audit by place alone, or by an encoder that takes both",
    )
    expect(
        0 < cosine <= 1,
        expected="a cosine above 0 and at most 1",
        got=cosine,
        remedy="0.99 finds little but the same ground; 1 the same features alone",
    )
    alike = np.zeros(len(points), dtype=bool)
    unit: Scale = "zscore_l2" if scale == "zscore" else scale
    goal = rescale(tested, unit, reference=(points, None))
    for part, values in read_parts(rescale(points, unit)):
        with use_faiss_threads():
            nearest, _ = faiss.knn(values, goal, 1, faiss.METRIC_INNER_PRODUCT)
        alike[part] = nearest[:, 0] >= cosine - _ROUNDING
    return alike


def _measure_width(boxes: Boxes) -> NDArray[np.float64]:
    """Degrees from west to east."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) % 360)


def _centre(boxes: Boxes) -> NDArray[np.float64]:
    """Unit vectors of the centres: [n, 3]."""
    lon = np.radians(boxes[:, 0] + _measure_width(boxes) / 2)
    lat = np.radians((boxes[:, 1] + boxes[:, 3]) / 2)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _measure_reach(boxes: Boxes) -> NDArray[np.float64]:
    """Metres from the centre that no corner lies beyond."""
    half_width = np.radians(_measure_width(boxes) / 2) * np.cos(np.radians(np.abs(boxes[:, 1::2]).min(axis=1)))
    return np.asarray(EARTH_M * (half_width + np.radians((boxes[:, 3] - boxes[:, 1]) / 2)))


def _to_chord(distance_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Straight distances between unit vectors that lie so far apart on the sphere."""
    return np.asarray(2 * np.sin(np.minimum(distance_m / EARTH_M, np.pi) / 2) + 1e-12)


def _measure_gap(left: Boxes, right: Boxes) -> NDArray[np.float64]:
    """Metres between boxes, pair by pair; 0 where they touch."""
    north = np.maximum(np.maximum(left[:, 1] - right[:, 3], right[:, 1] - left[:, 3]), 0)
    ahead, behind = (right[:, 0] - left[:, 0]) % 360, (left[:, 0] - right[:, 0]) % 360
    east = np.maximum(np.minimum(ahead - _measure_width(left), behind - _measure_width(right)), 0)
    widest = np.cos(np.radians(np.maximum(np.abs(left[:, 1::2]).max(axis=1), np.abs(right[:, 1::2]).max(axis=1))))
    return np.asarray(EARTH_M * np.radians(np.hypot(north, east * widest)))

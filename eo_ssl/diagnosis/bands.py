"""Bands that hold no picture of their own: constant, copied from another, or filled where nothing was measured."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from eo_ssl.diagnosis.findings import CERTAIN, Finding
from eo_ssl.diagnosis.sampled_windows import Sample

_LEAST = 1000  # valid pixels below which equality may be chance
_LEAST_BORDER_PX = 64
_LEAST_BORDER_SHARE = 0.005


def check_bands(sample: Sample) -> list[Finding]:
    """Return constant bands and bands that equal another in every pixel."""
    pixels = sample.pixels()
    if pixels.shape[1] < _LEAST:
        sentence = f"fewer than {_LEAST} valid pixels"
        return [
            Finding(kind=kind, outcome="cannot tell", llr=0.0, sentence=sentence) for kind in ("constant", "duplicate")
        ]
    flat = [k for k, plane in enumerate(pixels) if plane.min() == plane.max()]
    if len(flat) == len(pixels):
        sentence = "every band is constant: an empty or wholly filled image"
        return [Finding(kind="constant", outcome="cannot tell", llr=0.0, sentence=sentence)]
    return [_find_constant(sample, pixels, flat), _find_copies(sample, pixels, flat)]


def _find_constant(sample: Sample, pixels: npt.NDArray[np.float32], flat: list[int]) -> Finding:
    if not flat:
        return Finding(kind="constant", outcome="fine", llr=-CERTAIN, sentence="every band varies")
    values = {sample.bands[k]: float(pixels[k, 0]) for k in flat}
    return Finding(
        kind="constant",
        outcome="wrong",
        llr=CERTAIN,
        bands=tuple(values),
        evidence={"value": values},
        sentence=(
            f"{', '.join(values)} has one value in all of {pixels.shape[1]:,} pixels while other bands vary; "
            "fetch the file again or leave the band out"
        ),
    )


def _find_copies(sample: Sample, pixels: npt.NDArray[np.float32], flat: list[int]) -> Finding:
    pairs = [
        (sample.bands[i], sample.bands[j])
        for i in range(len(pixels))
        for j in range(i + 1, len(pixels))
        if i not in flat and j not in flat and np.array_equal(pixels[i], pixels[j])
    ]
    if not pairs:
        return Finding(kind="duplicate", outcome="fine", llr=-CERTAIN, sentence="no two bands are equal")
    bands = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    return Finding(
        kind="duplicate",
        outcome="wrong",
        llr=CERTAIN,
        bands=bands,
        evidence={"equal": ["/".join(pair) for pair in pairs]},
        sentence=(
            f"{' and '.join('/'.join(pair) for pair in pairs)} are equal in all of {pixels.shape[1]:,} pixels; "
            "fetch the files again"
        ),
    )


def check_nodata(sample: Sample) -> Finding | None:
    """Return whether one stored value, equal in all bands, fills a part of the border that the card takes for data.

    Two bands of a measured scene never share their value over a connected area; fill does. None for tiles of a corpus,
    whose borders are no borders of a product.
    """
    if not any(any(sides) for sides in sample.borders):
        return None
    best, value = 0, 0.0
    for window, sides in zip(sample.windows, sample.borders, strict=False):
        if any(sides):
            size, level = _measure_fill(window, sides)
            if size > best:
                best, value = size, level
    if len(sample.bands) < 2:
        why = "a single band: fill cannot be told from a flat surface"
        return Finding(kind="nodata", outcome="cannot tell", llr=0.0, sentence=why)
    if best < max(_LEAST_BORDER_PX, _LEAST_BORDER_SHARE * sample.windows[0][0].size):
        return Finding(kind="nodata", outcome="fine", llr=-CERTAIN, sentence="no fill at the border is taken for data")
    stored = float(f"{value / sample.scale - sample.offset:.6g}")
    return Finding(
        kind="nodata",
        outcome="wrong",
        llr=CERTAIN,
        bands=sample.bands,
        evidence={"value": stored, "pixels": best},
        sentence=f"{best:,} connected pixels at the border hold {stored:g} in every band: nodata is taken for data",
        remedy={"nodata": stored},
    )


def _measure_fill(window: npt.NDArray[np.float32], sides: tuple[bool, bool, bool, bool]) -> tuple[int, float]:
    """Return the size and value of the largest area of one value in all bands that touches a side of the product."""
    same = (window == window[0]).all(axis=0)
    edges = [
        line for keep, line in zip(sides, (np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]), strict=True) if keep
    ]
    values = np.concatenate([window[0][edge][same[edge]] for edge in edges])
    best, level = 0, 0.0
    for value in np.unique(values)[:8] if len(values) else ():
        areas, _ = ndimage.label(same & (window[0] == value))
        touching = np.unique(np.concatenate([areas[edge] for edge in edges]))
        sizes = np.bincount(areas.ravel())
        for area in touching[touching > 0]:
            if sizes[area] > best:
                best, level = int(sizes[area]), float(value)
    return best, level

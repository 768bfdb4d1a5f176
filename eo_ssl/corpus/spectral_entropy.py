"""Spectral entropy of a tile: how evenly its pixels are spread, band by band, over fixed bins of their quantity."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from eo_ssl.corpus.statistics import place_bin_edges
from eo_ssl.corpus.streams import Encoding, Stream
from eo_ssl.sensors import Quantity

_MERGED = 10
"""Bins of the statistics that make one bin here (ours): a tile has thousands of pixels, not millions, and wants wider
ones. Reflectance: 200 bins of 0.01 from -0.2 to 1.8. Power: 160 of 0.5 dB from -50 to 30 dB. Amplitude: steps of 14 %.
DN: 10 wide to 256, then steps of 11 %."""


def measure_spectral_entropy(stored: npt.NDArray[Any], stream: Stream, encoding: Encoding) -> float | None:
    """Return H = -sum over bands, sum over bins of p log p, in nats; None where no pixel is valid.

    p is the share of a band's valid pixels in a bin. Bins are the same for all tiles of a quantity, those of
    `place_bin_edges` ten at a time, so that tiles compare; values beyond the ends count in the end bins. 0 is a tile of
    one value per band, log(bins) per band the most. It is taken from the codes that are stored, by whole numbers, and
    does not depend on the machine. Kaur et al. 2026 (arXiv 2604.21104) measure a corpus by it.

    Args:
        stored: [C (+ 1), H, W] of the stored type.
        stream: the tile's.
        encoding: what the codes mean.
    """
    bins, table = _place_codes(encoding, stream.quantity)
    bands = len(stream.bands)
    codes: npt.NDArray[Any] = stored[:bands].reshape(bands, -1)
    codes = codes.view(np.uint8 if encoding.dtype == "uint8" else np.uint16)
    if encoding.extra_channels:
        codes = codes[:, stored[bands].ravel() != 0]
    counts = np.stack([np.bincount(np.take(table, band), minlength=bins + 1)[:bins] for band in codes])
    valid = counts.sum(axis=1, keepdims=True)
    if not valid.any():
        return None
    share = counts / np.maximum(valid, 1)
    logarithm = np.log(share, out=np.zeros_like(share), where=share > 0)
    return abs(float((share * logarithm).sum()))


@lru_cache(maxsize=16)
def _place_codes(encoding: Encoding, quantity: Quantity) -> tuple[int, npt.NDArray[np.intp]]:
    """The number of bins and the bin of every stored code by its unsigned number, [256 or 65536]; invalid: one more."""
    edges = place_bin_edges(quantity)[::_MERGED]
    bins, values = len(edges) - 1, encoding.codes()
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    return bins, np.where(np.isnan(values), bins, places)

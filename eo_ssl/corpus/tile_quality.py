"""The quality of a tile: shares of valid, cloudy, shaded, snowy, saturated and noisy pixels, looks, and its class."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.streams import Stream
from eo_ssl.errors import UserError

LIMITS = {
    "cloudy": ("cloud", "max_cloud"),
    "shadowed": ("shadow", "max_shadow"),
    "snowy": ("snow", "max_snow"),
    "border_noise": ("border_noise", "max_border_noise"),
    "saturated": ("saturated", "max_saturated"),
    "few_looks": ("enl", "min_enl"),
}
"""Why a tile with enough valid pixels may be left out: reason -> what is measured and the setting that limits it."""
_WINDOW_PX = 7
_STEP_PX = 3  # between windows; closer ones share most of their pixels
_LEAST_WINDOWS = 16  # below, a mode means nothing
_LOW, _HIGH, _BIN = -5.0, 12.0, 0.02  # of the natural logarithm of the ratio: 0.007 to 160,000 looks in steps of 2 %
_TOP_SHARE = 0.05  # of the windows, above the upper end of what is searched
_REACH = (
    0.6  # below that end: three standard deviations of the logarithm, sqrt(2 / 48) = 0.2 each for 49 uniform pixels
)
_SMOOTH = 0.15  # standard deviation of the kernel that smooths the histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class TileQuality:
    """What is known of a tile's pixels; None where the product has no such mask or field."""

    valid: float
    "share of all pixels of the tile whose bands are all valid; padding counts as invalid"
    cloud: float | None = None
    shadow: float | None = None
    snow: float | None = None
    saturated: float | None = None
    "cloud, shadow, snow, saturated: share of the valid pixels"
    border_noise: float | None = None
    "share of all pixels of the tile"
    cloud_probability: float | None = None
    "mean over the valid pixels, 0..1"
    incidence_deg: float | None = None
    "mean over the tile"
    enl: float | None = None
    "equivalent number of looks of the first band of a power"
    spectral_entropy: float | None = None
    "of the values of all bands, nats (see `spectral_entropy`)"
    label: int = -1
    "majority class, -1 unknown or below the purity asked for"
    label_fraction: float = 0.0
    "share of all pixels that the majority class has"


def assess(valid: npt.NDArray[np.bool_], layers: Mapping[str, npt.NDArray[Any]], *, size_px: int) -> TileQuality:
    """Return what masks and fields say of a tile of ``size_px`` x ``size_px`` pixels.

    Args:
        valid: bool [h, w], all bands valid; h, w <= size_px (less at a padded border).
        layers: those the product has of bool [h, w] ``cloud``, ``shadow``, ``snow``, ``saturated``, ``border_noise``
            and float32 [h, w] ``cloud_probability``, ``incidence_deg`` (NaN unknown).
        size_px: side of the tile; pixels beyond [h, w] are padding.
    """
    count = int(np.count_nonzero(valid))

    def share(name: str) -> float | None:
        if name not in layers:
            return None
        return int(np.count_nonzero(layers[name] & valid)) / count if count else 0.0

    def mean(name: str, *, where: npt.NDArray[np.bool_] | bool) -> float | None:
        if name not in layers:
            return None
        known = layers[name][
            np.isfinite(layers[name]) & where
        ]  # a copy: the sum does not depend on where the tile lay in memory
        return float(known.mean(dtype=np.float64)) if known.size else None

    noise = layers.get("border_noise")
    return TileQuality(
        valid=count / size_px**2,
        cloud=share("cloud"),
        shadow=share("shadow"),
        snow=share("snow"),
        saturated=share("saturated"),
        border_noise=None if noise is None else int(np.count_nonzero(noise)) / size_px**2,
        cloud_probability=mean("cloud_probability", where=valid),
        incidence_deg=mean("incidence_deg", where=True),
    )


def judge(quality: TileQuality, config: IngestConfig) -> str:
    """Return ``kept``, or why the tile is left out: ``invalid`` or the first reason of ``LIMITS`` that holds.

    What is None limits nothing.
    """
    if quality.valid < config.min_valid or quality.valid == 0:
        return "invalid"
    for reason, (name, setting) in LIMITS.items():
        value, limit = getattr(quality, name), getattr(config, setting)
        if value is not None and (value < limit if setting.startswith("min") else value > limit):
            return reason
    return "kept"


def check_limits(config: IngestConfig, stream: Stream, *, masks: Set[str], product_id: str) -> None:
    """Refuse a limit on what is not measured of a product: it would keep every tile in silence.

    Args:
        config: with the limits.
        stream: of the product's tiles; saturation is known of all, looks of those of a power.
        masks: what else the product has, out of the names in ``LIMITS``.
        product_id: for the message.

    Raises:
        UserError: naming product and setting.
    """
    known = {"saturated", *masks, *(["enl"] if stream.quantity.is_power else [])}
    for name, setting in LIMITS.values():
        limit, free = getattr(config, setting), 0 if setting.startswith("min") else 1
        if limit == free or name in known:
            continue
        if name == "enl":
            raise UserError(
                f"expected radar power in {product_id} for min_enl {limit}, got another quantity; set min_enl to 0"
            )
        what = "border noise" if name == "border_noise" else name
        raise UserError(
            f"expected a {what} mask in {product_id} for {setting} {limit}, got none; name one in the card or set "
            f"{setting} to 1"
        )


def vote_majority(labels: npt.NDArray[np.int16], *, size_px: int, purity: float) -> tuple[int, float]:
    """Return the class of most pixels and its share of the tile, or (-1, its share) where that is below ``purity``.

    Negative labels are unknown and count for no class; of equal shares the lower class wins.
    """
    known = labels[labels >= 0]
    if known.size == 0:
        return -1, 0.0
    counts = np.bincount(known.ravel())
    best = int(counts.argmax())
    share = float(counts[best]) / size_px**2
    return (best if share >= purity else -1), share


def estimate_enl(power: npt.NDArray[np.float32]) -> float | None:
    """Return the equivalent number of looks of one band, None where fewer than 16 windows are valid and positive.

    Fully developed speckle of L looks over a uniform surface is gamma distributed with mean^2 / variance = L (Oliver
    and Quegan 2004, Understanding SAR Images, section 4.3). Texture and edges only add variance, so windows over
    uniform ground give the largest ratios, scattered about L, and all others less. As in Anfinsen, Doulgeris and Eltoft
    2009 (IEEE TGRS 47(11), 3795-3809) the estimate is the mode of the ratios of many small windows, which bright
    targets and edges do not move; here the mode is looked for among the uniform windows, near the upper end, because a
    small tile may be mostly texture.

    Measured on gamma speckle in tiles of 64 px: 1.01 to 1.05 times L with a spread of 3 to 5 % where the tile is
    uniform. Where half of it is texture, the same for 2 looks and more, 0.88 L for a single look. Where nothing is
    uniform it is the ratio of the least textured ground, below L. Neighbouring pixels of ground range products are
    correlated, which lowers the variance within a window: their value is somewhat above the product's nominal number of
    looks.

    Args:
        power: float32 [h, w], linear power, NaN invalid.
    """
    if min(power.shape) < _WINDOW_PX:
        return None
    windows = sliding_window_view(power, (_WINDOW_PX, _WINDOW_PX))[::_STEP_PX, ::_STEP_PX]
    values = windows.reshape(-1, _WINDOW_PX**2).astype(
        np.float64
    )  # a copy: sums do not depend on where the tile lay in memory
    mean, variance = values.mean(axis=1), values.var(axis=1, ddof=1)
    uniform = (mean > 0) & (variance > 0)  # False for NaN
    if np.count_nonzero(uniform) < _LEAST_WINDOWS:
        return None
    logs = np.log(mean[uniform] ** 2 / variance[uniform])
    bins = np.clip(((logs - _LOW) / _BIN).astype(np.int64), 0, int((_HIGH - _LOW) / _BIN) - 1)
    counts = np.bincount(bins, minlength=int((_HIGH - _LOW) / _BIN))
    above = np.cumsum(counts[::-1])[::-1]
    top = int(np.flatnonzero(above > _TOP_SHARE * len(logs))[-1])
    steps = np.arange(-3 * _SMOOTH, 3 * _SMOOTH + _BIN / 2, _BIN)
    density = np.convolve(counts, np.exp(-0.5 * (steps / _SMOOTH) ** 2), mode="same")
    first = max(top - int(_REACH / _BIN), 0)
    best = first + int(density[first : top + 1].argmax())
    return float(np.exp(_LOW + (best + 0.5) * _BIN))

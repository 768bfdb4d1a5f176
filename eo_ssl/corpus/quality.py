"""How good a tile is: shares of valid, cloudy, shaded, snowy, saturated and noisy pixels, means of fields, looks, and its class."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
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
    label: int = -1
    "majority class, -1 unknown or below the purity asked for"
    label_fraction: float = 0.0
    "share of all pixels that the majority class has"


def assess(valid: npt.NDArray[np.bool_], layers: Mapping[str, npt.NDArray[Any]], *, size_px: int) -> Quality:
    """Return what masks and fields say of a tile of ``size_px`` x ``size_px`` pixels.

    Args:
        valid: bool [h, w], all bands valid; h, w <= size_px (less at a padded border).
        layers: those the product has of bool [h, w] ``cloud``, ``shadow``, ``snow``, ``saturated``, ``border_noise`` and float32 [h, w]
            ``cloud_probability``, ``incidence_deg`` (NaN unknown).
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
    return Quality(
        valid=count / size_px**2,
        cloud=share("cloud"),
        shadow=share("shadow"),
        snow=share("snow"),
        saturated=share("saturated"),
        border_noise=None if noise is None else int(np.count_nonzero(noise)) / size_px**2,
        cloud_probability=mean("cloud_probability", where=valid),
        incidence_deg=mean("incidence_deg", where=True),
    )


def judge(quality: Quality, config: IngestConfig) -> str:
    """Return ``kept``, or why the tile is left out: ``invalid`` or the first reason of ``LIMITS`` that holds; what is None limits nothing."""
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
            f"expected a {what} mask in {product_id} for {setting} {limit}, got none; name one in the card or set {setting} to 1"
        )


def majority(labels: npt.NDArray[np.int16], *, size_px: int, purity: float) -> tuple[int, float]:
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

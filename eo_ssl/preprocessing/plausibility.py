"""Values that cannot be what they are said to be: outside the plausible range, scaled twice, or linear power called decibels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eo_ssl.errors import UserError
from eo_ssl.sensors import Quantity

OUTLIERS = 0.01  # share of values allowed outside the range on either side: it bounds the 1st and 99th percentile
TOO_DARK = 0.01  # a batch whose largest value is below this share of the brightest training mean was scaled twice


def check_range(x: Tensor, valid: Tensor, *, quantity: Quantity, bounds: tuple[float, float]) -> None:
    """Refuse values mostly outside the plausible range.

    Args:
        x: [B, C, H, W] float32 in ``quantity``, anything finite where invalid.
        valid: [B, C, H, W] bool.
        quantity: what the values are said to be.
        bounds: low and high, in ``quantity``.

    Raises:
        UserError: more than `OUTLIERS` of the valid values lie below, or above, the bounds.
    """
    low, high = bounds
    if not bool(valid.any()):
        return
    least, most = (float(v) for v in torch.aminmax(torch.where(valid, x, 0.5 * (low + high))))
    if low <= least and most <= high:
        return
    shares = {
        side: int((outside & valid).sum()) / int(valid.sum())
        for side, outside in (("below", x < low), ("above", x > high))
    }
    side = max(shares, key=shares.__getitem__)
    if shares[side] > OUTLIERS:
        raise UserError(
            f"expected {quantity.value} within {low:g} ... {high:g}, got {shares[side]:.0%} of the values {side} it "
            f"(from {least:g} to {most:g}); apply the product's scale and offset once"
        )


def check_scale(x: Tensor, valid: Tensor, *, quantity: Quantity, means: Sequence[float]) -> None:
    """Refuse values without a tag that are linear power instead of decibels, or that were scaled twice.

    Args:
        x: [B, C, H, W] float32, 0 where invalid.
        valid: [B, C, H, W] bool.
        quantity: what the values must be.
        means: training mean of each band in ``quantity``.

    Raises:
        UserError: no value below 0 dB where training had a negative mean, or all values far below the training means.
    """
    if not bool(valid.any()):
        return
    if quantity.is_db:
        if float(torch.where(valid, x, 1.0).min()) >= 0 and max(means) < 0:
            raise UserError(
                f"expected {quantity.value} with negative values, got none below 0 dB; it looks like linear power, convert it"
            )
        return
    brightest, largest = max(abs(mean) for mean in means), float(x.abs().max())
    if largest < TOO_DARK * brightest:
        raise UserError(
            f"expected {quantity.value} of about {brightest:.3g} in the brightest band, got at most {largest:.3g} in all images; "
            "the values seem to have been scaled twice, so leave out one division"
        )

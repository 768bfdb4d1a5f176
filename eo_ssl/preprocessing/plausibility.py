"""Images that cannot be what they are called: other tags, implausible values, scaled twice, power called decibels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.sensors import Quantity

OUTLIERS = 0.01  # share of values allowed outside the range on either side: it bounds the 1st and 99th percentile
TOO_DARK = 0.01  # a batch whose largest value is below this share of the brightest training mean was scaled twice


def check_tags(
    image: Tensor,
    bands: Sequence[str],
    *,
    given: tuple[str, Quantity | str | None],
    accepted: tuple[str, Quantity],
) -> None:
    """Refuse an image that is not called what is accepted.

    Args:
        image: [B, C, H, W] floating point.
        bands: C names.
        given: sensor and quantity of the image; no quantity for a foreign array without a tag.
        accepted: sensor and quantity that it must be of.

    Raises:
        UserError: another shape, type, sensor or quantity.
    """
    expect(
        image.ndim == 4 and image.shape[1] == len(bands) and image.is_floating_point(),
        expected=f"a floating-point image [B, {len(bands)}, H, W] with one name per channel",
        got=f"{image.dtype} {tuple(image.shape)}",
        remedy="give physical values and all names in channel order",
    )
    (sensor, quantity), (own_sensor, own_quantity) = given, accepted
    expect(
        sensor == own_sensor,
        expected=f"bands of {own_sensor}",
        got=f"bands of {sensor}",
        remedy="translate the names deliberately with eo_ssl.sensors.translate_bands",
    )
    expect(
        quantity is None or quantity == own_quantity,
        expected=own_quantity.value,
        got=quantity,
        remedy=f"convert the values first, or read the product as {own_quantity.value}",
    )


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
    expect(
        shares[side] <= OUTLIERS,
        expected=f"{quantity.value} within {low:g} ... {high:g}",
        got=f"{shares[side]:.0%} of the values {side} it (from {least:g} to {most:g})",
        remedy="apply the product's scale and offset once",
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
        expect(
            max(means) >= 0 or float(torch.where(valid, x, 1.0).min()) < 0,
            expected=f"{quantity.value} with negative values",
            got="none below 0 dB",
            remedy="it looks like linear power, convert it",
        )
        return
    brightest, largest = max(abs(mean) for mean in means), float(x.abs().max())
    expect(
        largest >= TOO_DARK * brightest,
        expected=f"{quantity.value} of about {brightest:.3g} in the brightest band",
        got=f"at most {largest:.3g} in all images",
        remedy="the values seem to have been scaled twice, so leave out one division",
    )

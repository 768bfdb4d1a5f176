"""Stored numbers to physical quantities: the only place where offset and scale are applied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError
from eo_ssl.sensors import Quantity

_FAINT_REFLECTANCE = (
    0.002  # no band of a daylight scene stays below: cirrus over dry ground reaches this, visible bands exceed 0.02
)
_FLOAT32_EXACT = 2**24  # integers up to here are exact in float32


@dataclass(frozen=True, slots=True)
class Radiometry:
    """How stored numbers become a quantity: ``physical = (stored + offset) * scale``."""

    quantity: Quantity
    scale: float
    offset: float
    "in stored units"
    nodata: tuple[float, ...]
    "stored values that mean nothing was measured (the card's and the file's own)"
    valid: tuple[float, float] = (-math.inf, math.inf)
    "least and largest stored value of a measurement, where the file states them"

    def physical(
        self, stored: npt.NDArray[Any], *, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return ``stored`` (any shape, any real number type) in physical units, float32, NaN where invalid.

        Into ``out`` if given.

        Invalid are nodata, values beyond the valid range and everything not finite (dB of zero power is minus
        infinity). Zero and small negative powers are kept: they are measurements below the noise that was subtracted,
        unless the card or file declares them nodata.

        Raises:
            UserError: the numbers are complex (a single-look image), or no numbers.
        """
        if stored.dtype.kind not in "iufb":
            raise UserError(
                f"expected real numbers of {self.quantity.value}, got stored values of {stored.dtype}; detect complex "
                "images (power or amplitude) first"
            )
        values = np.empty(stored.shape, dtype=np.float32) if out is None else out
        if (
            stored.dtype.kind in "iu"
            and stored.dtype.itemsize >= 4
            and stored.size
            and int(np.abs(stored).max()) > _FLOAT32_EXACT
        ):
            np.copyto(values, (stored.astype(np.float64) + self.offset) * self.scale, casting="same_kind")
        else:
            np.copyto(values, stored, casting="unsafe")
            if self.offset != 0.0:
                values += np.float32(self.offset)
            if self.scale != 1.0:
                values *= np.float32(self.scale)
        if stored.dtype.kind == "f":
            np.putmask(values, ~np.isfinite(values), np.nan)
        for value in self.nodata:
            if np.isfinite(value):
                np.putmask(values, stored == value, np.nan)
        low, high = self.valid
        if low > -math.inf or high < math.inf:
            np.putmask(values, (stored < low) | (stored > high), np.nan)
        return values

    def check_stated(self, scale: float, shift: float, *, name: str) -> None:
        """Refuse a file that states another conversion than the card: applying both, or the wrong one, shows nowhere.

        Args:
            scale: what the file says a stored unit is worth.
            shift: what the file adds after scaling (GDAL's band offset, CF's ``add_offset``), in units of the quantity;
                0 states nothing, because files that lack a known offset say 0 as well.
            name: file (and variable) named in the error.

        Raises:
            UserError: the file's ``stored * scale + shift`` is not this radiometry.
        """
        same_offset = shift == 0 or np.isclose(shift, self.offset * self.scale, rtol=1e-6)
        if not (same_offset and np.isclose(scale, self.scale, rtol=1e-6, atol=0)):
            raise UserError(
                f"expected the card's scale {self.scale:g} and offset {self.offset:g} in {name}, got scale_factor "
                f"{scale:g} and add_offset "
                f"{shift:g}, which is {shift / scale:g} stored units; correct `scale` and `offset` of the card"
            )


def check_plausible(sample: npt.NDArray[np.float32], *, quantity: Quantity, name: str) -> None:
    """Refuse values that cannot be of ``quantity``: a missing or repeated scale, dB taken for power or the reverse.

    Args:
        sample: [band, y, x] float32 physical values, NaN invalid; an empty or all-invalid sample says nothing and
            passes.
        quantity: what the card declares.
        name: file or product named in the error.

    Raises:
        UserError: the 1st or 99th percentile over all bands lies outside ``quantity.plausible``, reflectance is nowhere
            above 0.002, or values in dB have no negative among the lowest 1 %.
    """
    values = sample[np.isfinite(sample)]
    if values.size == 0:
        return
    low, high = (float(value) for value in np.percentile(values, [1, 99]))
    least, most = quantity.plausible
    found = f"1st to 99th percentile {low:.4g} to {high:.4g} in {name}"
    if low < least or high > most:
        raise UserError(
            f"expected {quantity.value} between {least:g} and {most:g}, got {found}; correct quantity, scale or offset "
            "in the card"
        )
    if quantity.is_reflectance and high < _FAINT_REFLECTANCE:
        raise UserError(
            f"expected {quantity.value} of a daylight scene, got {found}; the scale seems to be applied twice: correct "
            "it in the card"
        )
    if quantity.is_db and low >= 0.0:
        raise UserError(
            f"expected {quantity.value} with negative values, got {found}; declare {quantity.in_power.value} if these "
            "are linear powers"
        )

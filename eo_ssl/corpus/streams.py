"""What a stream of tiles is, and how its physical values become 8 or 16 bits and come back."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError
from eo_ssl.sensors import Quantity, sensor

Stored = Literal["int16", "uint16", "float16", "uint8"]
REFLECTANCE_SCALE = 1e-4  # reflectance per stored unit, as ESA stores it
_SHORT_SENSOR = {
    "sentinel2_l1c": "s2",
    "sentinel2_l2a": "s2",
    "sentinel1_grd": "s1grd",
    "sentinel1_rtc": "s1rtc",
    "landsat5_tm": "l5",
    "landsat7_etm": "l7",
    "landsat8_oli": "l8",
    "sar_chip": "sar",
}
_SHORT_QUANTITY = {Quantity.TOA_REFLECTANCE: "toa", Quantity.BOA_REFLECTANCE: "boa"}
_FLOAT16_MAX = 65504.0
_INVALID = {"int16": -32768, "uint16": 65535}


@dataclass(frozen=True)
class Stream:
    """Tiles that may be mixed in one batch: same sensor, quantity, ordered bands, pixel size and tile size."""

    sensor: str
    quantity: Quantity
    "what ``read`` gives; dB products are kept as linear power"
    bands: tuple[str, ...]
    gsd_m: float
    "as the files are, not as the sensor's name suggests"
    size_px: int

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        object.__setattr__(self, "quantity", Quantity(self.quantity))
        object.__setattr__(self, "bands", sensor(self.sensor).resolve_all(self.bands))
        if self.quantity.is_db:
            raise UserError(
                f"expected a stream in a linear quantity, got {self.quantity.value}; store the power, dB is made at "
                "read time"
            )
        if not self.bands or self.gsd_m <= 0 or self.size_px < 1:
            raise UserError(
                f"expected a stream with bands, gsd_m > 0 and size_px >= 1, got {self.bands}, {self.gsd_m}, "
                f"{self.size_px}; correct the card"
            )

    @cached_property
    def name(self) -> str:
        """Short unique name, for example ``s2_boa_12b_10m_64px``.

        A choice of bands is spelled out or, if long, hashed.
        """
        known = sensor(self.sensor)
        if self.bands == known.band_names:
            bands = f"{len(self.bands)}b"
        elif len(self.bands) <= 4:
            bands = "".join(self.bands).lower()
        else:
            bands = f"{len(self.bands)}b-{hashlib.sha256(' '.join(self.bands).encode()).hexdigest()[:4]}"
        short = self.sensor if self.quantity is Quantity.DN else _SHORT_SENSOR.get(self.sensor, self.sensor)
        quantity = _SHORT_QUANTITY.get(self.quantity, self.quantity.value)
        return f"{short}_{quantity}_{bands}_{self.gsd_m:g}m_{self.size_px}px"

    def to_json(self) -> dict[str, Any]:
        """Return the stream as plain values."""
        return {**asdict(self), "quantity": self.quantity.value, "bands": list(self.bands)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Stream:
        """Return the stream of :meth:`to_json`."""
        return cls(**{**value, "bands": tuple(value["bands"])})


@dataclass(frozen=True)
class Encoding:
    """How one physical value is stored: ``physical = (stored + offset) * scale``.

    Reflectance: int16, -32768 invalid, above 3.2767 saturated (round-trip error at most half a unit, 5e-5). Power and
    amplitude: float16, NaN invalid (relative error at most 2^-11 above 6e-5, absolute 3e-8 below). DN: uint16, 65535
    invalid.
    Chips: uint8 and a validity mask (1 = valid) as the last channel, but calibrated power as everywhere.
    """

    dtype: Stored
    scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(cls, quantity: Quantity, *, chips: bool, scale: float = 1.0, offset: float = 0.0) -> Encoding:
        """Return the encoding of ``quantity``; ``scale`` and ``offset`` are those of 8-bit chips."""
        if chips and not (quantity.is_power or quantity.is_reflectance):
            return cls("uint8", scale, offset)
        if quantity.is_reflectance:
            return cls("int16", REFLECTANCE_SCALE)
        return cls("uint16") if quantity is Quantity.DN else cls("float16")

    @property
    def extra_channels(self) -> int:
        """Channels after the bands: 1 where validity is stored as a mask."""
        return 1 if self.dtype == "uint8" else 0

    @property
    def fill_value(self) -> float | int:
        """Zarr's fill value: the invalid code, 0 for chips (mask 0 = invalid)."""
        return float("nan") if self.dtype == "float16" else _INVALID.get(self.dtype, 0)

    def encode(self, image: npt.NDArray[np.float32], out: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Write ``image`` into ``out`` and return which pixels left the range of the stored type.

        Args:
            image: float32 [C, H, W], physical units, NaN where invalid.
            out: [C (+ 1), H, W] of the stored type.

        Returns:
            bool [H, W]: a band was clipped.

        Raises:
            UserError: a chip whose values are no 8-bit integers.
        """
        count = len(image)
        invalid = np.isnan(image)
        if self.dtype == "float16":
            np.clip(image, -_FLOAT16_MAX, _FLOAT16_MAX, out=out, casting="unsafe")
            return np.asarray((np.abs(image) > _FLOAT16_MAX).any(axis=0))
        codes = image / np.float32(self.scale) - np.float32(self.offset)
        np.rint(codes, out=codes)
        codes[invalid] = 0
        low, high = {"int16": (-32767, 32767), "uint16": (0, 65534), "uint8": (0, 255)}[self.dtype]
        clipped = ((codes < low) | (codes > high)).any(axis=0)
        if self.dtype == "uint8":
            exact = (codes + np.float32(self.offset)) * np.float32(self.scale)
            if clipped.any() or not np.allclose(exact[~invalid], image[~invalid], rtol=1e-4, atol=1e-6):
                raise UserError(
                    "expected chips of 8-bit integers after the card's scale and offset, got other values; correct "
                    "scale and offset of the card"
                )
            out[count] = ~invalid.any(axis=0)
        np.clip(codes, low, high, out=codes)
        out[:count] = codes
        if self.dtype in _INVALID:
            out[:count][invalid] = _INVALID[self.dtype]
        return np.asarray(clipped)

    def decode(self, stored: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
        """Write the physical values of ``stored`` [..., C (+ 1), H, W] into ``out`` [..., C, H, W], NaN invalid."""
        bands = out.shape[-3]
        pixels = stored[..., :bands, :, :]
        out[...] = pixels
        if self.offset:
            out += np.float32(self.offset)
        if self.scale != 1.0:
            out *= np.float32(self.scale)
        if self.dtype == "int16":
            if pixels.min() == _INVALID["int16"]:  # one cheap pass; most tiles are wholly valid
                out[pixels == _INVALID["int16"]] = np.nan
        elif self.dtype == "uint16":
            if pixels.max() == _INVALID["uint16"]:
                out[pixels == _INVALID["uint16"]] = np.nan
        elif self.dtype == "uint8" and not stored[..., bands, :, :].all():
            valid = np.broadcast_to(stored[..., bands : bands + 1, :, :], out.shape)
            out[valid == 0] = np.nan

    def codes(self) -> npt.NDArray[np.float64]:
        """Return the physical value of every stored code, NaN for the invalid one: float64 by unsigned code."""
        unsigned = np.arange(256 if self.dtype == "uint8" else 65536).astype(
            np.uint8 if self.dtype == "uint8" else np.uint16
        )
        table = np.empty((1, len(unsigned), 1), dtype=np.float32)
        stored = unsigned.view(self.dtype)[None, :, None]
        if self.extra_channels:
            stored = np.concatenate([stored, np.ones_like(stored)])
        with np.errstate(invalid="ignore"):  # float16 has two thousand NaNs, some of them signalling
            self.decode(stored, table)
            return table.ravel().astype(np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as plain values."""
        return asdict(self)

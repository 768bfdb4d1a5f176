"""What a pixel means: quantities, bands and sensors, and the one spelling of each band name.

Every alias seen in the wild (``B1``, ``08A``, ``COASTAL_AEROSOL``, ``rededge1``, ``nir08``, ``vv`` ...) resolves to one
canonical name *of a named sensor*; the same spelling means different bands on different sensors, so there is no global
look-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError, suggest_nearest

FLOOR_DB = -50.0  # dB; power at or below 1e-5 (also the small negatives left by noise removal) is shown as this


class Quantity(StrEnum):
    """The physical quantity of an array. Nothing crosses a boundary of the library without one."""

    DN = "dn"
    TOA_REFLECTANCE = "toa_reflectance"
    BOA_REFLECTANCE = "boa_reflectance"
    SIGMA0 = "sigma0"
    GAMMA0 = "gamma0"
    BETA0 = "beta0"
    SIGMA0_DB = "sigma0_db"
    GAMMA0_DB = "gamma0_db"
    BETA0_DB = "beta0_db"
    AMPLITUDE = "amplitude"

    @property
    def is_reflectance(self) -> bool:
        """Whether the quantity is a reflectance (unitless, about 0 to 1)."""
        return self in (Quantity.TOA_REFLECTANCE, Quantity.BOA_REFLECTANCE)

    @property
    def is_power(self) -> bool:
        """Whether the quantity is a linear backscatter power."""
        return self in (Quantity.SIGMA0, Quantity.GAMMA0, Quantity.BETA0)

    @property
    def is_db(self) -> bool:
        """Whether the quantity is a backscatter in decibel."""
        return self.value.endswith("_db")

    @property
    def unit(self) -> str:
        """``"dB"`` or ``"1"``."""
        return "dB" if self.is_db else "1"

    @property
    def in_db(self) -> Quantity:
        """The decibel form of a linear power."""
        if not self.is_power:
            raise UserError(
                f"expected a linear power (sigma0, gamma0, beta0) to express in dB, got {self.value}; convert it first"
            )
        return Quantity(f"{self.value}_db")

    @property
    def in_db_if_power(self) -> Quantity:
        """The quantity that images are normalised and compared in: a linear power in dB, every other as it is."""
        return self.in_db if self.is_power else self

    @property
    def in_power(self) -> Quantity:
        """The linear form of a decibel quantity."""
        if not self.is_db:
            raise UserError(f"expected a quantity in dB, got {self.value}; give sigma0_db, gamma0_db or beta0_db")
        return Quantity(self.value.removesuffix("_db"))

    @property
    def plausible(self) -> tuple[float, float]:
        """Bounds that the 1st and 99th percentile of real data of this quantity stay within.

        Reflectance: haze correction gives small negatives, and clouds, snow and sun glint exceed 1. Power: -40 dB ...
            +13 dB.
        """
        if self.is_reflectance:
            return (-0.2, 2.8)
        if self.is_power:
            return (-0.01, 50.0)
        if self.is_db:
            return (FLOOR_DB, 25.0)
        return (0.0, 65535.0)


def convert(values: npt.NDArray[np.floating], *, source: Quantity, target: Quantity) -> npt.NDArray[np.float32]:
    """Return ``values`` (any shape) of ``source`` expressed as ``target``, float32, NaN kept.

    Only a power and its own decibel form convert into each other: ``dB = 10 log10(power)``, floored at ``FLOOR_DB``.

    Raises:
        UserError: for any other pair; sigma0, gamma0 and beta0 differ by geometry and never convert by a formula on
            values.
    """
    if source == target:
        return np.asarray(values, dtype=np.float32)
    if source.is_power and target == source.in_db:
        floor = 10 ** (FLOOR_DB / 10)
        decibel: npt.NDArray[np.float32] = (10.0 * np.log10(np.maximum(values, floor))).astype(np.float32)
        return decibel
    if source.is_db and target == source.in_power:
        power: npt.NDArray[np.float32] = (10.0 ** (np.asarray(values, dtype=np.float64) / 10.0)).astype(np.float32)
        return power
    raise UserError(
        f"expected a conversion between a power and its own dB form, got {source.value} -> {target.value}; "
        "calibrate to the wanted quantity when reading instead"
    )


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a sensor."""

    name: str
    "canonical name, unique within the sensor"
    wavelength_um: float | None
    "central wavelength in micrometres; None for radar and for cameras that publish none"
    gsd_m: float
    "ground sampling distance of the sensor's own product, in metres; a file may differ and then says so"
    common: str
    "name shared between sensors (STAC common names where they exist); empty if the band has no counterpart"
    aliases: tuple[str, ...] = ()
    "other spellings, compared without case, underscores and hyphens"


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor at one processing level: its bands in canonical order and the quantities its products may carry."""

    name: str
    title: str
    bands: tuple[Band, ...]
    quantities: tuple[Quantity, ...]

    @property
    def band_names(self) -> tuple[str, ...]:
        """Canonical names in canonical order."""
        return tuple(band.name for band in self.bands)

    def resolve(self, name: str) -> str:
        """Return the canonical name of the band that ``name`` spells.

        Raises:
            UserError: when no band of this sensor is spelled so.
        """
        key = _spelling(name)
        for band in self.bands:
            if key in _spellings(band):
                return band.name
        known, hint = ", ".join(self.band_names), suggest_nearest(name, self.band_names)
        raise UserError(f"expected a band of {self.name} ({known}), got {name!r}{hint}")

    def resolve_all(self, names: Iterable[str]) -> tuple[str, ...]:
        """Resolve several names, in their order; the same band twice is refused.

        Raises:
            UserError: for an unknown or a repeated band.
        """
        resolved = tuple(self.resolve(name) for name in names)
        repeated = sorted({name for name in resolved if resolved.count(name) > 1})
        if repeated:
            raise UserError(
                f"expected each band of {self.name} once, got {', '.join(repeated)} more than once; remove the "
                "repetition"
            )
        return resolved

    def band(self, name: str) -> Band:
        """Return the band that ``name`` spells."""
        canonical = self.resolve(name)
        return next(band for band in self.bands if band.name == canonical)


def _spelling(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _spellings(band: Band) -> set[str]:
    names = {band.name, *band.aliases} | ({band.common} if band.common else set())
    return {_spelling(name) for name in names}


def _numbered(number: str) -> tuple[str, ...]:
    """Spellings of an optical band number: B1, B01, 1, 01 (and 8A, 08A, B8A, b8a)."""
    digits = number.rstrip("Aa")
    suffix = number[len(digits) :]
    short, padded = digits.lstrip("0") + suffix, digits.zfill(2) + suffix
    return (f"B{short}", f"B{padded}", short, padded)


# Central wavelengths of Sentinel-2A: ESA, Sentinel-2 spectral responses v3.0; names: STAC eo extension, TerraTorch,
# torchgeo-bench.
_SENTINEL2 = tuple(
    Band(name, wavelength, gsd, common, _numbered(name[1:]) + aliases)
    for name, wavelength, gsd, common, aliases in (
        ("B01", 0.4427, 60.0, "coastal", ("COASTAL_AEROSOL", "coastal_aerosol", "aerosol")),
        ("B02", 0.4927, 10.0, "blue", ("BLUE",)),
        ("B03", 0.5598, 10.0, "green", ("GREEN",)),
        ("B04", 0.6646, 10.0, "red", ("RED",)),
        ("B05", 0.7041, 20.0, "rededge1", ("RED_EDGE_1", "rededge071", "veg_red_edge_1")),
        ("B06", 0.7405, 20.0, "rededge2", ("RED_EDGE_2", "rededge075", "veg_red_edge_2")),
        ("B07", 0.7828, 20.0, "rededge3", ("RED_EDGE_3", "rededge078", "veg_red_edge_3")),
        ("B08", 0.8328, 10.0, "nir", ("NIR_BROAD", "nir_1")),
        ("B8A", 0.8647, 20.0, "nir08", ("NIR_NARROW", "RED_EDGE_4", "nir_2", "nir_narrow")),
        ("B09", 0.9451, 60.0, "nir09", ("WATER_VAPOR", "WATER_VAPOUR", "water_vapor")),
        ("B10", 1.3735, 60.0, "cirrus", ("CIRRUS", "swir_cirrus")),
        ("B11", 1.6137, 20.0, "swir16", ("SWIR_1", "SWIR1", "swir_16")),
        ("B12", 2.2024, 20.0, "swir22", ("SWIR_2", "SWIR2", "swir_22")),
    )
)
_POLARISATIONS = tuple(
    Band(name, None, 10.0, name.lower(), (name.lower(), f"sigma0_{name}", f"gamma0_{name}"))
    for name in ("VV", "VH", "HH", "HV")
)


_LANDSAT_ALIASES = {
    "coastal": ("COASTAL_AEROSOL",),
    "nir": ("nir08", "NIR_BROAD", "NIR_NARROW"),
    "swir16": ("SWIR_1", "SWIR1"),
    "swir22": ("SWIR_2", "SWIR2"),
    "lwir": ("thermal", "lwir11", "TIR"),
    "lwir11": ("thermal_1", "TIRS_1"),
    "lwir12": ("thermal_2", "TIRS_2"),
}


def _landsat(*rows: tuple[int, str, float]) -> tuple[Band, ...]:
    """Landsat bands named B1 ... on a grid of 30 m, from (number, common name, wavelength in micrometres)."""
    return tuple(
        Band(
            f"B{number}",
            wave,
            30.0,
            common,
            (*_numbered(str(number)), f"SR_B{number}", *_LANDSAT_ALIASES.get(common, ())),
        )
        for number, common, wave in rows
    )


# USGS, Landsat missions: band designations. ETM+ and OLI panchromatic bands (15 m) are left out: no reader stacks them.
_LANDSAT_TM = _landsat(
    (1, "blue", 0.485),
    (2, "green", 0.560),
    (3, "red", 0.660),
    (4, "nir", 0.830),
    (5, "swir16", 1.650),
    (6, "lwir", 11.45),
    (7, "swir22", 2.215),
)
_LANDSAT_OLI = _landsat(
    (1, "coastal", 0.443),
    (2, "blue", 0.482),
    (3, "green", 0.561),
    (4, "red", 0.655),
    (5, "nir", 0.865),
    (6, "swir16", 1.609),
    (7, "swir22", 2.201),
    (9, "cirrus", 1.373),
    (10, "lwir11", 10.9),
    (11, "lwir12", 12.0),
)
# HLS v2.0 user guide, table 3: L30 keeps OLI numbers with two digits, S30 keeps Sentinel-2 numbers; all on a 30 m grid.
_HLS_L30 = tuple(
    Band(f"B{band.name[1:].zfill(2)}", band.wavelength_um, 30.0, band.common, (band.name, *band.aliases))
    for band in _LANDSAT_OLI
)
_HLS_S30 = tuple(Band(band.name, band.wavelength_um, 30.0, band.common, band.aliases) for band in _SENTINEL2)

_TOA, _BOA = (Quantity.TOA_REFLECTANCE, Quantity.DN), (Quantity.BOA_REFLECTANCE, Quantity.DN)
_DETECTED, _FLATTENED = (Quantity.DN, Quantity.AMPLITUDE), (Quantity.GAMMA0, Quantity.GAMMA0_DB)
_SENTINEL2_L2A = tuple(band for band in _SENTINEL2 if band.name != "B10")
_REFLECTANCES = (Quantity.TOA_REFLECTANCE, Quantity.BOA_REFLECTANCE, Quantity.DN)
_POWERS = (Quantity.SIGMA0, Quantity.BETA0, Quantity.GAMMA0, Quantity.SIGMA0_DB, Quantity.BETA0_DB, Quantity.GAMMA0_DB)

SENSORS: dict[str, Sensor] = {
    item.name: item
    for item in (
        Sensor("sentinel2_l1c", "Sentinel-2 MSI Level-1C (top of atmosphere)", _SENTINEL2, _TOA),
        Sensor("sentinel2_l2a", "Sentinel-2 MSI Level-2A (surface)", _SENTINEL2_L2A, _BOA),
        Sensor("sentinel1_grd", "Sentinel-1 ground range detected", _POLARISATIONS, (*_POWERS, *_DETECTED)),
        Sensor("sentinel1_wv", "Sentinel-1 wave mode, multi-looked on the ground", _POLARISATIONS, _POWERS),
        Sensor("sentinel1_rtc", "Sentinel-1 radiometrically terrain corrected", _POLARISATIONS, _FLATTENED),
        Sensor("landsat5_tm", "Landsat 5 Thematic Mapper", _LANDSAT_TM, _REFLECTANCES),
        Sensor("landsat7_etm", "Landsat 7 Enhanced Thematic Mapper Plus", _LANDSAT_TM, _REFLECTANCES),
        Sensor("landsat8_oli", "Landsat 8/9 OLI and TIRS", _LANDSAT_OLI, _REFLECTANCES),
        Sensor("hls_l30", "Harmonized Landsat Sentinel-2, Landsat 30 m", _HLS_L30, _REFLECTANCES),
        Sensor("hls_s30", "Harmonized Landsat Sentinel-2, Sentinel-2 30 m", _HLS_S30, _REFLECTANCES),
        Sensor(
            "sar_chip",
            "generic single-channel SAR image chip",
            (Band("SAR", None, 0.3, "", ("sar", "amplitude", "gray", "grey", "intensity")),),
            (Quantity.AMPLITUDE, Quantity.SIGMA0, Quantity.SIGMA0_DB, Quantity.DN),
        ),
        # Aerial cameras and map services publish 8-bit numbers without calibration; ground sampling 0.2 to 30 m, see
        # the cards.
        Sensor(
            "aerial_rgb",
            "8-bit colour image of an aerial camera or map service, near infrared where there is one",
            (
                Band("R", None, 1.0, "red", ("RED",)),
                Band("G", None, 1.0, "green", ("GREEN",)),
                Band("B", None, 1.0, "blue", ("BLUE",)),
                Band("NIR", None, 1.0, "nir", ("IR", "N")),
            ),
            (Quantity.DN,),
        ),
    )
}


def sensor(name: str) -> Sensor:
    """Return the registered sensor called ``name``.

    Raises:
        UserError: naming the nearest sensor.
    """
    if name not in SENSORS:
        raise UserError(f"expected a sensor out of {', '.join(SENSORS)}, got {name!r}{suggest_nearest(name, SENSORS)}")
    return SENSORS[name]


def translate_bands(names: Sequence[str], *, source: str, target: str) -> tuple[str, ...]:
    """Return the bands of sensor ``target`` that share their common name with bands ``names`` of ``source``, in order.

    This is a deliberate act (a Landsat blue given to a Sentinel-2 encoder), never done silently.

    Raises:
        UserError: when a band has no counterpart.
    """
    origin, goal = sensor(source), sensor(target)
    by_common = {band.common: band.name for band in goal.bands if band.common}
    translated = []
    for name in origin.resolve_all(names):
        common = origin.band(name).common
        if common not in by_common:
            raise UserError(
                f"expected a band of {target} that corresponds to {source} {name} ({common or 'no common name'}), "
                "found none; leave it out"
            )
        translated.append(by_common[common])
    return tuple(translated)

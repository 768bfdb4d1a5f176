"""Land-cover classes: end members of reflectance per band and season, and backscatter.

The sample archive is rendered from them, and the doctor explains the spectra of real products as mixtures of them.
The numbers are this project's own. Their shape follows what is generally known of such surfaces (spectral libraries,
radar textbooks): water dark and falling with wavelength, the red edge of green vegetation, soil rising into the
short-wave infrared, snow bright in the visible and dark beyond 1.5 um; volume scattering over forest, double bounce in
towns, specular water.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eo_ssl.sensors import sensor

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

UNKNOWN = 255  # label of pixels without a known class
S2_BANDS = sensor("sentinel2_l2a").band_names  # B01 ... B12, 12 bands, B8A after B08


@dataclass(frozen=True, slots=True)
class LandCover:
    """One class: two end members in reflectance (1), its growth, its backscatter and the texture of both."""

    name: str
    dormant: tuple[float, ...]
    "bottom-of-atmosphere reflectance without green leaves, in the order of S2_BANDS"
    green: tuple[float, ...]
    "the same at full growth; equal to `dormant` for surfaces without vegetation"
    growth: tuple[float, float, float]
    "greenness (0-1): floor, amplitude, and half width of the season in days (0: one cosine over the year)"
    texture: tuple[float, float, float]
    "standard deviation of ln(brightness) at pixel scale, at 40 m scale, and between parcels"
    vv_db: float
    "mean gamma0 VV, dB"
    vh_db: float
    "mean gamma0 VH, dB"
    roughness_db: float
    "standard deviation of gamma0 within the class before speckle, dB"


#                B01    B02    B03    B04    B05    B06    B07    B08    B8A    B09    B11    B12
_WATER = (0.034, 0.038, 0.040, 0.026, 0.020, 0.014, 0.013, 0.012, 0.011, 0.011, 0.003, 0.0015)
_FOREST_DORMANT = (0.018, 0.024, 0.040, 0.036, 0.062, 0.110, 0.130, 0.145, 0.155, 0.160, 0.130, 0.075)
_FOREST_GREEN = (0.014, 0.020, 0.040, 0.022, 0.062, 0.190, 0.240, 0.260, 0.275, 0.280, 0.125, 0.056)
_CROP_DORMANT = (0.060, 0.078, 0.110, 0.140, 0.168, 0.190, 0.205, 0.225, 0.240, 0.245, 0.320, 0.255)
_CROP_GREEN = (0.022, 0.032, 0.070, 0.040, 0.105, 0.300, 0.385, 0.415, 0.430, 0.435, 0.195, 0.098)
_GRASS_DORMANT = (0.048, 0.065, 0.095, 0.112, 0.145, 0.185, 0.205, 0.225, 0.240, 0.245, 0.285, 0.195)
_GRASS_GREEN = (0.028, 0.038, 0.075, 0.056, 0.115, 0.235, 0.280, 0.305, 0.320, 0.325, 0.220, 0.130)
_BUILT = (0.105, 0.118, 0.132, 0.145, 0.158, 0.168, 0.178, 0.190, 0.195, 0.198, 0.215, 0.195)
_BARE = (0.095, 0.125, 0.175, 0.228, 0.258, 0.278, 0.295, 0.312, 0.325, 0.330, 0.405, 0.365)
_SNOW = (0.900, 0.910, 0.900, 0.885, 0.875, 0.850, 0.830, 0.810, 0.780, 0.740, 0.105, 0.080)

CLASSES: tuple[LandCover, ...] = (
    LandCover("water", _WATER, _WATER, (0.0, 0.0, 0.0), (0.02, 0.10, 0.0), -20.0, -27.0, 0.3),
    LandCover("forest", _FOREST_DORMANT, _FOREST_GREEN, (0.45, 0.55, 0.0), (0.13, 0.06, 0.0), -9.0, -15.0, 0.7),
    LandCover("crop", _CROP_DORMANT, _CROP_GREEN, (0.05, 0.90, 45.0), (0.02, 0.04, 0.10), -12.0, -19.0, 0.8),
    LandCover("grass", _GRASS_DORMANT, _GRASS_GREEN, (0.25, 0.60, 0.0), (0.05, 0.07, 0.05), -13.5, -20.5, 0.6),
    LandCover("built", _BUILT, _BUILT, (0.0, 0.0, 0.0), (0.25, 0.10, 0.0), -4.5, -11.5, 2.2),
    LandCover("bare", _BARE, _BARE, (0.0, 0.0, 0.0), (0.04, 0.12, 0.0), -15.5, -24.0, 0.8),
    LandCover("snow", _SNOW, _SNOW, (0.0, 0.0, 0.0), (0.01, 0.03, 0.0), -17.5, -23.0, 0.6),
)
"the label of a class is its place in this tuple, whichever classes an archive uses"

CLASS_NAMES = tuple(cover.name for cover in CLASSES)
CLOUD = (0.62, 0.62, 0.62, 0.63, 0.64, 0.65, 0.66, 0.67, 0.67, 0.58, 0.45, 0.36)  # thick water cloud, S2_BANDS
WAVELENGTH_UM = tuple(band.wavelength_um or 0.0 for band in sensor("sentinel2_l2a").bands)


def tabulate(attribute: str) -> Floats:
    """Return one attribute of all classes as float32 [class, ...], rows in the order of `CLASSES`."""
    return np.array([getattr(cover, attribute) for cover in CLASSES], dtype=np.float32)


def compute_greenness(classes: Bytes, shift_days: Floats, *, day: int, southern: bool) -> Floats:
    """Return the greenness, 0 dormant to 1 full growth, on a day of the year.

    Forest and grass follow one cosine over the year; crops grow and are harvested within a season of ``growth[2]`` days
    half width, earlier or later by the parcel's own shift. The year turns round south of the equator.

    Args:
        classes: [y, x] uint8, places in `CLASSES`.
        shift_days: [y, x] float32, how much later than usual the parcel peaks.
        day: day of the year, 1-366.
        southern: whether the place lies on the southern hemisphere.

    Returns:
        [y, x] float32 in 0-1; 0 for classes without vegetation.
    """
    peak = 190.0 + (182.5 if southern else 0.0)
    late = (day - peak - shift_days + 182.5) % 365.0 - 182.5  # days after the peak, in -182.5 ... 182.5
    growth = tabulate("growth")
    floor, amplitude, width = (growth[:, column][classes] for column in range(3))
    yearly = 0.5 + 0.5 * np.cos(2 * np.pi * late / 365.0)
    season = np.exp(-0.5 * (late / np.maximum(width, 1.0)) ** 2)
    return (floor + amplitude * np.where(width > 0, season, yearly)).astype(np.float32)

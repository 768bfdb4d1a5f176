"""Endmembers of land cover seen through clear, hazy or cloudy air, and the residual of unmixing spectra by them.

The spectra are general knowledge, not a fit to any scene: water dark and falling with wavelength, the red edge of
leaves, soil rising into the short-wave infrared, snow bright in the visible and dark beyond 1.5 um (the land-cover
classes of ``eo_ssl.landcover``). At the top of the atmosphere they are dimmed and covered by scattered light:
Rayleigh scattering falls with the fourth power of wavelength; B09 (0.945 um) lies in a water vapour band that takes
about two thirds of the light; B10 (1.37 um) sees next to nothing below high cloud (ESA, Sentinel-2 User Handbook, 2.6
and table 1-1).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from eo_ssl.landcover import CLASSES, CLOUD, S2_BANDS
from eo_ssl.sensors import sensor

Doubles = npt.NDArray[np.float64]
#           B01    B02    B03    B04    B05    B06    B07    B08    B8A    B09    B10     B11    B12
PATH_REFLECTANCE = (0.105, 0.075, 0.043, 0.024, 0.019, 0.015, 0.012, 0.009, 0.008, 0.005, 0.0011, 0.002, 0.001)
TRANSMITTANCE = (0.74, 0.80, 0.85, 0.89, 0.90, 0.91, 0.93, 0.93, 0.96, 0.35, 0.004, 0.94, 0.93)
CIRRUS_REFLECTANCE = (0.050, 0.050, 0.050, 0.050, 0.050, 0.050, 0.050, 0.050, 0.050, 0.040, 0.030, 0.030, 0.030)
_FLOOR, _SHARE = 0.01, 0.1
"""standard deviation of a band about the best mixture: 0.01 reflectance plus a tenth of the value, for surfaces that
are not listed"""
_WORST = 400.0
"a spectrum that fits nothing (a bright roof, a flame) counts no more than this"
_LIGHT_BANDS = tuple(band.name for band in sensor("sentinel2_l1c").bands)


def match_bands(sensor_name: str, bands: tuple[str, ...]) -> tuple[str, ...]:
    """Return for each band the Sentinel-2 band of its common name, empty where there is none (thermal, radar)."""
    known = {band.common: band.name for band in sensor("sentinel2_l1c").bands}
    if sensor_name.startswith("sentinel2") or sensor_name == "hls_s30":
        return bands
    aliases = {"nir": "B8A", "nir08": "B8A"}  # a broad near-infrared band of Landsat lies nearer to B8A than to B08
    commons = [sensor(sensor_name).band(name).common for name in bands]
    return tuple(aliases.get(common, known.get(common, "")) for common in commons)


@cache
def get_endmembers(bands: tuple[str, ...], *, top: bool) -> Doubles:
    """Return the endmembers of Sentinel-2 ``bands`` at the surface or the ``top`` of the air, float64 [band, m]."""
    surfaces = [cover.dormant for cover in CLASSES] + [cover.green for cover in CLASSES] + [CLOUD]
    by_band = dict(zip(S2_BANDS, np.array(surfaces, dtype=np.float64).T, strict=True))
    by_band["B10"] = by_band["B8A"]
    if not top:
        return np.stack([by_band[name] for name in bands])
    path, passing, cirrus = (
        dict(zip(_LIGHT_BANDS, values, strict=True)) for values in (PATH_REFLECTANCE, TRANSMITTANCE, CIRRUS_REFLECTANCE)
    )
    rows = [np.append(by_band[name] * passing[name] + path[name], [path[name], cirrus[name]]) for name in bands]
    return np.array(rows)


def compute_unmixing_residual(spectra: Doubles, endmembers: Doubles) -> float:
    """Return the mean chi-square of ``spectra`` [n, band] about their best mixture of ``endmembers`` [band, m].

    Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23 (NNLS), each band weighted by 0.01 + 0.1 of its
    value.
    """
    total = 0.0
    for spectrum in spectra:
        sigma = _FLOOR + _SHARE * np.abs(spectrum)
        total += min(float(nnls(endmembers / sigma[:, None], spectrum / sigma)[1]) ** 2, _WORST)
    return total / len(spectra)

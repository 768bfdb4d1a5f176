"""A radiometrically terrain-corrected Sentinel-1 product from a landscape: gamma0 in linear power, with speckle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eo_ssl.landcover import CLASS_NAMES, compute_greenness, tabulate
from eo_ssl.sample.fields import Floats, blur, draw_smooth_noise
from eo_ssl.sample.landscape import Landscape
from eo_ssl.sample.product_plans import PlannedAcquisition
from eo_ssl.sample.spec import SITES

POLARISATIONS = ("VV", "VH")
# How much more a field in leaf scatters than a bare one; cross-polarisation feels volume.
LEAF_VOLUME_DB = {"VV": 1.0, "VH": 3.0}
SLOPE_RESIDUAL_DB = 6.0  # dB per unit slope towards the sensor that terrain flattening leaves, about 0.3 dB at 5 %
KEPT_BITS = 11  # of 23 mantissa bits: relative rounding 2^-12, far below speckle, halves the compressed size
NEAR_NOISE = 0.01  # relative change between the two copies of a near duplicate
_SCENE, _SPECKLE = 5, 6  # streams of the seed


@dataclass(frozen=True, slots=True, eq=False)
class RadarScene:
    """A radar product, both polarisations [y, x] float32 linear power."""

    gamma0: dict[str, Floats]
    "expected backscatter, without speckle; defined everywhere"
    observed: dict[str, Floats]
    "with speckle, NaN beyond the edge of the swath; what is stored"


def render_radar(seed: int, land: Landscape, product: PlannedAcquisition, *, looks: float) -> RadarScene:
    """Return the scene of a product.

    Speckle of L looks multiplies the expected power by a gamma variate of shape L and mean 1, so that variance / mean^2
    = 1 / L over a uniform area (Oliver and Quegan 2004, section 4.3). It is drawn for each pixel and polarisation
    alone; in real products neighbours are correlated by the resampling.
    """
    key = [product.site_index, product.date_index]
    scene = np.random.default_rng([seed, _SCENE, *key])
    speckle = np.random.default_rng([seed, _SPECKLE, *key])
    size = land.classes.shape[0]
    mean_db = _mean_db(scene, land, product)
    edge = _near_range_border(scene, size) if product.edge else np.zeros((size, size), dtype=bool)
    expected = {name: blur((10.0 ** (mean_db[name] / 10.0)).astype(np.float32)) for name in POLARISATIONS}
    observed = {name: expected[name] * speckle.gamma(looks, 1.0 / looks, (size, size)) for name in POLARISATIONS}
    if product.copy == "near":
        observed = {
            name: values * (1.0 + NEAR_NOISE * speckle.standard_normal(values.shape))
            for name, values in observed.items()
        }
    return RadarScene(
        expected, {name: np.where(edge, np.float32(np.nan), _shortened(values)) for name, values in observed.items()}
    )


def _mean_db(scene: np.random.Generator, land: Landscape, product: PlannedAcquisition) -> dict[str, Floats]:
    """Return the expected gamma0 in dB per polarisation, [y, x] float32."""
    green = compute_greenness(
        land.classes, land.shift_days, day=product.day, southern=SITES[product.site_index].southern
    )
    growth = tabulate("growth")
    middle = (growth[:, 0] + 0.5 * growth[:, 1])[land.classes]  # class means hold for a field half grown
    crop = np.isin(land.classes, [CLASS_NAMES.index(name) for name in ("crop", "grass")])
    leaf = np.where(crop, green - middle, 0.0)
    wet = 0.5 * scene.standard_normal()  # dB, soil moisture of the day
    wind = 1.5 * scene.standard_normal() + 0.4 * draw_smooth_noise(scene, land.classes.shape[0], scale_px=25.0)
    weather = np.where(land.classes == CLASS_NAMES.index("water"), wind, wet)
    # A right-looking radar sees the east on a descending pass and the west on an ascending one from the other side.
    facing = land.slope_east if product.orbit.endswith("descending") else -land.slope_east
    common = land.roughness_db + weather + SLOPE_RESIDUAL_DB * np.clip(facing, -0.3, 0.3)
    base = {"VV": tabulate("vv_db")[land.classes], "VH": tabulate("vh_db")[land.classes]}
    return {name: (base[name] + common + LEAF_VOLUME_DB[name] * leaf).astype(np.float32) for name in POLARISATIONS}


def _near_range_border(scene: np.random.Generator, size: int) -> npt.NDArray[np.bool_]:
    rows, columns = np.mgrid[0:size, 0:size]
    start, lean = scene.uniform(0.02, 0.10) * size, scene.uniform(-0.08, 0.08)
    edge = columns < start + lean * rows
    return np.asarray(edge[:, ::-1] if scene.random() < 0.5 else edge)


def _shortened(values: npt.NDArray[np.floating]) -> Floats:
    """Return float32 values rounded to `KEPT_BITS` bits of mantissa, which compress well (Kloewer et al. 2021)."""
    dropped = np.uint32(23 - KEPT_BITS)
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    half = np.uint32((1 << int(dropped) - 1) - 1)
    odd = (bits >> dropped) & np.uint32(1)  # ties to even
    return ((bits + half + odd) >> dropped << dropped).view(np.float32)

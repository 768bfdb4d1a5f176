"""Backscatter of Sentinel-1 SAFE products, its tables, its noise and the numbers that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eo_ssl.sample.fields import Floats, draw_fractal, draw_smooth_noise
from worlds.safe.s1_geometry import Geometry
from worlds.safe.s1_luts import (
    AzimuthBlock,
    Doubles,
    Ints,
    Vector,
    compute_range_noise,
    compute_scalloping,
    interpolate,
    interpolate_azimuth,
    place_knots,
    round_values,
)

Bools = npt.NDArray[np.bool_]
BETA_CONSTANT = 474.0  # betaNought of real IW products
NOISE_LEVEL = {"VV": 560.0, "HH": 560.0, "VH": 520.0, "HV": 520.0}  # DN^2 at the middle of a swath
BRIGHTEST_BORDER = 9  # border noise of old products has a DN below this; the darkest data of a scene have more
_MEAN_DB = {"VV": -10.5, "HH": -10.0, "VH": -17.0, "HV": -17.0}
_WATER_DB = {"VV": -19.5, "HH": -20.5, "VH": -26.0, "HV": -26.0}
_LAND, _SPECKLE, _BORDER = 11, 12, 13  # streams of the seed


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What the calibration and noise annotations of one image hold."""

    calibration: dict[str, list[Vector]]
    "sigmaNought, betaNought, gamma and dn"
    noise: list[Vector]
    "empty when there is no noise annotation"
    azimuth: list[AzimuthBlock]

    def calibration_at(self, lines: npt.ArrayLike, samples: npt.ArrayLike, *, name: str = "sigmaNought") -> Doubles:
        """Return a calibration table at pixels, float64 [line, sample]."""
        return interpolate(self.calibration[name], lines, samples)

    def noise_at(self, lines: npt.ArrayLike, samples: npt.ArrayLike) -> Doubles:
        """Return the noise in DN^2 at pixels, float64 [line, sample]; 0 without annotation."""
        if not self.noise:
            return np.zeros((np.size(lines), np.size(samples)))
        return interpolate(self.noise, lines, samples) * interpolate_azimuth(self.azimuth, lines, samples)


def make_calibration_tables(
    geometry: Geometry, *, step: tuple[int, int], constant: float = BETA_CONSTANT
) -> dict[str, list[Vector]]:
    """Return the calibration vectors of an image: sigma0 and gamma0 follow from beta0 by the incidence angle.

    With beta0 = DN^2 / A_beta^2, sigma0 = beta0 sin(theta) and gamma0 = sigma0 / cos(theta) (Small 2011, equations 1 to
    3): A_sigma = A_beta / sqrt(sin theta), A_gamma = A_sigma sqrt(cos theta). All tables also vary slowly along the
    track. The last line lies beyond the image, as in real products.
    """
    pixels = place_knots(geometry.samples, step[1])
    tables: dict[str, list[Vector]] = {"sigmaNought": [], "betaNought": [], "gamma": [], "dn": []}
    for line in range(0, geometry.lines + step[0], step[0]):
        theta = np.radians(geometry.incidence(line, pixels))
        beta = np.full(pixels.size, constant * (1.0 + 0.01 * np.sin(2 * np.pi * line / (7 * step[0]))))
        sigma = beta / np.sqrt(np.sin(theta))
        rows = {"sigmaNought": sigma, "betaNought": beta, "gamma": sigma * np.sqrt(np.cos(theta)), "dn": beta}
        for name, values in rows.items():
            tables[name].append(Vector(line, pixels, round_values(values)))
    return tables


def make_noise_tables(
    shape: tuple[int, int],
    bounds: Sequence[int],
    swaths: Sequence[str],
    *,
    kind: str,
    step: tuple[int, int],
    level: float,
) -> tuple[list[Vector], list[AzimuthBlock]]:
    """Return the noise vectors of an image of ``shape`` lines and samples.

    As in real products the last line is that of the image, the value at the last pixel is 0, and in the old format the
    pixels of a vector differ from line to line.

    Args:
        shape: lines and samples.
        bounds: first sample of each swath, and the number of samples.
        swaths: names of the swaths.
        kind: ``range``, ``range_azimuth``, ``zero`` or ``none``.
        step: lines and pixels between values.
        level: noise at the middle of a swath, DN^2.
    """
    if kind == "none":
        return [], []
    lines, samples = shape
    vectors = []
    for index, line in enumerate(place_knots(lines, step[0])):
        regular = place_knots(samples, step[1])
        shifted = np.append(regular[:-1] + step[1] // 4, [0, samples - 1])
        pixels: Ints = np.unique(np.minimum(shifted, samples - 1)) if kind == "range" and index % 2 else regular
        values = compute_range_noise(pixels, bounds, level=level * (1.0 + 0.02 * index))
        values[-1] = 0.0
        vectors.append(Vector(int(line), pixels, round_values(0.0 * values if kind == "zero" else values)))
    if (
        kind != "range_azimuth" or len(swaths) == 1
    ):  # only the steered beams of IW and EW make noise vary along the track
        return vectors, []
    along = place_knots(lines, 10)
    blocks = [
        AzimuthBlock(
            swath,
            (0, lines - 1),
            (bounds[index], bounds[index + 1] - 1),
            along,
            round_values(compute_scalloping(along, phase=0.3 * index, period=160.0)),
        )
        for index, swath in enumerate(swaths)
    ]
    return vectors, blocks


def draw_backscatter(shape: tuple[int, int], polarisation: str, *, seed: int) -> Floats:
    """Return sigma0 of a piece of land with a lake, linear power, float32 [line, sample], without speckle."""
    lines, samples = shape
    side = max(shape) + max(shape) % 2
    rng = np.random.default_rng([seed, _LAND])  # all polarisations see the same land
    relief = draw_fractal(rng, side, slope=1.5, finest_px=4.0)[:lines, :samples]
    fields = draw_smooth_noise(rng, side, scale_px=9.0)[:lines, :samples]
    land = _MEAN_DB[polarisation] + 1.8 * relief + 1.2 * fields
    water = _WATER_DB[polarisation] + 0.4 * fields
    lake = 1.0 / (1.0 + np.exp(-12.0 * (-relief - 0.9)))
    power = (1.0 - lake) * 10.0 ** (land / 10.0) + lake * 10.0 ** (water / 10.0)
    return np.asarray(power, dtype=np.float32)


def draw_border(shape: tuple[int, int], width: int, *, seed: int) -> Bools:
    """Return the border noise, bool [line, sample]: ragged at the sides, straight at the first and last lines."""
    lines, samples = shape
    if width == 0:
        return np.zeros(shape, dtype=bool)
    rng = np.random.default_rng([seed, _BORDER])
    sides = width + rng.integers(-(width // 3), width // 3 + 1, size=(2, lines))
    columns = np.arange(samples)[None, :]
    ragged = (columns < sides[0][:, None]) | (columns >= samples - sides[1][:, None])
    ends = max(1, width // 3)
    ragged[:ends] = ragged[-ends:] = True
    return np.asarray(ragged)


def detect(
    sigma0: Floats,
    tables: Tables,
    mask: Bools,
    *,
    looks: float | None,
    key: Sequence[int],
    empty_border: bool,
    origin: tuple[int, int] = (0, 0),
) -> npt.NDArray[np.uint16]:
    """Return what a ground-range product stores: ``round(sqrt(sigma0 A^2 + noise))``, speckle on the whole power.

    Args:
        sigma0: linear power [line, sample].
        tables: annotated tables of the image.
        mask: where the border is.
        looks: equivalent number of looks; None for no speckle.
        key: seed of the speckle.
        empty_border: whether the border is 0; else low values.
        origin: line and sample of the first pixel in the image.

    Returns:
        uint16 [line, sample], 1-65535 outside the border.
    """
    rng = np.random.default_rng([*key, _SPECKLE])
    lines, samples = (origin[axis] + np.arange(sigma0.shape[axis]) for axis in (0, 1))
    numbers = np.empty(sigma0.shape, dtype=np.uint16)
    for first in range(0, lines.size, 1024):  # a full-size image needs no full-size tables
        part = slice(first, first + 1024)
        power = sigma0[part] * tables.calibration_at(lines[part], samples) ** 2 + tables.noise_at(lines[part], samples)
        if looks is not None:
            power *= rng.gamma(looks, 1.0 / looks, power.shape)
        numbers[part] = np.clip(np.rint(np.sqrt(power)), 1, 65535)
    low = rng.integers(0, BRIGHTEST_BORDER, sigma0.shape, dtype=np.uint16)
    numbers[mask] = 0 if empty_border else low[mask]
    return numbers

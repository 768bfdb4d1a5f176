"""Tiles as pictures: true colour, VV/VH composite or grey, each with a stated stretch, as small WebP data URIs.

One stretch serves all tiles of a gallery, so that bright and dark tiles may be compared; its numbers stand beside it.
Pixels without data are transparent: the page shows a hatch behind them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from eo_ssl.errors import UserError
from eo_ssl.reporting.formatting import format_tick
from eo_ssl.sensors import FLOOR_DB, Quantity, sensor

FloatArray = npt.NDArray[np.float32]
SIDE_PX = 128  # larger tiles are halved until they fit: a gallery is an overview, not an archive
QUALITY = 80  # of WebP: about 2-4 kB for a 64-px tile
TCI_WHITE = 0.36  # reflectance at white where clouds would otherwise darken the land: our choice
COLOUR_EXPONENT = (
    0.7  # screens show level^2.2; without it vegetation (reflectance 0.03-0.08) and radar clutter are black
)
RATIO_DB = (0.0, 15.0)  # VV - VH of land and sea, dB


@dataclass(frozen=True, slots=True)
class Rendering:
    """How tiles of one stream become red, green and blue (or grey)."""

    kind: Literal["colour", "ratio", "grey"]
    "three bands; VV, VH and their ratio in dB; one band"
    channels: tuple[int, ...]
    "indices of the bands used"
    low: tuple[float, ...]
    "value shown black, per channel, in the unit shown (dB for SAR power)"
    high: tuple[float, ...]
    "value shown white"
    exponent: float
    "of the displayed level: below 1 lifts dark land, as screens expect"
    decibel: bool
    "power is shown in dB"
    words: str
    "the caption: bands and stretch"


def choose_rendering(sample: FloatArray, *, bands: Sequence[str], sensor_name: str, quantity: Quantity) -> Rendering:
    """The rendering that fits a stream, its stretch taken from a sample of it.

    Args:
        sample: [n, C, H, W] float32 in physical units, NaN where invalid; the tiles that will be shown.
        bands: names of the channels.
        sensor_name: the stream's sensor.
        quantity: of the stored values.
    """
    names = list(bands)
    if {"VV", "VH"} <= set(names) and (quantity.is_power or quantity.is_db):
        return _ratio(names, quantity, sample)
    common = [sensor(sensor_name).band(name).common for name in names]
    if {"red", "green", "blue"} <= set(common):
        rgb = tuple(common.index(c) for c in ("red", "green", "blue"))
        low, high = stretch(sample[:, list(rgb)], low=1, high=99)
        if quantity.is_reflectance:
            high = min(high, max(TCI_WHITE, 2 * low))
        if quantity is Quantity.BOA_REFLECTANCE and high > 0:
            low = (
                0.0  # a black surface; above the atmosphere haze lifts every pixel, so there black is the darkest seen
            )
        shown = ", ".join(names[i] for i in rgb)
        span = f"{format_tick(low)} to {format_tick(high)} from black to white (exponent {COLOUR_EXPONENT:g})"
        words = f"True colour ({shown}), {_named(quantity)} {span}, one stretch for all"
        return Rendering("colour", rgb, (low,) * 3, (high,) * 3, COLOUR_EXPONENT, False, words)
    values = _shown(sample[:, :1], quantity)
    low, high = stretch(values, low=0.5, high=99.5)
    unit = " dB" if quantity.is_power or quantity.is_db else ""
    exponent = COLOUR_EXPONENT if quantity is Quantity.AMPLITUDE else 1.0
    lifted = f" (exponent {exponent:g})" if exponent != 1 else ""
    span = f"{format_tick(low)} to {format_tick(high)}{unit} from black to white{lifted}"
    words = f"Grey ({names[0]}), {_named(quantity)} {span}, one stretch for all"
    return Rendering("grey", (0,), (low,), (high,), exponent, quantity.is_power, words)


def stretch(values: FloatArray, *, low: float, high: float) -> tuple[float, float]:
    """The (low, high) percentiles of all finite values, never equal; (0, 1) where nothing is finite."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    a, b = (
        float(f"{v:.2g}") for v in np.percentile(finite, (low, high))
    )  # two digits: what is printed is what is drawn
    return (a, b) if b > a else (a - 0.5, a + 0.5)


def render_tile(tile: FloatArray, rendering: Rendering) -> npt.NDArray[np.uint8]:
    """[H, W, 4] uint8 RGBA of one tile [C, H, W]; alpha 0 where a channel shown is NaN."""
    if tile.ndim != 3:
        raise UserError(f"a tile to draw has the axes band, y, x, got {tile.ndim} axes: pass one tile at a time")
    picked = tile[list(rendering.channels)].astype(np.float32)
    if rendering.decibel:
        picked = convert_to_decibel(picked)
    if rendering.kind == "ratio":
        picked = np.stack([picked[0], picked[1], picked[0] - picked[1]])
    low = np.asarray(rendering.low, np.float32)[:, None, None]
    high = np.asarray(rendering.high, np.float32)[:, None, None]
    valid = np.asarray(np.isfinite(picked).all(axis=0))
    level = np.nan_to_num(np.clip((picked - low) / (high - low), 0, 1)) ** rendering.exponent
    if level.shape[0] == 1:
        level = np.repeat(level, 3, axis=0)
    rgba = np.concatenate([level, valid[None]]) * 255
    return np.moveaxis(np.rint(rgba).astype(np.uint8), 0, -1)


def encode_picture(rgba: npt.NDArray[np.uint8], *, side_px: int = SIDE_PX) -> str:
    """A WebP of the picture as a `data:` URI, halved until it is at most `side_px` wide and high."""
    opaque = bool((rgba[..., 3] == 255).all())
    picture = Image.fromarray(np.ascontiguousarray(rgba[..., :3] if opaque else rgba))
    factor = 1
    while max(picture.size) / factor > side_px:
        factor *= 2
    if factor > 1:
        picture = picture.reduce(factor)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def convert_to_decibel(power: FloatArray) -> FloatArray:
    """10 log10 of linear power, `FLOOR_DB` where it is not positive, NaN kept."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(power > 0, 10 * np.log10(power), np.where(np.isnan(power), np.nan, FLOOR_DB))
    return values.astype(np.float32)


def _ratio(names: list[str], quantity: Quantity, sample: FloatArray) -> Rendering:
    """VV red, VH green, VV - VH blue; the two powers stretched between whole decibels."""
    channels = (names.index("VV"), names.index("VH"))
    ranges = []
    for channel in channels:
        low, high = stretch(_shown(sample[:, channel], quantity), low=2, high=98)
        ranges.append((float(np.floor(low)), float(np.ceil(high))))
    (a, b), (c, d) = ranges
    words = (
        f"VV red ({_minus(a)} to {_minus(b)} dB), VH green ({_minus(c)} to {_minus(d)} dB), "
        f"VV − VH blue ({RATIO_DB[0]:g} to {RATIO_DB[1]:g} dB); {_named(quantity)}"
    )
    return Rendering("ratio", channels, (a, c, RATIO_DB[0]), (b, d, RATIO_DB[1]), 1.0, quantity.is_power, words)


def _shown(values: FloatArray, quantity: Quantity) -> FloatArray:
    return convert_to_decibel(values) if quantity.is_power else values


def _minus(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _named(quantity: Quantity) -> str:
    return (
        quantity.value.removesuffix("_db")
        .replace("_", " ")
        .replace("toa ", "top-of-atmosphere ")
        .replace("boa ", "surface ")
    )

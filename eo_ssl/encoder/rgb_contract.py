"""Contracts of networks of colour photographs: red, green and blue in 0 ... 1, then their training statistics."""

from __future__ import annotations

import math

from eo_ssl.encoder.origins import RGB
from eo_ssl.encoder.specs import ExternalSpec
from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.preprocessing.interpolation import Interpolation
from eo_ssl.sensors import Quantity
from eo_ssl.sensors import sensor as sensor_named

_COLOURS = ("red", "green", "blue")
_BYTE = 255.0  # of an 8-bit image
_ANY_GSD = (1e-3, 1e5)  # metres; photographs have no ground sampling distance, so that none is outside


def make_rgb_contract(
    spec: ExternalSpec,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size_px: int,
    interpolation: Interpolation,
) -> Preprocessing:
    """Return the contract of a network of photographs for the sensor of ``spec``; 8-bit colour images without one.

    Another sensor's images have no white of their own: ``white`` says which value is shown as 1, above which all is
    cut off.

    Args:
        spec: with the options ``sensor`` and ``white``.
        mean: of red, green and blue in 0 ... 1.
        std: of red, green and blue in 0 ... 1.
        size_px: side of the network's input; whole images are brought to it.
        interpolation: how, with antialias.

    Raises:
        UserError: a sensor without colours, a white that is missing, or none where 8 bits say it.
    """
    known = sensor_named(spec.options.get("sensor", RGB))
    by_common = {band.common: band.name for band in known.bands}
    absent = [colour for colour in _COLOURS if colour not in by_common]
    if absent:
        raise UserError(
            f"expected a sensor with bands for red, green and blue for {spec.text}, got {known.name}; choose an"
            " optical one"
        )
    quantity = known.quantities[0]
    white = _white(spec, sensor=known.name, quantity=quantity)
    return Preprocessing(
        sensor=known.name,
        quantity=quantity,
        bands=tuple(by_common[colour] for colour in _COLOURS),
        convert=(),
        range=(0.0, _BYTE) if known.name == RGB else quantity.plausible,
        clip=(0.0, white),
        mean=tuple(m * white for m in mean),
        std=tuple(s * white for s in std),
        size_px=size_px,
        gsd_m=_ANY_GSD,
        resize="to_size",
        interpolation=interpolation,
        antialias=True,
        missing="refuse",
    )


def _white(spec: ExternalSpec, *, sensor: str, quantity: Quantity) -> float:
    """Value that is shown as 1."""
    given = spec.options.get("white")
    if sensor == RGB and given is None:
        return _BYTE
    try:
        white = float(given or "")
    except ValueError:
        white = math.nan
    if not (math.isfinite(white) and white > 0):
        raise UserError(
            f"expected the {quantity.value} that {spec.text} is to see as white, got {given!r}; "
            "write such as ?sensor=sentinel2_l1c&white=0.3558, ESA's choice for Level-1C true-colour images"
        )
    return white

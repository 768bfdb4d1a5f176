"""Kernels of a first layer brought to the bands of a contract, by the names of the bands and never by their places.

Networks of photographs have kernels for red, green and blue. On other bands there is no right answer, so the user
chooses one by name: ``?rgb=tile``, ``mean`` or ``by_name``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import sensor as sensor_named

COLOURS = ("red", "green", "blue")
"""Order of the channels of a network of photographs, by common name."""
SPREADS = ("tile", "mean", "by_name")
"""Ways to bring kernels of three colours to other bands."""
UNCHANGED = "as in the file"


@dataclass(frozen=True, slots=True)
class FittedKernels:
    """Kernels of a first layer, one for each band of a contract."""

    kernels: Tensor
    "[O, C, k, k]"
    words: str
    "what was done"
    remark: str = ""
    "what must be said beside a number; empty where nothing was chosen or assumed"


def fit_kernels(
    kernels: Tensor,
    contract: Preprocessing,
    *,
    name: str,
    spread: str | None = None,
    bands: Sequence[str] | None = None,
    photographs: bool = False,
    listed: bool = True,
) -> FittedKernels:
    """Return ``kernels`` [O, F, k, k] of a file with F channels as one for each band of ``contract``.

    Args:
        kernels: of the first layer, as the file has them.
        contract: whose bands the network gets, in its order.
        name: of the weights, for messages.
        spread: how kernels of three colours are brought to other bands, one of `SPREADS`; None where not chosen.
        bands: what the channels of the file are, in its order; None where nobody said.
        photographs: whether it is known that three channels are red, green and blue.
        listed: whether the user gave the order of the contract's bands, which then is that of the file's channels;
            else it is the order of the sensor's bands, and is said beside the numbers.

    Raises:
        UserError: other channels than the bands, or three of them and nothing that says how to spread them.
    """
    channels, wanted = kernels.shape[1], contract.bands
    _check_options(spread, bands, name=name)
    if bands is not None:
        return _reorder(kernels, contract, bands, name=name)
    if spread is not None:
        expect(
            channels == len(COLOURS),
            expected=f"kernels of red, green and blue to spread in {name}",
            got=f"{channels} channels",
            remedy="leave the option rgb out",
        )
        return _spread(kernels, contract, spread, name=name)
    colours = locate_colours(contract)
    if channels == len(COLOURS):
        if len(wanted) == len(COLOURS) and None not in colours and (photographs or colours == [0, 1, 2]):
            return FittedKernels(kernels[:, _invert(colours)], _say_colours(contract, colours))
        own = f", or ?bands={','.join(wanted)} for a file that was trained on these bands in this order"
        raise UserError(
            f"expected a choice for the bands {', '.join(wanted)} of {name}, whose three kernels are those of"
            " photographs unless said otherwise, got none; write ?rgb=tile, ?rgb=mean or ?rgb=by_name"
            f"{own if len(wanted) == channels and not photographs else ''}"
        )
    expect(
        channels == len(wanted),
        expected=f"one kernel for each of {len(wanted)} bands ({', '.join(wanted)}), or three, in {name}",
        got=f"{channels}",
        remedy="give a contract with the bands that it was trained on",
    )
    taken = f"its channels taken for {', '.join(wanted)} in this order"
    return FittedKernels(kernels, f"{UNCHANGED}, {taken}", "" if listed else f"{taken} (option bands)")


def _check_options(spread: str | None, bands: Sequence[str] | None, *, name: str) -> None:
    if spread is not None and spread not in SPREADS:
        raise UserError(
            f"expected rgb out of {', '.join(SPREADS)} for {name}, got {spread!r}{suggest_nearest(spread, SPREADS)}"
        )
    expect(
        spread is None or bands is None,
        expected=f"rgb or bands for {name}",
        got="both",
        remedy="bands says what the file's channels are, rgb spreads those of photographs",
    )


def _reorder(kernels: Tensor, contract: Preprocessing, bands: Sequence[str], *, name: str) -> FittedKernels:
    """Kernels of named channels in the order of the contract."""
    named = sensor_named(contract.sensor).resolve_all(bands)
    expect(
        len(named) == kernels.shape[1] and set(named) == set(contract.bands),
        expected=f"the {kernels.shape[1]} channels of {name} named by the contract's bands {', '.join(contract.bands)}",
        got=f"bands={','.join(named)}",
        remedy="name each once, in the order of the file's channels",
    )
    order = [named.index(band) for band in contract.bands]
    return FittedKernels(kernels[:, order], f"{UNCHANGED}, its channels named {', '.join(named)}")


def _spread(kernels: Tensor, contract: Preprocessing, spread: str, *, name: str) -> FittedKernels:
    """Kernels of red, green and blue on all bands."""
    wanted = contract.bands
    scale = len(COLOURS) / len(wanted)
    if spread == "mean":
        whole = kernels.mean(dim=1, keepdim=True).repeat(1, len(wanted), 1, 1) * scale
        words = f"the mean of the kernels of red, green and blue on each of {len(wanted)} bands, times 3/{len(wanted)}"
    elif spread == "tile":
        order = order_as_sensor(contract)
        colour = [order.index(channel) % len(COLOURS) for channel in range(len(wanted))]
        whole = kernels[:, colour] * scale
        listed = ", ".join(wanted[channel] for channel in order)
        words = f"kernels of red, green and blue in turn on {listed}, times 3/{len(wanted)}"
    else:
        colours = locate_colours(contract)
        absent = [colour for colour, channel in zip(COLOURS, colours, strict=True) if channel is None]
        expect(
            not absent,
            expected=f"bands for red, green and blue for rgb=by_name of {name}",
            got=f"{', '.join(wanted)} without {', '.join(absent)}",
            remedy="choose tile or mean",
        )
        whole = torch.zeros(len(kernels), len(wanted), *kernels.shape[2:], dtype=kernels.dtype)
        whole[:, colours] = kernels
        words = _say_colours(contract, colours)
        if len(wanted) > len(COLOURS):
            words += f", zero on the {len(wanted) - len(COLOURS)} other bands"
    return FittedKernels(whole, words, f"first layer: {words} (rgb={spread})")


def find_first_layer(model: Any) -> str | None:
    """Return the name of the kernels of a timm model that see the bands, None where there is not one such layer."""
    first = model.pretrained_cfg.get("first_conv")
    return f"{first}.weight" if isinstance(first, str) and f"{first}.weight" in model.state_dict() else None


def order_drawn_kernels(kernels: Tensor, contract: Preprocessing) -> Tensor:
    """Return random ``kernels`` [O, C, k, k], drawn for the bands in their sensor's order, in the contract's order.

    So a seed gives each band its own kernels wherever it stands: the order of planes in files decides nothing.
    """
    out = torch.empty_like(kernels)
    out[:, order_as_sensor(contract)] = kernels
    return out


def order_first_layer(model: Any, contract: Preprocessing, *, name: str) -> None:
    """Bring the random kernels of a timm model that see the bands to the contract's order, as `order_drawn_kernels`.

    Raises:
        UserError: there is no one such layer, and the contract has another order than its sensor.
    """
    if order_as_sensor(contract) == list(range(len(contract.bands))):
        return
    first = find_first_layer(model)
    kernels = None if first is None else model.get_parameter(first)
    if kernels is None or kernels.ndim != 4 or kernels.shape[1] != len(contract.bands):
        raise UserError(
            f"expected a network with one kernel for each band, to give {', '.join(contract.bands)} theirs by name, got"
            f" {name}; give a contract with its bands in the order of the sensor"
        )
    with torch.no_grad():
        kernels.copy_(order_drawn_kernels(kernels, contract))


def order_as_sensor(contract: Preprocessing) -> list[int]:
    """Positions of the contract's bands in the order in which its sensor lists them."""
    known = sensor_named(contract.sensor).band_names
    return sorted(range(len(contract.bands)), key=lambda channel: known.index(contract.bands[channel]))


def locate_colours(contract: Preprocessing) -> list[int | None]:
    """Position of red, green and blue among the contract's bands, None where absent."""
    known = sensor_named(contract.sensor)
    common = [known.band(band).common for band in contract.bands]
    return [common.index(colour) if colour in common else None for colour in COLOURS]


def _invert(colours: Sequence[int | None]) -> list[int]:
    """For each of three bands the kernel of its colour."""
    return [list(colours).index(channel) for channel in range(len(colours))]


def _say_colours(contract: Preprocessing, colours: Sequence[int | None]) -> str:
    return f"kernels of red, green and blue on {', '.join(contract.bands[channel or 0] for channel in colours)}"

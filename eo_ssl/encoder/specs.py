"""Names of encoders made elsewhere, such as ``torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO@random?size=64``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import parse_qsl

from eo_ssl.errors import UserError, suggest_nearest

_COMMON = ("size", "pooling")
OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "torchgeo": (*_COMMON, "download", "quantity"),
        "timm": (*_COMMON, "contract", "sensor", "white", "file", "download", "keys", "rgb", "bands"),
        "remoteclip": (*_COMMON, "sensor", "white", "rgb"),
    }
)
"""Options of each route.

`size` brings images to a side, `pooling=mean` replaces the network's own, `quantity=sigma0` takes power where dB
were trained on. Of a file, `keys` is what stands before its keys and `bands` what its channels are; `rgb` says how
kernels of photographs reach other bands.
"""
_RANDOM = "@random"
_BY_TRAINING = "contract=training"


@dataclass(frozen=True, slots=True)
class ExternalSpec:
    """One encoder made elsewhere."""

    route: str
    "who made it: one of `OPTIONS`"
    name: str
    "which one, as that route calls it"
    random: bool
    "seeded random weights of the same architecture and contract instead of the trained ones"
    options: Mapping[str, str]

    @property
    def text(self) -> str:
        """Name with route, without options."""
        return f"{self.route}:{self.name}{_RANDOM if self.random else ''}"

    @property
    def size_px(self) -> int | None:
        """Side that images are brought to; None for the encoder's own."""
        given = self.options.get("size")
        if given is not None and not given.isdecimal():
            raise UserError(f"expected size as a number of pixels in {self.text}, got {given!r}; write ?size=224")
        return None if given is None else int(given)


def is_spec(source: str) -> bool:
    """Whether ``source`` names an encoder made elsewhere, and no file."""
    return source.partition(":")[0] in OPTIONS


def parse_spec(source: str) -> ExternalSpec:
    """Read ``route:name[@random][?option=value&...]``.

    Raises:
        UserError: no name, or an option that the route does not have.
    """
    route, _, rest = source.partition(":")
    name, _, query = rest.partition("?")
    random = name.endswith(_RANDOM)
    name = name.removesuffix(_RANDOM)
    options = dict(parse_qsl(query, keep_blank_values=True))
    if route not in OPTIONS or not name:
        raise UserError(
            f"expected {', '.join(f'{known}:NAME' for known in OPTIONS)},"
            f" got {source!r}{suggest_nearest(route, OPTIONS)}; name the encoder"
        )
    for option in options:
        if option not in OPTIONS[route]:
            raise UserError(
                f"expected options out of {', '.join(OPTIONS[route])} for {route}, got"
                f" {option!r}{suggest_nearest(option, OPTIONS[route])}; leave it out"
            )
    return ExternalSpec(route, name, random, MappingProxyType(options))


def refuse_options(spec: ExternalSpec, names: Iterable[str], *, reason: str) -> None:
    """Refuse options that would change nothing.

    Raises:
        UserError: naming them.
    """
    given = [name for name in names if name in spec.options]
    if given:
        raise UserError(f"expected no option {', '.join(given)} for {spec.text}, got it; {reason}, leave it out")


def has_task_contract(source: str) -> bool:
    """Whether ``source`` has ``contract=training``, which leaves the contract to a task."""
    return is_spec(source) and _BY_TRAINING in source.partition("?")[2].split("&")

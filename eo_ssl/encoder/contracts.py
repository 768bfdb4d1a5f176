"""Contracts of TorchGeo's weights, derived from their metadata and from what the metadata leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from eo_ssl.encoder.published import Origin, origin_of
from eo_ssl.encoder.transforms import Steps, read_steps
from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import sensor

if TYPE_CHECKING:
    from torchvision.models._api import WeightsEnum

_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Published:
    """How an image becomes the input of published weights."""

    preprocessing: Preprocessing
    window_px: int | None
    "side of the central window of the contract's output that the network sees; None for all of it"
    blank: tuple[int, ...]
    "channels of the network that always hold zero; the contract's bands are the others, in order"
    source: str
    "where the contract comes from"
    differs: str
    "what it corrects in the published metadata; empty for nothing"


def weights_contract(weights: WeightsEnum) -> Preprocessing:
    """Return the contract of TorchGeo's ``weights``; see `published` for the window that some of them look at.

    Raises:
        UserError: weights that no contract can express, or of unknown origin.
    """
    return published(weights).preprocessing


def published(weights: WeightsEnum) -> Published:
    """Return how images become the input of TorchGeo's ``weights``.

    Bands and transforms are read from the metadata; sensor, quantity, unit and corrections come from `published.RULES`.

    Raises:
        UserError: as `weights_contract`.
    """
    name = f"{type(weights).__name__}.{weights.name}"
    origin, meta = origin_of(name), dict(weights.meta)
    named = origin.bands or tuple(meta.get("bands") or ())
    if not named or len(named) != meta.get("in_chans"):
        raise UserError(
            f"expected metadata of {name} that name its {meta.get('in_chans', 'unknown number of')} bands, got {', '.join(named) or 'none'}; "
            "give a contract of your own (preprocessing=)"
        )
    steps = read_steps(weights.transforms, channels=len(named), name=name)
    used = [channel for channel in range(len(named)) if channel not in origin.blank]
    bands = sensor(origin.sensor).resolve_all(named[channel] for channel in used)
    return Published(
        _contract(origin, steps, bands, used),
        window_px=steps.crop_px if steps.resize_px is not None else None,
        blank=origin.blank,
        source=origin.source,
        differs=origin.differs,
    )


def _contract(origin: Origin, steps: Steps, bands: tuple[str, ...], used: list[int]) -> Preprocessing:
    """Contract of ``bands``, which are the channels ``used``."""
    scale = _of_each(origin.scale, bands)
    mean, std = [steps.mean[c] for c in used], [steps.std[c] for c in used]
    if origin.limits is not None:  # authors: (x - low) / (high - low), then z-score by statistics of 0 ... 1
        pairs = [origin.limits[band] for band in bands]
        mean, std = _imagenet_between(pairs)
    size = steps.resize_px or steps.crop_px
    clip: Any = _of_each(origin.clip, bands) if isinstance(origin.clip, Mapping) else origin.clip
    return Preprocessing(
        sensor=origin.sensor,
        quantity=origin.quantity,
        bands=bands,
        convert=(),
        range=origin.range or origin.quantity.plausible,
        clip=clip,
        mean=tuple(m / s for m, s in zip(mean, scale, strict=True)),
        std=tuple(d / s for d, s in zip(std, scale, strict=True)),
        size_px=size or origin.native_px,
        gsd_m=origin.gsd_m,
        resize="native" if size is None else "to_size" if steps.resize_px is not None else "crop",
        interpolation=steps.interpolation,
        antialias=steps.antialias or steps.resize_px is None,
        missing="refuse",
    )


IMAGENET_MEAN = (0.485, 0.456, 0.406)  # red, green, blue in 0 ... 1 (He et al. 2016; torchvision's weights)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _imagenet_between(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Mean and std that bring low ... high of red, green and blue to 0 ... 1 and then to ImageNet's z-score."""
    mean = [low + m * (high - low) for (low, high), m in zip(pairs, IMAGENET_MEAN, strict=True)]
    std = [s * (high - low) for (low, high), s in zip(pairs, IMAGENET_STD, strict=True)]
    return mean, std


def _of_each(value: _V | Mapping[str, _V], bands: tuple[str, ...]) -> tuple[_V, ...]:
    """One value per band."""
    if isinstance(value, Mapping):
        return tuple(value[band] for band in bands)
    return (value,) * len(bands)

"""Contracts of TorchGeo's weights, derived from their metadata and from what the metadata leave out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from eo_ssl.encoder.origins import Origin, find_origin
from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.preprocessing.interpolation import Interpolation
from eo_ssl.sensors import sensor

if TYPE_CHECKING:
    from torchvision.models._api import WeightsEnum

_V = TypeVar("_V")
_INTERPOLATIONS: dict[str, Interpolation] = {"bilinear": "bilinear", "bicubic": "bicubic"}


@dataclass(frozen=True, slots=True)
class PublishedContract:
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


def derive_contract(weights: WeightsEnum) -> PublishedContract:
    """Return how images become the input of TorchGeo's ``weights``.

    Bands and transforms are read from the metadata; sensor, quantity, unit and corrections come from `origins.RULES`.

    Raises:
        UserError: weights that no contract can express, or of unknown origin.
    """
    name = f"{type(weights).__name__}.{weights.name}"
    origin, meta = find_origin(name), dict(weights.meta)
    named = origin.bands or tuple(meta.get("bands") or ())
    if not named or len(named) != meta.get("in_chans"):
        raise UserError(
            f"expected metadata of {name} that name its {meta.get('in_chans', 'unknown number of')} bands, got"
            f" {', '.join(named) or 'none'}; "
            "give a contract of your own (preprocessing=)"
        )
    steps = read_steps(weights.transforms, channels=len(named), name=name)
    used = [channel for channel in range(len(named)) if channel not in origin.blank]
    bands = sensor(origin.sensor).resolve_all(named[channel] for channel in used)
    return PublishedContract(
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


@dataclass(frozen=True, slots=True)
class Steps:
    """(x - mean) / std per channel, interpolation to `resize_px`, then the central `crop_px`."""

    mean: tuple[float, ...]
    "per channel, in the unit that the transforms take"
    std: tuple[float, ...]
    "per channel, in the unit that the transforms take"
    resize_px: int | None = None
    "side that images are interpolated to; None for none"
    interpolation: Interpolation = "bilinear"
    antialias: bool = False
    crop_px: int | None = None
    "side of the central window that is kept; None for all"


def read_steps(transforms: nn.Module, *, channels: int, name: str) -> Steps:
    """Return what ``transforms`` do, a torchvision transform, a sequence of them or nothing.

    Normalisations one after another are one: with y = (x - M) / S, (y - m) / s = (x - (M + m S)) / (S s). They
    commute with
    interpolation, whose weights add up to one, and with cropping; a crop before an interpolation does not.

    Args:
        transforms: module of the weights.
        channels: of the network's input.
        name: of the weights, for messages.

    Raises:
        UserError: a transform that is none of normalisation, interpolation to a square and central crop.
    """
    mean, std = [0.0] * channels, [1.0] * channels
    resize, interpolation, antialias, crop = None, "bilinear", False, None
    for step in _flat(transforms):
        kind = type(step).__name__
        if kind == "Normalize" and len(step.mean) in (1, channels) and len(step.std) in (1, channels):
            for c in range(channels):
                shift, scale = (float(v[c if len(v) > 1 else 0]) for v in (step.mean, step.std))
                mean[c], std[c] = mean[c] + shift * std[c], std[c] * scale
        elif kind == "Resize" and crop is None and resize is None and len(set(step.size)) == 1 == len(step.size) - 1:
            resize, antialias = step.size[0], bool(step.antialias)
            interpolation = str(getattr(step.interpolation, "value", step.interpolation))
        elif kind == "CenterCrop" and crop is None and len(set(step.size)) == 1:
            crop = step.size[0]
        else:
            raise _foreign(step, name)
    if interpolation not in _INTERPOLATIONS:
        raise _foreign(interpolation, name)
    return Steps(tuple(mean), tuple(std), resize, _INTERPOLATIONS[interpolation], antialias, crop)


def _flat(transforms: Any) -> Iterator[Any]:
    """Single transforms, in order."""
    if isinstance(transforms, nn.Sequential):
        for step in transforms:
            yield from _flat(step)
    elif not isinstance(transforms, nn.Identity):
        yield transforms


def _foreign(step: Any, name: str) -> UserError:
    return UserError(
        f"expected normalisation, square interpolation and central crop among the transforms of {name}, got {step}; "
        "give a contract of your own (preprocessing=)"
    )

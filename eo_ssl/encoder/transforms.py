"""What published torchvision transforms do to an image, as numbers: one affine map per channel, one size, one central window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from eo_ssl.errors import UserError
from eo_ssl.preprocessing.interpolation import Interpolation

_INTERPOLATIONS: dict[str, Interpolation] = {"bilinear": "bilinear", "bicubic": "bicubic"}


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

    Normalisations one after another are one: with y = (x - M) / S, (y - m) / s = (x - (M + m S)) / (S s). They commute with
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

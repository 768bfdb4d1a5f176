"""Named conversions between a power and its own decibels, the only ones that values alone allow."""

from __future__ import annotations

import torch
from torch import Tensor

from eo_ssl.errors import UserError, expect
from eo_ssl.sensors import FLOOR_DB, Quantity


def parse_conversion(name: str) -> tuple[Quantity, Quantity]:
    """Parse ``source->target`` and refuse a pair that no formula on values connects."""
    pair = [part.strip() for part in name.split("->")]
    expect(
        len(pair) == 2 and all(part in list(Quantity) for part in pair),
        expected="a conversion such as gamma0->gamma0_db",
        got=f"{name!r}",
        remedy=f"use the names {', '.join(Quantity)}",
    )
    first, last = Quantity(pair[0]), Quantity(pair[1])
    if (first.is_power and last == first.in_db) or (first.is_db and last == first.in_power):
        return first, last
    raise UserError(
        f"expected a conversion between a power and its own dB form, got {name!r}; calibrate to the wanted quantity "
        "when reading instead"
    )


def apply_conversion(x: Tensor, name: str) -> Tensor:
    """Same formula as `sensors.convert`, on tensors of any device."""
    _, target = parse_conversion(name)
    if target.is_db:
        return x.clamp_(min=10 ** (FLOOR_DB / 10)).log10_().mul_(10.0)
    return torch.pow(10.0, x / 10.0)

"""What is computed in full precision where networks are not: losses, their targets, similarities, counts and means."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

REDUCED = (torch.bfloat16, torch.float16)
P = ParamSpec("P")
R = TypeVar("R")


def use_float32(function: Callable[P, R]) -> Callable[P, R]:
    """The function of float32 in place of numbers of half that size, with none of its products in mixed precision.

    What networks give under autocast has three digits: enough for a vector, not for sums over a batch, powers of
    similarities over a temperature, or counts. Without mixed precision it is the function itself.

    Args:
        function: of tensors, also in lists, tuples and dictionaries; a function, a method or a module.
    """

    @functools.wraps(function, updated=())
    def precise(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*_widen(args), **_widen(kwargs))

    return precise


def _widen(values: Any) -> Any:
    """The values with float32 tensors in place of those of half that size."""
    if isinstance(values, Tensor):
        return values.float() if values.dtype in REDUCED else values
    if type(values) in (list, tuple):
        return type(values)(_widen(value) for value in values)
    if type(values) is dict:
        return {name: _widen(value) for name, value in values.items()}
    return values

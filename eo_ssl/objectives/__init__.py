"""Self-supervised methods: one file each, a loss out of a batch of views and no trainer inside.

Every module of this folder is imported, so that a method is known by the name of its class as soon as its file is
there.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

from eo_ssl.objectives.base import Method, Objective, Teacher, list_methods
from eo_ssl.objectives.location import LocatedObjective, Location
from eo_ssl.objectives.parts import mean_over_processes
from eo_ssl.objectives.step import Batch, Step, derive_seed
from eo_ssl.objectives.views import ViewSpec, override_views

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def __getattr__(name: str) -> Any:
    """A method by the name of its class."""
    known = list_methods()
    if name not in known:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return known[name]


__all__ = [
    "Batch",
    "LocatedObjective",
    "Location",
    "Method",
    "Objective",
    "Step",
    "Teacher",
    "ViewSpec",
    "mean_over_processes",
    "derive_seed",
    "list_methods",
    "override_views",
]

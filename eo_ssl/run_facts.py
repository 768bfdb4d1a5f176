"""What a manifest says of the run that made a product: its time, its memory, the versions of its packages."""

from __future__ import annotations

import platform
import resource
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata

_RECORDED_PACKAGES = (
    "eo_ssl",
    "numpy",
    "xarray",
    "dask",
    "zarr",
    "rasterio",
    "torch",
    "lightning",
    "timm",
    "torchgeo",
    "faiss-cpu",
)


@dataclass(frozen=True, slots=True)
class Clock:
    """Wall and CPU time at the moment of its creation (own process and finished children)."""

    wall: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=lambda: _cpu_seconds())

    @property
    def wall_s(self) -> float:
        """Seconds of wall time since."""
        return time.monotonic() - self.wall

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU time since."""
        return _cpu_seconds() - self.cpu


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure_peak_mb() -> float:
    """Return the largest resident set of this process so far, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def list_package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results, those that are installed."""
    packages = {"python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return packages

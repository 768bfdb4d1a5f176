"""What a manifest says: the product, its files, and the run that made it with its time, memory and packages."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from eo_ssl.documents import SCHEMA_VERSION, measure_file, sign_json
from eo_ssl.errors import expect
from eo_ssl.fingerprints import dump_canonical_json

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


@dataclass(frozen=True, slots=True)
class Manifest:
    """What made a product: enough to judge it, to repeat it and to notice that nothing is left to do."""

    stage: str
    "the command that made the product: ingest, curate, pretrain, evaluate, report, run"
    config: dict[str, Any]
    "the resolved configuration"
    inputs: dict[str, str]
    "fingerprint of every input, by role"
    fingerprint: str
    "fingerprint of the product itself"
    packages: dict[str, str]
    seed: int | None
    wall_s: float
    cpu_s: float
    peak_mb: float
    created: str
    "ISO 8601, UTC"
    command: str
    summary: dict[str, Any] = field(default_factory=dict)
    "small stage-specific results"
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    "relative path -> size in bytes and sha256 of the product's files; none in manifests of version 0.1"
    schema_version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        """Return the content of ``manifest.json``, signed."""
        return sign_json(asdict(self), indent=1)

    def check_files(self, folder: Path) -> None:
        """Refuse a product in ``folder`` whose files are not as they were made.

        Raises:
            UserError: naming the first that is missing or has another size or sha256.
        """
        remedy = f"run the same `eo-ssl {self.stage}` again with --overwrite"
        for name, mark in self.files.items():
            path = folder / name
            found = measure_file(path, remedy=remedy)
            cut = f"{found['size']} bytes of {mark.get('size')}" if found["size"] != mark.get("size") else ""
            expect(found == mark, expected=f"{path} as it was made", got=cut or "another content", remedy=remedy)


def describe(
    *,
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    product: str,
    started: Clock,
    seed: int | None = None,
    summary: Mapping[str, Any] | None = None,
) -> Manifest:
    """Return the manifest of a product that was begun at ``started`` and is now complete."""
    return Manifest(
        stage=stage,
        config=json.loads(dump_canonical_json(config)),
        inputs=dict(inputs),
        fingerprint=product,
        packages=list_package_versions(),
        seed=seed,
        wall_s=round(started.wall_s, 3),
        cpu_s=round(started.cpu_s, 3),
        peak_mb=round(measure_peak_mb(), 1),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        summary=json.loads(dump_canonical_json(summary or {})),
    )


def list_package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results, those that are installed."""
    packages = {"python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return packages

"""Provenance of the products: commands, inputs and fingerprints, package versions, time and memory per stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eo_ssl.reporting.formatting import flatten_config, format_duration, format_number, format_size
from eo_ssl.reporting.products import STAGES, FinishedProduct


@dataclass(frozen=True, slots=True)
class LineageStep:
    """One product and how it was made."""

    stage: str
    "the command"
    name: str
    "folder name"
    command: str
    "as typed"
    created: str
    "UTC"
    fingerprint: str
    "of the product"
    inputs: tuple[tuple[str, str, str], ...]
    "(role, fingerprint, name of the product it is or empty)"
    config: tuple[tuple[str, str], ...]
    "resolved settings, flattened"
    wall: str
    "wall time"
    cpu: str
    "processor time"
    memory: str
    "peak resident memory"
    wall_share: float
    "of the longest step, 0..1"
    memory_share: float
    "of the largest step, 0..1"


def list_steps(products: Sequence[FinishedProduct]) -> list[LineageStep]:
    """One line per product in the order of the flow."""
    names = {product.manifest.fingerprint: product.name for product in products}
    longest = max((p.manifest.wall_s for p in products), default=0.0) or 1.0
    largest = max((p.manifest.peak_mb for p in products), default=0.0) or 1.0
    return [
        LineageStep(
            stage=p.stage,
            name=p.name,
            command=p.manifest.command,
            created=p.manifest.created,
            fingerprint=p.manifest.fingerprint,
            inputs=tuple((role, value, names.get(value, "")) for role, value in p.manifest.inputs.items()),
            config=tuple(flatten_config(p.manifest.config)),
            wall=format_duration(p.manifest.wall_s),
            cpu=format_duration(p.manifest.cpu_s),
            memory=format_size(p.manifest.peak_mb * 1e6),
            wall_share=p.manifest.wall_s / longest,
            memory_share=p.manifest.peak_mb / largest,
        )
        for p in sorted(products, key=lambda p: (STAGES.index(p.stage), p.manifest.created))
    ]


def list_packages(products: Sequence[FinishedProduct]) -> list[tuple[str, str]]:
    """Package versions over all stages; where stages differ, all versions are named."""
    versions: dict[str, dict[str, None]] = {}
    for product in products:
        for name, version in product.manifest.packages.items():
            versions.setdefault(name, {})[version] = None
    return [(name, ", ".join(seen)) for name, seen in sorted(versions.items())]


def sum_costs(products: Sequence[FinishedProduct]) -> tuple[tuple[str, str], ...]:
    """Wall and processor time over all stages and the largest peak."""
    return (
        ("Wall time", format_duration(sum(p.manifest.wall_s for p in products))),
        ("Processor time", format_duration(sum(p.manifest.cpu_s for p in products))),
        ("Peak memory", format_size(max((p.manifest.peak_mb for p in products), default=0.0) * 1e6)),
        ("Products", format_number(len(products))),
    )

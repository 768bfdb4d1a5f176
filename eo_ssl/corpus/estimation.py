"""What an ingest would make and how long it would take, measured on a sample before any work."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.engine import check_client, compute, task
from eo_ssl.corpus.jobs import Failure, Job, Survey, guarded_cut, guarded_survey
from eo_ssl.corpus.shards import Layout
from eo_ssl.corpus.store import Folder
from eo_ssl.errors import UserError
from eo_ssl.scene import Product


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a dry run says."""

    products: int
    tiles: int
    "planned; the filters may keep fewer"
    source_bytes: int
    raw_bytes: int
    "pixels of all planned tiles before compression"
    stored_bytes: int
    "expected on disk, by the compression of the sample"
    seconds: float
    "expected wall time, by the time of the sample and the workers at hand"
    sample: str
    "product the sample was cut from"
    failures: tuple[tuple[str, str], ...]
    "products that would be put aside, with the reason"

    def sentence(self) -> str:
        """Return the estimate in words."""
        aside = f"; {len(self.failures)} products cannot be read" if self.failures else ""
        return (
            f"{self.products} products, {self.tiles} tiles, {self.source_bytes / 1e6:.1f} MB in, {self.raw_bytes / 1e6:.1f} MB of pixels, about "
            f"{self.stored_bytes / 1e6:.1f} MB on disk, about {self.seconds:.0f} s (measured on {self.sample}){aside}"
        )


def estimate(products: Sequence[Product], *, config: IngestConfig, client: str = "threads") -> Estimate:
    """Return what an ingest of ``products`` would make; writes only to a temporary folder, which is removed.

    One part of the product of median size is cut as a sample.

    Raises:
        UserError: no product can be read.
    """
    check_client(client)
    begun = time.perf_counter()
    surveys = compute([task(partial(guarded_survey, product, config))() for product in products], client=client)
    survey_s = time.perf_counter() - begun
    failures = [found for found in surveys if isinstance(found, Failure)]
    readable = [(found, product) for found, product in zip(surveys, products, strict=True) if isinstance(found, Survey)]
    if not readable:
        raise UserError(
            failures[0].reason
            if failures
            else "expected at least one product, got none; check the card and the data folder"
        )
    readable.sort(key=lambda pair: (pair[0].tiles, pair[0].product_id))
    chosen, product = readable[len(readable) // 2]
    sample_s, ratio = _sample(product, chosen, config)
    tiles = sum(found.tiles for found, _ in readable)
    raw = sum(found.tiles * _tile_bytes(found, config) for found, _ in readable)
    workers = 1 if client == "synchronous" else len(os.sched_getaffinity(0))
    return Estimate(
        products=len(products),
        tiles=tiles,
        source_bytes=sum(found.nbytes for found, _ in readable),
        raw_bytes=raw,
        stored_bytes=int(raw * ratio),
        seconds=survey_s + sample_s * raw / workers,
        sample=chosen.product_id,
        failures=tuple((failure.product_id, failure.reason) for failure in failures),
    )


def _tile_bytes(found: Survey, config: IngestConfig) -> int:
    shape = Layout(found.stream, found.encoding, config.codec).shape
    return int(shape[0] * shape[1] * shape[2]) * (1 if found.encoding.dtype == "uint8" else 2)


def _sample(product: Product, found: Survey, config: IngestConfig) -> tuple[float, float]:
    """Cut one part of a product; return seconds per raw byte planned and stored bytes per raw byte kept."""
    with tempfile.TemporaryDirectory(prefix="eo_ssl-estimate-") as home:
        folder = Path(home) / "staging" / "sample"
        folder.mkdir(parents=True)
        short = replace(found, parts=((0, 1),)) if found.parts else found
        job = Job(product, short, config, "", Folder(Path(home)), folder)
        begun = time.perf_counter()
        part = guarded_cut(job, 0)
        seconds = time.perf_counter() - begun
        if isinstance(part, Failure):
            raise UserError(part.reason)
        planned = max(part.counts["planned"], 1) * _tile_bytes(found, config)
        stored = sum(mark.size for mark in part.shards)
        whole = len(part.shards) * job.layout.tiles_per_shard * _tile_bytes(found, config)
        return seconds / planned, stored / whole if whole else 1.0

"""What an ingest would make and how long it would take, measured on a sample before any work."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from eo_ssl.corpus.assembly import Failure, Job, Survey, guarded_cut, guarded_survey
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.engine import check_client, compute, make_task
from eo_ssl.corpus.shards import Layout
from eo_ssl.corpus.store import LocalStore
from eo_ssl.errors import UserError
from eo_ssl.scene import Product


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a dry run says."""

    products: int
    tiles: int
    "planned; the filters may keep fewer. Of batches that only reading counts: by their bytes and the sample"
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

    One part of the product of median size is cut as a sample; of batches of chips that only reading counts, one whole batch.

    Raises:
        UserError: no product can be read.
    """
    check_client(client)
    begun = time.perf_counter()
    surveys = compute([make_task(partial(guarded_survey, product, config))() for product in products], client=client)
    survey_s = time.perf_counter() - begun
    failures = [found for found in surveys if isinstance(found, Failure)]
    readable = [(found, product) for found, product in zip(surveys, products, strict=True) if isinstance(found, Survey)]
    if not readable:
        raise UserError(
            failures[0].reason
            if failures
            else "expected at least one product, got none; check the card and the data folder"
        )
    known = [pair for pair in readable if pair[0].tiles]
    blind = [pair for pair in readable if not pair[0].tiles]  # batches of chips that say how many they are when read
    samples = [_extrapolated(group, config) for group in (known, blind) if group]
    workers = 1 if client == "synchronous" else len(os.sched_getaffinity(0))
    return Estimate(
        products=len(products),
        tiles=sum(found.tiles for found in samples),
        source_bytes=sum(found.nbytes for found, _ in readable),
        raw_bytes=sum(found.raw_bytes for found in samples),
        stored_bytes=sum(found.stored_bytes for found in samples),
        seconds=survey_s + sum(found.seconds for found in samples) / workers,
        sample=" and ".join(found.name for found in samples),
        failures=tuple((failure.product_id, failure.reason) for failure in failures),
    )


@dataclass(frozen=True, slots=True)
class _Expected:
    """What products of one kind would make, by the sample ``name``."""

    name: str
    tiles: int
    raw_bytes: int
    stored_bytes: int
    seconds: float
    "of one worker"


def _extrapolated(group: Sequence[tuple[Survey, Product]], config: IngestConfig) -> _Expected:
    """Cut a part of the product of median size and scale it to all by tiles, or by stored bytes where tiles are not known before."""
    chosen, product = sorted(group, key=lambda pair: (pair[0].tiles, pair[0].nbytes, pair[0].product_id))[
        len(group) // 2
    ]
    seconds, ratio, planned = _sample(product, chosen, config)
    per_byte = planned / max(chosen.nbytes, 1)
    tiles = [found.tiles or round(found.nbytes * per_byte) for found, _ in group]
    raw = sum(count * _tile_bytes(found, config) for count, (found, _) in zip(tiles, group, strict=True))
    return _Expected(chosen.product_id, sum(tiles), raw, int(raw * ratio), seconds * raw)


def _tile_bytes(found: Survey, config: IngestConfig) -> int:
    shape = Layout(found.stream, found.encoding, config.codec).shape
    return int(shape[0] * shape[1] * shape[2]) * (1 if found.encoding.dtype == "uint8" else 2)


def _sample(product: Product, found: Survey, config: IngestConfig) -> tuple[float, float, int]:
    """Cut one part of a product; return seconds per raw byte planned, stored bytes per raw byte kept, and the tiles planned."""
    with tempfile.TemporaryDirectory(prefix="eo_ssl-estimate-") as home:
        folder = Path(home) / "staging" / "sample"
        folder.mkdir(parents=True)
        short = replace(found, parts=((0, 1),)) if found.parts else found
        job = Job(product, short, config, "", LocalStore(Path(home)), folder)
        begun = time.perf_counter()
        part = guarded_cut(job, 0)
        seconds = time.perf_counter() - begun
        if isinstance(part, Failure):
            raise UserError(part.reason)
        planned = max(part.counts["planned"], 1) * _tile_bytes(found, config)
        stored = sum(mark.size for mark in part.shards)
        whole = len(part.shards) * job.layout.tiles_per_shard * _tile_bytes(found, config)
        return seconds / planned, stored / whole if whole else 1.0, part.counts["planned"]

"""The tasks of an ingest: survey a product, cut a part of it, finish its fragment. Each returns metadata only and never raises.

A product that cannot be read becomes a :class:`Failure`, so that the rest goes on; a write that fails ends the run, because the next
one would fail as well.
"""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.corpus import index
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.cutting import raster_of, regions_of, stream_of
from eo_ssl.corpus.fragments import Recipe, fragment_name, seal, stop
from eo_ssl.corpus.rows import chip_rows, cube_rows
from eo_ssl.corpus.shards import Layout, PartWriter, WriteError, pack, tiles_per_shard
from eo_ssl.corpus.statistics import BandStats, CodeCounter, merge_all
from eo_ssl.corpus.streams import Encoding, Stream
from eo_ssl.errors import UserError
from eo_ssl.manifest import canonical_json, explain_os_error, fault
from eo_ssl.scene import Product
from eo_ssl.sensors import Quantity
from eo_ssl.tiling import plan_groups

P = ParamSpec("P")
R = TypeVar("R")
MAX_PARTS = 12  # tasks per product: enough for the cores of a machine, few enough that scheduling costs nothing


@dataclass(frozen=True, slots=True)
class Failure:
    """A product that was put aside, or the write error that ended the run."""

    product_id: str
    reason: str
    kind: Literal["product", "write", "stopped"] = "product"
    trace: str = ""
    "stack of an error that no reader put in words; such a product is tried again by the next run"


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a product before its pixels are read."""

    product_id: str
    checksum: str
    nbytes: int
    stream: Stream
    encoding: Encoding
    tiles: int
    "planned; filters may keep fewer"
    parts: tuple[tuple[int, int], ...]
    "runs of regions, one per task; empty for chips"


@dataclass(frozen=True, slots=True)
class Job:
    """One fragment to make."""

    product: Product
    survey: Survey
    config: IngestConfig
    card_fingerprint: str
    folder: Path
    "staging folder of the fragment"

    @property
    def layout(self) -> Layout:
        """How the tiles are stored."""
        return Layout(self.survey.stream, self.survey.encoding, self.config.codec)

    @property
    def name(self) -> str:
        """Name of the fragment."""
        return fragment_name(self.survey.checksum, self.product.product_id, self.card_fingerprint, self.config)

    def part_folder(self, part: int) -> Path:
        """Where one task puts what it made."""
        return self.folder / "parts" / f"{part:04d}"


@dataclass(frozen=True, slots=True)
class Part:
    """What one task made."""

    number: int
    shards: int
    rest: int
    "tiles that fill no shard"
    counts: dict[str, int]
    "planned, kept, invalid, cloudy"


def guard(task: Callable[P, R]) -> Callable[P, R | Failure]:
    """Return ``task`` with its errors as values; its first argument is the product or the job."""

    def run(*args: P.args, **kwargs: P.kwargs) -> R | Failure:
        subject: Any = args[0]
        name = (subject.product if isinstance(subject, Job) else subject).product_id
        try:
            return task(*args, **kwargs)
        except (
            Exception
        ) as error:  # the readers of a dozen formats raise what they like; the product is put aside with the reason
            if isinstance(subject, Job) and not subject.folder.parent.is_dir():
                return Failure(name, "the run was stopped", "stopped")
            if isinstance(error, WriteError):
                stop(subject.folder.parent)
                return Failure(name, str(error), "write")
            if isinstance(error, UserError):
                return Failure(name, str(error))
            reason = f"expected a readable product, got {type(error).__name__}: {error}; look at its files or at the stack in the quarantine folder"
            return Failure(name, reason, trace="".join(traceback.format_exception(error)))

    run.__name__ = task.__name__  # what Dask shows
    return run


def survey(product: Product, config: IngestConfig) -> Survey:
    """Return the plan of a product; reads its bytes for the checksum, but decodes no more than a sample."""
    checksum = product.checksum()
    if product.kind == "chips":
        card = product.card
        quantity = Quantity(card.quantity)
        bands, size = product.bands, product.shape[1]
        if size != config.size_px:
            raise UserError(
                f"expected chips of card {card.name} cropped to size_px {config.size_px}, got crop_px {size}; make the two equal"
            )
        stream = Stream(card.sensor, quantity.in_power if quantity.is_db else quantity, bands, card.gsd_m, size)
        encoding = Encoding.of(stream.quantity, chips=True, scale=card.scale, offset=product.offset)
        return Survey(product.product_id, checksum, product.nbytes, stream, encoding, len(product.entries), ())
    cube = product.open()
    if config.max_cloud < 1 and "cloud" not in cube:
        raise UserError(
            f"expected a cloud mask in {product.product_id} for max_cloud {config.max_cloud}, got none; name one in the card or set max_cloud to 1"
        )
    stream = stream_of(cube, config)
    encoding = Encoding.of(stream.quantity, chips=False)
    raster = raster_of(cube, stream, config)
    tiles = len(raster.windows)
    if tiles == 0:
        height, width = int(cube.sizes["y"]), int(cube.sizes["x"])
        raise UserError(
            f"expected {product.product_id} to hold a whole tile of {config.size_px} px, got {height} x {width} px ({config.tiling}, edge {config.edge}); "
            "use edge pad or a smaller size_px"
        )
    shard = tiles_per_shard(Layout(stream, encoding, config.codec).shape, np.dtype(encoding.dtype).itemsize)
    parts = plan_groups(regions_of(raster, stream), tiles=max(2 * shard, -(-tiles // MAX_PARTS)))
    return Survey(product.product_id, checksum, product.nbytes, stream, encoding, tiles, tuple(parts))


def cut_part(job: Job, number: int) -> Part:
    """Cut one part of a product into tiles, write its whole shards, its rows and its statistics."""
    folder = job.part_folder(number)
    _begin(job, folder)
    planned, rows = _source(job, number)
    writer = PartWriter(folder, job.layout, planned=planned)
    counter = CodeCounter(job.survey.stream, job.survey.encoding)
    counts = {"planned": 0, "kept": 0, "invalid": 0, "cloudy": 0}
    written: list[dict[str, Any]] = []
    training: list[bool] = []

    def count(tiles: npt.NDArray[Any]) -> None:
        counter.add(tiles[np.asarray(training, dtype=bool)])
        training.clear()

    for outcome, row in rows(writer.slot):
        counts["planned"] += 1
        counts[outcome] += 1
        if row is None:
            continue
        written.append(row)
        training.append(row["split"] == "train")
        full = writer.keep()
        if full is not None:
            count(full)
    rest = writer.close()
    if training:
        count(rest)
    _write_part(job, folder, written, counter)
    return Part(number, writer.shards, len(rest), counts)


RowSource = Callable[[Callable[[], npt.NDArray[Any]]], Iterator[tuple[str, dict[str, Any] | None]]]


def _source(job: Job, number: int) -> tuple[int, RowSource]:
    """Return how many tiles are planned and what yields (outcome, row), encoding each kept tile into a slot."""
    if job.product.kind == "chips":
        return job.survey.tiles, lambda slot: chip_rows(job.product, job.layout, job.config, slot)
    cube = job.product.open()
    raster = raster_of(cube, job.survey.stream, job.config)
    regions = regions_of(raster, job.survey.stream)
    first, last = job.survey.parts[number]
    planned = sum(len(region) for region in regions[first:last])

    def rows(slot: Callable[[], npt.NDArray[Any]]) -> Iterator[tuple[str, dict[str, Any] | None]]:
        facts = {"source_sha256": job.survey.checksum, **dict(cube.attrs)}
        return cube_rows(raster, regions[first:last], (job.layout, job.config, job.product.card.labels, facts), slot)

    return planned, rows


def _begin(job: Job, folder: Path) -> None:
    """Make the part's folder unless the run was stopped."""
    if not job.folder.parent.is_dir():
        raise WriteError("the run was stopped")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise WriteError(str(explain_os_error(error, folder))) from error


def _write_part(job: Job, folder: Path, rows: list[dict[str, Any]], counter: CodeCounter) -> None:
    product = job.product
    stats = counter.statistics(baseline=product.facts.processing_baseline, orbit=product.facts.orbit)
    try:
        index.write(folder / "rows.parquet", [index.table(rows)])
        (folder / "statistics.json").write_text(canonical_json([part.to_json() for part in stats]))
    except UserError as error:
        raise WriteError(str(error)) from error
    except OSError as error:
        raise WriteError(str(explain_os_error(error, folder))) from error


def finish(job: Job, parts: Sequence[Part | Failure]) -> dict[str, Any] | Failure:
    """Pack the parts of a product into its fragment and put it in its place; return the fragment's record.

    A failed part fails the product; what was written of it is removed.
    """
    failed = [part for part in parts if isinstance(part, Failure)]
    if failed:
        shutil.rmtree(job.folder, ignore_errors=True)
        return failed[0]
    done = [part for part in parts if isinstance(part, Part)]
    counts = {name: sum(part.counts[name] for part in done) for name in done[0].counts}
    if counts["kept"] == 0 and counts["cloudy"] == 0:
        shutil.rmtree(job.folder, ignore_errors=True)
        least = job.config.min_valid
        return Failure(
            job.product.product_id,
            f"expected a tile with at least {least:.0%} valid pixels in {job.product.product_id}, got none out of {counts['planned']}; "
            "it is empty (check nodata of the card) or min_valid is too high",
        )
    return _finish(job, done, counts)


def _finish(job: Job, parts: Sequence[Part], counts: dict[str, int]) -> dict[str, Any]:
    folders = [job.part_folder(part.number) for part in parts]
    size = job.layout.tiles_per_shard
    tables = [_read_rows(folder / "rows.parquet") for folder in folders]
    ordered = [table.slice(0, part.shards * size) for table, part in zip(tables, parts, strict=True)]
    ordered += [table.slice(part.shards * size) for table, part in zip(tables, parts, strict=True)]
    stats = merge_all(
        BandStats.from_json(value) for folder in folders for value in _read_json(folder / "statistics.json")
    )
    stream = job.survey.stream
    try:
        pack(
            job.folder / f"{stream.name}.zarr",
            job.layout,
            [(folder, part.shards, part.rest) for folder, part in zip(folders, parts, strict=True)],
        )
        (job.folder / "parts").rmdir()
        index.write(job.folder / "index.parquet", ordered)
        fault("between-index-and-statistics")
        (job.folder / "statistics.json").write_text(canonical_json([part.to_json() for part in stats]))
        recipe = Recipe(
            name=job.name,
            product_id=job.product.product_id,
            kind=job.product.kind,
            card=job.product.card.name,
            card_fingerprint=job.card_fingerprint,
            checksum=job.survey.checksum,
            config=job.config.to_json(),
            stream=stream.to_json(),
            encoding=job.survey.encoding.to_json(),
            tiles_per_shard=size,
            rows=counts["kept"],
            counts=counts,
        )
        return asdict(seal(job.folder, recipe))
    except (WriteError, UserError) as error:
        raise WriteError(str(error)) from error
    except OSError as error:
        raise WriteError(str(explain_os_error(error, job.folder))) from error


def _read_rows(path: Path) -> pa.Table:
    return pq.read_table(path, schema=index.SCHEMA, partitioning=None)


def _read_json(path: Path) -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = json.loads(path.read_text())
    return value


guarded_survey = guard(survey)
guarded_cut = guard(cut_part)
guarded_finish = guard(finish)

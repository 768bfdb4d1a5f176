"""The tasks of an ingest: survey a product, cut a part of it, finish its fragment. Each returns metadata only and never raises.

A product that cannot be read becomes a :class:`Failure`, so that the rest goes on; a write that fails ends the run, because the next
one would fail as well.
"""

from __future__ import annotations

import json
import shutil
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.corpus import digests, index
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.cutting import raster_of, regions_of, stream_of
from eo_ssl.corpus.fragments import Recipe, find, fragment_name, scratch, seal, stop
from eo_ssl.corpus.provenance import code, terms
from eo_ssl.corpus.quality import check_limits
from eo_ssl.corpus.quarantine import Failure as Failure
from eo_ssl.corpus.rows import chip_rows, cube_rows
from eo_ssl.corpus.shards import FileMark, Layout, PartWriter, WriteError, pack, tiles_per_shard
from eo_ssl.corpus.statistics import BandStats, CodeCounter, merge_all
from eo_ssl.corpus.store import Store
from eo_ssl.corpus.streams import Encoding, Stream
from eo_ssl.errors import UserError
from eo_ssl.manifest import canonical_json, explain_os_error, fault
from eo_ssl.scene import Product
from eo_ssl.sensors import Quantity
from eo_ssl.tiling import plan_groups

P = ParamSpec("P")
R = TypeVar("R")
MAX_PARTS = 12  # tasks per product, about: enough for the cores of a machine, few enough that scheduling costs nothing


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
    sizes: tuple[int, ...] = ()
    "tiles of each run"


@dataclass(frozen=True, slots=True)
class Job:
    """One fragment to make."""

    product: Product
    survey: Survey
    config: IngestConfig
    card_fingerprint: str
    store: Store
    "where the corpus lies"
    folder: Path
    "staging folder of the fragment; its parent is the run's, which goes when the run is stopped"

    @property
    def layout(self) -> Layout:
        """How the tiles are stored."""
        return Layout(self.survey.stream, self.survey.encoding, self.config.codec)

    @property
    def name(self) -> str:
        """Name of the fragment."""
        return fragment_name(self.survey.checksum, self.product.product_id, self.card_fingerprint, self.config)

    def part_folder(self, part: int) -> Path:
        """Return where one task puts what it makes; another one at each call, for a task may be run again while a lost worker still writes."""
        return self.folder / f"part-{part:04d}-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class Part:
    """What one task made."""

    folder: Path
    shards: tuple[FileMark, ...]
    rest: int
    "tiles that fill no shard"
    counts: dict[str, int]
    "planned, kept, invalid, cloudy, damaged and further reasons of ``quality.LIMITS`` that occurred"
    refused: tuple[tuple[str, str], ...] = ()
    "name and reason of each chip that could not be read"


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
        masks = set(card.mask.classes) if card.mask else set()
        check_limits(config, stream, masks=masks, product_id=product.product_id)
        images = product.is_described_by_card  # samples of an archive that describes itself hold calibrated values
        encoding = Encoding.of(stream.quantity, chips=images, scale=card.scale, offset=product.offset)
        return Survey(product.product_id, checksum, product.nbytes, stream, encoding, len(product.entries), ())
    cube = product.open()
    stream = stream_of(cube, config)
    check_limits(config, stream, masks={str(name) for name in cube.data_vars}, product_id=product.product_id)
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
    regions = regions_of(raster, stream)
    parts = plan_groups(regions, least=2 * shard, most=max(2 * shard, -(-tiles // MAX_PARTS)))
    sizes = tuple(sum(len(region.tiles) for region in regions[first:last]) for first, last in parts)
    return Survey(product.product_id, checksum, product.nbytes, stream, encoding, tiles, tuple(parts), sizes)


def cut_part(job: Job, number: int) -> Part:
    """Cut one part of a product into tiles, write its whole shards, its rows and its statistics."""
    folder = job.part_folder(number)
    _begin(job, folder)
    refused: list[tuple[str, str]] = []
    planned, rows = _source(job, number, refused)
    writer = PartWriter(folder, job.layout, planned=planned)
    counter = CodeCounter(job.survey.stream, job.survey.encoding)
    counts = {"planned": 0, "kept": 0, "invalid": 0, "cloudy": 0}
    written: list[dict[str, Any]] = []
    training: list[int] = []  # month of each tile held, -1 of those that are not of the training split

    def count(tiles: npt.NDArray[Any]) -> None:
        for month in sorted({*training} - {-1}):
            counter.add(tiles[np.asarray(training) == month], month=month)
        training.clear()

    for outcome, row in rows(writer.slot):
        counts["planned"] += 1
        counts[outcome] = counts.get(outcome, 0) + 1
        if row is None:
            continue
        written.append(row)
        training.append(row["month"] if row["split"] == "train" else -1)
        full = writer.keep()
        if full is not None:
            count(full)
    rest = writer.close()
    if training:
        count(rest)
    _write_part(job, folder, written, counter)
    return Part(folder, tuple(writer.shards), len(rest), counts, tuple(refused))


RowSource = Callable[[Callable[[], npt.NDArray[Any]]], Iterator[tuple[str, dict[str, Any] | None]]]


def _source(job: Job, number: int, refused: list[tuple[str, str]]) -> tuple[int, RowSource]:
    """Return how many tiles are planned and what yields (outcome, row), encoding each kept tile into a slot; chips add to ``refused``."""
    if job.product.kind == "chips":
        planned = job.survey.tiles or job.layout.tiles_per_shard  # samples are not counted before they are read
        return planned, lambda slot: chip_rows(job.product, job.layout, job.config, slot, refused=refused)
    cube = job.product.open()
    raster = raster_of(cube, job.survey.stream, job.config)
    first, last = job.survey.parts[number]
    regions = [region.tiles for region in regions_of(raster, job.survey.stream)[first:last]]
    planned = sum(len(region) for region in regions)

    def rows(slot: Callable[[], npt.NDArray[Any]]) -> Iterator[tuple[str, dict[str, Any] | None]]:
        facts = {"source_sha256": job.survey.checksum, **dict(cube.attrs)}
        return cube_rows(raster, regions, (job.layout, job.config, job.product.card.labels, facts), slot)

    return planned, rows


def _begin(job: Job, folder: Path) -> None:
    """Make the part's folder unless the run was stopped."""
    if not job.folder.parent.is_dir():
        raise WriteError("the run was stopped")
    try:
        job.folder.mkdir(exist_ok=True)  # not its parent: a run that was stopped meanwhile must stay stopped
        folder.mkdir()
    except OSError as error:
        raise WriteError(str(explain_os_error(error, folder))) from error


def _write_part(job: Job, folder: Path, rows: list[dict[str, Any]], counter: CodeCounter) -> None:
    product = job.product
    stats = counter.statistics(baseline=product.acquisition.processing_baseline, orbit=product.acquisition.orbit)
    try:
        index.write(folder / "rows.parquet", [index.table(rows)])
        (folder / "statistics.json").write_text(canonical_json([part.to_json() for part in stats]))
    except UserError as error:
        raise WriteError(str(error)) from error
    except OSError as error:
        raise WriteError(str(explain_os_error(error, folder))) from error


def finish(job: Job, parts: Sequence[Part | Failure]) -> dict[str, Any] | Failure:
    """Pack the parts of a product into its fragment and put it in its place; return the fragment's record.

    A failed part fails the product; what was written of it is removed. The task may be run again after its worker died anywhere.
    """
    failed = [part for part in parts if isinstance(part, Failure)]
    if failed:
        shutil.rmtree(job.folder, ignore_errors=True)
        return failed[0]
    done = [part for part in parts if isinstance(part, Part)]
    counts = {name: sum(part.counts.get(name, 0) for part in done) for part in done for name in part.counts}
    refused = [list(item) for part in done for item in part.refused]
    if refused and counts["invalid"] + len(refused) == counts["planned"]:
        shutil.rmtree(job.folder, ignore_errors=True)
        return Failure(job.product.product_id, refused[0][1])
    if counts["invalid"] == counts["planned"]:
        shutil.rmtree(job.folder, ignore_errors=True)
        least = job.config.min_valid
        return Failure(
            job.product.product_id,
            f"expected a tile with at least {least:.0%} valid pixels in {job.product.product_id}, got none out of {counts['planned']}; "
            "it is empty (check nodata of the card) or min_valid is too high",
        )
    try:
        recipe = find(job.store, job.name) or _finish(job, done, counts, refused=refused)
    except UserError as error:  # a store that does not answer must not look like a product that cannot be read
        raise WriteError(str(error)) from error
    except OSError as error:
        raise (
            error if isinstance(error, WriteError) else WriteError(str(explain_os_error(error, job.folder)))
        ) from error
    shutil.rmtree(job.folder, ignore_errors=True)
    return asdict(recipe)


def _finish(job: Job, parts: Sequence[Part], counts: dict[str, int], *, refused: list[list[str]]) -> Recipe:
    size = job.layout.tiles_per_shard
    tables = [(_read_rows(part.folder / "rows.parquet"), len(part.shards) * size) for part in parts]
    ordered = [table.slice(0, whole) for table, whole in tables] + [table.slice(whole) for table, whole in tables]
    stats = merge_all(
        BandStats.from_json(value) for part in parts for value in _read_json(part.folder / "statistics.json")
    )
    stream = job.survey.stream
    made = job.folder / f"made-{uuid.uuid4().hex[:8]}"
    made.mkdir()
    array = made / f"{stream.name}.zarr"
    marks = pack(array, job.layout, [(part.folder, part.shards, part.rest) for part in parts])
    index.write(made / "index.parquet", ordered)
    fault("between-index-and-statistics")
    rows = np.concatenate(
        [index.row_digests(table) for table in ordered if len(table)] or [np.empty((0, 48), np.uint8)]
    )
    (made / digests.DIGESTS).write_bytes(digests.sort(rows).data)
    (made / "statistics.json").write_text(canonical_json([part.to_json() for part in stats]))
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
        refused=refused,
        terms=terms(job.product.card),
        code=code(),
    )
    return seal(job.store, made, recipe, known={f"{array.name}/{name}": mark for name, mark in marks.items()})


def make_whole(job: Job) -> dict[str, Any] | Failure:
    """Make a fragment of an object store in one task, because workers of several machines share no folder to leave parts in.

    ``job.folder`` names the run and the fragment; the files lie in this process's own temporary folder.
    """
    try:
        here = replace(job, folder=scratch(job.folder.parent.name) / job.name)
    except UserError as error:
        return Failure(job.product.product_id, str(error), "write")
    parts: list[Part | Failure] = []
    for number in range(max(len(job.survey.parts), 1)):
        parts.append(guarded_cut(here, number))
        if isinstance(parts[-1], Failure):
            break
    return guarded_finish(here, parts)


def _read_rows(path: Path) -> pa.Table:
    return pq.read_table(path, schema=index.SCHEMA, partitioning=None)


def _read_json(path: Path) -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = json.loads(path.read_text())
    return value


guarded_survey = guard(survey)
guarded_cut = guard(cut_part)
guarded_finish = guard(finish)

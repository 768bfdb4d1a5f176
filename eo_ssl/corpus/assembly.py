"""The tasks that make a fragment: cut the parts of a product, assemble them. They return metadata and never raise.

A product that cannot be read becomes a `Failure`, so that the rest goes on; a write that fails ends the run, because
the next one would fail as well.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.commits import check_fault, explain_os_error
from eo_ssl.corpus import index
from eo_ssl.corpus.fragments import FragmentManifest, commit_fragment, discard_run, find, make_scratch
from eo_ssl.corpus.product_plan import ProductPlan
from eo_ssl.corpus.provenance import collect_terms, identify_code
from eo_ssl.corpus.quarantine import Failure, guard
from eo_ssl.corpus.rows import extract_chips, extract_tiles
from eo_ssl.corpus.shards import FileMark, PartWriter, WriteError, pack
from eo_ssl.corpus.statistics import BandStats, CodeCounter, merge_strata
from eo_ssl.corpus.store import Store
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import dump_canonical_json

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class FragmentBuild:
    """One fragment to make."""

    plan: ProductPlan
    store: Store
    "where the corpus lies"
    folder: Path
    "staging folder of the fragment; its parent is the run's, which goes when the run is stopped"

    @property
    def product_id(self) -> str:
        """Name of the product."""
        return self.plan.product_id

    def name_part(self, part: int) -> Path:
        """Return where one task puts what it makes.

        Another one at each call, for a task may be run again while a lost worker still writes.
        """
        return self.folder / f"part-{part:04d}-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class CutResult:
    """What one task made."""

    folder: Path
    shards: tuple[FileMark, ...]
    rest: int
    "tiles that fill no shard"
    counts: dict[str, int]
    "planned, kept, invalid, cloudy, damaged and further reasons of ``tile_quality.LIMITS`` that occurred"
    refused: tuple[tuple[str, str], ...] = ()
    "name and reason of each chip that could not be read"


def stop_on_write_error(
    task: Callable[Concatenate[FragmentBuild, P], R],
) -> Callable[Concatenate[FragmentBuild, P], R | Failure]:
    """Return ``task`` with a failed write as a value that ends the run.

    The staging folder goes, and the other tasks see that it is gone.
    """

    def run(build: FragmentBuild, /, *args: P.args, **kwargs: P.kwargs) -> R | Failure:
        try:
            return task(build, *args, **kwargs)
        except Exception as error:
            if not build.folder.parent.is_dir():
                return Failure(build.product_id, "the run was stopped", "stopped")
            if not isinstance(error, WriteError):
                raise
            discard_run(build.folder.parent)
            return Failure(build.product_id, str(error), "write")

    run.__name__ = task.__name__
    return run


def cut_part(build: FragmentBuild, number: int) -> CutResult:
    """Cut one part of a product into tiles, write its whole shards, its rows and its statistics."""
    folder = _open_part(build, number)
    refused: list[tuple[str, str]] = []
    planned, rows = _open_source(build.plan, number, refused)
    writer = PartWriter(folder, build.plan.layout, planned=planned)
    counter = CodeCounter(build.plan.stream, build.plan.encoding)
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
    _write_part(build.plan, folder, written, counter)
    return CutResult(folder, tuple(writer.shards), len(rest), counts, tuple(refused))


RowSource = Callable[[Callable[[], npt.NDArray[Any]]], Iterator[tuple[str, dict[str, Any] | None]]]


def _open_source(plan: ProductPlan, number: int, refused: list[tuple[str, str]]) -> tuple[int, RowSource]:
    """Return how many tiles are planned and what yields (outcome, row), encoding each kept tile into a slot.

    Chips add to ``refused``.
    """
    raster, layout, config = plan.raster, plan.layout, plan.config
    if raster is None:
        planned = plan.tiles or layout.tiles_per_shard  # samples are not counted before they are read
        return planned, lambda slot: extract_chips(plan.product, layout, config, slot, refused=refused)
    first, last = plan.parts[number]
    regions = [region.tiles for region in raster.tiles.regions[first:last]]
    context = (layout, config, plan.product.card.labels, {"source_sha256": plan.checksum, **raster.facts})
    return sum(map(len, regions)), lambda slot: extract_tiles(raster, regions, context, slot)


def _open_part(build: FragmentBuild, number: int) -> Path:
    """Make and return a folder for a part unless the run was stopped."""
    if not build.folder.parent.is_dir():
        raise WriteError("the run was stopped")
    folder = build.name_part(number)
    try:
        build.folder.mkdir(exist_ok=True)  # not its parent: a run that was stopped meanwhile must stay stopped
        folder.mkdir()
    except OSError as error:
        raise WriteError(str(explain_os_error(error, folder))) from error
    return folder


def _write_part(plan: ProductPlan, folder: Path, rows: list[dict[str, Any]], counter: CodeCounter) -> None:
    facts = plan.product.acquisition
    stats = counter.statistics(baseline=facts.processing_baseline, orbit=facts.orbit)
    try:
        index.write(folder / "rows.parquet", [index.build_table(rows)])
        (folder / "statistics.json").write_text(dump_canonical_json([part.to_json() for part in stats]))
    except UserError as error:
        raise WriteError(str(error)) from error
    except OSError as error:
        raise WriteError(str(explain_os_error(error, folder))) from error


def assemble(build: FragmentBuild, parts: Sequence[CutResult | Failure]) -> dict[str, Any] | Failure:
    """Pack the parts of a product into its fragment and put it in its place; return the fragment's manifest.

    A failed part fails the product; what was written of it is removed. The task may be run again after its worker died
    anywhere.
    """
    failed = [part for part in parts if isinstance(part, Failure)]
    done = [part for part in parts if isinstance(part, CutResult)]
    failure = failed[0] if failed else _find_nothing_kept(build.plan, done)
    if failure is not None:
        shutil.rmtree(build.folder, ignore_errors=True)
        return failure
    try:
        manifest = find(build.store, build.plan.fragment) or _pack(build, done)
    except WriteError:
        raise
    except UserError as error:  # a store that does not answer must not look like a product that cannot be read
        raise WriteError(str(error)) from error
    except OSError as error:
        raise WriteError(str(explain_os_error(error, build.folder))) from error
    shutil.rmtree(build.folder, ignore_errors=True)
    return asdict(manifest)


def _find_nothing_kept(plan: ProductPlan, parts: Sequence[CutResult]) -> Failure | None:
    """Return why a product of which no tile is valid is put aside, None for any other."""
    counts, refused = _sum_counts(parts), [item for part in parts for item in part.refused]
    if counts["invalid"] + len(refused) < counts["planned"]:
        return None
    if refused:
        return Failure(plan.product_id, refused[0][1])
    return Failure(
        plan.product_id,
        f"expected a tile with at least {plan.config.min_valid:.0%} valid pixels in {plan.product_id}, got none "
        f"out of {counts['planned']}; it is empty (check nodata of the card) or min_valid is too high",
    )


def _sum_counts(parts: Sequence[CutResult]) -> dict[str, int]:
    return {name: sum(part.counts.get(name, 0) for part in parts) for part in parts for name in part.counts}


def _pack(build: FragmentBuild, parts: Sequence[CutResult]) -> FragmentManifest:
    plan, layout = build.plan, build.plan.layout
    size, stream = layout.tiles_per_shard, plan.stream
    tables = [(_read_rows(part.folder / "rows.parquet"), len(part.shards) * size) for part in parts]
    ordered = [table.slice(0, whole) for table, whole in tables] + [table.slice(whole) for table, whole in tables]
    stats = merge_strata(
        BandStats.from_json(value) for part in parts for value in _read_json(part.folder / "statistics.json")
    )
    made = build.folder / f"made-{uuid.uuid4().hex[:8]}"
    made.mkdir()
    array = made / f"{stream.name}.zarr"
    marks = pack(array, layout, [(part.folder, part.shards, part.rest) for part in parts])
    index.write(made / "index.parquet", ordered)
    check_fault("between-index-and-statistics")
    rows = np.concatenate([np.empty((0, 48), np.uint8), *(index.hash_rows(table) for table in ordered if len(table))])
    (made / index.DIGESTS).write_bytes(index.sort_digests(rows).data)
    (made / "statistics.json").write_text(dump_canonical_json([part.to_json() for part in stats]))
    counts = _sum_counts(parts)
    manifest = FragmentManifest(
        name=plan.fragment,
        product_id=plan.product_id,
        kind=plan.product.kind,
        card=plan.product.card.name,
        card_fingerprint=plan.card_fingerprint,
        checksum=plan.checksum,
        config=plan.config.to_json(),
        stream=stream.to_json(),
        encoding=plan.encoding.to_json(),
        tiles_per_shard=size,
        chunk_checksum=layout.chunk_checksum,
        acquisition=plan.product.acquisition.key,
        rows=counts["kept"],
        counts=counts,
        refused=[list(item) for part in parts for item in part.refused],
        terms=collect_terms(plan.product.card),
        code=identify_code(),
    )
    known = {f"{array.name}/{name}": mark for name, mark in marks.items()}
    return commit_fragment(build.store, made, manifest, known=known)


def make_whole(build: FragmentBuild) -> dict[str, Any] | Failure:
    """Make a fragment of an object store in one task.

    Workers of several machines share no folder to leave parts in.
    ``build.folder`` names the run and the fragment; the files lie in this process's own temporary folder.
    """
    try:
        here = replace(build, folder=make_scratch(build.folder.parent.name) / build.plan.fragment)
    except UserError as error:
        return Failure(build.product_id, str(error), "write")
    parts: list[CutResult | Failure] = []
    for number in range(build.plan.tasks):
        parts.append(guarded_cut(here, number))
        if isinstance(parts[-1], Failure):
            break
    return guarded_assemble(here, parts)


def _read_rows(path: Path) -> pa.Table:
    return pq.read_table(path, schema=index.SCHEMA, partitioning=None)


def _read_json(path: Path) -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = json.loads(path.read_text())
    return value


guarded_cut = guard(stop_on_write_error(cut_part))
guarded_assemble = guard(stop_on_write_error(assemble))

"""The ingest: survey, one Dask graph, one snapshot, one manifest; every step can be killed and resumed."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eo_ssl.corpus import fragments, quarantine, records, snapshots, stac_collection
from eo_ssl.corpus.assembly import Failure, Job, Survey, guarded_cut, guarded_finish, guarded_survey, make_whole
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.corpora import Corpus
from eo_ssl.corpus.engine import WorkersLost, check_client, compute, make_task, rank_tasks
from eo_ssl.corpus.fragments import FragmentManifest
from eo_ssl.corpus.snapshots import Snapshot
from eo_ssl.corpus.store import LocalStore, Place, Store, open_store
from eo_ssl.corpus.streams import Stream
from eo_ssl.errors import UserError
from eo_ssl.manifest import Clock, fingerprint
from eo_ssl.scene import Product

Progress = Callable[[str, int, int], None]
"""Called with (step, done, total)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What an ingest did."""

    state: Literal["done", "ingested"]
    "done: there was nothing to do"
    snapshot: int
    fingerprint: str
    products: int
    "asked for"
    added: int
    "products that became fragments in this run"
    kept: int
    "products whose fragments were there already"
    tiles: int
    "in the snapshot"
    nbytes: int
    "of the snapshot's fragments"
    streams: dict[str, int] = field(default_factory=dict)
    "tiles by stream"
    quarantined: tuple[tuple[str, str], ...] = ()
    "products put aside, with the reason"
    dropped: tuple[tuple[str, str], ...] = ()
    "products left out before the ingest, with the reason"
    counts: dict[str, int] = field(default_factory=dict)
    "tiles of the snapshot that were planned and kept, and left out by reason"
    non_commercial: tuple[str, ...] = ()
    "cards whose licence forbids commercial use, which holds for the whole corpus"

    def sentence(self) -> str:
        """Return the outcome in words."""
        aside = f", {len(self.quarantined)} quarantined" if self.quarantined else ""
        if self.state == "done":
            return f"nothing to do: snapshot {self.snapshot} holds {self.kept} products with this configuration{aside}"
        left = f", {len(self.dropped)} left out" if self.dropped else ""
        return f"snapshot {self.snapshot}: {self.tiles} tiles, {self.nbytes / 1e6:.1f} MB; {self.added} products added, {self.kept} kept{aside}{left}"


def ingest(
    products: Sequence[Product],
    *,
    out: Place | Store,
    config: IngestConfig,
    client: str = "threads",
    dropped: Sequence[tuple[str, str]] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Make the tiles of ``products`` part of the corpus ``out`` and return what was done.

    ``out`` is a folder, or the address of an object store. Fragments that exist are kept, so a second run adds nothing and an
    interrupted one goes on. A product that cannot be read is put aside in ``out/quarantine``. Products of other cards in the corpus
    stay; of the cards named here, products of equal name are replaced when their files or (with ``overwrite``) the configuration
    changed. Old snapshots stay readable. Several ingests into one corpus may run at the same time.

    Raises:
        UserError: a card is already there with another configuration, no product could be read, or ``out`` cannot be written.
    """
    clock, store = Clock(), open_store(out)
    check_client(client)
    cards = _checked_cards(products)
    settings = {name: {"card": mark, "ingest": config.to_json()} for name, mark in sorted(cards.items())}
    before = records.read_state(store)
    records.check_settings(store, before, settings, overwrite=overwrite)
    surveys = _survey(products, config, client, progress)
    inputs = _inputs(products, surveys)
    aside = quarantine.load_failures(store, products)
    if records.is_done(before, settings, inputs) and not any(failure.trace for failure in aside):
        licences = Corpus.open(store).licences()
        return _report(
            snapshots.load_snapshot(store), products, licences, fresh=0, dropped=dropped, failures=aside, state="done"
        )
    store.check_writable()
    records.mark_unfinished(store, before, settings, inputs)
    recipes, failures, fresh = _make(products, surveys, (store, config, cards), client, progress)
    quarantine.update(store, products, surveys, failures)
    if not recipes:
        others = f" (and {len(failures) - 1} other products failed, see {store}/{quarantine.FOLDER})"
        raise UserError(failures[0].reason + (others if len(failures) > 1 else ""))
    change = snapshots.Change(
        entries=[snapshots.FragmentEntry.of(recipe) for recipe in recipes],
        streams={Stream.from_json(recipe.stream).name: recipe.stream for recipe in recipes},
        replaced=_superseded(store, before, products, settings),
        cards=settings,
        inputs=inputs,
    )
    snapshot = snapshots.publish(store, change)
    while True:
        corpus = Corpus(store, snapshot.number)
        report = _report(snapshot, products, corpus.licences(), fresh=fresh, dropped=dropped, failures=failures)
        summary = {name: value for name, value in asdict(report).items() if name not in ("state", "fingerprint")}
        stac_collection.write(corpus)
        records.write_manifest(store, snapshot, clock=clock, seed=config.seed, summary=summary)
        newest = snapshots.load_snapshot(store)
        if newest.number == snapshot.number:
            return report
        snapshot = newest  # another run published meanwhile; whoever writes last must have seen the newest


def _checked_cards(products: Sequence[Product]) -> dict[str, str]:
    """Return the fingerprint of each card by name.

    Raises:
        UserError: no product, one listed twice, or two different cards of one name.
    """
    if not products:
        raise UserError("expected at least one product to ingest, got none; check the card and the data folder")
    repeated = _repeated([product.product_id for product in products])
    if repeated:
        raise UserError(
            f"expected each product once, got {repeated} twice; name each card once and let no two files differ only in their suffix"
        )
    marks: dict[str, str] = {}
    for card in {id(product.card): product.card for product in products}.values():
        mark = fingerprint(card.to_json())
        if marks.setdefault(card.name, mark) != mark:
            raise UserError(f"expected one card called {card.name}, got two that differ; give one another `name`")
    return marks


def _repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), "")  # type: ignore[func-returns-value]


def _survey(
    products: Sequence[Product], config: IngestConfig, client: str, progress: Progress | None
) -> list[Survey | Failure]:
    step = _Counter("surveying", len(products), progress)
    tasks = [make_task(partial(guarded_survey, product, config))() for product in products]
    return _without_losses(products, compute(tasks, client=client, done=step))


def _without_losses(products: Sequence[Product], results: Sequence[Any]) -> list[Any]:
    """Return ``results`` with what no worker survived as a failure of its product, to be tried again by the next run."""
    return [
        Failure(
            product.product_id,
            f"expected a worker to survive {product.product_id}, got {result.reason}; give workers more memory and run again",
            trace=result.reason,
        )
        if isinstance(result, WorkersLost)
        else result
        for product, result in zip(products, results, strict=True)
    ]


class _Counter:
    """Turns finished tasks into progress reports."""

    def __init__(self, step: str, total: int, progress: Progress | None) -> None:
        self._step, self._total, self._progress, self._done = step, total, progress, 0

    def __call__(self) -> None:
        self._done = min(self._done + 1, self._total)
        if self._progress:
            self._progress(self._step, self._done, self._total)


def _inputs(products: Sequence[Product], surveys: Sequence[Survey | Failure]) -> dict[str, str]:
    """Return, by card, a fingerprint over products and their checksums (a product that cannot be surveyed counts as unreadable)."""
    rows: dict[str, list[list[str]]] = {}
    for product, survey in zip(products, surveys, strict=True):
        mark = survey.checksum if isinstance(survey, Survey) else f"unreadable {survey.reason}"
        rows.setdefault(product.card.name, []).append([product.product_id, mark])
    return {name: fingerprint(sorted(found)) for name, found in sorted(rows.items())}


def _make(
    products: Sequence[Product],
    surveys: Sequence[Survey | Failure],
    target: tuple[Store, IngestConfig, Mapping[str, str]],
    client: str,
    progress: Progress | None,
) -> tuple[list[FragmentManifest], list[Failure], int]:
    """Make the fragments that are missing; return all recipes, the products that failed and how many fragments are new."""
    store, config, cards = target
    staging = _staging(store)
    try:
        recipes, jobs = [], []
        failures = [survey for survey in surveys if isinstance(survey, Failure)]
        there = set(store.names("fragments"))
        for product, survey in zip(products, surveys, strict=True):
            if isinstance(survey, Failure):
                continue
            card = cards[product.card.name]
            name = fragments.name_fragment(survey.checksum, product.product_id, card, config)
            found = fragments.find(store, name) if name in there else None
            if found:
                recipes.append(found)
            else:
                jobs.append(Job(product, survey, config, card, store, staging / name))
        step = _Counter("cutting", sum(max(len(job.survey.parts), 1) + 1 for job in jobs), progress)
        graphs = [_graph(job, number) for number, job in enumerate(jobs)]
        packs, parts = [pack for pack, _ in graphs], [part for _, parts in graphs for part in parts]
        results = _without_losses([job.product for job in jobs], compute(packs, client=client, done=step, inner=parts))
        made = [FragmentManifest(**result) for result in results if not isinstance(result, Failure)]
        failures += [result for result in results if isinstance(result, Failure)]
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    stopped = [failure for failure in failures if failure.kind != "product"]
    if stopped:
        raise UserError(next((failure.reason for failure in stopped if failure.kind == "write"), stopped[0].reason))
    return recipes + made, failures, len(made)


def _staging(store: Store) -> Path:
    """Return the run's staging folder; for an object store a name only, because each worker stages in its own temporary folder."""
    if not isinstance(store, LocalStore):
        return Path(uuid.uuid4().hex)
    staging = fragments.make_staging(store.path / "fragments")
    fragments.discard_leftovers(store.path)
    return staging


def _graph(job: Job, position: int) -> tuple[Any, list[Any]]:
    """Return the last task of one fragment, the packing, and the tasks it waits for, its parts. The graph grows with products, not with tiles.

    Products come in order, and the largest part of a product first, or the last worker begins it when all others are done. On one machine Dask
    decides by name between tasks that lead to one, the last first; on a cluster by priority.
    """
    name = f"{job.folder.parent.name}-{position:09d}"  # of this run, because a cluster may serve several
    if not isinstance(job.store, LocalStore):
        return make_task(partial(make_whole, job))(dask_key_name=f"make-{name}"), []
    cut = make_task(
        partial(guarded_cut, job)
    )  # bound, because Dask would search a plain argument for tasks, field by field
    sizes = job.survey.sizes or (0,)
    rank = sorted(range(len(sizes)), key=lambda part: (sizes[part], -part))
    parts: dict[int, Any] = {}
    for place, part in enumerate(rank, 1):
        with rank_tasks(place / (len(rank) + 1) - position - 1):
            parts[part] = cut(part, dask_key_name=f"cut-{name}-{place:03d}")
    pack = make_task(partial(guarded_finish, job))(
        [parts[part] for part in range(len(sizes))], dask_key_name=f"pack-{name}"
    )
    return pack, list(parts.values())


def _superseded(
    store: Store, before: Mapping[str, Any], products: Sequence[Product], settings: Mapping[str, Any]
) -> frozenset[tuple[str, str]]:
    """Return the (card, product) pairs whose fragments must not stay: batches of chips that are dealt anew, and cards cut anew."""
    if not snapshots.list_snapshots(store):
        return frozenset()
    chips = {product.card.name for product in products if product.kind == "chips"}
    anew = {name for name in settings if name in before["cards"] and before["cards"][name] != settings[name]}
    entries = snapshots.load_snapshot(store).entries
    return frozenset((entry.card, entry.product_id) for entry in entries if entry.card in chips | anew)


def _report(
    snapshot: Snapshot,
    products: Sequence[Product],
    licences: Sequence[Mapping[str, Any]],
    *,
    fresh: int,
    dropped: Sequence[tuple[str, str]],
    failures: Sequence[Failure],
    state: Literal["done", "ingested"] = "ingested",
) -> IngestReport:
    entries = snapshot.entries
    streams: dict[str, int] = {}
    for entry in entries:
        streams[entry.stream] = streams.get(entry.stream, 0) + entry.rows
    return IngestReport(
        state=state,
        snapshot=snapshot.number,
        fingerprint=snapshot.fingerprint,
        products=len(products),
        added=fresh,
        kept=len(products) - fresh - len(failures),
        tiles=sum(streams.values()),
        nbytes=sum(entry.nbytes for entry in entries),
        streams=streams,
        quarantined=tuple((failure.product_id, failure.reason) for failure in failures),
        dropped=tuple(dropped),
        counts=snapshot.counts,
        non_commercial=tuple(item["card"] for item in licences if item["non_commercial"]),
    )

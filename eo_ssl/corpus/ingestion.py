"""The ingest: a plan of all products, one Dask graph, one snapshot, one manifest.

Every step can be killed and resumed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eo_ssl.commits import discard_leftovers
from eo_ssl.corpus import fragments, ingest_state, quarantine, snapshots, stac_collection
from eo_ssl.corpus.assembly import FragmentBuild, guarded_assemble, guarded_cut, make_whole
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.corpus_view import Corpus
from eo_ssl.corpus.engine import Progress, check_client, compute, count_steps, make_task, rank_tasks
from eo_ssl.corpus.fragments import FragmentManifest
from eo_ssl.corpus.ingest_plan import IngestPlan, hash_cards, plan_ingest, record_settings, replace_lost
from eo_ssl.corpus.ingest_state import IngestState, Settings
from eo_ssl.corpus.quarantine import Failure
from eo_ssl.corpus.snapshots import Snapshot
from eo_ssl.corpus.store import LocalStore, Place, Store, open_store
from eo_ssl.corpus.streams import Stream
from eo_ssl.errors import UserError
from eo_ssl.manifest import Clock
from eo_ssl.scene import Product, is_same_acquisition


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
    remarks: tuple[tuple[str, str], ...] = ()
    "products with what a user of their pixels must know that others do not have"
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
        made = f"{self.tiles} tiles, {self.nbytes / 1e6:.1f} MB; {self.added} products added, {self.kept} kept"
        return f"snapshot {self.snapshot}: {made}{aside}{left}"


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
    """Make the tiles of ``products`` part of the corpus ``out`` and return what was done: plan them, then run the plan.

    ``out`` is a folder, or the address of an object store. Fragments that exist are kept, so a second run adds nothing
    and an interrupted one goes on. A product that cannot be read is put aside in ``out/quarantine``. Products of other
    cards in the corpus stay; of the cards named here, products of equal name are replaced when their files or (with
    ``overwrite``) the configuration changed. Old snapshots stay readable. Several ingests into one corpus may run at
    the same time.

    Raises:
        UserError: a card is already there with another configuration, no product could be read, or ``out`` cannot be
            written.
    """
    settings = record_settings(hash_cards(products), config)
    run = _open_run(out, settings, client, overwrite, dropped=dropped, progress=progress)  # before every file is read
    plan = plan_ingest(products, config=config, client=client, progress=progress)
    return _execute(plan, run)


def run_plan(
    plan: IngestPlan,
    *,
    out: Place | Store,
    client: str = "threads",
    dropped: Sequence[tuple[str, str]] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Make the products of ``plan`` part of the corpus ``out``, as `ingest`, and return what was done.

    Args:
        plan: of `plan_ingest`, also of another process.
        out: folder of the corpus, or the address of an object store.
        client: where tasks run.
        dropped: products left out before, with the reason, for the report.
        overwrite: replace the tiles of a card that was ingested with another configuration.
        progress: told of every finished task.
    """
    return _execute(plan, _open_run(out, plan.settings, client, overwrite, dropped=dropped, progress=progress))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Where a plan is run, and what was there before."""

    store: Store
    before: IngestState
    client: str
    dropped: Sequence[tuple[str, str]]
    progress: Progress | None
    clock: Clock = field(default_factory=Clock)


def _open_run(out: Place | Store, settings: Settings, client: str, overwrite: bool, **more: Any) -> _Run:
    """Return a run that may make a corpus with ``settings`` at ``out``; refuses what cannot be one, writes nothing."""
    check_client(client)
    store = open_store(out)
    before = ingest_state.read_state(store)
    before.check_settings(store, settings, overwrite=overwrite)
    return _Run(store=store, before=before, client=client, **more)


def _execute(plan: IngestPlan, run: _Run) -> IngestReport:
    """Make the fragments, publish a snapshot of them and sign it, unless nothing is left to do."""
    store, settings, inputs = run.store, plan.settings, plan.inputs
    aside = quarantine.load_failures(store, plan.products)
    made = run.before.holds(settings, inputs) and not any(failure.trace for failure in aside)
    newest = _find_whole_snapshot(store) if made else None
    if newest is not None:
        licences = Corpus(store, newest.number).licences()
        return _report(newest, plan, licences, fresh=0, dropped=run.dropped, failures=aside, state="done")
    store.check_writable()
    ingest_state.mark_unfinished(store, run.before, settings, inputs)
    superseded = _find_superseded(store, run.before, plan)
    again, replaced = _find_again(store, plan, superseded, left_out={name for name, _ in run.dropped})
    plan, dropped = plan.without(again), [*run.dropped, *again.items()]
    manifests, failures, fresh = _make_fragments(plan, store, run.client, run.progress)
    checksums = {part.product_id: part.checksum for part in plan.plans}
    quarantine.update(store, plan.products, failures, checksums=checksums)
    if not manifests and failures:
        others = f" (and {len(failures) - 1} other products failed, see {store}/{quarantine.FOLDER})"
        raise UserError(failures[0].reason + (others if len(failures) > 1 else ""))
    change = snapshots.Change(
        entries=[snapshots.FragmentEntry.of(manifest) for manifest in manifests],
        streams={Stream.from_json(manifest.stream).name: manifest.stream for manifest in manifests},
        replaced=superseded | {pair for item in manifests for pair in replaced.get(item.product_id, ())},
        cards=settings,
        inputs=inputs,
    )
    snapshot = snapshots.publish(store, change)
    while True:
        corpus = Corpus(store, snapshot.number)
        report = _report(snapshot, plan, corpus.licences(), fresh=fresh, dropped=dropped, failures=failures)
        summary = {name: value for name, value in asdict(report).items() if name not in ("state", "fingerprint")}
        stac_collection.write(corpus)
        ingest_state.write_manifest(store, snapshot, clock=run.clock, seed=plan.config.seed, summary=summary)
        newest = snapshots.load_snapshot(store)
        if newest.number == snapshot.number:
            return report
        snapshot = newest  # another run published meanwhile; whoever writes last must have seen the newest


def _find_whole_snapshot(store: Store) -> Snapshot | None:
    """Return the newest snapshot, None where it, or a fragment that it lists, was taken away for being damaged."""
    try:
        newest = snapshots.load_snapshot(store)
    except UserError:
        return None
    return newest if {entry.name for entry in newest.entries} <= set(store.names("fragments")) else None


def _make_fragments(
    plan: IngestPlan, store: Store, client: str, progress: Progress | None
) -> tuple[list[FragmentManifest], list[Failure], int]:
    """Make the fragments that are missing.

    Return all manifests, the products that failed and how many fragments are new.
    """
    staging = _open_staging(store)
    try:
        there = set(store.names("fragments"))
        kept, builds = [], []
        for part in plan.plans:
            name = part.fragment
            manifest = fragments.find(store, name) if name in there else None
            if manifest:
                kept.append(manifest)
            else:
                builds.append(FragmentBuild(part, store, staging / name))
        step = count_steps("cutting", sum(build.plan.tasks + 1 for build in builds), progress)
        graphs = [_build_graph(build, number) for number, build in enumerate(builds)]
        packs, parts = [pack for pack, _ in graphs], [part for _, parts in graphs for part in parts]
        results = replace_lost(builds, compute(packs, client=client, done=step, inner=parts))
        made = [FragmentManifest(**result) for result in results if not isinstance(result, Failure)]
        failures = plan.failures + [result for result in results if isinstance(result, Failure)]
    finally:
        fragments.discard_run(staging)  # in one step: a thread of a stopped run may be about to move a fragment in
    ended = [failure for failure in failures if failure.kind != "product"]
    if ended:
        raise UserError(next((failure.reason for failure in ended if failure.kind == "write"), ended[0].reason))
    return kept + made, failures, len(made)


def _open_staging(store: Store) -> Path:
    """Return the run's staging folder.

    For an object store a name only, because each worker stages in its own temporary folder.
    """
    if not isinstance(store, LocalStore):
        return Path(uuid.uuid4().hex)
    staging = fragments.make_staging(store.path / "fragments")
    discard_leftovers(store.path, depth=2)
    return staging


def _build_graph(build: FragmentBuild, position: int) -> tuple[Any, list[Any]]:
    """Return the last task of one fragment, the packing, and the tasks it waits for, its parts.

    The graph grows with products, not with tiles. Products come in order, and the largest part of a product first, or
    the last worker begins it when all others are done. On one machine Dask decides by name between tasks that lead to
    one, the last first; on a cluster by priority.
    """
    name = f"{build.folder.parent.name}-{position:09d}"  # of this run, because a cluster may serve several
    if not isinstance(build.store, LocalStore):
        return make_task(partial(make_whole, build))(dask_key_name=f"make-{name}"), []
    cut = make_task(partial(guarded_cut, build))  # bound, because Dask would search a plain argument for tasks
    sizes = build.plan.sizes or (0,)
    rank = sorted(range(len(sizes)), key=lambda part: (sizes[part], -part))
    parts: dict[int, Any] = {}
    for place, part in enumerate(rank, 1):
        with rank_tasks(place / (len(rank) + 1) - position - 1):
            parts[part] = cut(part, dask_key_name=f"cut-{name}-{place:03d}")
    ordered = [parts[part] for part in range(len(sizes))]
    return make_task(partial(guarded_assemble, build))(ordered, dask_key_name=f"pack-{name}"), list(parts.values())


def _find_superseded(store: Store, before: IngestState, plan: IngestPlan) -> frozenset[tuple[str, str]]:
    """Return the (card, product) pairs whose fragments must not stay.

    Batches of chips that are dealt anew, and cards cut anew.
    """
    if not snapshots.list_snapshots(store):
        return frozenset()
    chips = {product.card.name for product in plan.products if product.kind == "chips"}
    anew = {name for name, wanted in plan.settings.items() if before.cards.get(name, wanted) != wanted}
    entries = _list_held(store)
    return frozenset((entry.card, entry.product_id) for entry in entries if entry.card in chips | anew)


def _list_held(store: Store) -> list[snapshots.FragmentEntry]:
    """Return the entries of the newest snapshot that is there: this run makes the one anew that has gone."""
    return snapshots.load_snapshot(store, snapshots.list_snapshots(store)[-1]).entries


def _find_again(
    store: Store, plan: IngestPlan, superseded: frozenset[tuple[str, str]], *, left_out: set[str]
) -> tuple[dict[str, str], dict[str, list[tuple[str, str]]]]:
    """Return products whose acquisition the corpus holds under another name, with the reason, and what others replace.

    A listing chooses among the forms and processings of one acquisition that lie together; these came in another run.

    Args:
        store: of the corpus.
        plan: of the ingest.
        superseded: (card, product) pairs whose fragments do not stay.
        left_out: products that the listing left out; one of them that the corpus holds is replaced by the one taken.
    """
    if not snapshots.list_snapshots(store):
        return {}, {}
    gone = superseded | {(product.card.name, product.product_id) for product in plan.products}
    held: dict[tuple[str, str], list[snapshots.FragmentEntry]] = {}
    for entry in _list_held(store):
        if entry.acquisition and (entry.card, entry.product_id) not in gone:
            held.setdefault((entry.card, entry.acquisition.partition(" ")[0]), []).append(entry)
    again: dict[str, str] = {}
    replaced: dict[str, list[tuple[str, str]]] = {}
    for product in plan.products:
        key = product.acquisition.key
        for entry in held.get((product.card.name, key.partition(" ")[0]), ()):
            if not is_same_acquisition(entry.acquisition, key):
                continue
            if entry.product_id in left_out:
                replaced.setdefault(product.product_id, []).append((entry.card, entry.product_id))
            else:
                again[product.product_id] = (
                    f"the same acquisition as {entry.product_id}, which the corpus holds since another run"
                )
    return again, replaced


def _report(
    snapshot: Snapshot,
    plan: IngestPlan,
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
        products=len(plan.products),
        added=fresh,
        kept=len(plan.products) - fresh - len(failures),
        tiles=sum(streams.values()),
        nbytes=sum(entry.nbytes for entry in entries),
        streams=streams,
        quarantined=tuple((failure.product_id, failure.reason) for failure in failures),
        dropped=tuple(dropped),
        remarks=tuple(
            (product.product_id, product.acquisition.remarks)
            for product in plan.products
            if product.acquisition.remarks
        ),
        counts=snapshot.counts,
        non_commercial=tuple(item["card"] for item in licences if item["non_commercial"]),
    )

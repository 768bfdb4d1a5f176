"""The ingest: survey, one Dask graph, one snapshot, one manifest; every step can be killed and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eo_ssl.corpus import fragments, quarantine, snapshots
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.engine import check_client, compute, task
from eo_ssl.corpus.fragments import Recipe
from eo_ssl.corpus.jobs import Failure, Job, Survey, guarded_cut, guarded_finish, guarded_survey
from eo_ssl.errors import UserError
from eo_ssl.manifest import MANIFEST, SCHEMA_VERSION, UNFINISHED, Clock, canonical_json, fingerprint, finish, replace
from eo_ssl.scene import Product

STAGE = "ingest"
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
    out: Path,
    config: IngestConfig,
    client: str = "threads",
    dropped: Sequence[tuple[str, str]] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Make the tiles of ``products`` part of the corpus ``out`` and return what was done.

    Fragments that exist are kept, so a second run adds nothing and an interrupted one goes on. A product that cannot be read is put
    aside in ``out/quarantine``. Products of other cards in the corpus stay; of the cards named here, products of equal name are
    replaced when their files or (with ``overwrite``) the configuration changed. Old snapshots stay readable.

    Raises:
        UserError: a card is already there with another configuration, no product could be read, or ``out`` cannot be written.
    """
    clock = Clock()
    out = Path(out)
    check_client(client)
    cards = _checked_cards(products)
    settings = {name: {"card": mark, "ingest": config.to_json()} for name, mark in sorted(cards.items())}
    before = _recorded(out)
    _check_settings(out, before, settings, overwrite=overwrite)
    surveys = _survey(products, config, client, progress)
    inputs = _inputs(products, surveys)
    aside = quarantine.failures(out, products)
    if _is_done(out, before, settings, inputs) and not any(failure.trace for failure in aside):
        return _report(out, products, fresh=0, dropped=dropped, failures=aside, state="done")
    _mark_unfinished(out, before, settings, inputs)
    recipes, failures, fresh = _make(products, surveys, (out, config, cards), client, progress)
    quarantine.update(out, products, surveys, failures)
    if not recipes:
        more = (
            f" (and {len(failures) - 1} other products failed, see {out / quarantine.FOLDER})"
            if len(failures) > 1
            else ""
        )
        raise UserError(f"{failures[0].reason}{more}")
    snapshots.publish(out, recipes, replaced=_superseded(before, products, settings, out))
    report = _report(out, products, fresh=fresh, dropped=dropped, failures=failures)
    before = _recorded(out)  # again: another run may have added its cards meanwhile
    finish(
        out,
        stage=STAGE,
        config={"cards": {**before.get("cards", {}), **settings}},
        inputs={**before.get("inputs", {}), **inputs},
        product=report.fingerprint,
        started=clock,
        seed=config.seed,
        summary={name: value for name, value in asdict(report).items() if name not in ("state", "fingerprint")},
    )
    return report


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


def _recorded(out: Path) -> dict[str, Any]:
    """Return cards and inputs of the finished manifest, and those of an unfinished run under ``unfinished``.

    Raises:
        UserError: the folder holds something else.
    """
    found: dict[str, Any] = {"cards": {}, "inputs": {}, "finished": False}
    for name in (MANIFEST, UNFINISHED):
        path = out / name
        if not path.is_file():
            continue
        value = json.loads(path.read_bytes())
        if value.get("stage") != STAGE:
            raise UserError(
                f"expected {out} to be a corpus or a new folder, got a product of stage {value.get('stage')!r}; give another output folder"
            )
        part = {"cards": value["config"]["cards"], "inputs": value["inputs"]}
        found |= {**part, "finished": True} if name == MANIFEST else {"unfinished": part}
    if out.exists() and not out.is_dir():
        raise UserError(f"expected a folder to write to, got the file {out}; give another output folder")
    foreign = out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir())
    if foreign and not found["finished"] and "unfinished" not in found and not (out / "fragments").is_dir():
        raise UserError(
            f"expected {out} to be a corpus or an empty folder, got a folder with other files; give another output folder"
        )
    return found


def _check_settings(out: Path, before: Mapping[str, Any], settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse another configuration for a card that the corpus already holds or that an interrupted run has begun."""
    for known in (before["cards"], before.get("unfinished", {}).get("cards", {})):
        for name, wanted in settings.items():
            if overwrite or name not in known or known[name] == wanted:
                continue
            old, new = known[name], wanted
            changed = [key for key in new["ingest"] if old["ingest"].get(key) != new["ingest"][key]] + (
                ["the card"] if old["card"] != new["card"] else []
            )
            raise UserError(
                f"expected card {name} to be ingested into {out} as before, got a difference in {', '.join(changed) or 'the schema'}; "
                "give another output folder, or --overwrite to replace its tiles in a new snapshot"
            )


def _survey(
    products: Sequence[Product], config: IngestConfig, client: str, progress: Progress | None
) -> list[Survey | Failure]:
    step = _Counter("surveying", len(products), progress)
    return compute([task(partial(guarded_survey, product, config))() for product in products], client=client, done=step)


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


def _is_done(out: Path, before: Mapping[str, Any], settings: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    same = all(
        before["cards"].get(name) == settings[name] and before["inputs"].get(name) == inputs[name] for name in settings
    )
    return bool(before["finished"]) and same and not (out / UNFINISHED).exists()


def _mark_unfinished(
    out: Path, before: Mapping[str, Any], settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> None:
    begun = {
        "stage": STAGE,
        "config": {"cards": {**before["cards"], **settings}},
        "inputs": {**before["inputs"], **inputs},
        "schema_version": SCHEMA_VERSION,
    }
    replace(out / UNFINISHED, canonical_json(begun).encode())


def _make(
    products: Sequence[Product],
    surveys: Sequence[Survey | Failure],
    target: tuple[Path, IngestConfig, Mapping[str, str]],
    client: str,
    progress: Progress | None,
) -> tuple[list[Recipe], list[Failure], int]:
    """Make the fragments that are missing; return all recipes, the products that failed and how many fragments are new."""
    out, config, cards = target
    staging = fragments.staging_folder(out)
    try:
        there = fragments.finished(out)
        recipes, jobs = [], []
        failures = [survey for survey in surveys if isinstance(survey, Failure)]
        for product, survey in zip(products, surveys, strict=True):
            if isinstance(survey, Failure):
                continue
            name = fragments.fragment_name(survey.checksum, product.product_id, cards[product.card.name], config)
            if name in there:
                recipes.append(fragments.read(out / "fragments" / name))
            else:
                jobs.append(Job(product, survey, config, cards[product.card.name], staging / name))
        step = _Counter("cutting", sum(max(len(job.survey.parts), 1) + 1 for job in jobs), progress)
        results = compute([_graph(job) for job in jobs], client=client, done=step)
        made = [Recipe(**result) for result in results if not isinstance(result, Failure)]
        failures += [result for result in results if isinstance(result, Failure)]
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    stopped = [failure for failure in failures if failure.kind != "product"]
    if stopped:
        raise UserError(next((failure.reason for failure in stopped if failure.kind == "write"), stopped[0].reason))
    return recipes + made, failures, len(made)


def _graph(job: Job) -> Any:
    """Return the tasks of one fragment: its parts, then the packing. The graph grows with products, not with tiles."""
    cut = task(partial(guarded_cut, job))  # bound, because Dask would search a plain argument for tasks, field by field
    parts = [cut(number) for number in range(max(len(job.survey.parts), 1))]
    return task(partial(guarded_finish, job))(parts)


def _superseded(
    before: Mapping[str, Any], products: Sequence[Product], settings: Mapping[str, Any], out: Path
) -> set[tuple[str, str]]:
    """Return the (card, product) pairs whose fragments must not stay: batches of chips that are dealt anew, and cards cut anew."""
    if not snapshots.numbers(out):
        return set()
    chips = {product.card.name for product in products if product.kind == "chips"}
    anew = {name for name in settings if name in before["cards"] and before["cards"][name] != settings[name]}
    return {(entry.card, entry.product_id) for entry in snapshots.load(out).entries if entry.card in chips | anew}


def _report(
    out: Path,
    products: Sequence[Product],
    *,
    fresh: int,
    dropped: Sequence[tuple[str, str]],
    failures: Sequence[Failure],
    state: Literal["done", "ingested"] = "ingested",
) -> IngestReport:
    snapshot = snapshots.load(out)
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
    )

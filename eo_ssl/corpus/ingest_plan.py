"""The plan of an ingest: products, tiles, parts and cost in a value that prints, pickles and is run as it is."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from eo_ssl.corpus.assembly import FragmentBuild, guarded_cut
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.engine import Progress, WorkersLost, check_client, compute, count_steps, make_task
from eo_ssl.corpus.product_plan import ProductPlan, guarded_plan
from eo_ssl.corpus.quarantine import Failure
from eo_ssl.corpus.store import LocalStore
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import fingerprint
from eo_ssl.scene import Product

_LISTED = 20  # products that are printed one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What an ingest would make and how long it would take, by a sample that was cut."""

    tiles: int
    "planned; the filters may keep fewer. Of batches that only reading counts: by their bytes and the sample"
    raw_bytes: int
    "pixels of all planned tiles before compression"
    stored_bytes: int
    "expected on disk, by the compression of the sample"
    seconds: float
    "expected wall time, by the time of planning and of the sample and the workers at hand"
    sample: str
    "product the sample was cut from"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestPlan:
    """The products of an ingest, each opened once and planned, or the reason why it will be put aside."""

    config: IngestConfig
    cards: dict[str, str]
    "fingerprint of each card by name"
    products: tuple[Product, ...]
    outcomes: tuple[ProductPlan | Failure, ...]
    "of each product"
    estimate: Estimate | None = None

    @property
    def plans(self) -> list[ProductPlan]:
        """The products that can be cut."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, ProductPlan)]

    @property
    def failures(self) -> list[Failure]:
        """The products that cannot even be opened."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Failure)]

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What the corpus must be made with: card -> its fingerprint and the configuration."""
        return record_settings(self.cards, self.config)

    @property
    def inputs(self) -> dict[str, str]:
        """Card -> a fingerprint over its products and their checksums; one that cannot be read counts as unreadable."""
        rows: dict[str, list[list[str]]] = {}
        for product, outcome in zip(self.products, self.outcomes, strict=True):
            mark = outcome.checksum if isinstance(outcome, ProductPlan) else f"unreadable {outcome.reason}"
            rows.setdefault(product.card.name, []).append([product.product_id, mark])
        return {name: fingerprint(sorted(marks)) for name, marks in sorted(rows.items())}

    def without(self, names: Container[str]) -> IngestPlan:
        """Return the plan without the products of these names."""
        return replace(
            self,
            products=tuple(item for item in self.products if item.product_id not in names),
            outcomes=tuple(item for item in self.outcomes if item.product_id not in names),
        )

    def sentence(self) -> str:
        """Return the plan in one sentence."""
        cost = self.estimate
        aside = f"; {len(self.failures)} products cannot be read" if self.failures else ""
        tiles = cost.tiles if cost else sum(plan.tiles for plan in self.plans)
        words = (
            f"{len(self.products)} products, {tiles} tiles, {sum(plan.nbytes for plan in self.plans) / 1e6:.1f} MB in"
        )
        if cost:
            words += (
                f", {cost.raw_bytes / 1e6:.1f} MB of pixels, about {cost.stored_bytes / 1e6:.1f} MB on disk, "
                f"about {cost.seconds:.0f} s (measured on {cost.sample})"
            )
        return words + aside

    def __str__(self) -> str:
        """Return the sentence and a line per product.

        Where it goes, in how many tiles and parts, or why it is put aside.
        """
        lines = [self.sentence()]
        for outcome in self.outcomes[:_LISTED]:
            lines.append(f"  {outcome.product_id}: {_describe(outcome)}")
        left = len(self.outcomes) - _LISTED
        return "\n".join([*lines, f"  ... and {left} more products"] if left > 0 else lines)


def _describe(outcome: ProductPlan | Failure) -> str:
    if isinstance(outcome, Failure):
        return f"put aside, {outcome.reason}"
    parts = f" in {len(outcome.parts)} part{'s' if len(outcome.parts) > 1 else ''}" if outcome.parts else ""
    counted = f"{outcome.tiles} tiles{parts}" if outcome.tiles else "tiles that only reading counts"
    where = ""
    if outcome.raster is not None:
        tiles = outcome.raster.tiles
        where = f", {outcome.config.tiling} tiling of {tiles.shape[0]} x {tiles.shape[1]} px, edge {tiles.edge}"
    return f"{counted} of {outcome.stream.name}{where}"


def plan_ingest(
    products: Sequence[Product],
    *,
    config: IngestConfig,
    client: str = "threads",
    progress: Progress | None = None,
    sample: bool = False,
) -> IngestPlan:
    """Return the plan of an ingest of ``products``; each is opened once, and read for its checksum.

    Args:
        products: what to ingest.
        config: how they become tiles.
        client: where tasks run: ``threads``, ``processes``, ``synchronous`` or the address of a scheduler.
        progress: told of every planned product.
        sample: also estimate bytes and time: one part of the product of median size is cut into a temporary folder (of
            batches of chips that only reading counts, one whole batch).

    Raises:
        UserError: no product or none that can be read for a sample, one listed twice, or two different cards of one
            name.
    """
    check_client(client)
    cards, begun = hash_cards(products), time.perf_counter()
    tasks = [make_task(partial(guarded_plan, product, config, cards[product.card.name]))() for product in products]
    results = compute(tasks, client=client, done=count_steps("planning", len(tasks), progress))
    outcomes = tuple(replace_lost(products, results))
    plan = IngestPlan(config=config, cards=cards, products=tuple(products), outcomes=outcomes)
    return replace(plan, estimate=_estimate(plan, client, time.perf_counter() - begun)) if sample else plan


def record_settings(cards: dict[str, str], config: IngestConfig) -> dict[str, dict[str, Any]]:
    """Return what a corpus keeps of its making: card -> its fingerprint and the configuration."""
    return {name: {"card": mark, "ingest": config.to_json()} for name, mark in sorted(cards.items())}


def hash_cards(products: Sequence[Product]) -> dict[str, str]:
    """Return the fingerprint of each card by name.

    Raises:
        UserError: no product, one listed twice, or two different cards of one name.
    """
    expect(products, expected="at least one product to ingest", got="none", remedy="check the card and the data folder")
    seen: set[str] = set()
    for product in products:
        expect(
            product.product_id not in seen,
            expected="each product once",
            got=f"{product.product_id} twice",
            remedy="name each card once and let no two files differ only in their suffix",
        )
        seen.add(product.product_id)
    marks: dict[str, str] = {}
    for card in {id(product.card): product.card for product in products}.values():
        mark = fingerprint(card.to_json())
        expect(
            marks.setdefault(card.name, mark) == mark,
            expected=f"one card called {card.name}",
            got="two that differ",
            remedy="give one another `name`",
        )
    return marks


def replace_lost(products: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    """Return ``results`` with what no worker survived as a failure of its product; the next run tries it again."""
    return [
        Failure(
            product.product_id,
            f"expected a worker to survive {product.product_id}, got {result.reason}; give workers more memory and "
            "run again",
            trace=result.reason,
        )
        if isinstance(result, WorkersLost)
        else result
        for product, result in zip(products, results, strict=True)
    ]


def _estimate(plan: IngestPlan, client: str, planning_s: float) -> Estimate:
    """Return what the plan would make, from a sample of the products whose tiles are known and one of the others."""
    if not plan.plans:
        raise UserError(plan.failures[0].reason)
    groups = [[part for part in plan.plans if bool(part.tiles) is known] for known in (True, False)]
    samples = [_extrapolate(group) for group in groups if group]
    workers = 1 if client == "synchronous" else len(os.sched_getaffinity(0))
    return Estimate(
        tiles=sum(part.tiles for part in samples),
        raw_bytes=sum(part.raw_bytes for part in samples),
        stored_bytes=sum(part.stored_bytes for part in samples),
        seconds=planning_s + sum(part.seconds for part in samples) / workers,
        sample=" and ".join(part.sample for part in samples),
    )


def _extrapolate(group: Sequence[ProductPlan]) -> Estimate:
    """Cut a part of the product of median size and scale it to all by tiles, or by bytes where those are unknown."""
    chosen = sorted(group, key=lambda plan: (plan.tiles, plan.nbytes, plan.product_id))[len(group) // 2]
    seconds, ratio, planned = _cut_sample(chosen)
    per_byte = planned / max(chosen.nbytes, 1)
    tiles = [plan.tiles or round(plan.nbytes * per_byte) for plan in group]
    raw = sum(count * plan.tile_bytes for count, plan in zip(tiles, group, strict=True))
    return Estimate(
        tiles=sum(tiles), raw_bytes=raw, stored_bytes=int(raw * ratio), seconds=seconds * raw, sample=chosen.product_id
    )


def _cut_sample(plan: ProductPlan) -> tuple[float, float, int]:
    """Cut one part of a product.

    Return seconds per raw byte planned, stored bytes per raw byte kept, and the tiles planned.
    """
    with tempfile.TemporaryDirectory(prefix="eo_ssl-estimate-") as home:
        folder = Path(home) / "staging" / "sample"
        folder.mkdir(parents=True)
        short = replace(plan, parts=((0, 1),)) if plan.parts else plan
        begun = time.perf_counter()
        part = guarded_cut(FragmentBuild(short, LocalStore(Path(home)), folder), 0)
        seconds = time.perf_counter() - begun
        if isinstance(part, Failure):
            raise UserError(part.reason)
        planned = max(part.counts["planned"], 1) * plan.tile_bytes
        stored = sum(mark.size for mark in part.shards)
        whole = len(part.shards) * plan.layout.tiles_per_shard * plan.tile_bytes
        return seconds / planned, stored / whole if whole else 1.0, part.counts["planned"]

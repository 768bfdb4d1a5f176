"""``eo-ssl ingest``: from files on disk to a corpus of tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Literal

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from eo_ssl.cards import load_card
from eo_ssl.corpus import Codec, IngestConfig, IngestPlan, IngestReport, Method, Tiling, ingest, plan_ingest
from eo_ssl.printable import make_console
from eo_ssl.scene import ProductList, list_products
from eo_ssl.tiling import Edge


def main(
    card: str | list[str],
    data: Path,
    out: Path,
    *,
    size_px: int = 64,
    tiling: Tiling = "native",
    edge: Edge = "drop",
    min_valid: float = 0.9,
    max_cloud: float = 1.0,
    max_shadow: float = 1.0,
    max_snow: float = 1.0,
    max_saturated: float = 1.0,
    max_border_noise: float = 1.0,
    min_enl: float = 0.0,
    codec: Codec = "lz4",
    bands: list[str] | None = None,
    gsd_m: float | None = None,
    resampling: Method = "bilinear",
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    dask: str = "threads",
    accept_unknown_offset: Literal["refuse", "drop"] = "refuse",
    allow_outside: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
) -> IngestReport | IngestPlan:
    """Cut the products of one or more cards into tiles of a corpus.

    A second run adds nothing, an interrupted one goes on.

    Args:
        card: shipped card or YAML file that says what the files are, or several.
        data: folder that the cards' file patterns are relative to.
        out: folder of the corpus, or s3://bucket/prefix (endpoint and credentials from AWS_... variables); further
            cards are added to it in a new snapshot.
        size_px: side of a tile in pixels.
        tiling: native cuts the product's own grid, grid resamples once to cells shared by all products of a UTM zone.
        edge: what happens at the border: drop, shift (native only) or pad.
        min_valid: least share of valid pixels of a tile, 0 to 1.
        max_cloud: largest share of cloud among a tile's valid pixels, 0 to 1; below 1 every product needs a cloud mask.
        max_shadow: the same of cloud shadow.
        max_snow: the same of snow.
        max_saturated: the same of saturated pixels.
        max_border_noise: largest share of radar border noise among all pixels of a tile; below 1 every product must be
            radar.
        min_enl: least equivalent number of looks of a tile; above 0 every product must be radar.
        codec: lz4 (fast to read), zstd (smaller) or none (largest, fastest).
        bands: bands to keep, by any known name; all bands of the card if not given.
        gsd_m: pixel size of the grid tiling in metres; the product's if not given.
        resampling: how the grid tiling resamples images: nearest, bilinear or average.
        shares: train, val and test share of the locations.
        seed: of the split by location.
        dask: threads, processes, synchronous or the address of a scheduler such as tcp://host:8786.
        accept_unknown_offset: refuse or drop files whose radiometric offset the card does not list.
        allow_outside: let a STAC catalogue in files name files outside the data folder.
        dry_run: print the plan (products, tiles, parts, bytes and an estimate of the time) and write nothing.
        overwrite: replace the tiles of a card that was ingested with another configuration, in a new snapshot.
    """
    config = IngestConfig(
        size_px=size_px,
        tiling=tiling,
        edge=edge,
        min_valid=min_valid,
        max_cloud=max_cloud,
        max_shadow=max_shadow,
        max_snow=max_snow,
        max_saturated=max_saturated,
        max_border_noise=max_border_noise,
        min_enl=min_enl,
        codec=codec,
        bands=None if bands is None else tuple(bands),
        gsd_m=gsd_m,
        resampling=resampling,
        shares=shares,
        seed=seed,
    )
    cards = [card] if isinstance(card, str) else card
    listed = _list_products(cards, data, accept_unknown_offset, allow_outside)
    wanted, dropped = list(chain(*(part.products for part in listed))), list(chain(*(part.dropped for part in listed)))
    if dry_run:
        with _show_bars() as progress:
            plan = plan_ingest(wanted, config=config, client=dask, progress=progress, sample=True)
        _print(str(plan))
        return plan
    with _show_bars() as progress:
        report = ingest(
            wanted, out=out, config=config, client=dask, dropped=dropped, overwrite=overwrite, progress=progress
        )
    _print_report(report)
    return report


def _list_products(
    cards: list[str], data: Path, accept: Literal["refuse", "drop"], allow_outside: bool
) -> list[ProductList]:
    return [
        list_products(load_card(name), data, accept_unknown_offset=accept, allow_outside=allow_outside)
        for name in cards
    ]


def _print(text: str) -> None:
    make_console().print(text, soft_wrap=True, highlight=False)


@contextmanager
def _show_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar per step on standard error while the block runs."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = make_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        shown: dict[str, TaskID] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in shown:
                shown[step] = bars.add_task(step, total=total)
            bars.update(shown[step], completed=done, total=total)

        yield progress


def _print_report(report: IngestReport) -> None:
    """Print what was done, what was put aside or left out by reason, and what must be known of products."""
    _print(report.sentence())
    for label, rows in (
        ("quarantined", report.quarantined),
        ("left out", report.dropped),
        ("remark on", report.remarks),
    ):
        by_reason: dict[str, list[str]] = {}
        for product_id, reason in rows:
            by_reason.setdefault(reason, []).append(product_id)
        for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1]))[:10]:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            _print(f"  {label} {names[0]}{more}: {reason}")
        if len(by_reason) > 10:
            _print(f"  ... for {len(by_reason) - 10} more reasons")

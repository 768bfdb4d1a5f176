"""``eo-ssl pair``: tiles of a corpus that show the same ground, how far apart in time, how well on each other."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.progress import Progress

from eo_ssl.corpus import Corpus
from eo_ssl.manifest import open_product
from eo_ssl.pairing import PAIR_FILES, PairConfig, match, pair, write_pairs
from eo_ssl.printable import make_console


def main(
    corpus: Path,
    out: Path,
    first: str,
    second: str,
    bounds: PairConfig = PairConfig(),  # noqa: B008  (frozen)
    snapshot: int | None = None,
    overwrite: bool = False,
) -> None:
    """Pair the tiles of two streams (radar and optical), or of one (seasons), and measure how well they fit.

    Both streams must have been cut with tiling grid, on cells of one size in metres. A tile is paired with the nearest
    in time on its cell; the shift between two products is measured on all their tiles together.

    Args:
        corpus: folder that `eo-ssl ingest` made.
        out: folder that receives the pairs, those refused with the reason, and the measurements per pair of products.
        first: stream whose every tile looks for a partner.
        second: stream of the partners; the same name pairs dates of one stream.
        bounds: limits on time, orbit, overlap and shift.
        snapshot: number of the corpus snapshot; the latest when left out.
        overwrite: replace pairs made with another configuration.
    """
    console, opened = make_console(), Corpus.open(corpus, snapshot=snapshot)
    settings = {"first": first, "second": second, "snapshot": opened.snapshot, **bounds.to_json()}
    inputs = {"corpus": opened.fingerprint}
    candidates = match(opened, first, second, bounds)  # refused before anything is written
    with open_product(out, stage="pair", config=settings, inputs=inputs, overwrite=overwrite) as product:
        if product.done:
            console.print(product.nothing_to_do, soft_wrap=True)
            return
        with Progress(console=make_console(stderr=True), transient=True) as bars:
            total = len(candidates.match.row_a)
            task = bars.add_task(f"comparing {total} candidates", total=total)
            pairing = pair(
                opened,
                (first, second),
                candidates,
                config=bounds,
                progress=lambda done, total: bars.update(task, completed=done, total=total),
            )
        report = pairing.report
        product.sign(write_pairs(out, pairing), summary=asdict(report), files=PAIR_FILES)
    console.print(f"{report.sentence()}: {out.resolve()}", soft_wrap=True)
    for reason, tiles in sorted(report.rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {tiles:,} without a pair: {reason}", soft_wrap=True, highlight=False)

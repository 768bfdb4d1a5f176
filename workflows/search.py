"""``eo-ssl search``: a tile, a place or an image in, the tiles most like it out, as a table and as a page."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from eo_ssl import embedding
from eo_ssl.cards import load_card
from eo_ssl.commits import commit
from eo_ssl.encoder import FITTED, WEIGHT_FREE
from eo_ssl.errors import UserError, expect
from eo_ssl.manifest import open_product
from eo_ssl.printable import make_console
from eo_ssl.reporting import HIT_COLUMNS, MISSING, render_search, trim_middle


def main(
    embeddings: Path,
    like: str | None = None,
    lonlat: str | None = None,
    image: Path | None = None,
    k: int = 12,
    distance: embedding.Distance = "cosine",
    elsewhere: bool = False,
    encoder: str | None = None,
    card: str | None = None,
    seed: int = 0,
    corpus: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Find the tiles whose embeddings are nearest to that of a tile, a place or an image, as a table and a page.

    The search is exact and reads the table piece by piece. Give one of like, lonlat and image.

    Args:
        embeddings: folder that `eo-ssl embed` made of a corpus.
        like: a row of the stream, or PRODUCT:ROW,COL for the tile with that pixel.
        lonlat: longitude,latitude in degrees; write --lonlat=-3.7,40.4 where the first is negative.
        image: a scene of one's own, whose middle is the question; needs encoder and card.
        k: neighbours.
        distance: cosine or l2.
        elsewhere: leave out tiles on the same ground as the query: other dates and copies.
        encoder: image: the encoder that made the table.
        card: image: what its pixels mean.
        seed: image: of a weight-free encoder's random weights, as in `eo-ssl embed`.
        corpus: where the tiles are, for the pictures; default: where they were when they were embedded.
        out: folder that receives the page index.html; none is drawn when left out.
        overwrite: replace a page of another search.
    """
    console, table = make_console(), embedding.Embeddings.open(embeddings)
    query = _query(table, {"like": like, "lonlat": lonlat, "image": image}, encoder, card, corpus, seed)
    without = set() if query.position is None else {query.position}
    if elsewhere:
        if query.position is None:
            raise UserError("expected elsewhere with a tile of the table, got it with an image; leave it out")
        without |= set(embedding.find_same_ground(table, query.position))
    hits = embedding.find_nearest(table, query.vector, k=k, distance=distance, without=without)
    if out is None:
        _print(console, table, query, hits, distance)
        return
    tiles = table.corpus(corpus)
    config = {"query": query.words, "k": k, "distance": distance, "elsewhere": elsewhere}
    inputs = {"embeddings": table.manifest.fingerprint}
    left_out = "the query and its ground" if elsewhere else "the query" if without else "nothing"
    page = out / "index.html"
    with open_product(out, stage="search", config=config, inputs=inputs, overwrite=overwrite) as product:
        _print(console, table, query, hits, distance)
        if product.done:
            console.print(f"nothing to do: {page} is made from this search already", soft_wrap=True)
            return
        html = render_search(table, query, hits, corpus=tiles, distance=distance, left_out=left_out).encode()
        page.unlink(missing_ok=True)  # of a run that was killed before its manifest
        commit(page, html)
        product.sign(hashlib.sha256(html).hexdigest(), summary={"bytes": len(html)}, files=[page.name])
    console.print(f"page: {page.resolve()}", soft_wrap=True)


def _query(
    table: embedding.Embeddings,
    asked: dict[str, str | Path | None],
    encoder: str | None,
    card: str | None,
    corpus: Path | None,
    seed: int,
) -> embedding.Query:
    given = [name for name, value in asked.items() if value is not None]
    expect(
        len(given) == 1,
        expected="one of like, lonlat and image",
        got=", ".join(given) or "none",
        remedy="ask for one thing at a time",
    )
    if asked["image"] is None:
        foreign = [name for name, value in (("encoder", encoder), ("card", card)) if value is not None]
        expect(
            not foreign,
            expected="encoder and card with an image only",
            got=", ".join(foreign),
            remedy="the table holds the embeddings of its tiles",
        )
        if asked["like"] is not None:
            return embedding.query_tile(table, str(asked["like"]))
        return embedding.query_place(table, *embedding.parse_lonlat(str(asked["lonlat"])))
    if encoder is None or card is None:
        given = [name for name, value in (("--encoder", encoder), ("--card", card)) if value is not None]
        raise UserError(
            f"expected --encoder and --card with an image, got {', '.join(given) or 'neither'}; the card says what "
            "its numbers are"
        )
    statistics = (table.corpus(corpus), table.about["corpus"]["stream"]) if encoder in (*WEIGHT_FREE, *FITTED) else None
    found = embedding.find_scenes(str(asked["image"]), load_card(card))
    expect(
        len(found) == 1,
        expected=f"one image at {asked['image']}",
        got=len(found),
        remedy="give a file with one scene, or a card with one layer",
    )
    return embedding.query_image(table, embedding.prepare_encoder(encoder, statistics=statistics, seed=seed), found[0])


def _print(
    console: Console, table: embedding.Embeddings, query: embedding.Query, hits: embedding.Hits, distance: str
) -> None:
    heads = ("", distance, "row", "date", "lon,lat", "label", "tile")
    lines = []
    for rank, (value, about) in enumerate(zip(hits.distance, table.take(hits.positions, HIT_COLUMNS), strict=True), 1):
        known = about["datetime"][:10] or MISSING, _place(about["bbox"]), about["label_name"] or MISSING
        tile = f"{about['product_id'].rpartition('/')[2]}:{about['row_off']},{about['col_off']}"
        lines.append((str(rank), f"{value:.4g}", str(about["row"]), *known, tile))
    widths = [max(map(len, column)) + 2 for column in zip(heads, *lines, strict=True)]
    room = max(console.width - sum(widths[:-1]), 16)
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in heads:
        shown.add_column(name, no_wrap=True, justify="right" if name in ("", distance, "row") else "left")
    for line in lines:
        shown.add_row(*line[:-1], trim_middle(line[-1], room))
    console.print(f"like {query.words}", soft_wrap=True, highlight=False)
    console.print(shown)


def _place(box: dict[str, float | None]) -> str:
    """Middle of a footprint as --lonlat takes it."""
    west, south, east, north = (box[name] for name in ("xmin", "ymin", "xmax", "ymax"))
    if west is None or south is None or east is None or north is None:
        return MISSING
    return f"{(west + east) / 2:.4f},{(south + north) / 2:.4f}"

"""``eo-ssl embed``: an encoder and a corpus, a file or a STAC item in, a table of embeddings or maps of them out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from rich.progress import Progress

from eo_ssl import embedding
from eo_ssl.cards import Card, load_card
from eo_ssl.corpus import Corpus
from eo_ssl.embedding import TileEncoder, TileSettings
from eo_ssl.encoder import Encoder
from eo_ssl.errors import expect
from eo_ssl.evaluation import choose_device
from eo_ssl.fingerprints import compute_sha256, fingerprint
from eo_ssl.manifest import measure_peak_mb, open_product
from eo_ssl.printable import make_console
from eo_ssl.scene import Product, is_link

QUIET = bool(os.environ.get("EO_SSL_QUIET"))


def main(
    encoder: str,
    source: str,
    out: Path,
    card: str | None = None,
    stream: str | None = None,
    split: Literal["all", "train", "val", "test"] | None = None,
    where: list[str] | None = None,
    snapshot: int | None = None,
    pairs: Path | None = None,
    statistics: Path | None = None,
    window_px: int | None = None,
    overlap: float | None = None,
    stored: Literal["float32", "float16"] = "float32",
    batch_size: int = 64,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dask: Literal["threads", "synchronous"] = "threads",
    seed: int = 0,
    allow_outside: bool = False,
    overwrite: bool = False,
) -> None:
    """Write embeddings of a corpus as GeoParquet (a row per tile) or of scenes as COG (a pixel per patch).

    Args:
        encoder: folder of a trained encoder, a weight-free or a foreign one by name; with pairs, of a run that trained
            one of two sensors.
        source: a corpus; or, with a card, a raster file, a folder of products, a STAC item or item collection (path or
            link).
        out: folder that receives the embeddings.
        card: scenes: what their pixels mean, a shipped name or a YAML file; a file does not say so itself.
        stream: of a corpus (or of `statistics`); may be left out when there is only one.
        split: corpus: tiles of one split; default: all.
        where: corpus: conditions that tiles must meet, such as `[cloud_fraction<0.2]`.
        snapshot: corpus: number of the snapshot; the latest when left out.
        pairs: corpus: folder that pair made, for an encoder of two sensors: each optical tile that has a radar tile.
        statistics: scenes: corpus whose training split normalises the input of a weight-free encoder.
        window_px: scenes: side of the windows, if not the encoder's own input.
        overlap: scenes: share of a window that the next one covers again; default 0.5.
        stored: type of the numbers in the file.
        batch_size: tiles or windows per forward pass.
        device: where the encoder runs; auto takes a GPU where there is one.
        dask: scenes: how tasks are scheduled.
        seed: of random weights.
        allow_outside: scenes: let a STAC item in a file name files outside its folder.
        overwrite: replace embeddings made with another configuration.
    """
    runs_on = choose_device(device)
    if card is not None:
        _refuse("scenes", split=split, where=where, snapshot=snapshot, pairs=pairs)
        share = 0.5 if overlap is None else overlap
        settings = embedding.SceneSettings(share, batch_size=batch_size, stored=stored, dask=dask, device=runs_on)
        known = None if statistics is None else embedding.open_stream(str(statistics), stream)
        model = embedding.prepare_encoder(encoder, statistics=known, seed=seed, window_px=window_px)
        place = source if is_link(source) else str(Path(source).resolve())
        where_from = {"source": place, "card_at": str(Path(card).resolve()) if Path(card).is_file() else card}
        scenes = embedding.find_scenes(place, load_card(card), allow_outside=allow_outside)
        _scenes(model, where_from, scenes, out, settings, overwrite)
        return
    _refuse("a corpus", statistics=statistics, window_px=window_px, overlap=overlap)
    tiles, corpus, name = embedding.open_tiles(encoder, source, stream, snapshot, pairs, seed=seed)
    chosen = {"stream": name, "snapshot": corpus.snapshot, "split": split or "all", "where": where or []}
    _tiles(tiles, corpus, out, TileSettings(batch_size, stored, device=runs_on), chosen, overwrite)


def _tiles(
    model: TileEncoder, corpus: Corpus, out: Path, settings: TileSettings, config: dict[str, Any], overwrite: bool
) -> None:
    """Embed a stream of a corpus, or the tiles of it that pairs name."""
    console, name = make_console(), config["stream"]
    conditions = config["where"] if config["split"] == "all" else [f"split=={config['split']}", *config["where"]]
    rows = embedding.select_tiles(model, corpus, name, conditions)
    embedding.check_tiles(model, corpus, name, row=int(rows[0]), settings=settings)
    config = {"encoder": model.name, **config, **settings.to_json()}
    inputs = {"encoder": model.fingerprint, "corpus": corpus.fingerprint, **embedding.name_pairs(model)}
    with open_product(out, stage="embed", config=config, inputs=inputs, overwrite=overwrite) as product:
        if product.done:
            embedding.remove_parts(out)
            console.print(product.nothing_to_do, soft_wrap=True)
            return
        with Progress(console=make_console(stderr=True), transient=True, disable=QUIET) as bars:
            bar = bars.add_task(f"embedding {len(rows)} tiles", total=len(rows))
            made = embedding.embed_tiles(
                model, corpus, name, rows=rows, out=out, settings=settings, progress=lambda n: bars.advance(bar, n)
            )
        summary = {"tiles": len(rows), "dim": model.dim, "corpus": str(corpus.root), "licences": corpus.licences()}
        product.sign(made, summary=summary, files=[embedding.EMBEDDINGS])
        embedding.remove_parts(out)
    cost = f"{product.started.wall_s:.0f} s, peak {measure_peak_mb():.0f} MB: {(out / embedding.EMBEDDINGS).resolve()}"
    console.print(f"{len(rows)} tiles of {name}, {model.dim} numbers each, in {cost}", soft_wrap=True)


def _scenes(
    model: Encoder,
    place: dict[str, str],
    products: tuple[Product, ...],
    out: Path,
    settings: embedding.SceneSettings,
    overwrite: bool,
) -> None:
    """Embed every scene found at a place."""
    console, card = make_console(), products[0].card
    embedding.check_scene(model, products[0].open(), settings=settings)
    scenes = {
        name: {"id": scene.product_id, "checksum": scene.checksum()}
        for name, scene in zip(embedding.name_maps(products), products, strict=True)
    }
    made_of = fingerprint([[scene["id"], scene["checksum"]] for scene in scenes.values()])
    inputs = {"encoder": model.fingerprint, "scenes": made_of}
    config = {"encoder": model.name, "card": card.name, "window_px": model.preprocessing.size_px, **settings.to_json()}
    with open_product(out, stage="embed", config=config, inputs=inputs, overwrite=overwrite) as product:
        if product.done:
            console.print(product.nothing_to_do, soft_wrap=True)
            return
        low, high = model.preprocessing.gsd_m
        if not 0.98 * low <= card.gsd_m <= 1.02 * high:  # decimated copies round their pixel size
            console.print(f"note: {model.name} saw pixels of {low:g} to {high:g} m, these are of {card.gsd_m:g} m")
        files: dict[str, str] = {}
        for scene, name in zip(products, scenes, strict=True):
            if not (out / name).is_file():
                _map(model, scene, card, out / name, settings)
            files[name] = compute_sha256(out / name)
        owed = {key: getattr(card, key) for key in ("licence", "attribution", "non_commercial")} | {"card": card.name}
        summary = {"files": files, "dim": model.dim, "scenes": scenes, **place, "licences": [owed]}
        product.sign(fingerprint(files), summary=summary, files=list(files))
    console.print(f"maps of scenes: {len(files)}, in {product.started.wall_s:.0f} s: {out.resolve()}", soft_wrap=True)


def _map(model: Encoder, scene: Product, card: Card, path: Path, settings: embedding.SceneSettings) -> None:
    console = make_console()
    tags = {"EO_SSL_NON_COMMERCIAL": str(bool(card.non_commercial)).lower()}
    with console.status("embedding a scene"):
        mapped = embedding.embed_scene(model, scene.open(), path, settings=settings, tags=tags)
    console.print(
        f"{path.name}: {mapped.shape[0]} x {mapped.shape[1]} patches of {mapped.windows} windows in "
        f"{mapped.blocks} blocks, {mapped.valid:.0%} valid, peak {measure_peak_mb():.0f} MB",
        soft_wrap=True,
    )


def _refuse(kind: str, **given: Any) -> None:
    names = ", ".join(name for name, value in given.items() if value is not None)
    expect(not names, expected=f"options of {kind}", got=names, remedy="leave out what it has no use for")

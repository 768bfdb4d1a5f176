"""Inputs of embedding: an encoder by its name, a corpus and its stream, scenes of a file, a folder or a STAC item."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eo_ssl.cards import Card, load_card
from eo_ssl.corpus import Corpus, select_rows
from eo_ssl.encoder import FITTED, WEIGHT_FREE, Encoder, load_encoder
from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.fingerprints import fingerprint
from eo_ssl.layouts import Stac
from eo_ssl.manifest import MANIFEST, UNFINISHED
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.scene import Product, is_link, list_products, read_document

_FITTING = 1024  # tiles that the patches of a fitted encoder are cut out of


def prepare_encoder(
    name: str, *, statistics: tuple[Corpus, str] | None = None, seed: int = 0, window_px: int | None = None
) -> Encoder:
    """Return the encoder ``name``; a weight-free one is normalised by the training split of a stream, power as dB.

    Args:
        name: anything that `load_encoder` takes.
        statistics: corpus and stream; a trained encoder brings its own contract and asks for none.
        seed: of random weights.
        window_px: side of its input, if not its own.

    Raises:
        UserError: no such encoder, a weight-free one without a stream, or a size that the weights do not take.
    """
    model = (
        load_encoder(name, seed=seed)
        if name not in (*WEIGHT_FREE, *FITTED)
        else _load_weight_free(name, statistics, seed)
    )
    contract = model.preprocessing
    kept = window_px is None or (window_px == contract.size_px and contract.resize != "native")
    return model if kept else model.at_size(int(window_px or 0))


def _load_weight_free(name: str, statistics: tuple[Corpus, str] | None, seed: int) -> Encoder:
    if statistics is None:
        raise UserError(
            f"expected a corpus whose training tiles say how the input of the weight-free encoder {name} is "
            "normalised, got none; give --statistics"
        )
    corpus, stream = statistics
    tag = corpus.stream(stream).stream
    contract = Preprocessing.of_stream(tag, corpus.statistics(stream, tag.quantity.in_db_if_power))
    images = _read_training_images(corpus, stream, contract) if name in FITTED else None
    return load_encoder(name, preprocessing=contract, seed=seed, images=images)


def _read_training_images(corpus: Corpus, stream: str, contract: Preprocessing) -> Tensor:
    """At most `_FITTING` tiles of the training split at even steps, prepared by ``contract``: [n, C, H, W] float32."""
    rows = select_rows(corpus, stream, ["split==train"])
    expect(
        len(rows),
        expected=f"training tiles of {stream} to fit the encoder to",
        got="none",
        remedy="give a stream with a training split",
    )
    reader = corpus.stream(stream)
    tiles = reader.read(rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _FITTING)).astype(np.int64))])
    tag = reader.stream
    x, _ = contract(torch.from_numpy(tiles), bands=tag.bands, quantity=tag.quantity, sensor=tag.sensor)
    return x


def open_stream(place: str, name: str | None, *, snapshot: int | None = None) -> tuple[Corpus, str]:
    """Return the corpus at ``place`` and the stream ``name`` of it, or its only one where none is named.

    Raises:
        UserError: there is nothing, a scene (which needs a card) or another folder; no such stream, or none of several
            is named.
    """
    path = Path(place)
    expect(
        not is_link(place) and not path.is_file(),
        expected=f"--card for the scene {place}",
        got="none",
        remedy="a file does not say what its numbers are, see `eo-ssl inspect cards`",
    )
    expect(
        "://" in place or path.exists(),
        expected=f"a corpus, or a scene with --card, at {place}",
        got="nothing there",
        remedy="correct the path",
    )
    expect(
        "://" in place or any((path / file).exists() for file in (MANIFEST, UNFINISHED)),
        expected="a corpus, or --card for a folder of scenes",
        got=f"the folder {place} and no card",
        remedy="see `eo-ssl inspect cards`",
    )
    corpus = Corpus.open(place, snapshot=snapshot)
    return corpus, choose_stream(corpus, name)


def choose_stream(corpus: Corpus, name: str | None) -> str:
    """Return the stream ``name`` of a corpus, or its only one where none is named.

    Raises:
        UserError: no such stream, or none of several is named.
    """
    known = tuple(corpus.streams)
    chosen = known[0] if name is None and len(known) == 1 else name or ""
    expect(
        chosen in known,
        expected=f"one of the {len(known)} streams of {corpus.root} ({', '.join(known)})",
        got=chosen or "none",
        remedy=f"name one with --stream{suggest_nearest(chosen, known)}",
    )
    return chosen


def find_scenes(place: str, card: Card, *, allow_outside: bool = False) -> tuple[Product, ...]:
    """Return the scenes that ``card`` finds at ``place``, in the order of their ids.

    Args:
        place: a raster or array file, a folder of one or several products, or a STAC item or item collection (path or
            link).
        card: what the pixels are; its pattern of files, or its catalogue, gives way to ``place``.
        allow_outside: let a STAC item in a file name files outside its folder.

    Raises:
        UserError: there is nothing at ``place`` that the card fits, or what is there are chips.
    """
    narrowed, root = _narrow_stac(place, card) if card.reader == "stac" else _narrow_files(place, card)
    scenes = list_products(narrowed, root, allow_outside=allow_outside).products
    expect(
        not any(product.kind == "chips" for product in scenes),
        expected=f"scenes at {place}",
        got=f"the chips of card {card.name}",
        remedy="ingest them and embed the corpus, one vector per tile",
    )
    return scenes


def _narrow_stac(place: str, card: Card) -> tuple[Card, Path]:
    start = place if is_link(place) else str(Path(place).resolve())
    kind = read_document(start).get("type")
    expect(
        kind in ("Feature", "FeatureCollection"),
        expected=f"a STAC item or item collection at {place}",
        got=kind or "an API",
        remedy="give the link of one item, or ingest a catalogue first",
    )
    sign = card.stac.sign if card.stac else ""
    return replace(card, stac=Stac(catalog=start, sign=sign)), Path() if is_link(place) else Path(start).parent


def _narrow_files(place: str, card: Card) -> tuple[Card, Path]:
    path = Path(place).resolve()
    expect(
        path.exists(),
        expected=f"a file, a folder or a STAC item at {place}",
        got="nothing there",
        remedy="correct the path",
    )
    if path.is_dir() and path.suffix.upper() != ".SAFE":
        return card, path
    expect(
        card.reader != "band_folder",
        expected=f"a folder that holds products of card {card.name}",
        got=f"the file {place}",
        remedy="give the folder",
    )
    return replace(card, files=glob.escape(path.name)), path.parent


def name_maps(scenes: tuple[Product, ...]) -> list[str]:
    """Return a file name for the map of each scene: its id in letters, digits, dots and dashes, each name once."""
    stems = [
        re.sub(r"[^\w.\-]+", "_", product.product_id.partition("/")[2]).strip("._") or "scene" for product in scenes
    ]
    return [
        f"{stem}.tif" if stems.count(stem) == 1 else f"{stem}-{fingerprint(product.product_id)[:8]}.tif"
        for stem, product in zip(stems, scenes, strict=True)
    ]


def reopen_scenes(summary: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, Product], str]:
    """Return the scenes behind some maps of a product by the name of the map, and why those that are absent are.

    Nothing is fetched from the network, and a scene that has changed since is left out.

    Args:
        summary: of the product's manifest: ``source``, ``card_at`` and ``scenes``, id and checksum by name of the map.
        names: of maps.
    """
    recorded = summary.get("scenes", {})
    if not recorded or is_link(str(summary["source"])):
        where = "lie on the network" if recorded else "are not recorded"
        return {}, f"Its scenes {where}, hence no pictures of them."
    try:
        scenes = {
            scene.product_id: scene for scene in find_scenes(str(summary["source"]), load_card(str(summary["card_at"])))
        }
        same = {}
        for name in names:
            scene = scenes.get(recorded[name]["id"])
            if scene is not None and scene.checksum() == recorded[name]["checksum"]:
                same[name] = scene
    except UserError as error:
        return {}, f"Its scenes could not be opened again, hence no pictures of them: {error}."
    return same, "" if len(same) == len(
        names
    ) else "Some of its scenes are gone or have changed, hence no pictures of them."

"""From a card and a root folder to the products below it; no pixel is read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.scene import arrays, chips, ssl4eo
from eo_ssl.scene.band_folder import band_files
from eo_ssl.scene.facts import Facts, gather, metadata_file
from eo_ssl.scene.product import DamagedSource, Product
from eo_ssl.scene.sentinel1 import source as sentinel1
from eo_ssl.scene.sentinel1 import wave
from eo_ssl.scene.sentinel2 import listing as sentinel2
from eo_ssl.scene.stac import listing as stac_items
from eo_ssl.sensors import sensor


@dataclass(frozen=True, slots=True)
class ProductList:
    """Products in the order of their ids, and what was left out with the reason."""

    products: tuple[Product, ...]
    dropped: tuple[tuple[str, str], ...]


SELF_DESCRIBING: dict[str, Callable[[Card, Path], tuple[list[Product], list[tuple[str, str]]]]] = {
    "sentinel2_safe": sentinel2.listing,
    "sentinel1_grd_safe": sentinel1.listing,
    "sentinel1_wv_safe": wave.listing,
    "stac": stac_items,
    "ssl4eo_folders": ssl4eo.folder_listing,
    "ssl4eo_zarr": ssl4eo.stack_listing,
    "ssl4eo_lmdb": ssl4eo.record_listing,
}
"""Readers whose products say themselves what their pixels mean: (card, root) -> products and what was left out with the reason."""


def products(card: Card, root: Path, *, accept_unknown_offset: Literal["refuse", "drop"] = "refuse") -> ProductList:
    """Return the products of ``card`` below ``root``, sorted by id.

    Args:
        card: what the files are.
        root: folder that the card's patterns are relative to.
        accept_unknown_offset: what to do with a file that the card's ``offset_by_file`` does not list.

    Raises:
        UserError: nothing matches, a product's metadata is absent, or (``refuse``) a radiometric offset is unknown.
    """
    root = Path(root)
    if not root.is_dir() and card.reader != "stac":
        raise UserError(
            f"expected the folder {root} with the data of card {card.name}, found none; set --data (or EO_SSL_DATA) to it"
        )
    readers = {"band_folder": _band_folders, "raster": _rasters, "array": _arrays}
    dropped: list[tuple[str, str]] = []
    if card.reader in SELF_DESCRIBING:
        found, dropped = SELF_DESCRIBING[card.reader](card, root)
    elif card.reader == "chips":
        found, dropped = _chips(card, root)
    elif card.reader in readers:
        found = list(readers[card.reader](card, root))
        reasons = [product.source.reason for product in found if isinstance(product.source, DamagedSource)]
        if reasons and len(reasons) == len(found):
            raise UserError(reasons[0])  # no accident of one product: the card does not fit
    else:
        raise UserError(
            f"expected a card of images to ingest, got the benchmark {card.name}; evaluate it with its loader {card.loader}"
        )
    if not found:
        pattern = card.folder if card.reader == "band_folder" else card.files
        raise UserError(
            f"expected files of card {card.name} as {pattern!r} below {root}, found none; set the root to the folder that holds them"
        )
    known = [product for product in found if product.facts.offset is not None]
    unknown = [product for product in found if product.facts.offset is None]
    if unknown and accept_unknown_offset == "refuse":
        if unknown[0].source is not None:
            raise UserError(
                f"expected a processing baseline in {unknown[0].product_id}, got none, so that its radiometric offset is unknown "
                f"({len(unknown)} of {len(found)} products); leave such products out with --accept-unknown-offset drop"
            )
        first = unknown[0].parts[0][1]
        key = first.parent.name if card.reader == "band_folder" else first.name
        raise UserError(
            f"expected a radiometric offset of {key} in offset_by_file of card {card.name}, got none "
            f"({len(unknown)} of {len(found)} products); list it, or leave such products out with --accept-unknown-offset drop"
        )
    unstated = "radiometric offset unknown: not in offset_by_file"
    dropped += [
        (product.product_id, "radiometric offset unknown: no processing baseline" if product.source else unstated)
        for product in unknown
    ]
    return ProductList(tuple(sorted(known, key=lambda product: product.product_id)), tuple(sorted(dropped)))


def _matches(root: Path, pattern: str, *, folders: bool = False) -> list[tuple[str, Path]]:
    """Return (name within the set, path): the part of the path below the last folder without wildcard, without suffix."""
    if Path(pattern).is_absolute():
        raise UserError(
            f"expected a pattern relative to {root} in the card, got {pattern!r}; give the folder as the root"
        )
    parts = Path(pattern).parts
    fixed = next((place for place, part in enumerate(parts) if re.search(r"[*?\[]", part)), max(len(parts) - 1, 0))
    base = root.joinpath(*parts[:fixed])
    paths = [root] if pattern in (".", "") else sorted(root.glob(pattern))
    chosen = [path for path in paths if (path.is_dir() if folders else path.is_file())]
    return [(_name(path.relative_to(base), folders), path) for path in chosen if path.is_relative_to(base)]


def _name(path: Path, folders: bool) -> str:
    name = path.as_posix() if folders else path.with_suffix("").as_posix()
    return "" if name == "." else name


def _id(card: Card, *names: str) -> str:
    return "/".join([card.name, *(name for name in names if name)])


def _beside(path: Path, pattern: str) -> Path:
    """File named relative to a product's file, ``{stem}`` standing for its name without suffix."""
    return Path(os.path.normpath(path.parent / pattern.replace("{stem}", path.stem)))


def _extras(card: Card, path: Path, *, pixels: bool) -> list[tuple[str, Path]]:
    extras: list[tuple[str, Path]] = []
    for role, declared in (("mask", card.mask), ("labels", card.labels)):
        if declared is not None:
            inside = pixels and "." not in declared.source and "/" not in declared.source
            extras.append((role, path if inside else _beside(path, declared.source)))
    file = metadata_file(card, path.parent, stem=path.stem)
    return extras + ([("metadata", file)] if file else [])


def _held(card: Card, name: str, found: Iterator[Product]) -> list[Product]:
    """The products of one file or folder; where its metadata is damaged, one that says so when it is opened: the others go on."""
    try:
        return list(found)
    except UserError as error:
        unknown = Facts("", "", "", 0.0)
        return [Product(_id(card, name), card, "cube", (), unknown, source=DamagedSource(name, str(error)))]


def _band_folders(card: Card, root: Path) -> Iterator[Product]:
    for name, folder in _matches(root, card.folder, folders=True):
        yield from _held(card, name, _band_folder(card, name, folder))


def _band_folder(card: Card, name: str, folder: Path) -> Iterator[Product]:
    parts = band_files(card, folder)
    facts = gather(card, folder=folder, path=parts[0][1], names={}, listed_as=folder.name)
    yield Product(_id(card, name), card, "cube", (*parts, *_extras(card, parts[0][1], pixels=False)), facts)


def _rasters(card: Card, root: Path) -> Iterator[Product]:
    pattern = card.files if isinstance(card.files, str) else ""
    found = _matches(root, pattern)
    if card.group is not None:
        yield from _grouped(card, [path for _, path in found], root)
        return
    for name, path in found:
        yield from _held(card, name, _raster(card, name, path))


def _raster(card: Card, name: str, path: Path) -> Iterator[Product]:
    facts = gather(card, folder=path.parent, path=path, names={}, listed_as=path.name)
    parts = (("pixels", path), *_extras(card, path, pixels=True))
    if not card.layers:
        yield Product(_id(card, name), card, "cube", parts, facts)
    for layer, indices in card.layers.items():
        if len(indices) != len(card.bands):
            raise UserError(
                f"expected {len(card.bands)} file bands in layer {layer!r} of card {card.name}, got {len(indices)}; name one per band"
            )
        yield Product(_id(card, name, layer), card, "cube", parts, facts, layer=tuple(indices), share=len(card.layers))


def _grouped(card: Card, paths: list[Path], root: Path) -> Iterator[Product]:
    pattern = re.compile(card.group.pattern if card.group else "")
    if not {"product", "band"} <= set(pattern.groupindex):
        raise UserError(
            f"expected group.pattern of card {card.name} with the named groups product and band, got {pattern.pattern!r}; add them"
        )
    groups: dict[str, dict[str, Path]] = {}
    names: dict[str, dict[str, str]] = {}
    for path in paths:
        match = pattern.search(path.relative_to(root).as_posix())
        if match is None:
            raise UserError(
                f"expected the name {path.name} to fit group.pattern of card {card.name}, got no match; correct the pattern or narrow `files`"
            )
        band = sensor(card.sensor).resolve(match["band"])
        files = groups.setdefault(match["product"], {})
        if band in files:
            raise UserError(
                f"expected one file of {band} for product {match['product']}, got {files[band].name} and {path.name}; remove one"
            )
        files[band] = path
        found = {key: value for key, value in match.groupdict().items() if value is not None}
        names.setdefault(match["product"], found)
    for name, files in groups.items():
        first = min(files.values())
        facts = gather(card, folder=first.parent, path=first, names=names[name], listed_as=first.name)
        parts = tuple((band, files[band]) for band in card.bands if band in files)
        yield Product(_id(card, name), card, "cube", (*parts, *_extras(card, first, pixels=False)), facts)


def _arrays(card: Card, root: Path) -> Iterator[Product]:
    pattern = card.files if isinstance(card.files, str) else ""
    for name, path in _matches(root, pattern):
        yield from _held(card, name, _array(card, name, path))


def _array(card: Card, name: str, path: Path) -> Iterator[Product]:
    facts = gather(card, folder=path.parent, path=path, names={}, listed_as=path.name)
    parts = (("pixels", path), *_extras(card, path, pixels=True))
    dates = arrays.steps(card, path)
    if dates is None:
        yield Product(_id(card, name), card, "cube", parts, facts)
        return
    for step, date in enumerate(dates):
        dated = Facts(date or facts.datetime, facts.processing_baseline, facts.orbit, facts.offset)
        yield Product(_id(card, name, f"{step:04d}"), card, "cube", parts, dated, step=step, share=len(dates))


def _chips(card: Card, root: Path) -> tuple[list[Product], list[tuple[str, str]]]:
    archive, entries, dropped = chips.listing(card, root)
    facts = gather(card, folder=archive.parent, path=archive, names={}, listed_as=archive.name)
    batches = [entries[start : start + chips.BATCH] for start in range(0, len(entries), chips.BATCH)]
    found = [
        Product(
            _id(card, f"{number:05d}"), card, "chips", (("pixels", archive),), facts, entries=batch, share=len(batches)
        )
        for number, batch in enumerate(batches)
    ]
    return found, list(dropped)

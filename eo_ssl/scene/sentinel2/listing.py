"""From a card and a root to the Sentinel-2 products below it: one tile each, of the card's level, the newest processing of each sensing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.scene.facts import Facts
from eo_ssl.scene.product import DamagedSource, Product
from eo_ssl.scene.safe import Container, containers_below
from eo_ssl.scene.sentinel2.metadata import USER_BASELINE, Metadata, is_multi_tile, read
from eo_ssl.scene.sentinel2.source import SafeSource

_LEVELS = {"sentinel2_l1c": "L1C", "sentinel2_l2a": "L2A"}
_UNKNOWN = Facts("", "", "", 0.0)
Dropped = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Found:
    safe: Container
    metadata: Metadata


def listing(card: Card, root: Path) -> tuple[list[Product], Dropped]:
    """Return the products of a card below ``root``, and what was left out with the reason.

    A product that is damaged stays in the list and says so when it is opened.

    Raises:
        UserError: the card states what only the products may, or all that was found is of another kind.
    """
    _check(card)
    found: list[_Found] = []
    here, damaged, dropped = containers_below(card, root, mark="GRANULE")
    for safe in here:
        _sort_in(card, safe, found=found, damaged=damaged, dropped=dropped)
    kept, older = _newest(found)
    dropped += [(f"{card.name}/{name}", reason) for name, reason in older]
    products: dict[str, Product] = {}
    for item in kept:
        name = item.safe.name
        if name in products:
            dropped.append((f"{card.name}/{name}", f"{item.safe.archive.path} has the name of another product"))
            continue
        products[name] = _product(card, name, SafeSource(card, item.safe, item.metadata), item.metadata.facts)
    names = {item.safe.name for item in found}
    for name, reason in damaged.items():
        if name in names:  # a second, damaged copy
            dropped.append((f"{card.name}/{name}", reason))
        else:
            products[name] = _product(card, name, DamagedSource(f"{name}.SAFE", reason), _UNKNOWN)
    if dropped and not products:
        name, reason = dropped[0]
        raise UserError(
            f"expected Sentinel-2 products for card {card.name} as {card.files!r} below {root}, got {len(dropped)} that do not fit, {name} first: {reason}"
        )
    return list(products.values()), dropped


def _check(card: Card) -> None:
    """Refuse a card that states what the products themselves state: two sources of one fact can disagree."""
    stated = {
        "scale": card.scale != 1.0, "offset": card.offset != 0.0, "offset_by_file": bool(card.offset_by_file), "nodata": card.nodata is not None,
        "dtype_max": card.dtype_max is not None, "mask": card.mask is not None, "metadata": card.metadata is not None, "labels": card.labels is not None,
        "grid_from": card.grid_from is not None, "crs": bool(card.crs), "transform": card.transform is not None, "datetime": bool(card.datetime),
        "processing_baseline": bool(card.processing_baseline), "orbit": bool(card.orbit),
    }  # fmt: skip
    given = [name for name, is_given in stated.items() if is_given]
    if given:
        raise UserError(
            f"expected card {card.name} to leave {', '.join(given)} to the metadata of its SAFE products, got values; remove them from the card"
        )
    if card.sensor not in _LEVELS or not card.quantity.is_reflectance or not isinstance(card.files, str):
        raise UserError(
            f"expected card {card.name} with reader sentinel2_safe to have a sensor out of {', '.join(_LEVELS)}, a reflectance and one pattern in `files`, "
            f"got {card.sensor}, {card.quantity.value} and {card.files!r}; correct it"
        )


def _sort_in(card: Card, safe: Container, *, found: list[_Found], damaged: dict[str, str], dropped: Dropped) -> None:
    product_id = f"{card.name}/{safe.name}"
    if is_multi_tile(safe):
        reason = "several tiles in one product, the format before November 2016: fetch its tiles as single products (processing baseline 05.00)"
        dropped.append((product_id, reason))
        return
    try:
        metadata = read(safe)
    except UserError as error:
        damaged.setdefault(safe.name, str(error))
        return
    if metadata.level != _LEVELS[card.sensor]:
        reason = f"Level-{metadata.level[1:]}, and the card is of {card.sensor}: ingest it with a card of its own level"
        dropped.append((product_id, reason))
        return
    found.append(_Found(safe, metadata))


def _newest(found: list[_Found]) -> tuple[list[_Found], Dropped]:
    """Return the newest processing of each sensing of a tile, and the others with the reason; ESA's own go before a user's (99.xx).

    Where a datatake changes datastrip within a tile, that tile comes as two products of one baseline, each with a part of it: both stay.
    """
    groups: dict[tuple[str, str, str], list[_Found]] = {}
    for item in found:
        facts = item.metadata
        groups.setdefault((facts.facts.platform, facts.sensing_start, facts.tile), []).append(item)
    kept: list[_Found] = []
    dropped: Dropped = []
    for group in groups.values():
        group.sort(key=lambda item: _age(item.metadata), reverse=True)
        first = group[0]
        parts: dict[str, _Found] = {}
        for item in group:
            if item.metadata.baseline == first.metadata.baseline:
                better = parts.setdefault(item.metadata.datastrip, item)
            else:
                better = first
            if better is not item:
                dropped.append((item.safe.name, _older(item, better)))
        kept += parts.values()
    return kept, dropped


def _age(facts: Metadata) -> tuple[bool, str, str]:
    """What is larger is newer; a user's baseline says nothing of when its software was made."""
    return facts.baseline < USER_BASELINE, facts.baseline, facts.generated


def _older(item: _Found, better: _Found) -> str:
    """Say why a product is left out for another one of the same sensing and tile."""
    name, mine, its = better.safe.name, item.metadata, better.metadata
    if item.safe.name == name:
        return f"a second copy, in {item.safe.archive.path}; the one in {better.safe.archive.path} is taken"
    if mine.baseline != its.baseline:
        return f"processing baseline {mine.baseline} of a sensing that {name} has in {its.baseline}"
    if mine.generated == its.generated:
        return f"the same product as {better.safe.archive.path}, under another name"
    return f"generated {mine.generated}, and {name} of the same sensing and baseline {its.generated}"


def _product(card: Card, name: str, source: SafeSource | DamagedSource, facts: Facts) -> Product:
    return Product(f"{card.name}/{name}", card, "cube", (), facts, source=source)

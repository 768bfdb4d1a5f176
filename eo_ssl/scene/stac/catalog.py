"""From a card to the items of a static catalogue or an API, each one product.

A static catalogue is walked link by link (``child``, ``item``), in files or over http(s): one request per item, right
for thousands of items; for more, an API or one item collection. An API is searched with pystac-client. Where an API
sorts, ``limit`` bounds what it is asked for; where it does not, all matches are fetched first, so that the items taken
never depend on the server's order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import dump_canonical_json
from eo_ssl.layouts import Stac
from eo_ssl.scene.gdal_files import describe_error
from eo_ssl.scene.product import Listing, Product, make_damaged_product
from eo_ssl.scene.product_source import DamagedSource
from eo_ssl.scene.stac import access
from eo_ssl.scene.stac.conventions import Json, check_card, read_acquisition, read_datetime
from eo_ssl.scene.stac.item_filters import ListedItem, keep_newest, match_item
from eo_ssl.scene.stac.item_product import StacItem

_RETRIES = 2


def list_products(card: Card, root: Path, *, allow_outside: bool = False) -> Listing:
    """Return the items a card selects as products, and what was left out with the reason.

    A document that is damaged stays in the list and says so when it is opened.

    Args:
        card: of the set.
        root: folder that the card's catalogue is relative to. A catalogue in files may name files below it (below its
            own folder if it lies elsewhere).
        allow_outside: let it name any file of this machine.

    Raises:
        UserError: the card cannot be read by this reader, or its catalogue is absent, unreachable or no STAC.
    """
    check_card(card)
    if card.stac is None:
        raise UserError(f"expected card {card.name} with reader stac to have `stac`, got none; add it")
    start = card.stac.catalog
    within = ""
    if not access.is_link(start):
        path, folder = (Path(root) / start).resolve(), Path(root).resolve()
        start = str(path)
        within = "" if allow_outside else str(folder if path.is_relative_to(folder) else path.parent)
    items: list[ListedItem] = []
    products: list[Product] = []
    for entry in _entries(card.stac, start, within):
        if isinstance(entry, DamagedSource):
            products.append(make_damaged_product(card, entry.name, entry.reason))
        elif match_item(entry.item, card.stac):
            items.append(entry)
    kept, dropped = keep_newest(items)
    if not kept and not products:
        raise UserError(
            f"expected items that pass the filters of card {card.name} in {start}, got none; widen collections, bbox, "
            "datetime or query"
        )
    for entry in kept[: card.stac.limit]:
        text = dump_canonical_json({key: value for key, value in entry.item.items() if key != "links"})
        source, acquisition = StacItem(card, text, entry.base, within), read_acquisition(card, entry.item)
        products.append(Product(f"{card.name}/{entry.place}", card, "cube", acquisition, source))
    return products, [(f"{card.name}/{place}", reason) for place, reason in dropped]


def _entries(wanted: Stac, start: str, within: str) -> Iterator[ListedItem | DamagedSource]:
    """The items of whatever lies at ``start``: an API, a catalogue, a collection, an item collection or an item."""
    first = access.read_document(start)
    if access.is_link(start) and first.get("conformsTo"):
        for item in _searched(wanted, start):
            yield _checked(item, base="", name=str(item.get("id")))
        return
    yield from _walked(first, start, within)


def _walked(first: Json, start: str, within: str) -> Iterator[ListedItem | DamagedSource]:
    waiting: list[tuple[str, Json | None]] = [(start, first)]
    seen = {start}
    while waiting:
        place, content = waiting.pop()
        try:
            content = access.read_document(place) if content is None else content
            kind = content.get("type")
            if kind not in ("Feature", "FeatureCollection", "Catalog", "Collection"):
                raise UserError(
                    f"expected a STAC item, collection or catalogue in {place}, got {kind!r}; correct the link"
                )
            features = (
                content.get("features") if kind == "FeatureCollection" else [content] if kind == "Feature" else []
            )
            for number, item in enumerate(features if isinstance(features, list) else []):
                yield _checked(item, base=place, name=f"{_within(place, start)}#{number}")
            for href in _links(content) if kind in ("Catalog", "Collection") else ():
                further = access.resolve(href, base=place, root=within)
                if further not in seen:
                    seen.add(further)
                    waiting.append((further, None))
        except UserError as error:
            if place == start:
                raise
            yield DamagedSource(_within(place, start), str(error))


def _links(content: Json) -> list[str]:
    links = content.get("links")
    entries = [link for link in links if isinstance(link, dict)] if isinstance(links, list) else []
    return [str(link.get("href")) for link in entries if link.get("rel") in ("child", "item") and link.get("href")]


def _within(place: str, start: str) -> str:
    """Name of a document by its place below the catalogue's folder."""
    return place.removeprefix(start.rpartition("/")[0] + "/").removesuffix(".json")


def _checked(item: Any, *, base: str, name: str) -> ListedItem | DamagedSource:
    """The item, or why it is none."""
    problem = "no object"
    if isinstance(item, dict):
        assets, properties, box = item.get("assets"), item.get("properties"), item.get("bbox") or [0.0] * 4
        whole = isinstance(assets, dict) and all(isinstance(a, dict) and a.get("href") for a in assets.values())
        boxed = isinstance(box, list) and len(box) in (4, 6) and all(isinstance(value, int | float) for value in box)
        named = bool(item.get("id")) and all(isinstance(item.get(key) or "", str) for key in ("id", "collection"))
        fits = whole and boxed and named and isinstance(properties, dict)
        problem = "" if fits else "id, properties, bbox or asset links that are missing or of a wrong kind"
    try:
        if not problem:
            read_datetime(item)
            dump_canonical_json(item).encode()
            return ListedItem(item, base)
    except (UserError, UnicodeEncodeError) as error:
        problem = str(error)
    return DamagedSource(name, f"expected a STAC item in {base or name}, got {problem}; correct the catalogue")


def _searched(wanted: Stac, url: str) -> Iterator[Json]:
    """Items that an API finds.

    Raises:
        UserError: the API cannot be reached or refuses the search.
    """
    import pystac_client  # slow to import, and only APIs need it
    from pystac_client.conformance import ConformanceClasses
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO

    try:
        speaker = StacApiIO(max_retries=_RETRIES, timeout=access.TIMEOUT)
        client = access.bound_time(partial(pystac_client.Client.open, url, stac_io=speaker))
        sorts = client.conforms_to(ConformanceClasses.SORT)
        search = client.search(
            collections=list(wanted.collections) or None,
            bbox=wanted.bbox,
            datetime=wanted.datetime or None,
            query=dict(wanted.query) or None if client.conforms_to(ConformanceClasses.QUERY) else None,
            sortby=["+properties.datetime", "+id"] if sorts else None,
            max_items=wanted.limit if sorts else None,
        )
        pages = search.pages_as_dicts()
        while (page := access.bound_time(partial(next, pages, None))) is not None:
            yield from page["features"]
    except (APIError, OSError, ValueError, KeyError, NotImplementedError) as error:
        raise UserError(
            f"expected a STAC API at {url}, got: {describe_error(error)}; correct the link or the filters, or try "
            "again later"
        ) from error

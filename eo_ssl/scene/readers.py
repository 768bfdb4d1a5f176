"""From a card and a root folder to the products below it, by the card's reader; no pixel is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from eo_ssl.cards import Card
from eo_ssl.errors import UserError, expect
from eo_ssl.scene import array, band_folder, chips, raster, sentinel1, sentinel2, ssl4eo, stac
from eo_ssl.scene.commissioning import sort_out_commissioning
from eo_ssl.scene.product import Listing, Product
from eo_ssl.scene.product_source import FileSource

READERS: dict[str, Callable[[Card, Path], Listing]] = {
    "raster": raster.list_products,
    "band_folder": band_folder.list_products,
    "array": array.list_products,
    "chips": chips.list_products,
    "sentinel2_safe": sentinel2.list_products,
    "sentinel1_grd_safe": sentinel1.list_products,
    "sentinel1_wv_safe": sentinel1.list_products,
    "stac": stac.list_products,
    "ssl4eo_folders": ssl4eo.list_products,
    "ssl4eo_zarr": ssl4eo.list_products,
    "ssl4eo_lmdb": ssl4eo.list_products,
}
"""Reader of a card -> its function (card, root) -> products, and (id or path, reason) of what was left out."""


@dataclass(frozen=True, slots=True)
class ProductList:
    """Products in the order of their ids, and what was left out with the reason."""

    products: tuple[Product, ...]
    dropped: tuple[tuple[str, str], ...]


def list_products(
    card: Card,
    root: Path,
    *,
    accept_unknown_offset: Literal["refuse", "drop"] = "refuse",
    allow_outside: bool = False,
) -> ProductList:
    """Return the products of ``card`` below ``root``, sorted by id.

    Args:
        card: what the files are.
        root: folder that the card's patterns are relative to.
        accept_unknown_offset: what to do with a file that the card's ``offset_by_file`` does not list.
        allow_outside: let a STAC catalogue in files name files outside ``root``.

    Raises:
        UserError: nothing matches, a product's metadata is absent, or (``refuse``) a radiometric offset is unknown.
    """
    root = Path(root)
    if not root.is_dir() and card.reader != "stac":
        raise UserError(
            f"expected the folder {root} with the data of card {card.name}, found none; set --data (or EO_SSL_DATA) to "
            "it"
        )
    expect(
        card.reader in READERS,
        expected="a card of images to ingest",
        got=f"the benchmark {card.name}",
        remedy=f"evaluate it with its loader {card.loader}",
    )
    if card.reader == "stac":
        listed, dropped = stac.list_products(card, root, allow_outside=allow_outside)
    else:
        listed, dropped = READERS[card.reader](card, root)
    products, early = sort_out_commissioning(card, listed)
    dropped = [*dropped, *early]
    if not products:
        expect(
            not dropped,
            expected=f"products that fit card {card.name} below {root}",
            got=f"{len(dropped)} that do not, {dropped[0][0] if dropped else ''} first",
            remedy=dropped[0][1] if dropped else "",
        )
        pattern = card.folder if card.reader == "band_folder" else card.files
        raise UserError(
            f"expected files of card {card.name} as {pattern!r} below {root}, found none; set the root to the folder "
            "that holds them"
        )
    products = [_place(product, root) for product in products]
    if card.offset_by_file:
        products = assign_offsets(card, products)
    known = [product for product in products if product.acquisition.offset is not None]
    unknown = [product for product in products if product.acquisition.offset is None]
    if unknown and accept_unknown_offset == "refuse":
        raise UserError(_explain_unknown_offset(card, unknown[0], f"{len(unknown)} of {len(products)} products"))
    left_out = [(product.product_id, f"radiometric offset unknown: {_find_cause(product)}") for product in unknown]
    return ProductList(
        tuple(sorted(known, key=lambda product: product.product_id)), tuple(sorted([*dropped, *left_out]))
    )


def _place(product: Product, root: Path) -> Product:
    source = product.source
    if not isinstance(source, FileSource):
        return product
    inside = source.place.is_relative_to(root)
    return replace(product, place=(source.place.relative_to(root) if inside else source.place).as_posix())


def assign_offsets(card: Card, products: Sequence[Product]) -> list[Product]:
    """Return listed products with the offsets that the card's ``offset_by_file`` gives, None where it gives none.

    Raises:
        UserError: it names a file by its bare name, and several files of the set have it.
    """
    table, places = card.offset_by_file, {product.place for product in products if product.place}
    alike: dict[str, list[str]] = {}
    for place in sorted(places):
        alike.setdefault(PurePosixPath(place).name, []).append(place)
    for name in table.keys() - places:
        expect(
            len(alike.get(name, ())) < 2,
            expected=f"offset_by_file of card {card.name} to say which {name} it means",
            got=f"one offset for {', '.join(alike.get(name, ()))}",
            remedy="list each by its path below the root",
        )
    named = {place: table[name] for name in table.keys() - places for place in alike.get(name, ())}
    offsets = named | {place: table[place] for place in table.keys() & places}
    return [product.with_offset(offsets.get(product.place)) if product.place else product for product in products]


def _find_cause(product: Product) -> str:
    return "not in offset_by_file" if product.is_described_by_card else "no processing baseline"


def _explain_unknown_offset(card: Card, product: Product, share: str) -> str:
    if product.is_described_by_card:
        return (
            f"expected a radiometric offset of {product.place} in offset_by_file of card {card.name}, got none "
            f"({share}); list it, or leave such products out with --accept-unknown-offset drop"
        )
    return (
        f"expected a processing baseline in {product.product_id}, got none, so that its radiometric offset is unknown "
        f"({share}); leave such products out with --accept-unknown-offset drop"
    )

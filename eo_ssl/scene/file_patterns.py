"""Products whose files a card names by patterns: matching paths, what lies beside them, damage to one of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from eo_ssl.cards import Card
from eo_ssl.errors import UserError, expect
from eo_ssl.scene.acquisition import find_metadata_file
from eo_ssl.scene.product import Product, make_damaged_product
from eo_ssl.scene.product_source import DamagedSource


def match_paths(root: Path, pattern: str, *, folders: bool = False) -> list[tuple[str, Path]]:
    """Return (name within the set, path) of what a pattern matches.

    The name is the part of the path below the last folder without wildcard, without suffix.
    """
    expect(
        not Path(pattern).is_absolute(),
        expected=f"a pattern relative to {root} in the card",
        got=repr(pattern),
        remedy="give the folder as the root",
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


def name_product(card: Card, *names: str) -> str:
    """Return the id of a product: the card's name and the product's place within the set."""
    return "/".join([card.name, *(name for name in names if name)])


def find_extras(card: Card, path: Path, *, pixels: bool) -> list[tuple[str, Path]]:
    """Return (role, file) of the mask, labels and metadata of a product whose first file is ``path``.

    Args:
        card: where they lie.
        path: a file of the product; the extras are named relative to it, ``{stem}`` standing for its name without
            suffix.
        pixels: whether mask and labels may be a band or variable of the file itself.
    """
    extras: list[tuple[str, Path]] = []
    for role, declared in (("mask", card.mask), ("labels", card.labels)):
        if declared is not None and declared.source:
            inside = pixels and "." not in declared.source and "/" not in declared.source
            beside = path.parent / declared.source.replace("{stem}", path.stem)
            extras.append((role, path if inside else Path(os.path.normpath(beside))))
    file = find_metadata_file(card, path.parent, stem=path.stem)
    return extras + ([("metadata", file)] if file else [])


def list_readable(card: Card, listings: Iterable[tuple[str, Callable[[], Iterator[Product]]]]) -> list[Product]:
    """Return the products of each (name, products of a file or folder).

    Where its metadata are damaged, one that says so when opened.

    Raises:
        UserError: none can be read, which is no accident of one product: the card does not fit.
    """
    products: list[Product] = []
    for name, read in listings:
        try:
            products += list(read())
        except UserError as error:
            products.append(make_damaged_product(card, name, str(error)))
    reasons = [product.source.reason for product in products if isinstance(product.source, DamagedSource)]
    if reasons and len(reasons) == len(products):
        raise UserError(reasons[0])
    return products

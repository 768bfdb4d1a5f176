"""What the tests of SAFE products share: cards of them, and changing the metadata of a generated product."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from eo_ssl.cards import Card, load_card
from eo_ssl.scene import products
from eo_ssl.scene.product import Product
from eo_ssl.sensors import Quantity


def card_of(level: str, **changes: Any) -> Card:
    """The shipped card of a level, ``L1C`` or ``L2A``, changed."""
    if "bands" in changes:
        changes["bands"] = tuple(changes["bands"])
    if "quantity" in changes:
        changes["quantity"] = Quantity(changes["quantity"])
    return replace(load_card(f"s2_safe_{level.lower()}"), **changes)


def only(card: Card, root: Path) -> Product:
    (product,) = products(card, root).products
    return product


def unlisted(product: Path) -> None:
    """Take the manifest away, so that files may be changed."""
    (product / "manifest.safe").unlink()


def edit(path: Path, changes: tuple[tuple[str, str], ...]) -> None:
    """Replace each of the texts, which must occur."""
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)

"""What the tests of SAFE products share: cards of them, and changing the metadata of a generated product."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from eo_ssl.cards import Card, load_card
from eo_ssl.scene import list_products
from eo_ssl.scene.product import Product
from eo_ssl.scene.safe_container import MANIFEST, list_containers
from eo_ssl.scene.sentinel1.product_manifest import Safe, open_safe
from eo_ssl.sensors import Quantity


def card_of(level: str, **changes: Any) -> Card:
    """The shipped card of a level, ``L1C`` or ``L2A``, changed."""
    if "bands" in changes:
        changes["bands"] = tuple(changes["bands"])
    if "quantity" in changes:
        changes["quantity"] = Quantity(changes["quantity"])
    return replace(load_card(f"s2_safe_{level.lower()}"), **changes)


def only(card: Card, root: Path) -> Product:
    (product,) = list_products(card, root).products
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


def radar_safe(path: Path) -> Safe:
    """Return the one Sentinel-1 product in a folder or zip file."""
    (found,) = list_containers(path, mark=MANIFEST)
    return open_safe(found)


def relisted(path: Path, file: Path) -> None:
    """State the present size and checksum of a file of the folder ``path`` in its manifest, as if it had been delivered so."""
    manifest, name = path / MANIFEST, file.relative_to(path).as_posix()
    head, place, tail = manifest.read_text().partition(f'"./{name}"')
    before, size, after = head.rpartition('size="')
    head = before + size + str(file.stat().st_size) + after[after.index('"') :]
    digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    manifest.write_text(head + place + re.sub(r'(checksumName="MD5">)\w+', rf"\g<1>{digest}", tail, count=1))

"""Products that were put aside: one JSON file each, kept until the product succeeds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from eo_ssl.corpus.store import Store

if TYPE_CHECKING:  # readers of a corpus need neither GDAL nor xarray
    from eo_ssl.corpus.assembly import Survey
    from eo_ssl.scene import Product

FOLDER = "quarantine"


@dataclass(frozen=True, slots=True)
class Failure:
    """A product that was put aside, or the write error that ended the run."""

    product_id: str
    reason: str
    kind: Literal["product", "write", "stopped"] = "product"
    trace: str = ""
    "stack of an error that no reader put in words; such a product is tried again by the next run"


def update(
    store: Store, products: Sequence[Product], surveys: Sequence[Survey | Failure], failures: Sequence[Failure]
) -> None:
    """Record why products were put aside; forget those that now succeeded."""
    known = set(store.names(FOLDER))
    failed = {failure.product_id: failure for failure in failures}
    for product, survey in zip(products, surveys, strict=True):
        name = _name(product.product_id)
        failure = failed.get(product.product_id)
        if failure is None:
            if name in known:
                store.remove(f"{FOLDER}/{name}")
            continue
        value = {
            "product_id": product.product_id,
            "card": product.card.name,
            "reason": failure.reason,
            "trace": failure.trace,
            "checksum": survey.checksum if not isinstance(survey, Failure) else "",
            "files": [file.name for file in product.paths],
        }
        store.replace(f"{FOLDER}/{name}", json.dumps(value, indent=1, sort_keys=True).encode())


def load_failures(store: Store, products: Sequence[Product]) -> list[Failure]:
    """Return those of ``products`` that an earlier run put aside."""
    known = set(store.names(FOLDER))
    found = []
    for product in products:
        if _name(product.product_id) in known:
            value = json.loads(store.read(f"{FOLDER}/{_name(product.product_id)}"))
            found.append(Failure(product.product_id, value["reason"], trace=value.get("trace", "")))
    return found


def read(store: Store) -> list[dict[str, Any]]:
    """Return all that was put aside, as plain values."""
    names = [name for name in store.names(FOLDER) if name.endswith(".json") and not name.startswith(".")]
    return [json.loads(data) for data in store.read_many([f"{FOLDER}/{name}" for name in names])]


def _name(product_id: str) -> str:
    """Return a file name that can be read and that no other product has."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", product_id)
    stem = plain if plain == product_id else f"{plain[:150]}-{hashlib.sha256(product_id.encode()).hexdigest()[:8]}"
    return f"{stem}.json"

"""Products that were put aside: one JSON file each, kept until the product succeeds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eo_ssl.corpus.jobs import Failure, Survey
from eo_ssl.manifest import replace
from eo_ssl.scene import Product

FOLDER = "quarantine"


def update(
    out: Path, products: Sequence[Product], surveys: Sequence[Survey | Failure], failures: Sequence[Failure]
) -> None:
    """Record why products were put aside; forget those that now succeeded."""
    failed = {failure.product_id: failure for failure in failures}
    for product, survey in zip(products, surveys, strict=True):
        path = _path(out, product.product_id)
        failure = failed.get(product.product_id)
        if failure is None:
            path.unlink(missing_ok=True)
            continue
        value = {
            "product_id": product.product_id,
            "card": product.card.name,
            "reason": failure.reason,
            "trace": failure.trace,
            "checksum": survey.checksum if isinstance(survey, Survey) else "",
            "files": [file.name for file in product.paths],
        }
        replace(path, json.dumps(value, indent=1, sort_keys=True).encode())


def failures(out: Path, products: Sequence[Product]) -> list[Failure]:
    """Return those of ``products`` that an earlier run put aside."""
    found = []
    for product in products:
        path = _path(out, product.product_id)
        if path.is_file():
            value = json.loads(path.read_bytes())
            found.append(Failure(product.product_id, value["reason"], trace=value.get("trace", "")))
    return found


def read(out: Path) -> list[dict[str, Any]]:
    """Return all that was put aside, as plain values."""
    return [json.loads(path.read_bytes()) for path in sorted((out / FOLDER).glob("*.json"))]


def _path(out: Path, product_id: str) -> Path:
    """Return a file with a readable name that no other product has."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", product_id)
    name = plain if plain == product_id else f"{plain[:150]}-{hashlib.sha256(product_id.encode()).hexdigest()[:8]}"
    return out / FOLDER / f"{name}.json"

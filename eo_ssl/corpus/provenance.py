"""Where a tile comes from: the product, its licence, and the code and settings that made it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import rasterio

from eo_ssl.cards import Card, is_non_commercial
from eo_ssl.corpus import fragments, index
from eo_ssl.corpus.fragments import FragmentManifest
from eo_ssl.corpus.snapshots import FragmentEntry, read_fragment
from eo_ssl.corpus.store import Store
from eo_ssl.manifest import list_package_versions

_MAKERS = (
    "errors.py",
    "sensors.py",
    "layouts.py",
    "cards.py",
    "fingerprints.py",
    "commits.py",
    "documents.py",
    "leases.py",
    "product_record.py",
    "manifest.py",
    "tiling.py",
    "scene",
    "corpus",
)
"what of the package decides the bytes of a fragment"
_BY_TILE = ("tile_id", "pixels_sha256")
_WINDOW = ("row_off", "col_off", "height", "width")
_LEFT_OUT = ("geometry", "stream", "licence", "attribution", *_BY_TILE, *_WINDOW)


def collect_terms(card: Card) -> dict[str, Any]:
    """Return what a user of a card's data must know and hand on."""
    names = ("licence", "non_commercial", "attribution", "source", "citation")
    return {name: getattr(card, name) for name in names}


@cache
def identify_code() -> dict[str, Any]:
    """Return what code this process runs.

    A sha256 over the source files that make fragments, the commit of a checkout, package versions.
    """
    home = Path(__file__).parent.parent
    files = sorted(
        path for name in _MAKERS for path in ([home / name] if name.endswith(".py") else (home / name).rglob("*.py"))
    )
    digest = hashlib.sha256()
    for path in files:
        digest.update(
            f"{path.relative_to(home).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    packages = list_package_versions() | {"gdal": rasterio.__gdal_version__}
    return {"sha256": digest.hexdigest(), "commit": find_commit(home.parent), "packages": packages}


def find_commit(checkout: Path) -> str:
    """Return the commit that is checked out in a folder, from its ``.git``, or nothing where that is no repository."""
    git = checkout / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (line.partition(" ") for line in (git / "packed-refs").read_text().splitlines())
        return next((mark for mark, _, ref in packed if ref == name), "")
    except OSError:
        return ""


def list_licences(store: Store, entries: Sequence[FragmentEntry]) -> list[dict[str, Any]]:
    """Return licence, attribution and tiles of each card of a snapshot, by card; reads one fragment of each."""
    tiles: dict[str, int] = {}
    for entry in entries:
        tiles[entry.card] = tiles.get(entry.card, 0) + entry.rows
    return [
        {"card": entry.card, "tiles": tiles[entry.card], **(manifest.terms or _terms_of_row(store, entry))}
        for entry, manifest in _one_of_each_card(store, entries)
    ]


def list_settings(store: Store, entries: Sequence[FragmentEntry]) -> dict[str, dict[str, Any]]:
    """Return, by card, what decided the bytes of its fragments beside the products.

    Card, configuration, code and schema.
    """
    return {
        entry.card: {
            **manifest.config,
            "card_fingerprint": manifest.card_fingerprint,
            "code": manifest.code.get("sha256", ""),
            "schema_version": manifest.schema_version,
        }
        for entry, manifest in _one_of_each_card(store, entries)
    }


def _one_of_each_card(
    store: Store, entries: Sequence[FragmentEntry]
) -> Iterator[tuple[FragmentEntry, FragmentManifest]]:
    """Yield the largest fragment of each card, by card; a snapshot holds one version of a card only."""
    largest: dict[str, FragmentEntry] = {}
    for entry in entries:
        if entry.card not in largest or entry.rows > largest[entry.card].rows:
            largest[entry.card] = entry
    for _, entry in sorted(largest.items()):
        yield entry, read_fragment(store, entry)


def _terms_of_row(store: Store, entry: FragmentEntry) -> dict[str, Any]:
    """Return the terms of a fragment of schema 1, which has them in its rows only."""
    (data,) = fragments.read_files(store, [(read_fragment(store, entry), index.INDEX)])
    rows = pq.read_table(pa.BufferReader(data), columns=["licence", "attribution"]).slice(0, 1).to_pylist()
    terms = rows[0] if rows else {"licence": "", "attribution": ""}
    return {**terms, "non_commercial": is_non_commercial(terms["licence"])}


def describe(row: Mapping[str, Any], manifest: FragmentManifest, *, number: int) -> dict[str, Any]:
    """Return all that is known of one tile.

    Args:
        row: its index row.
        manifest: of its fragment.
        number: its row within the fragment.
    """
    known = {name: value for name, value in row.items() if name not in _LEFT_OUT and value is not None}
    stated = {"licence": row["licence"], "attribution": row["attribution"]}
    return {
        **{name: row[name].hex() for name in _BY_TILE},
        **known,
        "window": {name: row[name] for name in _WINDOW},
        "terms": manifest.terms or {**stated, "non_commercial": is_non_commercial(row["licence"])},
        "fragment": {"name": manifest.name, "row": number, "stream": row["stream"], "checksum": manifest.checksum},
        "made_with": {
            "card": manifest.card,
            "card_fingerprint": manifest.card_fingerprint,
            "config": manifest.config,
            "encoding": manifest.encoding,
            "code": manifest.code,
            "schema_version": manifest.schema_version,
        },
    }

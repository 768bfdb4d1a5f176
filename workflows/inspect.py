"""``eo-ssl inspect``: what a product, a card or a configuration holds, for a person or a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from eo_ssl.cards import list_cards, load_card
from eo_ssl.documents import read_json
from eo_ssl.errors import UserError
from eo_ssl.manifest import MANIFEST, UNFINISHED
from eo_ssl.printable import make_console


def main(
    path: str,
    format: Literal["table", "json"] = "table",
    row: int | None = None,
    stream: str | None = None,
    snapshot: int | None = None,
    diff: str | None = None,
    diff_snapshot: int | None = None,
    verify: bool = False,
) -> int:
    """Say what a product folder or a card holds.

    Of a corpus also where a tile comes from, and how it differs from another.

    Args:
        path: a product folder (corpus, subset, encoder, results, report, run), the address of a corpus, a card's name,
            a card file, or `cards` for the list of cards.
        format: a table for people or JSON for machines.
        row: of a corpus: show the provenance of this tile.
        stream: stream of the row; may be left out when the corpus has only one.
        snapshot: of a corpus: its number; the latest when left out.
        diff: another corpus to compare with.
        diff_snapshot: snapshot of that corpus, or, without `diff`, of this one.
        verify: of a corpus: read every byte and say what is damaged.

    Returns:
        0, or 1 when verify or diff found something.
    """
    asked = {"row": row is not None, "diff": bool(diff) or diff_snapshot is not None, "verify": verify}
    if sum(asked.values()) > 1:
        raise UserError(
            f"expected one of row, diff and verify, got {', '.join(k for k, v in asked.items() if v)}; ask one by one"
        )
    status = 0
    if any(asked.values()) or snapshot is not None or _is_corpus(path):
        facts, status = _corpus(path, asked, (row, stream), (snapshot, diff, diff_snapshot))
    else:
        facts = _facts(path)
    if format == "json":
        print(json.dumps(facts, indent=1, default=str))
        return status
    tree = Tree(Text(path, "bold"))
    _grow(tree, facts)
    make_console().print(tree)
    return status


def _is_corpus(path: str) -> bool:
    manifest = Path(path) / MANIFEST
    return "://" in path or (manifest.is_file() and _read(manifest).get("stage") == "ingest")


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, remedy="make the product again")


def _corpus(
    path: str,
    asked: dict[str, bool],
    tile: tuple[int | None, str | None],
    versions: tuple[int | None, str | None, int | None],
) -> tuple[dict[str, Any], int]:
    """Return what was asked of a corpus, and the exit status."""
    from eo_ssl.corpus import Corpus, compare_corpora, describe_corpus  # seconds to import, and a card needs none of it

    snapshot, other, other_snapshot = versions
    corpus, (row, stream) = Corpus.open(path, snapshot=snapshot), tile
    if row is not None:
        only = (
            next(iter(corpus.streams)) if len(corpus.streams) == 1 else ""
        )  # of several one must be named; the corpus says so
        return corpus.provenance(stream or only, row), 0
    if asked["diff"]:
        differences = compare_corpora(corpus, Corpus.open(other or path, snapshot=other_snapshot))
        return differences, 0 if differences["same"] else 1
    if asked["verify"]:
        wrong, unchecked = corpus.verify(), corpus.list_unchecked()
        said = {"snapshot": corpus.snapshot, "fingerprint": corpus.fingerprint, "damaged": wrong or "nothing"}
        return said | ({"unchecked": unchecked} if unchecked else {}), int(bool(wrong))
    return describe_corpus(corpus), 0


def _facts(path: str) -> dict[str, Any]:
    folder = Path(path)
    if path == "cards":
        return {name: load_card(name).title for name in list_cards()}
    if not folder.is_dir():
        return load_card(path).to_json()
    if (folder / MANIFEST).is_file():
        return _read(folder / MANIFEST)
    if (folder / UNFINISHED).is_file():
        return {
            "unfinished": _read(folder / UNFINISHED),
            "remedy": "run the same command again to finish it",
        }
    products = {
        str(item.parent.relative_to(folder)): _read(item).get("stage", "unknown")
        for item in sorted(folder.glob(f"**/{MANIFEST}"))
    }
    if not products:
        raise UserError(
            f"expected a product folder or a card, got {path} without any {MANIFEST} in it; see `eo-ssl inspect cards`"
        )
    return {"products": products}


def _grow(tree: Tree, value: Any) -> None:
    """Add a nested value to a tree: one branch per key, long lists shortened."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            _grow(tree.add(Text(str(key), "bold")), item)
        elif isinstance(item, list | tuple) and item and isinstance(item[0], dict):
            columns = list(dict.fromkeys(name for part in item[:20] for name in part))
            table = Table(*map(str, columns))
            for part in item[:20]:
                table.add_row(*(str(part.get(name, ""))[:60] for name in columns))
            tree.add(Text(str(key), "bold")).add(table)
        elif item not in (None, "", {}, [], ()):
            tree.add(f"{key}: {str(item)[:400]}")

"""``eo-ssl inspect``: what a product, a card or a configuration holds, for a person or a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from eo_ssl.cards import list_cards, load_card
from eo_ssl.errors import UserError
from eo_ssl.manifest import MANIFEST, UNFINISHED


def main(path: str, format: Literal["table", "json"] = "table") -> None:
    """Say what a product folder or a card holds.

    Args:
        path: a product folder (corpus, subset, encoder, results, report, run), a card's name, a card file, or `cards` for the list of cards.
        format: a table for people or JSON for machines.
    """
    facts = _facts(path)
    if format == "json":
        print(json.dumps(facts, indent=1, default=str))
        return
    tree = Tree(f"[bold]{path}[/bold]")
    _grow(tree, facts)
    Console().print(tree)


def _facts(path: str) -> dict[str, Any]:
    folder = Path(path)
    if path == "cards":
        return {name: load_card(name).title for name in list_cards()}
    if not folder.is_dir():
        return load_card(path).to_json()
    if (folder / MANIFEST).is_file():
        return dict(json.loads((folder / MANIFEST).read_text()))
    if (folder / UNFINISHED).is_file():
        return {
            "unfinished": json.loads((folder / UNFINISHED).read_text()),
            "remedy": "run the same command again to finish it",
        }
    found = {
        str(item.parent.relative_to(folder)): json.loads(item.read_text())["stage"]
        for item in sorted(folder.glob(f"**/{MANIFEST}"))
    }
    if not found:
        raise UserError(
            f"expected a product folder or a card, got {path} without any {MANIFEST} in it; see `eo-ssl inspect cards`"
        )
    return {"products": found}


def _grow(tree: Tree, value: Any) -> None:
    """Add a nested value to a tree: one branch per key, long lists shortened."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            _grow(tree.add(f"[bold]{key}[/bold]"), item)
        elif isinstance(item, list | tuple) and item and isinstance(item[0], dict):
            table = Table(*map(str, item[0]))
            for row in item[:20]:
                table.add_row(*(str(cell)[:60] for cell in row.values()))
            tree.add(f"[bold]{key}[/bold]").add(table)
        elif item not in (None, "", {}, [], ()):
            tree.add(f"{key}: {str(item)[:400]}")

"""Changes of plain values, as JSON, YAML and the metadata of an encoder hold them: at one place, drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Rng = np.random.Generator
Act = Callable[[Rng, Path], str]
"changes a file and says what it did"


def drop(holder: Any, key: Any) -> str:
    del holder[key]
    return "dropped"


def add(holder: Any, key: Any) -> str:
    if isinstance(holder, dict):
        holder["more"] = holder[key]
    else:
        holder.append(holder[key])
    return "added"


def put(value: Any) -> Callable[[Any, Any], str]:
    def act(holder: Any, key: Any) -> str:
        holder[key] = value
        return f"{str(value)[:20]!r}"

    return act


def nudge(holder: Any, key: Any) -> str:
    value = holder[key]
    holder[key] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else f"{value}x"
    return "nudged"


def rename(name: Any) -> Callable[[Any, Any], str]:
    """Another name for a key; of a list, a mapping of that name around the item."""

    def act(holder: Any, key: Any) -> str:
        if isinstance(holder, dict):
            holder[name] = holder.pop(key)
        else:
            holder[key] = {name: holder[key]}
        return f"named {str(name)[:20]!r}"

    return act


CHANGES: dict[str, Callable[[Any, Any], str]] = {
    "missing key": drop,
    "extra key": add,
    "nudged": nudge,
    "text": put("five"),
    "null": put(None),
    "list": put([1, [2]]),
    "object": put({"a": 1}),
    "negative": put(-1),
    "large": put(10**18),
    "huge number": put("NUMBER"),
    "deep nesting": put("DEEP"),
    "NaN": put(float("nan")),
    "infinity": put(1e308 * 10),
    "up": put("../../etc/passwd"),
}
RAW = {"NUMBER": "9" * 5000, "DEEP": "[" * 20_000 + "]" * 20_000}


def list_places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where a document holds something, from the top down."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from list_places(item, (*path, key))


def change_somewhere(rng: Rng, value: Any, change: Callable[[Any, Any], str]) -> str:
    """Make a change at a place of ``value``; return what was done, and where."""
    places = list(list_places(value))
    if not places:
        return "nothing to change"
    *above, key = places[rng.integers(len(places))]
    holder = value
    for step in above:
        holder = holder[step]
    return f"{change(holder, key)} at {'.'.join(map(str, (*above, key)))}"[:200]


def write_raw(text: str) -> str:
    """The JSON text with what no value of Python is: numbers without end, nesting without end."""
    for word, raw in RAW.items():
        text = text.replace(f'"{word}"', raw)
    return text

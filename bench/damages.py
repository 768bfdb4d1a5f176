"""Damage to one file of a product, an encoder, a card or a configuration: each act takes a seeded generator and the file, and says what it did.

Acts on bytes are blind. Edits know the format: they load the value, change it at a place drawn at random and write a sound file again, as a
careless or hostile hand would; tensors and metadata of an encoder likewise. YAML is also what people write, so its acts are those of an attacker.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from bench import mutations
from bench.damaged_tensors import TENSORS
from bench.damaged_values import CHANGES, RAW, Act, Rng, change_somewhere, put, rename, write_raw
from eo_ssl.errors import UserError

MARK = "executed"  # file that hostile code leaves in its working folder


def check_sentence(error: UserError) -> None:
    """A refusal is one sentence that a person can read."""
    text = str(error)
    assert text.startswith("expected ") and "\n" not in text and len(text) < 1000, text


# Bytes


def flip_bit(rng: Rng, path: Path) -> str:
    return _flip(rng, path, end=path.stat().st_size)


def flip_early(rng: Rng, path: Path) -> str:
    """In the header of safetensors, where contract, architecture and provenance are."""
    return _flip(rng, path, end=min(path.stat().st_size, 4000))


def _flip(rng: Rng, path: Path, *, end: int) -> str:
    data, place = bytearray(path.read_bytes()), int(rng.integers(end * 8))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    return f"bit {place}"


def empty(rng: Rng, path: Path) -> str:
    path.write_bytes(b"")
    return "empty"


def replace_by_junk(rng: Rng, path: Path) -> str:
    path.write_bytes(rng.bytes(int(rng.integers(1, 300))))
    return "junk alone"


# JSON and YAML

BOMB = "[" + ", ".join(["*a8"] * 10) + "]"
HOSTILE: dict[str, str] = {
    "command": f"!!python/object/apply:os.system ['touch {MARK}']",
    "module": "!!python/module:hostile",
    "name": "!!python/name:hostile.Hostile",
    "class path": "{class_path: hostile.Hostile, init_args: {a: 1}}",
    "callable path": "hostile.Hostile",
    "binary": "!!binary aGVsbG8=",
    "set": "!!set {a, b}",
    "date": "2024-13-45",
    "alias of itself": "&self [*self]",
    "anchor bomb": BOMB,
    "controls": r'"a\u202eb\x1b[31m\nc: d"',
    "braces": "'{out}{data}{0}{__class__}%s'",
}
NAMES: dict[str, Any] = {
    "up as name": "../../precious",
    "root as name": "/tmp/precious",
    "class_path as name": "class_path",
    "number as name": 7,
    "null as name": None,
    "long name": "x" * 10_000,
    "empty name": "",
}


def edit_json(change: Callable[[Any, Any], str]) -> Act:
    """One place of a JSON file, or of a line of JSON lines; half of the time the signature goes, as a forger would have it."""

    def act(rng: Rng, path: Path) -> str:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        number = int(rng.integers(len(lines))) if len(lines) > 1 else 0
        value = json.loads(lines[number])
        if isinstance(value, dict) and rng.random() < 0.5:
            value.pop("sha256", None)
        done, text = change_somewhere(rng, value, change), write_raw(json.dumps(value))
        lines[number] = text
        path.write_text("\n".join(lines) + ("\n" if path.suffix == ".jsonl" else ""))
        return done

    return act


def edit_yaml(change: Callable[[Any, Any], str], raw: Mapping[str, str] = RAW, head: str = "") -> Act:
    def act(rng: Rng, path: Path) -> str:
        value = yaml.safe_load(path.read_text())
        done, text = change_somewhere(rng, value, change), yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        for word, written in raw.items():
            text = text.replace(f" {word}\n", f" {written}\n").replace(f"'{word}'", written)
        path.write_text(head + text)
        return done

    return act


def write_around(before: str, after: str = "") -> Act:
    """Text before and after all others of a file."""

    def act(rng: Rng, path: Path) -> str:
        path.write_text(before + path.read_text() + after)
        return f"{before[:20]!r} and {after[:20]!r} around"

    return act


def repeat_key(rng: Rng, path: Path) -> str:
    text = path.read_text()
    line = next(line for line in text.splitlines() if line and line[0].isalpha())
    path.write_text(f"{text}{line.partition(':')[0]}: 1\n")
    return f"{line.partition(':')[0]} twice"


def append_code(rng: Rng, path: Path) -> str:
    """Python that leaves a mark when it runs."""
    with path.open("a") as file:
        file.write(f"\nfrom pathlib import Path\nPath({MARK!r}).touch()\n")
    return "code at the end"


_ANCHORS = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)),
    ]
)


BYTES: dict[str, Act] = {
    "flip": mutations.flip,
    "one bit": flip_bit,
    "cut": mutations.cut,
    "blank": mutations.blank,
    "junk": mutations.junk,
    "junk alone": replace_by_junk,
    "gone": mutations.gone,
    "other": mutations.other,
    "empty": empty,
}
JSONS: dict[str, Act] = {name: edit_json(change) for name, change in CHANGES.items()}
YAMLS: dict[str, Act] = {
    **{name: edit_yaml(change) for name, change in CHANGES.items()},
    **{
        f"hostile {name}": edit_yaml(put("RAW"), {"RAW": text}, f"{_ANCHORS}\n" * (text == BOMB))
        for name, text in HOSTILE.items()
    },
    **{name: edit_yaml(rename(new)) for name, new in NAMES.items()},
    "two documents": write_around("", "\n---\na: 1\n"),
    "directive": write_around("%YAML 3.7\n---\n"),
    "NUL": write_around("\0"),
    "tabs": write_around("\t"),
    "many lines": write_around("", "x: [" + "1, " * 500_000 + "]\n"),
    "key twice": repeat_key,
}
CODE: dict[str, Act] = {"hostile code": append_code}
EDITS: dict[str, dict[str, Act]] = {
    ".json": JSONS,
    ".jsonl": JSONS,
    ".safetensors": TENSORS | {"header flip": flip_early},
    ".yaml": YAMLS,
    ".py": CODE,
}
"""By the suffix of a file: edits that leave a file of its format."""


@functools.cache
def list_acts(suffix: str) -> tuple[tuple[str, Act], ...]:
    """All that can be done to a file of a suffix, in a fixed order."""
    return tuple(sorted({**BYTES, **EDITS.get(suffix, {})}.items()))

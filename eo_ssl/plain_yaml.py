"""YAML as plain values, bounded in size: what people write into cards, configurations and options, however hostile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from eo_ssl.errors import UserError

MAX_BYTES = 8_000_000  # a card with the offsets of 100,000 files
MAX_VALUES = 400_000  # keys, values and lists, each as often as anchors repeat it
MAX_DEPTH = 32  # of lists and mappings in each other; the deepest option lies at 5
MAX_DIGITS = 64  # of a number; a double has 17
_Safe: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBER = re.compile(r"[-+]?(0[xob])?[0-9a-fA-F_.:]+([eE][-+]?[0-9_]+)?")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)$|0x[0-9a-fA-F_]+$")  # 010 and 12:30 are texts, not 8 and 750
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*)?\.[0-9_]+([eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*(\.|\.?[eE][-+]?[0-9]+)$"
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)  # as YAML 1.2 and people write them: 1e-3 is a number


class _PlainLoader(_Safe):  # type: ignore[misc]
    """Plain values, each key once: YAML's own loader lets the last one win without a word, and makes dates of texts."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {
        first: [(tag, text) for tag, text in rules if tag.rpartition(":")[2] not in ("timestamp", "float", "int")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.YAMLError(f"the key {key.value!r} twice")
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load_yaml(text: str) -> Any:
    """Return the plain value of a YAML text: numbers, texts (also of dates), booleans, lists and mappings.

    Raises:
        yaml.YAMLError: not YAML, a tag of other than plain values, a key twice, or more than the bounds of this module.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"{len(text):,} characters, more than {MAX_BYTES:,}")
    try:
        _check_bounds(text)
        return yaml.load(text, Loader=_PlainLoader)
    except (ValueError, OverflowError, TypeError, RecursionError) as error:  # of a value that its tag does not fit
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: Path) -> Any:
    """Return the plain value of a YAML file.

    Raises:
        UserError: the file cannot be read or is refused by `load_yaml`.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise yaml.YAMLError(f"{path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
        return load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"expected YAML in {path}, got {describe_problem(error)}; correct the file") from error


def describe_problem(error: Exception) -> str:
    """Return what is wrong with a YAML text, and where, in one line."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f" in line {mark.line + 1}"
    return f"{getattr(error, 'problem', None) or str(error).splitlines()[0]}{where}"[:300]


def _check_bounds(text: str) -> None:
    """Refuse nesting, values and numbers beyond the bounds, before anything is made of them.

    An alias counts with all that its anchor holds: a page of them stands for 10^9 values.
    """
    open_counts: list[tuple[str | None, int]] = []  # of the lists and mappings around an event: anchor, values before
    held: dict[str, int] = {}  # values of each anchor that is complete
    count = 0
    for event in yaml.parse(text, Loader=_Safe):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_counts.pop()
            if anchor is not None:
                held[anchor] = count - before
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in held:
                raise yaml.YAMLError(f"an alias of {event.anchor!r}, which is not complete")
            count += held[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_counts.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                held[event.anchor] = 1
            bare = event.implicit[0] or event.tag is not None  # not in quotes
            if bare and len(event.value) > MAX_DIGITS and _NUMBER.fullmatch(event.value):
                raise yaml.YAMLError(f"a number of {len(event.value):,} digits, more than {MAX_DIGITS}")
        if len(open_counts) > MAX_DEPTH:
            raise yaml.YAMLError(f"values nested more than {MAX_DEPTH} deep")
        if count > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES:,} values")

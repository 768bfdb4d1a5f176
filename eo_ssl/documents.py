"""JSON of products: signed with the sha256 of its own text, read within bounds, built into typed records."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from eo_ssl.commits import explain_read_error
from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.fingerprints import dump_canonical_json, hash_file

T = TypeVar("T")
SCHEMA_VERSION = 3
_SIGNED_SINCE = 3  # documents of this version and later end with their signature; those of 0.1 have version 2 and none
_SIGNATURE = re.compile(rb',\s*"sha256":\s*"([0-9a-f]{64})"\s*\}\s*\Z')
_TAIL = 200  # bytes at the end of a document that hold its signature
_LARGEST = 1_000_000_000  # bytes; the snapshot of 10 million tiles in 10,000 fragments has 4 MB


def sign_json(value: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """Return the JSON of an object with its schema version, its last key the sha256 of the text before it.

    Whoever reads the document notices a flipped bit and an edit, and by the version that a signature is missing.
    """
    text = dump_canonical_json({"schema_version": SCHEMA_VERSION, **value})
    if indent is not None:
        text = json.dumps(json.loads(text), indent=indent, sort_keys=True)
    head, end = text[:-1].rstrip("\n").encode(), "\n}" if indent is not None else "}"
    line = "," if indent is None else ",\n" + " " * indent
    return head + f'{line}"sha256":"{hashlib.sha256(head).hexdigest()}"{end}'.encode()


def is_signed(data: bytes) -> bool:
    """Return whether a document ends with its signature; those of earlier versions do not."""
    return _SIGNATURE.search(data[-_TAIL:]) is not None


def parse_json(data: bytes, *, at: str, remedy: str) -> dict[str, Any]:
    """Return the JSON object ``data`` of the place ``at`` without its signature, which is compared where it has one.

    Raises:
        UserError: no JSON, NaN or infinity, nested too deep, a number too long, no object, or not as it was written.
    """
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(";")[0].splitlines()[0][:120]
        raise UserError(f"expected JSON in {at}, got {reason}; {remedy}") from error
    expect(isinstance(value, dict), expected=f"a JSON object in {at}", got=f"a {type(value).__name__}", remedy=remedy)
    if "schema_version" in value:  # first: another version may sign in another way
        check_schema(value, at=at, remedy=remedy)
    expect(
        "sha256" in value or value.get("schema_version", 0) < _SIGNED_SINCE,
        expected=f"the signature at the end of {at}",
        got="none: it was edited or is damaged",
        remedy=remedy,
    )
    if "sha256" in value:
        found, start = _SIGNATURE.search(data[-_TAIL:]), max(len(data) - _TAIL, 0)
        expect(
            found is not None
            and hashlib.sha256(memoryview(data)[: start + found.start()]).hexdigest() == found[1].decode(),
            expected=f"{at} as it was written",
            got="another content: it was edited or is damaged",
            remedy=remedy,
        )
        del value["sha256"]
    return dict(value)


def check_schema(value: Mapping[str, Any], *, at: str, remedy: str) -> None:
    """Refuse the content ``value`` of a file ``at`` a place whose schema version is none that is read here.

    Raises:
        UserError: naming both versions, and whether a newer eo_ssl wrote it.
    """
    version = value.get("schema_version")
    check_not_newer(version, SCHEMA_VERSION, what="schema version", at=at)
    expect(
        type(version) is int and 1 <= version <= SCHEMA_VERSION,
        expected=f"schema version {SCHEMA_VERSION} at {at}",
        got=str(version)[:60],
        remedy=remedy,
    )


def check_not_newer(version: object, known: int, *, what: str, at: str) -> None:
    """Refuse what a newer version of this library wrote ``at`` a place, before anything else of it is looked at.

    Raises:
        UserError: ``version``, a number or its text, is larger than the ``known`` one of ``what``.
    """
    newer = re.fullmatch(r"[0-9]{1,9}", str(version)) is not None and int(str(version)) > known
    if newer and not isinstance(version, bool):
        raise UserError(
            f"expected {what} {known} or earlier at {at}, got {version}, which a newer eo_ssl wrote; update eo_ssl "
            "(pip install -U eo_ssl)"
        )


def measure_file(path: Path, *, remedy: str = "make it again") -> dict[str, Any]:
    """Return size and sha256 of a file, as documents name them; its bytes are read once per process.

    Raises:
        UserError: it is absent or cannot be read.
    """
    try:
        return {"size": path.stat().st_size, "sha256": hash_file(path)}
    except OSError as error:
        raise explain_read_error(error, path, remedy=remedy) from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no JSON")


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Return the JSON object of a file, as `parse_json`.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: as `parse_json`, or no plain file, a very large one, or one that cannot be read.
    """
    try:
        status = path.stat()
        expect(
            stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST,
            expected=f"JSON in {path}",
            got=f"{status.st_size:,} bytes" if stat.S_ISREG(status.st_mode) else "no plain file",
            remedy=remedy,
        )
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise explain_read_error(error, path, remedy=remedy) from error
    return parse_json(data, at=str(path), remedy=remedy)


def build_record(kind: type[T], value: Mapping[str, Any], *, at: str, remedy: str) -> T:
    """Return the dataclass ``kind`` of the JSON object ``value``; the types of its fields are checked.

    Raises:
        UserError: a key is unknown or missing, or a value of another type.
    """
    hashable: Any = kind
    names = _list_fields(hashable)
    if "schema_version" not in names:  # which `sign_json` gives every document
        value = {key: part for key, part in value.items() if key != "schema_version"}
    wrong = [f"the unknown key {key!r}{suggest_nearest(key, names)}" for key in value if key not in names]
    wrong += [f"none called {name!r}" for name, required in names.items() if required and name not in value]
    if wrong and wrong[0].startswith("the unknown key"):
        remedy = f"update eo_ssl if a newer one wrote it, or {remedy}"
    expect(not wrong, expected=f"the keys of a {_describe(kind)} in {at}", got=", ".join(wrong[:1]), remedy=remedy)
    try:
        return kind(**_adapter(hashable).validate_python(value, strict=True))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, got = ".".join(str(part) for part in first["loc"]), str(first.get("input"))[:60]
        raise UserError(
            f"expected a valid {place} in {at}, got {got!r} ({first['msg'].partition(',')[0].lower()}); {remedy}"
        ) from error


@cache
def _list_fields(kind: type[Any]) -> dict[str, bool]:
    """Return the names of the fields of a dataclass, and whether each must be given."""
    return {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(kind)}


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[dict[str, Any]]:
    """Return what checks the fields of a dataclass; a strict check of the class itself would want an instance."""
    hints = get_type_hints(kind, include_extras=True)
    return TypeAdapter(TypedDict(kind.__name__, hints, total=False))  # type: ignore[operator]


def _describe(kind: type[Any]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).lower()


@contextmanager
def explain_content(what: str, *, at: str, remedy: str) -> Iterator[None]:
    """Say in a sentence that a document of right JSON does not hold what the block builds of it."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:120]
        raise UserError(f"expected {what} in {at}, got {type(error).__name__}: {reason}; {remedy}") from error

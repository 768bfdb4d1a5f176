"""What a value or a file is, in 64 letters: canonical JSON and sha256, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from eo_ssl.errors import UserError

FileIdentity = tuple[str, int, int]
"""What identifies the present content of a file: path, modification time (ns), size (bytes).

The key of caches over files.
"""


def dump_canonical_json(value: object) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, dataclasses and paths as plain values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain, allow_nan=False)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"expected a plain value for JSON, got {type(value).__name__}")


def fingerprint(value: object) -> str:
    """Return the sha256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(dump_canonical_json(value).encode()).hexdigest()


def compute_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_zip(path: Path) -> Path | None:
    """Return the zip file that a virtual path (``product.zip/S2A.SAFE/B02.jp2``) goes through, None otherwise."""
    return next((parent for parent in path.parents if parent.suffix.lower() == ".zip" and parent.is_file()), None)


def identify_file(path: Path) -> FileIdentity:
    """Return what identifies the present content of a file.

    Of a virtual path through a zip, time and size are those of the zip.

    Raises:
        UserError: the file does not exist, cannot be read, or is a pipe or device, which reading would wait for.
    """
    container = find_zip(path)
    try:
        status = (container or path).stat()
    except OSError as error:
        raise UserError(
            f"expected the file {path}, got {error.strerror or error}; fetch it or correct the card"
        ) from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise UserError(f"expected the file {path}, got a pipe or device; remove it or correct the card")
    return str(path), status.st_mtime_ns, status.st_size


def hash_file(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes, read once per process as long as its time and size stay.

    Raises:
        UserError: the file does not exist or cannot be read.
    """
    return _sha256(identify_file(path))


@lru_cache(maxsize=8192)
def _sha256(identity: FileIdentity) -> str:
    return compute_sha256(Path(identity[0]))

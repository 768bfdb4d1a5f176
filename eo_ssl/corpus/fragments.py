"""Fragments: one product each, immutable, named by what made them, visible whole or not at all.

A fragment grows in a staging folder that readers never look at::

    out/fragments/.staging-<host>-<pid>-<n>/<name>/...   while it is made
    out/fragments/<name>/                            once fragment.json, its last file, is written (one rename)
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eo_ssl.corpus.config import IngestConfig
from eo_ssl.errors import UserError
from eo_ssl.manifest import (
    SCHEMA_VERSION,
    canonical_json,
    commit,
    explain_os_error,
    file_sha256,
    fingerprint,
    sync_folder,
)

FRAGMENT = "fragment.json"
_STAGING = ".staging-"
_STOPPED = ".stopped-"
_LIVE: set[str] = set()  # staging folders of this process
_NUMBERS = itertools.count()  # of those folders; two threads never get the same
_BEGUN = time.monotonic_ns()  # files with our process id from before are of an earlier process of that number


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What ``fragment.json`` holds."""

    name: str
    product_id: str
    kind: str
    "cube or chips"
    card: str
    card_fingerprint: str
    checksum: str
    "of the product's files"
    config: dict[str, Any]
    stream: dict[str, Any]
    encoding: dict[str, Any]
    tiles_per_shard: int
    rows: int
    counts: dict[str, int]
    "planned, kept, invalid, cloudy tiles"
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    "relative path -> size in bytes and sha256"
    schema_version: int = SCHEMA_VERSION

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(int(file["size"]) for file in self.files.values())


def fragment_name(checksum: str, product_id: str, card_fingerprint: str, config: IngestConfig) -> str:
    """Return the name of a fragment: a hash of the product's content, what it is and how it is cut."""
    return fingerprint([SCHEMA_VERSION, checksum, product_id, card_fingerprint, config.to_json()])[:32]


def staging_folder(out: Path) -> Path:
    """Create and return this run's staging folder, removing those of runs of this machine that have died.

    Raises:
        UserError: the output folder cannot be written.
    """
    home = out / "fragments"
    try:
        home.mkdir(parents=True, exist_ok=True)
        for folder in home.glob(f"{_STAGING}*"):
            host, pid, _ = folder.name.removeprefix(_STAGING).rsplit("-", 2)
            if host == socket.gethostname() and folder.name not in _LIVE and not _alive(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in home.glob(f"{_STOPPED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (*out.glob(".*.tmp"), *out.glob("*/.*.tmp")):
            named = re.search(r"\.(\d+)\.(\d+)\.tmp$", path.name)  # a commit's: .<name>.<pid>.<monotonic ns>.tmp
            if named and not _alive(int(named[1])) and (int(named[1]) != os.getpid() or int(named[2]) < _BEGUN):
                path.unlink(missing_ok=True)
        own = home / f"{_STAGING}{socket.gethostname()}-{os.getpid()}-{next(_NUMBERS)}"
        own.mkdir()
        _LIVE.add(own.name)
        return own
    except OSError as error:
        raise explain_os_error(error, home) from error


def stop(staging: Path) -> None:
    """Take the staging folder of a run away, in one step: its other tasks see that it is over, and the disk has room again."""
    away = staging.with_name(f"{_STOPPED}{staging.name}")
    try:
        staging.rename(away)
    except OSError:
        return  # another task was faster
    shutil.rmtree(away, ignore_errors=True)


def _alive(pid: int) -> bool:
    """Whether another process ``pid`` runs (what this process made itself is known, so its own number is a leftover)."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def seal(folder: Path, recipe: Recipe) -> Recipe:
    """Make the files of a staged fragment durable, write ``fragment.json`` last and move it in place; return the full recipe.

    Whoever comes second finds the same content there already and drops its own.

    Raises:
        UserError: a file cannot be written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _synced_sha256(path)}
        for path in paths
    }
    for inner in {path.parent for path in paths} - {folder}:  # the commit below syncs the fragment's own folder
        sync_folder(inner)
    full = Recipe(**{**asdict(recipe), "files": files})
    commit(folder / FRAGMENT, canonical_json(asdict(full)).encode())
    target = folder.parent.parent / recipe.name
    try:
        folder.rename(target)
    except OSError:
        if not (target / FRAGMENT).is_file():
            raise
        shutil.rmtree(folder)
        return read(target)
    return full  # its name becomes durable with those of all others, before the snapshot that lists them


def _synced_sha256(path: Path) -> str:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return file_sha256(path)


def finished(out: Path) -> set[str]:
    """Return the names of the fragments that are complete."""
    home = out / "fragments"
    return (
        {path.name for path in home.iterdir() if not path.name.startswith(".") and (path / FRAGMENT).is_file()}
        if home.is_dir()
        else set()
    )


def read(folder: Path) -> Recipe:
    """Return what ``fragment.json`` in ``folder`` says.

    Raises:
        UserError: it is absent, damaged or of another schema.
    """
    path = folder / FRAGMENT
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"expected a fragment in {folder}, got {type(error).__name__}; remove the folder and run the same ingest again"
        ) from error
    if value.get("schema_version") not in (SCHEMA_VERSION, SCHEMA_VERSION - 1):
        raise UserError(
            f"expected schema version {SCHEMA_VERSION} in {path}, got {value.get('schema_version')}; ingest again with this version"
        )
    return Recipe(**value)


def verify(folder: Path) -> list[str]:
    """Return what is wrong with the files of a fragment, one sentence each; reads every byte."""
    wrong = []
    for name, file in read(folder).files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path} is missing")
        elif path.stat().st_size != file["size"] or file_sha256(path) != file["sha256"]:
            wrong.append(f"{path} differs from its fragment.json")
    return wrong

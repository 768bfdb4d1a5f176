"""Fragments: one product each, immutable, named by what made them, visible whole or not at all.

A fragment grows in a staging folder that readers never look at. On disk it is renamed once fragment.json, its last
file, is written::

    out/fragments/.staging-<host>-<pid>-<n>/<name>/...   while it is made
    out/fragments/<name>/                                afterwards

In an object store it is made in the worker's temporary folder; its files are uploaded to an address of their own
content, then fragment.json, which makes it exist, by a conditional put::

    s3://bucket/prefix/fragments/<name>/<content>/...
    s3://bucket/prefix/fragments/<name>/fragment.json
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from eo_ssl.commits import commit, explain_os_error, explain_read_error, is_running, sync_folder
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.shards import ChunkChecksum, FileMark
from eo_ssl.corpus.store import LocalStore, Store
from eo_ssl.documents import build_record, parse_json, sign_json
from eo_ssl.errors import expect
from eo_ssl.fingerprints import compute_sha256, fingerprint
from eo_ssl.manifest import SCHEMA_VERSION, check_schema

FRAGMENT = "fragment.json"
_NAMED_BY = 2  # enters every name: a later schema must not make a fragment anew that a corpus holds
_STAGING = ".staging-"
_STOPPED = ".stopped-"
_LIVE: set[str] = set()  # staging folders of this process
_NUMBERS = itertools.count()  # of those folders; two threads never get the same
_SCRATCH: dict[str, Path] = {}  # of this process, by run
_SCRATCH_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentManifest:
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
    "planned, kept, invalid, cloudy tiles, and those left out for further reasons"
    refused: list[list[str]] = field(default_factory=list)
    "name and reason of each chip that could not be read"
    terms: dict[str, Any] = field(default_factory=dict)
    "licence, attribution, source and citation of the card, and whether the licence is non-commercial"
    code: dict[str, Any] = field(default_factory=dict)
    "version, sha256 and commit of the code that made it, and versions of the packages it used"
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    "relative path -> size in bytes and sha256"
    chunk_checksum: ChunkChecksum = ""
    "what follows each chunk of the array; nothing in fragments of version 0.1"
    acquisition: str = ""
    "what products of one acquisition share, whatever their names and forms; empty where nothing tells"
    content: str = ""
    "in an object store, where no folder can be renamed: the part of the files' address that tells their content"
    schema_version: int = SCHEMA_VERSION

    @property
    def folder(self) -> str:
        """Where its files lie in the corpus."""
        return locate_fragment(self.name, self.content)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(int(file["size"]) for file in self.files.values())


def name_fragment(checksum: str, product_id: str, card_fingerprint: str, config: IngestConfig) -> str:
    """Return the name of a fragment: a hash of the product's content, what it is and how it is cut."""
    return fingerprint([_NAMED_BY, checksum, product_id, card_fingerprint, config.to_json()])[:32]


def locate_fragment(name: str, content: str) -> str:
    """Return where the files of a fragment lie in the corpus."""
    return f"fragments/{name}/{content}" if content else f"fragments/{name}"


def make_staging(home: Path) -> Path:
    """Create and return a staging folder in ``home``, removing those of runs of this machine that have died.

    Raises:
        UserError: ``home`` cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        for folder in home.glob(f"{_STAGING}*"):
            host, pid, _ = folder.name.removeprefix(_STAGING).rsplit("-", 2)
            dead = int(pid) == os.getpid() or not is_running(int(pid))  # what this process made itself is in _LIVE
            if host == socket.gethostname() and folder.name not in _LIVE and dead:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in home.glob(f"{_STOPPED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        own = home / f"{_STAGING}{socket.gethostname()}-{os.getpid()}-{next(_NUMBERS)}"
        _LIVE.add(own.name)  # first, or another thread would take it for a leftover
        own.mkdir()
        return own
    except OSError as error:
        raise explain_os_error(error, home) from error


def discard_run(staging: Path) -> None:
    """Take the staging folder of a run away, in one step.

    Its other tasks see that it is over, and the disk has room again.
    """
    away = staging.with_name(f"{_STOPPED}{staging.name}")
    try:
        staging.rename(away)
    except OSError:
        return  # another task was faster
    shutil.rmtree(away, ignore_errors=True)


def make_scratch(run: str) -> Path:
    """Return this process's staging folder of a run that writes to an object store; it goes when the process ends.

    Raises:
        UserError: the temporary folder (``TMPDIR`` names another) cannot be written.
    """
    with _SCRATCH_LOCK:
        if run not in _SCRATCH:
            folder = make_staging(Path(tempfile.gettempdir()) / f"eo_ssl-{os.getuid()}")
            Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=1)
            _SCRATCH[run] = folder
        return _SCRATCH[run]


def commit_fragment(
    store: Store, folder: Path, manifest: FragmentManifest, *, known: Mapping[str, FileMark]
) -> FragmentManifest:
    """Make the files of a staged fragment durable, write ``fragment.json`` last and put it in its place.

    Return the full manifest.

    Whoever comes second finds the same content there already and drops its own.

    Args:
        store: where the corpus lies.
        folder: what was staged.
        manifest: all but the files.
        known: size and sha256 of files that were hashed as they were written, by relative path.

    Raises:
        UserError: a file cannot be written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        mark = known.get(name) or FileMark(path.stat().st_size, compute_sha256(path))
        files[name] = {"size": mark.size, "sha256": mark.sha256}
    content = "" if isinstance(store, LocalStore) else fingerprint(files)[:16]
    full = FragmentManifest(**{**asdict(manifest), "files": files, "content": content})
    data = sign_json(asdict(full))
    if isinstance(store, LocalStore):
        for path in paths:
            _sync(path)
        for inner in {path.parent for path in paths} - {folder}:  # the commit below syncs the fragment's own folder
            sync_folder(inner)
        commit(folder / FRAGMENT, data, make_folder=False)  # a run that was stopped has taken folder and files away
        store.move_in(folder, full.folder)
    else:
        store.move_in(folder, full.folder)
        store.create(f"fragments/{full.name}/{FRAGMENT}", data)
    return read(
        store, full.name
    )  # its name becomes durable with those of all others, before the snapshot that lists them


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find(store: Store, name: str) -> FragmentManifest | None:
    """Return the record of a fragment, or None where it is not complete."""
    try:
        store.read(f"fragments/{name}/{FRAGMENT}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return read(store, name)


def read(store: Store, name: str) -> FragmentManifest:
    """Return what ``fragment.json`` of the fragment ``name`` says.

    Raises:
        UserError: it is absent, damaged or of another schema.
    """
    key = f"fragments/{name}/{FRAGMENT}"
    at, remedy = f"{store}/{key}", explain_remedy(store, name)
    try:
        data = store.read(key)
    except OSError as error:
        raise explain_read_error(error, at, remedy=remedy) from error
    value = parse_json(data, at=at, remedy=remedy)
    check_schema(value, at=at, remedy="ingest again with this version")
    return build_record(FragmentManifest, value, at=at, remedy=remedy)


def explain_remedy(store: Store, name: str) -> str:
    """Return what repairs a damaged fragment."""
    return f"remove {store}/fragments/{name} and run the same ingest again"


def read_files(store: Store, wanted: Sequence[tuple[FragmentManifest, str]]) -> Iterator[bytes]:
    """Yield the content of files, given as (fragment, name of a file of it), each as it was ingested.

    Raises:
        UserError: one is missing or its size or sha256 is another.
    """
    contents = store.read_many([f"{manifest.folder}/{name}" for manifest, name in wanted])
    for manifest, name in wanted:
        at, remedy = f"{store}/{manifest.folder}/{name}", explain_remedy(store, manifest.name)
        try:
            data = next(contents)
        except OSError as error:
            raise explain_read_error(error, at, remedy=remedy) from error
        _check_mark(manifest, name, (len(data), hashlib.sha256(data).hexdigest()), at=at, remedy=remedy)
        yield data


def check_file(store: Store, manifest: FragmentManifest, name: str) -> None:
    """Refuse a file of a fragment that is not as it was ingested; on disk its bytes are read once per process.

    Raises:
        UserError: it is missing or its size or sha256 is another.
    """
    at, remedy = f"{store}/{manifest.folder}/{name}", explain_remedy(store, manifest.name)
    try:
        found = store.measure(f"{manifest.folder}/{name}")
    except OSError as error:
        raise explain_read_error(error, at, remedy=remedy) from error
    _check_mark(manifest, name, found, at=at, remedy=remedy)


def _check_mark(manifest: FragmentManifest, name: str, found: tuple[int, str], *, at: str, remedy: str) -> None:
    stated = manifest.files.get(name, {})
    size, sha256 = stated.get("size"), stated.get("sha256")
    got = f"{found[0]} bytes of {size}" if found[0] != size else "another content"
    expect(found == (size, sha256), expected=f"{at} as it was ingested", got=got, remedy=remedy)


def verify(store: Store, manifest: FragmentManifest) -> list[str]:
    """Return what is wrong with the files of a fragment, one sentence each; reads every byte."""
    wrong = []
    for file, mark in manifest.files.items():
        key = f"{manifest.folder}/{file}"
        try:
            data = store.read(key)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            wrong.append(f"{store}/{key} is missing" if missing else f"{store}/{key} cannot be read: {error.strerror}")
            continue
        if len(data) != mark["size"] or hashlib.sha256(data).hexdigest() != mark["sha256"]:
            wrong.append(f"{store}/{key} differs from its {FRAGMENT}")
    return wrong

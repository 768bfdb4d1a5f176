"""The one commit primitive: a file appears under its final name whole or not at all; crash tests plant faults here."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eo_ssl.errors import UserError

_HERE = "at-" + re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
_TEMPORARY = re.compile(r"(?:\.(?P<host>at-[A-Za-z0-9-]*))?\.(?P<pid>\d+)\.(?P<begun>\d+)\.tmp$")
_BEGUN = time.monotonic_ns()  # files with our process id from before are of an earlier process of that number
_hits: dict[str, int] = {}
TOO_MANY = (errno.EMFILE, errno.ENFILE)
"What the system says when a process, or all of them together, have too many files open."


def check_fault(point: str) -> None:
    """Die here, with the process group, when ``EO_SSL_FAULT`` names this point (``point:n`` for its n-th hit).

    Crash tests need a real SIGKILL at a known line; without the variable this costs one look-up.
    """
    wanted = os.environ.get("EO_SSL_FAULT")
    if wanted is None:
        return
    _hits[point] = _hits.get(point, 0) + 1
    name, _, number = wanted.partition(":")
    if point != name or _hits[point] != int(number or 1):
        return
    log = os.environ.get("EO_SSL_FAULT_LOG")
    if log:
        with open(log, "a") as file:
            file.write(f"{point}\n")
            file.flush()
            os.fsync(file.fileno())
    os.killpg(os.getpgrp(), signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Return whether a process ``pid`` runs on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def discard_leftovers(folder: Path, *, depth: int = 4) -> None:
    """Remove the temporary files of `write_beside` whose writers, on this machine, have died.

    Args:
        folder: where to look.
        depth: levels of folders that are searched, itself the first.
    """
    for path in (path for level in range(depth) for path in folder.glob(f"{'*/' * level}.*.tmp")):
        named = _TEMPORARY.search(path.name)
        if named is None or named["host"] not in (None, _HERE):
            continue
        pid, begun = int(named["pid"]), int(named["begun"])
        if begun < _BEGUN if pid == os.getpid() else not is_running(pid):
            with suppress(OSError):  # gone meanwhile, or not ours to remove
                path.unlink()


@contextmanager
def write_beside(path: Path, *, make_folder: bool = True) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to before `commit`, removed afterwards (of a killed run by the next)."""
    temporary = path.with_name(f".{path.name}.{_HERE}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        with suppress(OSError):  # not there, or on a disk that can only be read
            temporary.unlink()


def commit(path: Path, data: bytes | Path, *, make_folder: bool = True) -> bool:
    """Create ``path``, whole or not at all; return False, leaving the file alone, if it exists already.

    Temporary file in the same folder, fsync, hard link to the final name, fsync of the folder. Of two racing writers
    one wins and the other is told.

    Args:
        path: final name.
        data: the bytes, or the file that holds them, written under a name of `write_beside`.
        make_folder: make the folder of the file where there is none.

    Raises:
        UserError: when the folder cannot be written or the disk is full; nothing is left behind under the final name.
    """
    with write_beside(path, make_folder=make_folder) as temporary:
        if isinstance(data, Path):
            temporary = data
        else:
            temporary.write_bytes(data)
        check_fault("after-temp-write")
        check_fault("before-fsync")
        sync_folder(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        check_fault("after-link")
        sync_folder(path.parent)
        return True


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` atomically, replacing what is there.

    For what may change (logs, checkpoints, a corpus's manifest).
    """
    with write_beside(path) as temporary:
        temporary.write_bytes(data)
        sync_folder(temporary)
        temporary.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable, or the bytes of a file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def explain_read_error(error: OSError, place: object, *, remedy: str) -> UserError:
    """Return the sentence a person needs for a failed read of ``place``: what the machine refuses is no damage.

    Args:
        error: of the operating system.
        place: what was to be read.
        remedy: what to do where it is not there.
    """
    if error.errno in TOO_MANY:
        return _explain_too_many(place)
    if error.errno in (errno.EACCES, errno.EPERM):
        return UserError(f"expected to be allowed to read {place}, got {error.strerror}; change its permissions")
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return UserError(f"expected the file {place}, got {error.strerror or 'none'}; {remedy}")
    return UserError(
        f"expected to read {place}, got {error.strerror or error}; check the disk and run the same command again"
    )


def _explain_too_many(place: object) -> UserError:
    return UserError(
        f"expected to open {place}, got too many open files; allow more with `ulimit -n 4096` or use fewer workers"
    )


def explain_os_error(error: OSError, path: Path) -> UserError:
    """Return the sentence a person needs for a failed write to ``path``."""
    if error.errno in TOO_MANY:
        return _explain_too_many(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"expected room to write {path}, got a full disk; free some space and run the same command again to resume"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(
            f"expected to be allowed to write {path}, got {error.strerror}; choose another output folder or change "
            "its permissions"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UserError(f"expected {path.parent} to be a folder, got a file on the way; choose another output folder")
    return UserError(
        f"expected to write {path}, got {error.strerror or error}; check the folder and run the same command again"
    )

"""Leases: one writer at a time in a folder, and the second is told who holds it.

A lease is a file that is created if absent and whose time its holder renews. It ends with the block, with the process
that took it, or, where that cannot be seen (another machine), when it has not been renewed for two minutes.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from eo_ssl.commits import discard_leftovers, is_running, write_beside
from eo_ssl.documents import build_record, read_json, sign_json
from eo_ssl.errors import UserError

LEASE = ".lease.json"
_BEAT_S, _STALE_S = 10.0, 120.0
_TRIES = 20  # each lost to another writer that took and gave the lease meanwhile
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


@dataclass(frozen=True, slots=True)
class Lease:
    """Who writes in a folder."""

    host: str
    pid: int
    since: str
    "ISO 8601, UTC"
    space: str
    "boot and process namespace: where the process number means something"
    begun: str
    "when the process began, in ticks since the boot: a number is given to another process later"
    token: str

    @classmethod
    def make(cls) -> Lease:
        """Return a lease of this process."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        pid = os.getpid()
        return cls(socket.gethostname(), pid, now, _name_space(), _read_start(pid), uuid.uuid4().hex)

    def is_over(self, idle_s: float) -> bool:
        """Return whether its holder is surely gone; ``idle_s``: seconds since it was renewed."""
        if (self.host, self.space) == (socket.gethostname(), _name_space()):
            return not is_running(self.pid) or _read_start(self.pid) != self.begun
        return idle_s > _STALE_S


@contextmanager
def reserve(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for the block, and remove what killed writers left of their temporary files.

    Further processes of a distributed run write beside the first one, which holds the lease.

    Raises:
        UserError: another writer holds it, or the folder cannot be written.
    """
    if any(os.environ.get(name, "0") not in ("", "0") for name in _RANKS):
        yield
        return
    path, own = folder / LEASE, Lease.make()
    _take(path, own)
    over = threading.Event()
    renewal = threading.Thread(target=_renew, args=(path, over), name="eo_ssl-lease", daemon=True)
    renewal.start()
    try:
        discard_leftovers(folder)
        yield
    finally:
        over.set()
        renewal.join()
        with suppress(FileNotFoundError):  # somebody removed the whole folder
            _remove_ended(path, own)


def _take(path: Path, own: Lease) -> None:
    """Create the lease, in the place of one that is over."""
    for _ in range(_TRIES):
        if _create(path, own):
            return
        holder, idle_s = _look(path)
        if idle_s is None:
            continue  # given up meanwhile
        if not (holder.is_over(idle_s) if holder else idle_s > _STALE_S):
            who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "somebody"
            raise UserError(
                f"expected {path.parent} to be written by one command at a time, got {who} writing there; wait for it "
                f"to end, or give another output folder (a lease of another machine ends {_STALE_S:.0f} s after it)"
            )
        _remove_ended(path, holder)
    raise UserError(f"expected to write in {path.parent}, got others that take turns there; try again later")


def _create(path: Path, own: Lease) -> bool:
    """Create the lease file whole, or return False where there is one; it need not outlive a loss of power."""
    with write_beside(path) as temporary:
        temporary.write_bytes(sign_json(asdict(own)))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True


def _remove_ended(path: Path, ended: Lease | None) -> None:
    """Remove a lease that is over, but not one that another writer put in its place a moment ago."""
    with _hold_folder(path.parent):
        if _look(path)[0] == ended:
            path.unlink(missing_ok=True)


@contextmanager
def _hold_folder(folder: Path) -> Iterator[None]:
    """Keep others from removing a lease between a look and a removal, where the file system has locks.

    The system gives the lock back when its process ends, so none is left behind.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _look(path: Path) -> tuple[Lease | None, float | None]:
    """Return a lease (None: unreadable) and how long ago it was renewed, by the clock of its disk (None: absent)."""
    try:
        renewed = path.stat().st_mtime
        value = read_json(path, remedy="remove it")
        lease = build_record(Lease, value, at=str(path), remedy="remove it")
    except FileNotFoundError:
        return None, None
    except UserError:
        lease = None
    with write_beside(path) as probe:
        probe.touch()
        return lease, probe.stat().st_mtime - renewed


def _renew(path: Path, over: threading.Event) -> None:
    while not over.wait(_BEAT_S):
        with suppress(OSError):
            os.utime(path)


def _name_space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""  # no Linux: the host's name must do


def _read_start(pid: int) -> str:
    """Return when a process began; nothing of one that has ended and was not collected, or where that is not told."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state[0] in "ZX" else state[19]

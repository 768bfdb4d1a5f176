"""Commands to be stopped: a process that imports everything once and runs each order, a command line, in a fork of its own.

As a script it reads one JSON order a line: {"argv": ..., "folder": of its output, "signal": ..., "nth": ..., "after_s": ...}. The fork sends
itself the signal at the nth fsync, which is where files become visible, or after some seconds. It answers with its pid and its exit status.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from eo_ssl import cli


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str
    syncs: int
    "files that were made durable, of a command that was not stopped"
    wall_s: float
    left: bool
    "whether a process of it lives on"


class Server:
    """Runs commands in forks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        argv: list[str],
        *,
        stop: signal.Signals | None = None,
        nth: int = 0,
        after_s: float = 0,
        environment: dict[str, str] | None = None,
    ) -> Ended:
        order = {
            "argv": argv,
            "folder": str(self.folder),
            "signal": int(stop or 0),
            "nth": nth,
            "after_s": after_s,
            "environment": environment or {},
        }
        begun = time.monotonic()
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        group, status = int(self._process.stdout.readline()), int(self._process.stdout.readline())
        wall_s = time.monotonic() - begun
        out, err = ((self.folder / name).read_text() for name in ("stdout", "stderr"))
        syncs = self.folder / "syncs"
        return Ended(status, out, err, int(syncs.read_text()) if syncs.exists() else 0, wall_s, lives(group))

    def close(self) -> None:
        self._process.communicate(timeout=60)


def lives(group: int) -> bool:
    """Whether a process of a group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _perform(order: dict) -> int:
    """Run the command line in this fork."""
    folder, sync, count = Path(order["folder"]), os.fsync, 0
    (folder / "syncs").unlink(missing_ok=True)
    for handle, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)

    def counted(handle: int) -> None:
        nonlocal count
        count += 1
        if order["signal"] and count == order["nth"]:
            os.kill(os.getpid(), order["signal"])
        sync(handle)

    os.fsync = counted
    os.environ.update(order["environment"])
    if order["after_s"]:
        clock = threading.Timer(order["after_s"], os.kill, (os.getpid(), order["signal"]))
        clock.daemon = True
        clock.start()
    sys.argv = ["eo-ssl", *order["argv"]]
    try:
        cli.entry()
    except SystemExit as end:
        (folder / "syncs").write_text(str(count))
        return int(end.code or 0)
    return 99


def serve() -> None:
    for command in cli.COMMANDS:
        import_module(f"eo_ssl.workflows.{command}")
    import jsonargparse  # noqa: F401
    import pandas  # noqa: F401  (of timm and TorchGeo, when one is opened)

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setsid()
            status = 98
            try:
                status = _perform(json.loads(line))
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()

"""Commands to be stopped or killed: a process that imports everything once and runs each order, a command line, in a fork of its own.

As a script it reads one JSON order a line: {"argv": ..., "folder": of its output, "signal": ..., "nth": ..., "after_s": ...}. The fork sends
itself the signal at the nth moment at which files change (something is opened to be written, made durable, linked, renamed or removed), or
after some seconds; SIGKILL goes to its whole process group. The server answers with the pid of the fork and its exit status.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
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
from eo_ssl.manifest import MANIFEST, require
from eo_ssl.sample import ArchiveSpec, make_archive

CHANGES = ("os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
"""Audit events of Python at which names change; files that are opened to be written and made durable come to these."""
LIMIT_S = 300.0
STREAM = "s2_boa_12b_10m_32px"
STAGES = ("ingest", "pair", "curate", "pretrain", "evaluate", "export", "embed", "search", "report")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    "of the process, negative where a signal ended it"
    out: str
    err: str
    sent: bool
    "whether the signal was sent"
    moments: int
    "at which files changed, of a command that was not stopped"
    wall_s: float
    left: bool
    "whether a process of it lives on"
    endless: bool
    "whether it had to be ended from outside"


class Server:
    """Runs commands in forks."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
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
        limit_s: float = LIMIT_S,
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
        group = int(self._process.stdout.readline())
        watch = threading.Timer(limit_s, end_group, [group])
        watch.start()
        status = int(self._process.stdout.readline())
        watch.cancel()
        wall_s = time.monotonic() - begun
        out, err = ((self.folder / name).read_text() for name in ("stdout", "stderr"))
        moments, sent = self.folder / "moments", (self.folder / "sent").exists()
        changes = int(moments.read_text()) if moments.exists() else 0
        return Ended(status, out, err, sent, changes, wall_s, outlives(group), wall_s >= limit_s)

    def close(self) -> None:
        self._process.communicate(timeout=60)


def lives(group: int) -> bool:
    """Whether a process of a group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def outlives(group: int, *, wait_s: float = 5.0) -> bool:
    """Whether a process of a group lives on for a while: what is killed needs a moment to be gone."""
    ends = time.monotonic() + wait_s
    while lives(group):
        if time.monotonic() > ends:
            return True
        time.sleep(0.01)
    return False


def end_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _perform(order: dict) -> int:
    """Run the command line in this fork."""
    folder, moments, number = Path(order["folder"]), 0, order["signal"]
    for name in ("moments", "sent"):
        (folder / name).unlink(missing_ok=True)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for handle, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)

    def send() -> None:
        (folder / "sent").touch()
        if number == signal.SIGKILL:
            os.killpg(os.getpgrp(), number)
        os.kill(os.getpid(), number)

    def count() -> None:
        nonlocal moments
        moments += 1
        if number and moments == order["nth"]:
            send()

    def notice(event: str, arguments: tuple) -> None:
        if event in CHANGES or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            count()

    sync = os.fsync
    os.fsync = lambda handle: (count(), sync(handle))[1]
    sys.addaudithook(notice)
    os.environ.update(order["environment"])
    if order["after_s"]:
        clock = threading.Timer(order["after_s"], send)
        clock.daemon = True
        clock.start()
    sys.argv = ["eo-ssl", *order["argv"]]
    try:
        cli.entry()
    except SystemExit as end:
        if order["after_s"]:
            clock.cancel()
        (folder / "moments").write_text(str(moments))
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


# A small world, and what is done to it


def make_world(root: Path) -> Path:
    """An archive in which every command finds something to do."""
    spec = ArchiveSpec(sites=2, dates=2, size_px=192, exact_duplicates=0, near_duplicates=0, reprocessed=0)
    make_archive(root / "archive", seed=1, spec=spec)
    return root


def commands(root: Path) -> dict[str, list[str]]:
    """A command line for each stage, without its output; each takes what the earlier ones made in `root/made`."""
    corpus, encoder, vectors = (str(root / "made" / name) for name in ("ingest", "pretrain", "embed"))
    ingest = ["ingest", "--card", "sample_s2_l2a", "--data", str(root / "archive"), "--size_px", "32"]
    pretrain = ["pretrain", "--corpus", corpus, "--objective", "IJepa", "--steps", "12", "--batch_size", "4"]
    pretrain += ["--model.depth", "1", "--training.checkpoint_every", "3", "--training.log_every", "1"]
    evaluate = ["evaluate", "--encoders", encoder, "imagestats", "--task", "corpus", "--data", corpus]
    return {
        "ingest": [*ingest, "--tiling", "grid", "--min_valid", "0.2"],
        "pair": ["pair", "--corpus", corpus, "--first", STREAM, "--second", STREAM, "--bounds.max_days", "2000"],
        "curate": ["curate", "--corpus", corpus, "--stream", STREAM, "--keep", "0.5"],
        "pretrain": [*pretrain, "--prune.warmup", "16", "--prune.interval", "16", "--prune.readiness.full", "0"],
        "evaluate": [*evaluate, "--streams", STREAM, "--protocols", "knn5"],
        "export": ["export", encoder],
        "embed": ["embed", encoder, corpus, "--stream", STREAM],
        "search": ["search", vectors, "--like", "0", "--k", "4"],
        "report": ["report", "--inputs", corpus, encoder],
    }


def make_products(root: Path, server: Server) -> dict[str, Ended]:
    """How each command ended that nobody stopped, in `root/made`."""
    made = {
        command: server.run([*words, "--out", str(root / "made" / command)])
        for command, words in commands(root).items()
    }
    assert all(one.status == 0 and one.moments > 0 for one in made.values()), made
    return made


_TIMED = (
    "wall_s",
    "cpu_s",
    "peak_mb",
    "created",
    "command",
    "images_per_s",
    "measure_s",
    "select_s",
    "clustering_s",
    "sha256",
)
"""Keys of what tells of time, memory and process; the last one is the signature of them all."""


def content(product: Path) -> dict[str, str]:
    """What a product, or each of those in a folder, is: the content of all files, hidden ones too, without what tells of time.

    Checkpoints, which are of the steps at which a run was stopped, and what other libraries log do not count: both may go.
    """
    for folder in [path.parent for path in product.rglob(MANIFEST)] or [product]:
        require(folder, STAGES)
    files = {path.relative_to(product).as_posix(): path for path in sorted(product.rglob("*")) if path.is_file()}
    return {
        name: hashlib.sha256(_untime(path)).hexdigest()
        for name, path in files.items()
        if not re.search(r"(^|/)(logs/|checkpoints/step_)", name)
    }


def _untime(path: Path) -> bytes:
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        if path.name == MANIFEST:
            value["files"] = sorted(value["files"])  # each is compared itself
            if value["stage"] in ("report", "search"):
                del value["fingerprint"]  # of the page with the minute it was written
            if value["stage"] == "ingest":
                del value["summary"]["added"], value["summary"]["kept"]  # by the run that finished it
        return json.dumps(_drop_times(value), sort_keys=True).encode()
    if path.suffix == ".jsonl":
        return json.dumps([_drop_times(json.loads(line)) for line in path.read_text().splitlines()]).encode()
    if path.suffix == ".html":
        return re.sub(r"Written [^<]*", "", path.read_text()).encode()
    return path.read_bytes()


def _drop_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: _drop_times(item) for key, item in value.items() if key not in _TIMED}
    return [_drop_times(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    serve()

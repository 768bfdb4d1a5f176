"""Every command killed, with its process group, or stopped by a signal, at moments drawn at random; then it must end as if nothing had been.

A moment is one at which files change (a file is opened to be written, made durable, linked, renamed or removed) or a share of the time that
the command takes. Half of the commands that resume are killed or stopped again. At the end of each chain the product is compared with that of
an undisturbed run in the same place, file by file, so that what a killed run left behind is a difference too.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from eo_ssl.errors import UserError
from stops import STREAM, Ended, Server, commands, content, make_products, make_world

Rng = np.random.Generator
KILLED = (
    "pretrain",
    "curate",
    "evaluate",
    "tune",
    "study",
    "export",
    "embed",
    "maps",
    "report",
    "pair",
    "search",
    "run",
)
WITHOUT_PRODUCT = ("inspect", "doctor", "verify")
ONLY_STOPPED = ("ingest", *WITHOUT_PRODUCT)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
LIMIT_S = 120.0
SLURM = {"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "long", "SLURM_NTASKS": "1"}
SLURM |= {f"SLURM_{name}ID": "0" for name in ("PROC", "LOCAL", "NODE")}
COUNTS = ("at files", "at a time", "of resumed runs", "products")
VIOLATIONS = ("silent", "traces", "endless", "lost", "left")


def list_commands(root: Path) -> dict[str, list[str]]:
    """All command lines by name: those of the tests, evaluations that train and vary, maps of scenes, a run and those that write nothing."""
    found, made = commands(root), root / "made"
    judged = ["evaluate", "--encoders", str(made / "pretrain"), "--task", "corpus", "--data", str(made / "ingest")]
    judged += ["--streams", STREAM, "--held_out", "all"]
    tuning = ["--tuning.epochs", "1", "--tuning.steps", "2", "--tuning.rates", "[0.001, 0.01]"]
    study = ["--study", "grid", "--protocols", "knn5", "--sizes", "32", "--normalisations", "zscore"]
    scenes = str(root / "archive")
    return {
        **found,
        "tune": [*judged, "--protocols", "finetune", *tuning],
        "study": [*judged, *study],
        "maps": ["embed", str(made / "pretrain"), scenes, "--card", "sample_s2_l2a", "--dask", "synchronous"],
        "run": ["run", "--config", str(_write_run(root, found))],
        "inspect": ["inspect", str(made / "ingest"), "--verify"],
        "doctor": ["doctor", str(made / "ingest")],
        "verify": ["export", "--verify", str(made / "export")],
    }


def _write_run(root: Path, found: dict[str, list[str]]) -> Path:
    """A configuration of two stages."""
    _, *words = found["curate"]
    curate = dict(zip((name[2:] for name in words[::2]), words[1::2], strict=True)) | {"keep": 0.5}
    search = {"embeddings": str(root / "made" / "embed"), "lonlat": "9.0080,44.3944", "out": "{out}/search"}
    stages = [{"curate": {**curate, "out": "{out}/subset"}}, {"search": search}]
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump({"stages": stages}))
    return path


@dataclass
class Tally:
    """What came of the kills or stops of one command."""

    seed: int
    ends: int = 0
    by_signal: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    violations: list[tuple[str, str]] = field(default_factory=list)

    def to_row(self, name: str) -> dict[str, Any]:
        kinds = [kind for kind, _ in self.violations]
        row = {"name": name, "seed": self.seed, "ends": self.ends, **self.counts}
        row |= {kind: kinds.count(kind) for kind in VIOLATIONS}
        return row | {"signals": self.by_signal, "violations": self.violations}


@dataclass
class Subject:
    """One command, its undisturbed run, and the place where it is disturbed."""

    name: str
    words: list[str]
    out: Path | None
    server: Server
    whole: Ended
    made: Any = None
    "content of the product of the undisturbed run, or what it printed; None: it was made in the same place"
    lasts_s: float = 0.0
    "how long it takes, by its shortest run so far: a busy machine makes the first one long"

    def __post_init__(self) -> None:
        self.lasts_s = self.whole.wall_s
        if self.whole.status:
            raise RuntimeError(f"expected {self.name} to succeed undisturbed, got {self.whole}")
        if self.made is None:
            self.made = self.read(self.whole)

    def read(self, ended: Ended) -> Any:
        return ended.out if self.out is None else content(self.out)

    def remove(self) -> None:
        if self.out is not None:
            shutil.rmtree(self.out, ignore_errors=True)

    def draw_moment(self, rng: Rng) -> dict[str, Any]:
        if rng.random() < 0.5 and self.whole.moments:
            return {"nth": int(rng.integers(1, self.whole.moments + 1))}
        return {"after_s": float(rng.uniform(0.01, max(self.lasts_s, 0.02)))}

    def disturb(self, rng: Rng, tally: Tally, stops: tuple[signal.Signals, ...], *, most: int) -> None:
        """End the command once, half of the time again, at most so often; then let it end, and compare."""
        self.remove()
        said: list[str] = []
        for number in range(most):
            if number and rng.random() < 0.5:
                break
            stop, moment = stops[rng.integers(len(stops))], self.draw_moment(rng)
            slurm = stop == signal.SIGUSR1
            ended = self.server.run(
                self.words, stop=stop, **moment, limit_s=LIMIT_S, environment=self._queue() if slurm else None
            )
            said.append(f"{stop.name} {moment}")
            for kind, detail in self._judge(ended, stop):
                tally.violations.append((kind, f"{self.name}, {'; '.join(said)}: {detail}"))
            if not ended.sent:
                self.lasts_s = min(self.lasts_s, ended.wall_s)
                said.append("it was faster")
                break
            tally.ends += 1
            tally.by_signal[stop.name] = tally.by_signal.get(stop.name, 0) + 1
            tally.counts["at files" if "nth" in moment else "at a time"] += 1
            tally.counts["of resumed runs"] += number > 0
        self._complete(tally, "; ".join(said))

    def _queue(self) -> dict[str, str]:
        """The environment of a Slurm job whose `scontrol` is at hand."""
        folder = self.server.folder / "slurm"
        folder.mkdir(exist_ok=True)
        (folder / "scontrol").write_text("#!/bin/sh\nexit 0\n")
        (folder / "scontrol").chmod(0o755)
        return {**SLURM, "PATH": f"{folder}:{os.environ['PATH']}"}

    def _judge(self, ended: Ended, stop: signal.Signals) -> Iterator[tuple[str, str]]:
        """What must not be in how a command ended."""
        if ended.endless:
            yield "endless", f"{LIMIT_S:.0f} s"
        if "Traceback" in ended.err:
            yield "traces", ended.err[-2000:]
        if ended.left:
            yield "left", "a process lives on"
        if not ended.sent:
            if ended.status != self.whole.status:
                yield "lost", f"status {ended.status}: {ended.err[-500:]}"
        elif stop == signal.SIGKILL:
            if ended.status != -stop:
                yield "silent", f"status {ended.status} of one that was killed"
        else:
            goes_on = "job 12 is in the queue again and" if stop == signal.SIGUSR1 else "the same command"
            sentence = f"eo-ssl {self.words[0]}: stopped by {stop.name}; {goes_on} goes on from there"
            if ended.status != 128 + stop or ended.err.strip().splitlines()[-1:] != [sentence]:
                yield "silent", f"status {ended.status}: {ended.err[-500:]!r}"
        if self.out is not None and ended.status and self.name != "run":  # which is several products
            try:
                found = content(self.out)
            except (UserError, FileNotFoundError):
                return  # refused in a sentence: it is not finished
            if any(found.get(name) != digest for name, digest in self.made.items()):
                yield "lost", "a reader takes a product that is not whole"

    def _complete(self, tally: Tally, said: str) -> None:
        """Run the command to its end and compare."""
        ended = self.server.run(self.words, limit_s=LIMIT_S)
        tally.counts["products"] += 1
        found: Any = {}
        if ended.endless:
            tally.violations.append(("endless", f"{self.name}, {said}: the run afterwards"))
        if "Traceback" in ended.err:
            tally.violations.append(("traces", f"{self.name}, {said}: the run afterwards: {ended.err[-2000:]}"))
        if ended.status == self.whole.status:
            found = self.read(ended)
        if ended.status != self.whole.status or (self.out is None and found != self.made):
            tally.violations.append(("lost", f"{self.name}, {said}: status {ended.status} {ended.err[-500:]}"))
        elif self.out is not None:
            more = sorted({*found} - {*self.made})
            other = sorted(name for name, digest in self.made.items() if found.get(name) != digest)
            if other:
                tally.violations.append(("lost", f"{self.name}, {said}: other content of {other}"))
            if more:
                tally.violations.append(("left", f"{self.name}, {said}: {more}"))


def run(folder: Path, *, kills: int, stops: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each command that was killed and each that was stopped, a violation in words in each."""
    root = make_world(folder / "world")
    interrupts = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # children of a shell's background job ignore it
    server = Server(root / "ended")
    try:
        made = make_products(root, server)
        subjects: dict[str, Subject] = {}
        for name, words in list_commands(root).items():
            out = None if name in WITHOUT_PRODUCT else root / "disturbed" / name
            words = [*words, *(() if out is None else ("--out", str(out)))]
            whole = made.get(name) or server.run(words)
            subjects[name] = Subject(
                name, words, out, server, whole, content(root / "made" / name) if name in made else None
            )
        for kind, names, total, signals in (
            ("killed", KILLED, kills, (signal.SIGKILL,)),
            ("stopped", (*KILLED, *ONLY_STOPPED), stops, SIGNALS),
        ):
            yield from _disturb_all(kind, [subjects[name] for name in names if total], total, signals, seed=seed)
    finally:
        server.close()
        signal.signal(signal.SIGINT, interrupts)


def _disturb_all(
    kind: str, subjects: list[Subject], total: int, signals: tuple[signal.Signals, ...], *, seed: int
) -> Iterator[dict[str, Any]]:
    """Disturb the commands in turns until there were so many ends; one that takes long comes in every second round only."""
    rng, tallies, turn = np.random.default_rng([seed, len(signals)]), {}, 0
    while sum(tally.ends for tally in tallies.values()) < total:
        for subject in subjects:
            left = total - sum(tally.ends for tally in tallies.values())
            if left <= 0 or (subject.name == "run" and turn % 2):
                continue
            tally = tallies.setdefault(subject.name, Tally(seed))
            subject.disturb(rng, tally, signals, most=min(left, 3))
            print(f"{kind} {total - left + 1}/{total} {subject.name} {tally.violations}", file=sys.stderr, flush=True)
        turn += 1
    for name, tally in tallies.items():
        yield tally.to_row(f"{kind}/{name}")


def tabulate(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown, the violations in words below."""
    columns = ("ends", *COUNTS, *VIOLATIONS)
    lines = [f"| command | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row['name']} | {' | '.join(str(row[key]) for key in columns)} |")
    for kind in ("killed", "stopped"):
        of_kind = [row for row in rows if row["name"].startswith(kind)]
        if of_kind:
            sums = [str(sum(row[key] for row in of_kind)) for key in columns]
            lines.append(f"| **all {kind}** | {' | '.join(sums)} |")
    names = {name for row in rows for name in row["signals"]}
    told = {name: sum(row["signals"].get(name, 0) for row in rows) for name in sorted(names)}
    said = [f"- {kind}: {' '.join(detail.split())}" for row in rows for kind, detail in row["violations"]]
    return "\n".join([*lines, "", "Signals: " + ", ".join(f"{name} {count}" for name, count in told.items()), *said])

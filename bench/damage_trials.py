"""One damaged product at a time, read whole in a process of its own, which may die, hang, grow or run what it should not.

What is read must equal what was there, or be refused in one sentence: never another value, never a stack. A document that a forger changed
and left without its signature, as version 0.1 wrote it, may hold a value that could be true, and so may what people write themselves (cards,
configurations); neither may end in a stack, take long or large, or run code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.damages import EDITS, MARK, Act, Rng, list_acts
from eo_ssl.errors import UserError

VERDICTS = ("equal", "refused", "another", "unworded", "crash", "slow", "large", "executed", "lost")
CPU_SECONDS, MEGABYTES = 30.0, 500.0  # more than any damage may cost beyond the sound product
CPU_LIMIT = 120  # seconds of the processor after which a reader is ended
DEADLINE = 600.0  # seconds after which one that only waits is, on a machine that does other things too
PRECIOUS = "precious.yaml"  # file of somebody else beside the product
Read = Callable[[Path], Iterator[Any]]


def lost_signature(before: bytes, after: bytes) -> bool:
    """Whether a document ended with its signature and does no more."""
    return b'"sha256"' in before[-200:] and b'"sha256"' not in after[-200:]


@dataclass(frozen=True)
class Kind:
    """A kind of product, what is damaged of it, and all that its readers give."""

    read: Read
    "yields bytes or plain values, the same for equal products wherever they lie"
    make: Callable[[Path], None] | None = None
    "makes one in a folder of products, of those that are there"
    files: tuple[str, ...] = ("**/*",)
    "globs of what is damaged"
    lost_guard: Callable[[bytes, bytes], bool] = lost_signature
    "of a file before and after an edit: whether what guarded it was taken away"
    signs: bool = True
    "whether anything guards it; what people write, nothing does"
    beside: tuple[str, ...] = ()
    "what it is read with, linked beside it"
    whole: Mapping[str, Act] = field(default_factory=dict)
    "acts on the folder; one whose name begins with `forged` leaves no guard"


@dataclass(frozen=True)
class DamagedProduct:
    """One change and what became of it."""

    number: int
    kind: str
    file: str
    mutation: str
    done: str
    signed: bool
    "whether what was written beside the content tells of the change"
    verdict: str
    "one of `VERDICTS`"
    detail: str

    @property
    def violation(self) -> str:
        """What must not be; empty for nothing."""
        if self.verdict in ("equal", "refused") or (self.verdict == "another" and not self.signed):
            return ""
        return self.verdict


def damage(kinds: Mapping[str, Kind], made: Path, work: Path, *, count: int, seed: int) -> Iterator[DamagedProduct]:
    """Change one product at a time, the kinds in turns, and read all of it."""
    sound = {}
    for name, kind in kinds.items():
        sound[name] = _try(kind.read, _copy(made, work / f"sound-{name}", name, kind.beside))
        if sound[name].said:
            raise RuntimeError(f"the sound {name} is not read: {sound[name]}")
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        name = list(kinds)[number % len(kinds)]
        folder = _copy(made, work / f"{number:04d}", name, kinds[name].beside)
        file, mutation, done, signed = _act(rng, kinds[name], folder)
        verdict, detail = _judge(_try(kinds[name].read, folder), sound[name], folder.parent)
        yield DamagedProduct(number, name, file, mutation, done, signed, verdict, detail)
        shutil.rmtree(folder.parent)


def _copy(made: Path, place: Path, name: str, beside: tuple[str, ...]) -> Path:
    """A copy in a place of its own; large files share their bytes with the source until they are damaged."""
    place.mkdir(parents=True)
    (place / PRECIOUS).write_text("mine: 1\n")
    for other in beside:
        (place / other).symlink_to(made / other)

    def copy(one: str, other: str) -> None:
        (os.link if Path(one).stat().st_size > 1e6 else shutil.copyfile)(one, other)

    return Path(shutil.copytree(made / name, place / name, copy_function=copy))


def _act(rng: Rng, kind: Kind, folder: Path) -> tuple[str, str, str, bool]:
    """Damage something; return the file, the act, what it did, and whether what guards the product tells of it."""
    if kind.whole and rng.random() < 0.25:
        names = sorted(kind.whole)
        name = names[rng.integers(len(names))]
        return "", name, kind.whole[name](rng, folder), not name.startswith("forged")
    files = sorted({path for glob in kind.files for path in folder.glob(glob) if path.is_file()})
    if rng.random() < 0.5:  # files of a known format are few
        files = [path for path in files if path.suffix in EDITS] or files
    path = files[rng.integers(len(files))]
    before = path.read_bytes()
    detach(path)
    acts = list_acts(path.suffix)
    if path.suffix in EDITS and rng.random() < 0.5:
        acts = tuple(item for item in acts if item[0] in EDITS[path.suffix])
    name, act = acts[rng.integers(len(acts))]
    done = act(rng, path)
    edited = name in EDITS.get(path.suffix, {}) and kind.lost_guard(before, path.read_bytes())
    return path.relative_to(folder).as_posix(), name, done, kind.signs and not edited


def detach(path: Path) -> None:
    """Give a file bytes of its own."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


# Reading, in another process


@dataclass(frozen=True)
class Answer:
    """What a reader did."""

    digest: str = ""
    said: str = ""
    "refused or unworded or crash or slow; empty when it read"
    detail: str = ""
    cpu_s: float = 0.0
    megabytes: float = 0.0


def _try(read: Read, folder: Path) -> Answer:
    context = multiprocessing.get_context(
        "forkserver"
    )  # a server without threads, which has imported all and forks for each
    context.set_forkserver_preload(["bench.damaged_learning"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(there, read, folder), daemon=True)
    process.start()
    there.close()
    try:
        answer: Answer = here.recv() if here.poll(DEADLINE) else Answer(said="slow", detail=f"over {DEADLINE:g} s")
    except EOFError:
        process.join()
        busy = process.exitcode == -signal.SIGXCPU
        answer = Answer(said="slow" if busy else "crash", detail=f"exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()
        here.close()
    return answer


def _serve(pipe: Connection, read: Read, folder: Path) -> None:
    os.chdir(folder.parent)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT + 1))
    quiet = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(quiet, number)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    answer = _read(read, folder)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    pipe.send(Answer(*answer, cpu_s=time.process_time() - begun, megabytes=grown))
    pipe.close()
    os._exit(0)  # threads of foreign libraries may not want to end


def _read(read: Read, folder: Path) -> tuple[str, str, str]:
    digest = hashlib.sha256()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for part in read(folder):
                digest.update(
                    part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
                )
    except UserError as error:
        worded = "\n" not in str(error) and len(str(error)) < 1000
        return "", "refused" if worded else "unworded", str(error)[:2000]
    except BaseException as error:  # what no reader put in words, also a panic of a foreign library
        return "", "unworded", f"{_place(error)}: {error}"[:2000]
    return digest.hexdigest(), "", ""


def _place(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "eo_ssl" in frame.filename]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _judge(found: Answer, sound: Answer, place: Path) -> tuple[str, str]:
    with contextlib.suppress(OSError):
        if (place / MARK).exists():
            return "executed", found.detail
    if not (place / PRECIOUS).is_file() or (place / PRECIOUS).read_text() != "mine: 1\n":
        return "lost", found.detail
    if found.cpu_s > sound.cpu_s + CPU_SECONDS:
        return "slow", f"{found.cpu_s:.0f} s of the processor, {sound.cpu_s:.0f} when sound; {found.detail}"
    if found.megabytes > sound.megabytes + MEGABYTES:
        return "large", f"{found.megabytes:.0f} MB, {sound.megabytes:.0f} when sound; {found.detail}"
    if found.said:
        return found.said, found.detail
    return ("equal" if found.digest == sound.digest else "another"), ""


def digest_table(table: pa.Table) -> bytes:
    """The bytes of a table, whatever its chunks."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()

"""How a command is stopped from outside: one sentence, status 128 + signal, no half-done file, nothing left running.

SIGINT (a person), SIGTERM (a scheduler), SIGHUP (the terminal is gone) and SIGUSR1 (Slurm before a time limit) raise
`Stopped` in the main thread, so that what is open closes. A thread of its own sees to the rest: a second SIGINT ends
the process at once, and so does the end of the grace time where the main thread is stuck in a library.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, Self, TextIO

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
GRACE_S = 20.0  # from the signal to the end at the latest; Slurm and Kubernetes kill after 30 s
STAGE = "EO_SSL_STAGE"  # tells a stage of `eo-ssl run`, which speaks for it, the pipe that closes when that ends
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of torchrun, Lightning and Slurm; 0 is the process that speaks


class Stopped(BaseException):
    """A signal asked the command to stop; no `Exception`, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        """Say which signal it was."""
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Output:
    """A stream that stops the command where it cannot be written, as SIGPIPE does with other programs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise Stopped(signal.SIGPIPE) from error

    def flush(self) -> None:
        """Flush."""
        try:
            self._stream.flush()
        except OSError as error:
            raise Stopped(signal.SIGPIPE) from error


class _Watch:
    """What this process knows of its end."""

    command = "eo-ssl"
    number = 0  # the first signal, 0 before it
    speaks = True  # whether nobody else says that it was stopped
    said = threading.Lock()


def handle_signals(command: str, *, grace_s: float = GRACE_S) -> None:
    """Turn signals, and output that nobody reads, into `Stopped` from now on; ignored signals (nohup) stay ignored.

    Args:
        command: as the sentence names it, such as ``eo-ssl ingest``.
        grace_s: seconds from a signal to the end of the process at the latest.
    """
    _Watch.command = command
    if sys.stdout is not None:
        sys.stdout = _Output(sys.stdout)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise_stopped)
    threading.Thread(target=_enforce, args=([reading, *_find_run()], grace_s), name="stop-signals", daemon=True).start()


def _find_run() -> list[int]:
    """Return the pipe of the `eo-ssl run` whose stage this is; processes that this one starts are no stages."""
    pipe = os.environ.pop(STAGE, "")
    _Watch.speaks = not pipe
    if pipe:
        os.set_inheritable(int(pipe), False)
    return [int(pipe)] if pipe else []


def is_stopping() -> bool:
    """Whether a signal has come."""
    return bool(_Watch.number)


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    """Raise `Stopped` at the first signal; during an import end at once, for an import may swallow what is raised."""
    if _Watch.number:
        return
    _Watch.number = number
    sys.unraisablehook = lambda *_: None  # what closes now may complain; the one sentence is all there is to say
    threading.excepthook = lambda *_: None
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            stop_process(number)
        frame = frame.f_back
    if "multiprocessing" in sys.modules:
        for worker in sys.modules["multiprocessing"].active_children():
            worker.terminate()  # what waits for them goes on
    raise Stopped(number)


def _enforce(pipes: list[int], grace_s: float) -> None:
    """End the process at a second SIGINT, or when the grace time is over; ask it to stop where its `run` was killed.

    Runs in a thread. The first pipe is that of signals, a second one closes with the `run`.
    """
    first, since, interrupts = 0, 0.0, 0
    reading = pipes[0]
    while True:
        left = max(since + grace_s - time.monotonic(), 0.0) if first else None
        ready = select.select(pipes, [], [], left)[0]
        if not ready:
            stop_process(first)
        if reading not in ready:
            pipes = [reading]
            os.kill(os.getpid(), signal.SIGTERM)
            continue
        for number in os.read(reading, 64):
            if number not in SIGNALS:
                continue
            if not first:
                first, since = number, time.monotonic()
            interrupts += number == signal.SIGINT
            if interrupts > 1:
                stop_process(first)


def stop_process(number: int = 0) -> NoReturn:
    """Say the sentence, end what this process has started and the process itself, now: of the signal that came."""
    number = number or _Watch.number
    if _is_first() and _Watch.speaks and _Watch.said.acquire(blocking=False):
        show_cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar may have hidden it
        cause = f"by {signal.Signals(number).name}"
        if number == signal.SIGPIPE:
            cause = "because its output cannot be written: its reader is gone, or the disk is full"
        sentence = f"{_Watch.command}: stopped {cause}; {_requeue(number)}"
        with suppress(OSError):
            os.write(2, f"{show_cursor}{sentence}\n".encode())
    with suppress(Exception, Stopped):  # also of no standard output at all
        sys.stdout.flush()
    with suppress(Exception):
        _kill_descendants()
    # Lightning kills a run when one of its processes ends with another status; that of the first is the run's.
    os._exit(128 + number if _is_first() else 0)


def _is_first() -> bool:
    """Whether this is the first process of a run of several, or the only one."""
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"


def _kill_descendants() -> None:
    import psutil

    below = psutil.Process().children(recursive=True)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(below, timeout=2)


def _requeue(number: int) -> str:
    """Put the Slurm job back into the queue where SIGUSR1 announced its time limit; say what follows."""
    import subprocess

    job = os.environ.get("SLURM_JOB_ID")
    if number != signal.SIGUSR1 or job is None:
        return "the same command goes on from there"
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        return f"job {job} could not be put back into the queue ({error}), the same command goes on from there"
    return f"job {job} is in the queue again and goes on from there"


class HeldSignals:
    """Keeps a signal until its block ends, which may look for it and end early; then it comes as if it came then.

    The grace time runs on. In another thread than the main one, which signals do not reach, nothing is kept.
    """

    def __init__(self) -> None:
        """None has come."""
        self.number = 0
        self._process = 0  # that is told of it
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Keep them from now on."""
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def install(self) -> None:
        """Become the handler of all signals that stop, also after a library has put in its own."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                if handler is not signal.SIG_IGN:
                    signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remember the first one."""
        self.number = self.number or number
        self.pass_on(self._process)

    def pass_on(self, process: int) -> None:
        """Tell a process of the signal, now or when one comes; with SIGTERM, for a terminal sends SIGINT to both."""
        self._process = process
        if self.number and process:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    def __exit__(self, *error: object) -> None:
        """Give the signals back to who had them, and then the one that has come."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
        handler = self._before.get(self.number)
        if callable(handler):
            handler(self.number, None)
        elif self.number:
            signal.raise_signal(self.number)

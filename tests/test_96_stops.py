"""Stopping from outside: every command says so in one sentence, with the status of the signal, and the same command ends with the same product."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from bench.stopped_commands import SIGNALS, Subject, Tally
from eo_ssl.manifest import require
from stops import Ended, Server, commands, content, lives, make_products, make_world, outlives


@pytest.fixture(autouse=True, scope="module")
def _interrupts() -> Iterator[None]:
    """Children begin with the SIGINT of a terminal, also where a shell runs the tests in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Below a folder whose name would be markup of a terminal's styles, which every command prints as it is."""
    return make_world(tmp_path_factory.mktemp("stops") / "[" / "red] [bold]")


@pytest.fixture(scope="module")
def server(world: Path) -> Iterator[Server]:
    server = Server(world / "ended")
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(world: Path, server: Server) -> dict[str, Ended]:
    """How each command ended that nobody stopped."""
    made = make_products(world, server)
    assert [name for name, one in made.items() if name != "ingest" and str(world / "made" / name) not in one.out] == []
    return made


@pytest.mark.parametrize("stops", [SIGNALS, (signal.SIGKILL,)], ids=["stopped", "killed"])
def test_every_command_that_is_stopped_or_killed_says_so_and_ends_with_the_same_product(
    stops: tuple[signal.Signals, ...], world: Path, server: Server, whole: dict[str, Ended]
) -> None:
    rng = np.random.default_rng(time.time_ns())  # other moments each time: the claim is about all of them
    tally = Tally(seed=0)
    for name, words in commands(world).items():
        out, made = world / stops[0].name / name, content(world / "made" / name)
        again = 2 if name == "pretrain" else 1  # a resumed run is stopped too
        Subject(name, [*words, "--out", str(out)], out, server, whole[name], made).disturb(
            rng, tally, stops, most=again
        )
    assert not tally.violations, tally.violations
    assert tally.ends  # a moment drawn after the end of a command stops nothing; not all are


def test_a_finished_evaluation_on_a_disk_that_can_only_be_read_is_printed(
    world: Path, whole: object, tmp_path: Path
) -> None:
    """Its lease could not be written, so that it was refused."""
    alone = ["unshare", "-rm"]
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this machine does not allow a private mount")
    made = str(world / "made" / "evaluate")
    words = [*commands(world)["evaluate"], "--out", made]
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && "$@"'
    command = [*alone, "sh", "-c", mount, made, EO_SSL, *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr.strip(), "nothing to do" in done.stdout) == (0, "", True)


EO_SSL = str(Path(sys.executable).with_name("eo-ssl"))


def begin(*words: str, **options: object) -> subprocess.Popen[str]:
    """Start the console script in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [EO_SSL, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        **options,
    )


def await_true(process: subprocess.Popen[str], condition: Callable[[subprocess.Popen[str]], object]) -> None:
    """Wait for something that a running process will do."""
    while not condition(process):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def watches(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    (caught,) = re.findall(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, bool]:
    """Status, what was said as an error, and whether a process of the group lives on."""
    _, said = process.communicate(timeout=100)
    return process.returncode, said.strip(), lives(process.pid)


def sentence(command: str, stop: signal.Signals) -> str:
    return f"eo-ssl {command}: stopped by {stop.name}; the same command goes on from there"


def test_a_signal_during_imports_ends_a_command_at_once(tmp_path: Path) -> None:
    for stop, delay in ((signal.SIGTERM, 0.0), (signal.SIGINT, 0.4)):
        process = begin("pretrain", "--corpus", str(tmp_path), "--out", str(tmp_path / "out"))
        await_true(process, lambda process: watches(process.pid))
        time.sleep(delay)
        process.send_signal(stop)
        assert ended(process) == (128 + stop, sentence("pretrain", stop), False)


def test_a_process_that_is_stuck_ends_with_its_grace_time_or_a_second_interrupt() -> None:
    stuck = "import sys, time\nfrom eo_ssl.stop_signals import *\nhandle_signals('eo-ssl x', grace_s=float(sys.argv[1]))\nwith HeldSignals():\n print(flush=True)\n time.sleep(1000)"
    for grace_s, stops in (
        ("0.1", [signal.SIGTERM]),
        ("1000", [signal.SIGINT] * 2),
        ("0.1", [signal.SIGINT, signal.SIGTERM]),
    ):
        process = subprocess.Popen(
            [sys.executable, "-c", stuck, grace_s],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        process.stdout.readline()
        process.send_signal(stops[0])
        while process.poll() is None:  # two of a kind that come at once are one
            time.sleep(0.05)
            process.send_signal(stops[-1])
        assert ended(process) == (128 + stops[0], sentence("x", stops[0]), False)


def test_run_passes_a_signal_on_waits_and_ends_alike(world: Path, whole: object, tmp_path: Path) -> None:
    corpus = str(world / "made" / "ingest")
    stage = {
        "corpus": corpus,
        "out": "{out}/encoder",
        "steps": 100_000,
        "batch_size": 4,
        "model": {"Vit": {"depth": 1}},
        "training": {"log_every": 1},
    }
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump(
            {
                "out": str(tmp_path / "run"),
                "stages": [{"pretrain": stage}, {"report": {"inputs": ["{out}"], "out": "{out}/report"}}],
            }
        )
    )
    log, found = tmp_path / "run" / "encoder" / "log.jsonl", tmp_path / "run" / "encoder" / "checkpoints"
    lines = 0
    for stop, to_all in ((signal.SIGTERM, False), (signal.SIGINT, True)):
        process = begin("run", "--config", str(tmp_path / "run.yaml"))
        await_true(process, lambda _, before=lines: count_lines(log) > before + 1)
        os.killpg(process.pid, stop) if to_all else process.send_signal(stop)
        assert ended(process) == (128 + stop, sentence("run", stop), False)
        assert len(list(found.glob("step_*.ckpt"))) == 1 + to_all  # saved by the stage, which was waited for
        lines = count_lines(log)
    process = begin("run", "--config", str(tmp_path / "run.yaml"))  # killed without its stage, which stops by itself
    await_true(process, lambda _: count_lines(log) > lines + 1)
    process.kill()
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL and not outlives(process.pid, wait_s=60)
    assert len(list(found.glob("step_*.ckpt"))) == 2 and not (tmp_path / "run" / "encoder" / ".lease.json").exists()
    assert not (tmp_path / "run" / "report").exists()


def test_workers_of_a_stopped_ingest_end_without_a_word(world: Path, whole: object, tmp_path: Path) -> None:
    words = [*commands(world)["ingest"], "--dask", "processes"]
    for stop, to_all in ((signal.SIGINT, True), (signal.SIGTERM, False)):
        process = begin(*words, "--out", str(tmp_path / "corpus"))
        await_true(process, lambda process: len(psutil.Process(process.pid).children()) > 2)
        os.killpg(process.pid, stop) if to_all else process.send_signal(stop)
        assert ended(process) == (128 + stop, sentence("ingest", stop), False)
    assert ended(begin(*words, "--out", str(tmp_path / "corpus")))[:2] == (0, "")
    assert (
        require(tmp_path / "corpus", "ingest").fingerprint == require(world / "made" / "ingest", "ingest").fingerprint
    )


@pytest.mark.parametrize(
    "words", [["inspect", "s2_29rkh_l2a"], ["inspect", "s2_29rkh_l2a", "--format", "json"], ["doctor"], ["--help"]]
)
def test_a_reader_that_is_gone_is_no_success_and_no_stack_trace(words: list[str]) -> None:
    process = begin(*words)
    process.stdout.close()
    (line,) = process.stderr.read().splitlines()
    assert process.wait(timeout=100) == 141
    process.stderr.close()
    assert "stopped because its output cannot be written: its reader is gone" in line


def test_a_slurm_job_saves_returns_to_its_queue_and_ends_with_the_same_bits(
    world: Path, server: Server, whole: dict[str, Ended], tmp_path: Path
) -> None:
    words = commands(world)["pretrain"]
    slurm = {
        "SLURM_NTASKS": "1",
        "SLURM_JOB_ID": "12",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NAME": "long",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    queue = tmp_path / "scontrol"
    queue.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    queue.chmod(0o755)
    half = whole["pretrain"].moments // 2
    first = server.run([*words, "--out", str(tmp_path / "out")], stop=signal.SIGUSR1, nth=half, environment=slurm)
    assert (first.status, first.err) == (
        138,
        "eo-ssl pretrain: stopped by SIGUSR1; job 12 is in the queue again and goes on from there\n",
    )
    assert (tmp_path / "asked").read_text() == "requeue 12\n"
    assert {path.name[:5] for path in (tmp_path / "out" / "checkpoints").iterdir()} == {"step_"}  # none of Lightning's
    queue.unlink()
    second = server.run([*words, "--out", str(tmp_path / "out")], stop=signal.SIGUSR1, nth=2, environment=slurm)
    assert second.status == 138 and "job 12 could not be put back into the queue" in second.err
    assert server.run([*words, "--out", str(tmp_path / "out")], environment=slurm).status == 0
    assert (
        require(tmp_path / "out", "pretrain").fingerprint
        == require(world / "made" / "pretrain", "pretrain").fingerprint
    )

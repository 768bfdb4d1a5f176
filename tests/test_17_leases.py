"""One writer at a time: the second is told who writes, a dead one is swept, and nobody takes what another holds."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from eo_ssl import leases
from eo_ssl.cli import main
from eo_ssl.commits import commit
from eo_ssl.documents import sign_json
from eo_ssl.errors import UserError
from eo_ssl.leases import LEASE, reserve
from eo_ssl.manifest import open_product, require

MADE = {"stage": "curate", "config": {"keep": 0.5}, "inputs": {"corpus": "aa"}}
WRITER = """
import sys, time
from pathlib import Path
from eo_ssl.manifest import open_product
with open_product(Path(sys.argv[1]), stage="curate", config={"keep": 0.5}, inputs={"corpus": "aa"}) as product:
    (Path(sys.argv[1]) / "half").write_text("")
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def writing(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has begun the product and goes on writing."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def forge(folder: Path, *, age_s: float = 0.0, **changes: object) -> Path:
    """Leave the lease of somebody else, renewed some seconds ago by the disk's clock."""
    folder.mkdir(parents=True, exist_ok=True)
    own = leases.Lease.make()
    value = {name: getattr(own, name) for name in leases.Lease.__dataclass_fields__} | changes
    path = folder / LEASE
    path.write_bytes(sign_json(value))
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def test_the_second_writer_is_told_who_writes_and_a_dead_one_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "subset"
    with writing(folder) as other:
        for _ in range(2):
            words = rf"got process {other.pid} on \S+ since 20\d\d-\S+ writing there; wait for it to end"
            with pytest.raises(UserError, match=words), open_product(folder, **MADE):
                raise AssertionError("two wrote at once")
            os.kill(other.pid, signal.SIGSTOP)  # it may go on later: neither is it dead
        with (
            pytest.raises(UserError, match="writing there"),
            open_product(folder, **MADE | {"config": {}}, overwrite=True),
        ):
            raise AssertionError("what another writes was removed")
        other.kill()  # and not waited for: a process that nobody collects has ended too
        deadline = time.monotonic() + 30
        while leases._read_start(other.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        with open_product(folder, **MADE) as product:
            assert product.state == "resume"
            product.sign("f00d")
    assert sorted(path.name for path in folder.iterdir()) == ["half", "manifest.json"]
    with open_product(folder, **MADE) as product:
        assert product.done and not (folder / LEASE).exists()  # nothing to do needs no lease, nor a folder to write to


def test_a_command_is_told_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "report"
    forge(folder, pid=1, begun=leases._read_start(1))
    (folder / "unfinished.json").write_text("{}")
    subset = tmp_path / "subset"
    with open_product(subset, **MADE) as product:
        (subset / "note").write_text("x")
        product.sign("f00d", files=["note"])
    (folder / "unfinished.json").unlink()
    assert main(["report", "--inputs", str(subset), "--out", str(folder)]) == 2
    assert "got process 1 on" in capsys.readouterr().err


def test_another_machine_counts_as_dead_when_it_renews_no_more(tmp_path: Path) -> None:
    far = {"host": "elsewhere", "space": "another boot", "pid": 2**22 + 1}
    forge(tmp_path / "fresh", age_s=20, **far)
    with pytest.raises(UserError, match="process 4194305 on elsewhere"), reserve(tmp_path / "fresh"):
        raise AssertionError("two wrote at once")
    forge(tmp_path / "ahead", age_s=-3600, **far)  # of a clock that went back since: not dead
    with pytest.raises(UserError, match="on elsewhere"), reserve(tmp_path / "ahead"):
        raise AssertionError("two wrote at once")
    forge(tmp_path / "stale", age_s=200, **far)
    with reserve(tmp_path / "stale"):
        assert json.loads((tmp_path / "stale" / LEASE).read_text())["pid"] == os.getpid()
    assert list((tmp_path / "stale").iterdir()) == []


def test_a_number_that_another_process_has_by_now_is_that_of_a_dead_one(tmp_path: Path) -> None:
    forge(tmp_path, pid=os.getppid(), begun="1")
    with reserve(tmp_path):
        pass
    forge(tmp_path, pid=os.getppid(), begun=leases._read_start(os.getppid()))
    with pytest.raises(UserError, match="writing there"), reserve(tmp_path):
        raise AssertionError("two wrote at once")


def test_a_lease_that_cannot_be_read_is_one_until_it_is_stale(tmp_path: Path) -> None:
    (tmp_path / LEASE).write_text('{"host": ')
    with pytest.raises(UserError, match="got somebody writing there"), reserve(tmp_path):
        raise AssertionError("two wrote at once")
    os.utime(tmp_path / LEASE, (1, 1))
    with reserve(tmp_path):
        pass


def test_of_many_that_find_a_dead_ones_lease_one_gets_it(tmp_path: Path) -> None:
    forge(tmp_path, pid=2**22 + 1, begun="1")
    inside, most, barrier = [], [], threading.Barrier(8)

    def work(number: int) -> bool:
        barrier.wait()
        try:
            with reserve(tmp_path):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.3)
                inside.remove(number)
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(work, range(8)))
    assert sum(won) >= 1 and set(most) == {1}
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_was_taken_over_is_not_given_back_by_its_old_holder(tmp_path: Path) -> None:
    with reserve(tmp_path):
        taken = forge(tmp_path, host="elsewhere", token="another")
    assert taken.is_file()


def test_further_processes_of_a_run_write_beside_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with reserve(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with reserve(tmp_path):
            pass
        assert (tmp_path / LEASE).is_file()


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_BEAT_S", 0.01)
    with reserve(tmp_path):
        os.utime(tmp_path / LEASE, (1, 1))
        deadline = time.monotonic() + 30
        while (tmp_path / LEASE).stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / LEASE).stat().st_mtime > 2


def test_temporary_files_of_the_dead_are_swept_and_others_kept(tmp_path: Path) -> None:
    here = f"at-{os.uname().nodename}"
    dead = [tmp_path / name for name in (f".a.{here}.{2**22 + 1}.5.tmp", f".b.{2**22 + 1}.5.tmp")]
    dead.append(tmp_path / "rows" / f".c.json.{here}.{os.getpid()}.1.tmp")  # of an earlier process of our number
    kept = [tmp_path / name for name in (f".a.at-elsewhere.{2**22 + 1}.5.tmp", ".notes.tmp", "a.tmp")]
    dead.append(tmp_path / "parts" / "key" / "draw" / f".c.npz.{here}.{2**22 + 1}.1.tmp")  # of a tuned evaluation
    kept.append(tmp_path / "rows" / f".d.json.{here}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    for path in (*dead, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    with reserve(tmp_path):
        assert not any(path.exists() for path in dead) and all(path.exists() for path in kept)


def test_a_disk_that_can_only_be_read_is_said_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one, removing a file that is not there fails too."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("write_bytes", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(UserError, match=r"expected to be allowed to write .*, got Read-only file system"):
        commit(tmp_path / "file", b"content")


def test_what_a_run_left_that_was_killed_after_its_manifest_goes_when_nothing_is_left_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "subset"
    with open_product(folder, **MADE) as product:
        product.sign("f00d")
    for holder in ({}, {"pid": 2**22 + 1}):
        forge(folder, **holder)
        (folder / "unfinished.json").write_text("{}")
        with open_product(folder, **MADE) as product:
            assert product.done
        left = {path.name for path in folder.iterdir()} - {"manifest.json"}
        assert left == (set() if holder else {LEASE, "unfinished.json"})  # of one that lives everything stays


def test_what_replaces_a_product_is_never_mixed_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that was killed goes on: files of the old product used to stay under the manifest of the new one."""
    folder = tmp_path / "subset"
    with open_product(folder, **MADE) as product:
        for name in ("a.parquet", "b.parquet"):
            (folder / name).write_text("old")
        product.sign("f00d", files=["a.parquet", "b.parquet"])
    other = MADE | {"config": {"keep": 0.6}}
    unlink, left = Path.unlink, []

    def killed(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".parquet":
            left.append(self.name)
            if len(left) == 2:
                raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt), open_product(folder, **other, overwrite=True):
        raise AssertionError("begun before the old one was gone")
    monkeypatch.setattr(Path, "unlink", unlink)
    assert any(path.suffix == ".parquet" for path in folder.iterdir())
    with pytest.raises(UserError, match="got an unfinished one"):
        require(folder, "curate")
    with open_product(folder, **other) as product:
        assert product.state == "new" and sorted(path.name for path in folder.iterdir()) == [LEASE, "unfinished.json"]
        product.sign("beef")

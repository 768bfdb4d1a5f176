"""Killing the ingest wherever it hurts: the whole process group dies, the same command is run again, and the corpus is the same.

``EO_SSL_RANDOM_KILLS`` sets how many kills at random moments are tried (default 3; 10 with ``-m slow``).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.errors import UserError
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.scene import list_products
from fake_scenes import scenes

CONFIG = IngestConfig(size_px=32, min_valid=0.2)
SPEC = ArchiveSpec(
    sites=2, dates=1, size_px=192, sensors=("sentinel2_l2a",), exact_duplicates=0, near_duplicates=0, reprocessed=0
)
RUN = textwrap.dedent(
    """
    import json
    import os
    import sys
    from pathlib import Path

    import pyarrow.dataset
    from eo_ssl.cards import load_card
    from eo_ssl.corpus import IngestConfig, ingest, shards
    from eo_ssl.scene import list_products

    def run(archive, out, client):
        shards.MAX_TILES = 16
        found = list_products(load_card("sample_s2_l2a"), Path(archive)).products
        return ingest(found, out=Path(out), config=IngestConfig(size_px=32, min_valid=0.2), client=client).fingerprint

    def serve():
        # Everything is imported once; each order runs in a fork with a process group of its own.
        for line in sys.stdin:
            order = json.loads(line)
            child = os.fork()
            if child == 0:
                os.setsid()
                os.environ.update(order["environment"])
                os.write(1, (json.dumps({"pid": os.getpid()}) + chr(10)).encode())
                try:
                    print(run(*order["arguments"]), file=open(order["answer"], "w"), flush=True)
                except Exception as error:
                    print(repr(error), file=open(order["answer"], "w"), flush=True)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            os.write(1, (json.dumps({"code": os.waitstatus_to_exitcode(status)}) + chr(10)).encode())

    if __name__ == "__main__":
        if len(sys.argv) == 1:
            serve()
        else:
            print(run(*sys.argv[1:]), flush=True)
    """
)
POINTS = {
    "after-temp-write": "of the first fragment",
    "before-fsync": "of the first fragment",
    "after-link": "of the first fragment",
    "after-link:3": "of the snapshot",
    "after-link:4": "of the manifest",
    "between-index-and-statistics": "of the first fragment",
    "before-snapshot": "",
    "inside-task": "first shard",
    "inside-task:3": "later shard",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    make_archive(folder, seed=3, spec=SPEC)
    return folder


@pytest.fixture(scope="module")
def found(archive: Path):
    return list_products(load_card("sample_s2_l2a"), archive).products


@pytest.fixture(scope="module")
def expected(found, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fingerprint of a run that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "c"
    return ingest(found, out=out, config=CONFIG, client="synchronous").fingerprint


class Victims:
    """Runs of the ingest that are meant to die."""

    def __init__(self, folder: Path, archive: Path) -> None:
        self._archive, self._answer = archive, folder / "answer.txt"
        (folder / "run_ingest.py").write_text(RUN)
        self._server = subprocess.Popen(
            [sys.executable, str(folder / "run_ingest.py")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _line(self) -> dict[str, int]:
        assert self._server.stdout is not None
        return json.loads(self._server.stdout.readline())

    def start(self, out: Path, client: str, **environment: str) -> int:
        """Start a run and return its process group."""
        assert self._server.stdin is not None
        order = {
            "arguments": [str(self._archive), str(out), client],
            "answer": str(self._answer),
            "environment": environment,
        }
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return self._line()["pid"]

    def wait(self) -> tuple[int, str]:
        """Return exit code (minus the signal) and answer of the run."""
        code = self._line()["code"]
        return code, self._answer.read_text().strip() if self._answer.exists() else ""

    def close(self) -> None:
        self._server.communicate(timeout=20)


@pytest.fixture(scope="module")
def victims(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    found = Victims(tmp_path_factory.mktemp("victims"), archive)
    yield found
    found.close()


def group_is_gone(pgid: int) -> bool:
    for _ in range(100):
        try:
            os.killpg(pgid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def readers_see_nothing_or_a_whole_corpus(out: Path) -> None:
    try:
        corpus = Corpus.open(out)
    except UserError:
        return
    assert corpus.verify() == []
    for name in corpus.streams:
        reader = corpus.stream(name)
        assert len(reader.read(np.arange(len(reader)))) == corpus.index(name).num_rows


def resume(found, out: Path, expected: str) -> None:
    report = ingest(found, out=out, config=CONFIG, client="synchronous")
    assert report.fingerprint == expected
    corpus = Corpus.open(out)
    assert corpus.verify() == [] and corpus.snapshot == 1
    assert sorted(path.name for path in out.iterdir()) == ["collection.json", "fragments", "manifest.json", "snapshots"]
    assert len(list((out / "fragments").iterdir())) == len(found)
    leftovers = [path for path in out.rglob("*") if path.name.startswith(".") or path.name.endswith(".tmp")]
    assert [path for path in leftovers if path.is_dir()] == []


@pytest.mark.parametrize("point", list(POINTS))
def test_a_kill_at_a_named_point_leaves_nothing_half_written(
    victims, found, expected, tmp_path: Path, point: str
) -> None:
    log, out = tmp_path / "hits.log", tmp_path / "c"
    victims.start(out, "threads", EO_SSL_FAULT=point, EO_SSL_FAULT_LOG=str(log))
    code, answer = victims.wait()
    assert log.exists() and log.read_text() == f"{point.partition(':')[0]}\n", f"{point} was never reached: {answer}"
    assert code == -signal.SIGKILL
    readers_see_nothing_or_a_whole_corpus(out)
    resume(found, out, expected)


def test_a_kill_inside_a_worker_process_takes_the_whole_group(victims, found, expected, tmp_path: Path) -> None:
    log, out = tmp_path / "hits.log", tmp_path / "c"
    group = victims.start(out, "processes", EO_SSL_FAULT="inside-task", EO_SSL_FAULT_LOG=str(log))
    code, answer = victims.wait()
    assert log.exists(), f"inside-task was never reached: {answer}"
    assert code == -signal.SIGKILL and group_is_gone(group)
    readers_see_nothing_or_a_whole_corpus(out)
    resume(found, out, expected)


def kill_at_random_moments(victims: Victims, found, expected: str, tmp_path: Path, *, kills: int, client: str) -> None:
    rng = np.random.default_rng(11)
    begun = time.monotonic()
    victims.start(tmp_path / "timed", client)
    assert victims.wait() == (0, expected)
    lasting = time.monotonic() - begun
    out = tmp_path / "c"
    for _ in range(kills):
        group = victims.start(out, client)
        time.sleep(rng.uniform(0, lasting))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        victims.wait()
        assert group_is_gone(group)
        readers_see_nothing_or_a_whole_corpus(out)
        if rng.random() < 0.5:  # half of the time the next run starts from what is left, half from nothing
            resume(found, out, expected)
            shutil.rmtree(out)
    resume(found, out, expected)


def test_kills_at_random_moments(victims, found, expected, tmp_path: Path) -> None:
    kills = int(os.environ.get("EO_SSL_RANDOM_KILLS", "3"))
    kill_at_random_moments(victims, found, expected, tmp_path, kills=kills, client="threads")


@pytest.mark.slow
@pytest.mark.parametrize("client", ["threads", "processes"])
def test_ten_kills_at_random_moments(victims, found, expected, tmp_path: Path, client: str) -> None:
    kill_at_random_moments(victims, found, expected, tmp_path, kills=10, client=client)


@pytest.mark.parametrize("where", ["shard", "index", "fragment"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, rng, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {
        "shard": ("eo_ssl.corpus.shards.blosc", "compress"),
        "index": ("eo_ssl.corpus.index.pq.ParquetWriter", "write_table"),
        "fragment": ("os", "link"),
    }[where]
    if isinstance(target[0], str):
        monkeypatch.setattr(".".join(target), full)
    else:
        monkeypatch.setattr(*target, full)
    found = scenes(rng)
    config = IngestConfig(size_px=16, min_valid=0.0)
    for client in ("synchronous", "threads"):
        with pytest.raises(
            UserError, match=r"expected room to write .*got a full disk; free some space and run the same command again"
        ):
            ingest(found, out=tmp_path / client, config=config, client=client)
        assert not (tmp_path / client / "snapshots").exists() and not (tmp_path / client / "quarantine").exists()
        assert list((tmp_path / client / "fragments").iterdir()) == []
    monkeypatch.undo()
    report = ingest(found, out=tmp_path / "threads", config=config, client="synchronous")
    assert report.added == 3 and report.quarantined == ()


def test_a_really_full_disk(archive: Path, tmp_path: Path) -> None:
    """A file system of one megabyte in a mount namespace of its own."""
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True)
    if probe.returncode:
        pytest.skip("this machine does not allow a private mount for the full-disk test")
    (tmp_path / "disk").mkdir()
    script = tmp_path / "run_ingest.py"
    script.write_text(RUN)
    disk = tmp_path / "disk"
    ingesting = f"{sys.executable} {script} {archive} {disk}/c threads"
    command = f"mount -t tmpfs -o size=400k none {disk} && {ingesting}; ls -A {disk}/c/fragments"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, timeout=120, env=environment
    )
    assert "UserError: expected room to write" in done.stderr and "got a full disk" in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_forbidden_folder_is_one_sentence(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="expected to be allowed to write"):
        ingest(
            scenes(rng, 1),
            out=tmp_path / "locked" / "c",
            config=IngestConfig(size_px=16, min_valid=0.0),
            client="synchronous",
        )


def test_a_path_through_a_file_is_one_sentence(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"expected .* to be a folder"):
        ingest(
            scenes(rng, 1),
            out=tmp_path / "file" / "c",
            config=IngestConfig(size_px=16, min_valid=0.0),
            client="synchronous",
        )

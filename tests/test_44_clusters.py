"""The same corpus from every scheduler, also when workers are killed, and from many writers at once."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pytest

from eo_ssl import commits
from eo_ssl.corpus import Corpus, IngestConfig, engine, ingest
from eo_ssl.corpus.assembly import FragmentBuild
from eo_ssl.corpus.ingestion import _build_graph
from eo_ssl.corpus.product_plan import plan_product
from eo_ssl.corpus.store import LocalStore
from eo_ssl.errors import UserError
from fake_scenes import FakeProduct, card, scenes
from object_store import BUCKET, mock_store

CONFIG = IngestConfig(size_px=16, edge="pad", min_valid=0.0)
STREAM = "s2_boa_b02b03b04_10m_16px"
OUT = f"s3://{BUCKET}/corpus"


def run(products, out, client: str = "synchronous"):
    return ingest(products, out=out, config=CONFIG, client=client)


def workers(count: int, memory_limit: int | str = 0) -> distributed.LocalCluster:
    """Worker processes on this machine; a killed one is started again, also where that takes long."""
    dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"})  # after 15 s it is given up for good
    return distributed.LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        memory_limit=memory_limit,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    with workers(3) as found:
        yield found


@dataclasses.dataclass(frozen=True, eq=False)
class Deadly(FakeProduct):
    """Kills the process that opens it, as a product does that needs more memory than there is: the first ``lives`` times."""

    marks: Path = Path()
    lives: int = 1
    when: str = "open"

    def _die(self, when: str) -> None:
        name = self.product_id.replace("/", "_")
        if when == self.when and len(list(self.marks.glob(f"{name}-*"))) < self.lives:
            (self.marks / f"{name}-{os.getpid()}-{time.monotonic_ns()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def open(self):
        self._die("open")
        return super().open()

    def checksum(self) -> str:
        self._die("checksum")
        return super().checksum()


def deadly(product: FakeProduct, **changes: Any) -> Deadly:
    values = {field.name: getattr(product, field.name) for field in dataclasses.fields(product)}
    return Deadly(**{**values, **changes})


def test_every_scheduler_makes_the_same_corpus(cluster, tmp_path: Path, rng: np.random.Generator) -> None:
    products = scenes(rng, 4)
    prints = {
        client: run(products, tmp_path / client.partition(":")[0], client).fingerprint
        for client in ("synchronous", "threads", "processes", cluster.scheduler_address)
    }
    assert len(set(prints.values())) == 1, prints
    assert Corpus.open(tmp_path / "tcp").verify() == []


@pytest.mark.parametrize("when", ["checksum", "open"])
def test_a_worker_killed_in_mid_run_costs_nothing(cluster, tmp_path: Path, rng, when: str) -> None:
    products = scenes(rng, 5)
    expected = run(products, tmp_path / "whole").fingerprint
    (tmp_path / "marks").mkdir()
    mortal = [*products[:2], deadly(products[2], marks=tmp_path / "marks", when=when), *products[3:]]
    report = run(mortal, tmp_path / "c", cluster.scheduler_address)
    assert len(list((tmp_path / "marks").iterdir())) == 1
    assert (report.fingerprint, report.quarantined) == (expected, ())
    assert Corpus.open(tmp_path / "c").verify() == []
    assert not list((tmp_path / "c" / "fragments").glob(".*"))


@pytest.mark.parametrize("point", ["inside-task", "between-index-and-statistics", "after-temp-write", "after-link"])
def test_a_worker_killed_anywhere_in_a_fragment_costs_nothing(cluster, tmp_path: Path, rng, point: str) -> None:
    """Every worker dies at the named point, once; those that take their places do not."""
    products, log = scenes(rng, 3), tmp_path / "log"
    expected = run(products, tmp_path / "whole").fingerprint
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(3)
        client.run(_arm, point, str(log))
        report = run(products, tmp_path / "c", cluster.scheduler_address)
        client.run(os.environ.pop, "EO_SSL_FAULT", None)
    assert set(log.read_text().splitlines()) == {point}
    assert report.fingerprint == expected and Corpus.open(tmp_path / "c").verify() == []
    assert not list((tmp_path / "c" / "fragments").glob(".*"))


def _arm(point: str, log: str) -> None:
    """Let this worker die at a point, alone in its process group."""
    os.setpgid(0, 0)
    commits._hits.clear()
    os.environ.update(EO_SSL_FAULT=point, EO_SSL_FAULT_LOG=log)


def test_what_no_worker_survives_is_put_aside_and_the_rest_goes_on(cluster, tmp_path: Path, rng) -> None:
    products = scenes(rng, 3)
    (tmp_path / "marks").mkdir()
    bad = deadly(products[1], marks=tmp_path / "marks", lives=99)
    report = run([products[0], bad, products[2]], tmp_path / "c", cluster.scheduler_address)
    ((name, reason),) = report.quarantined
    assert name == "fake/1" and "expected a worker to survive fake/1" in reason and "more memory" in reason
    assert report.tiles == 32
    assert (
        run(products, tmp_path / "c").tiles == 48
    )  # tried again by the next run, because nothing is known against its files


def test_who_shared_a_worker_with_a_deadly_product_is_not_put_aside(tmp_path: Path, rng: np.random.Generator) -> None:
    """A single worker dies with whatever waits in its queue; only the product that kills it whenever it is alone is to blame."""
    products = scenes(rng, 3)
    (tmp_path / "marks").mkdir()
    bad = deadly(products[1], marks=tmp_path / "marks", lives=99, when="checksum")
    with workers(1) as one:
        report = run([products[0], bad, products[2]], tmp_path / "c", one.scheduler_address)
    assert [name for name, _ in report.quarantined] == ["fake/1"] and report.tiles == 32


def test_a_scheduler_without_workers_is_not_waited_for_for_ever(
    tmp_path: Path, rng: np.random.Generator, monkeypatch
) -> None:
    monkeypatch.setattr(engine, "_LOOK_S", 0.2)
    monkeypatch.setattr(engine, "_ALONE_S", 0.6)
    with workers(0) as empty, pytest.raises(UserError, match="expected workers at the scheduler tcp://"):
        run(scenes(rng, 1), tmp_path / "c", empty.scheduler_address)


def test_a_cluster_writes_to_an_object_store(tmp_path: Path, rng: np.random.Generator, monkeypatch) -> None:
    """Workers of several machines share no folder: each makes whole fragments in its own scratch; one is killed on the way."""
    products = scenes(rng, 4)
    expected = run(products, tmp_path / "c").fingerprint
    (tmp_path / "marks").mkdir()
    mortal = [deadly(products[0], marks=tmp_path / "marks"), *products[1:]]
    with mock_store() as mock:
        for name, value in mock.environment().items():
            monkeypatch.setenv(name, value)
        with workers(2) as cluster:
            report = run(mortal, OUT, cluster.scheduler_address)
        assert len(list((tmp_path / "marks").iterdir())) == 1
        assert report.fingerprint == expected and Corpus.open(OUT).verify() == []


def test_the_graph_grows_with_products_and_not_with_tiles(tmp_path: Path, rng: np.random.Generator) -> None:
    def tasks(products, out: str | Path) -> int:
        store = LocalStore(Path(out))
        builds = [FragmentBuild(plan_product(p, CONFIG, ""), store, Path("staging/x")) for p in products]
        graphs = [_build_graph(build, number)[0].__dask_graph__() for number, build in enumerate(builds)]
        return len(set().union(*map(dict, graphs)))

    large = dataclasses.replace(scenes(rng, 1)[0], image=np.full((3, 640, 640), 0.1, np.float32), layers={})
    small = dataclasses.replace(large, image=np.full((3, 32, 32), 0.1, np.float32))
    whole = plan_product(large, CONFIG, "")
    assert len(whole.parts) <= 12 and whole.tiles == 400 * plan_product(small, CONFIG, "").tiles
    assert tasks([small], tmp_path) == 2
    assert tasks([large], tmp_path) <= 13
    assert tasks([large] * 10, tmp_path) == 10 * tasks([large], tmp_path)


def test_one_worker_begins_what_is_waited_for_by_priority(tmp_path: Path) -> None:
    def touch(mark: int) -> int:
        time.sleep(0.05)
        with (tmp_path / "begun").open("a") as file:
            file.write(f"{mark} ")
        return mark

    parts = []
    for mark in (3, 1, 4, 2, 6, 5, 8, 7):
        with engine.rank_tasks(mark):
            parts.append(engine.make_task(touch)(mark))
    with workers(1) as one:
        (total,) = engine.compute([engine.make_task(sum)(parts)], client=one.scheduler_address, inner=parts)
    assert (total, (tmp_path / "begun").read_text().split()) == (36, list("87654321"))


def test_the_largest_part_has_the_last_name_and_the_first_place(tmp_path: Path, rng: np.random.Generator) -> None:
    image = np.full((3, 640, 640), 0.1, np.float32)
    product = dataclasses.replace(scenes(rng, 1)[0], image=image, layers={})
    plan = dataclasses.replace(plan_product(product, CONFIG, ""), parts=((0, 1), (1, 2), (2, 3)), sizes=(20, 90, 40))
    _, parts = _build_graph(FragmentBuild(plan, LocalStore(tmp_path), Path("staging/x")), 7)
    assert [part.key[-13:] for part in parts] == ["000000007-001", "000000007-002", "000000007-003"]
    priorities = [layer.annotations["priority"] for part in parts for layer in [part.dask.layers[part.key]]]
    assert -8 < priorities[0] < priorities[1] < priorities[2] < -7
    assert [part.dask[part.key].args[-1] for part in parts] == [0, 2, 1]


def _write(out: str, number: int, barrier: Any) -> None:
    """Add one product of a card of its own, all writers at the same moment."""
    product = scenes(np.random.default_rng(number), 1)[0]
    barrier.wait(60)
    run([dataclasses.replace(product, card=card(f"card{number}"), product_id=f"card{number}/0")], out)


def test_thirty_two_racing_writers_make_one_snapshot_each(tmp_path: Path) -> None:
    writers = 32
    barrier = threading.Barrier(writers)
    threads = [threading.Thread(target=_write, args=(tmp_path / "c", n, barrier)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _all_are_there(tmp_path / "c", writers)


@pytest.mark.slow
def test_thirty_two_racing_processes_make_one_snapshot_each(tmp_path: Path) -> None:
    context, writers = multiprocessing.get_context("spawn"), 32
    barrier = context.Barrier(writers)
    started = [context.Process(target=_write, args=(tmp_path / "c", n, barrier)) for n in range(writers)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * writers
    _all_are_there(tmp_path / "c", writers)


@pytest.mark.slow
def test_thirty_two_racing_writers_of_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    writers, barrier = 32, threading.Barrier(32)
    with mock_store() as mock:
        for name, value in mock.environment().items():
            monkeypatch.setenv(name, value)
        threads = [threading.Thread(target=_write, args=(OUT, n, barrier)) for n in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _all_are_there(OUT, writers)


def _all_are_there(out: str | Path, writers: int) -> None:
    corpus = Corpus.open(out)
    assert corpus.snapshot == writers and corpus.count(STREAM) == 16 * writers
    names = [{entry.card for entry in Corpus.open(out, snapshot=n)._entries} for n in range(1, writers + 1)]
    assert [len(found) for found in names] == list(range(1, writers + 1))  # each snapshot adds one and keeps the rest
    assert corpus.manifest().fingerprint == corpus.fingerprint and len(corpus.manifest().config["cards"]) == writers
    assert corpus.verify() == []

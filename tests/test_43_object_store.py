"""A corpus in an object store (moto, a mock) is the corpus on disk: same bytes, same fingerprint, whatever is cut or raced."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eo_ssl.cli import main
from eo_ssl.corpus import Corpus, IngestConfig, ingest, shards
from eo_ssl.corpus import bucket as bucket_module
from eo_ssl.corpus.bucket import Bucket
from eo_ssl.corpus.store import LocalStore, open_store
from eo_ssl.errors import UserError
from eo_ssl.sample import ArchiveSpec, make_archive
from fake_scenes import card, scenes
from object_store import BUCKET, CuttingProxy, Mock, mock_store

CONFIG = IngestConfig(size_px=16, edge="pad", min_valid=0.0)
STREAM = "s2_boa_b02b03b04_10m_16px"
OUT = f"s3://{BUCKET}/some/corpus"


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eo_ssl.corpus.shards.MAX_TILES", 6)
    monkeypatch.setitem(bucket_module._RETRY, "max_retries", 3)


@pytest.fixture
def mock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mock]:
    with mock_store() as found:
        for name, value in found.environment().items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def proxy(mock: Mock, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttingProxy]:
    found = CuttingProxy(mock.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.port}")
    yield found
    found.close()


def run(products, out, client: str = "threads", **options):
    return ingest(products, out=out, config=CONFIG, client=client, **options)


@pytest.mark.parametrize(
    ("place", "store"),
    [
        ("s3://b/some/prefix/", Bucket("s3://b/some/prefix")),
        (Path("s3://b/some/prefix"), Bucket("s3://b/some/prefix")),  # Path makes s3:/b of it
        ("s3a://b", Bucket("s3://b")),
        ("file:///data/x", LocalStore(Path("/data/x"))),
        (Path("/data/x"), LocalStore(Path("/data/x"))),
    ],
)
def test_addresses(place: str | Path, store: object) -> None:
    assert open_store(place) == store and open_store(open_store(place)) == store
    assert pickle.loads(pickle.dumps(store)) == store and store.name == open_store(place).name


@pytest.mark.parametrize("place", ["gs://b/x", "http://host/x", "s3://"])
def test_other_addresses_are_refused(place: str) -> None:
    with pytest.raises(UserError, match="in a folder or at s3://bucket/prefix"):
        open_store(place)


def test_the_corpus_is_the_one_on_disk(mock: Mock, tmp_path: Path, rng: np.random.Generator) -> None:
    products = scenes(rng)
    here, there = run(products, tmp_path / "c"), run(products, Path(OUT))
    assert (there.fingerprint, there.tiles, there.added) == (here.fingerprint, here.tiles, 3)
    local, remote = Corpus.open(tmp_path / "c"), pickle.loads(pickle.dumps(Corpus.open(OUT)))
    assert remote.verify() == [] and str(remote.root) == OUT and remote.root.name == "corpus"
    assert remote.index(STREAM).equals(local.index(STREAM))
    for rows in (rng.permutation(48), np.array([5, 5, 40, 0])):
        assert remote.stream(STREAM).read(rows).tobytes() == local.stream(STREAM).read(rows).tobytes()
        assert remote.index(STREAM, rows=rows).equals(local.index(STREAM).take(rows))
    assert remote.statistics(STREAM).mean.tolist() == pytest.approx(local.statistics(STREAM).mean.tolist(), rel=1e-12)
    assert remote.dataset(STREAM).count_rows() == 48
    described = [{**corpus.describe(), "root": ""} for corpus in (local, remote)]
    assert {**described[0], "nbytes": 0} == {**described[1], "nbytes": 0}


def test_a_second_run_writes_nothing_and_a_third_adds_what_is_new(mock: Mock, rng: np.random.Generator) -> None:
    products = scenes(rng)
    run(products[:2], OUT)
    mock.requests.clear()
    assert run(products[:2], OUT).state == "done"
    assert {method for method, *_ in mock.requests} == {"GET"}
    mock.requests.clear()
    assert run(products, OUT).added == 1
    written = {
        path.split("/fragments/")[1].split("/")[0]
        for method, path, _ in mock.requests
        if method == "PUT" and "/fragments/" in path
    }
    assert len(written) == 1 and Corpus.open(OUT, snapshot=1).count(STREAM) == 32


def test_a_poisoned_product_is_put_aside_and_comes_back(mock: Mock, rng: np.random.Generator) -> None:
    products = scenes(rng)
    report = run([products[0], dataclasses.replace(products[1], error="user"), products[2]], OUT)
    assert [name for name, _ in report.quarantined] == ["fake/1"] and report.tiles == 32
    assert [value["product_id"] for value in Corpus.open(OUT).quarantine()] == ["fake/1"]
    assert run(products, OUT).tiles == 48 and Corpus.open(OUT).quarantine() == []


def test_a_batch_takes_one_request_per_shard_and_no_more_bytes_than_it_needs(
    mock: Mock, rng: np.random.Generator
) -> None:
    run(scenes(rng), OUT)
    reader = Corpus.open(OUT).stream(STREAM)
    mock.requests.clear()
    reader.read(np.arange(48))
    shards = sum(-(-entry.rows // 6) for entry in Corpus.open(OUT)._entries)
    asked = [ranged for method, path, ranged in mock.requests if path.endswith(".0.0.0")]
    assert len(asked) == 2 * shards and all(asked)  # the table, then the tiles, both by range
    mock.requests.clear()
    reader.read([7])
    (ranged,) = [ranged for *_, ranged in mock.requests]
    first, last = map(int, ranged.removeprefix("bytes=").split("-"))
    assert last - first + 1 == reader._nbytes[7]


def test_a_store_without_conditional_put_is_refused(mock: Mock, rng: np.random.Generator) -> None:
    mock.conditional = False
    with pytest.raises(UserError, match=rf"conditional put \(If-None-Match\) at {OUT}, got one that overwrites"):
        run(scenes(rng, 1), OUT)
    assert open_store(OUT).names("") == []


def test_no_bucket_no_credentials_and_no_answer_are_one_sentence(mock: Mock, rng, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"NoSuchBucket.*check address, credentials"):
        run(scenes(rng, 1), "s3://elsewhere/corpus")
    with pytest.raises(UserError, match=f"expected a corpus with a snapshot at {OUT}, got none"):
        Corpus.open(OUT)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"expected to read .*check address, credentials .* and connection"):
        Corpus.open(OUT)


def test_connections_that_are_cut_now_and_then_cost_nothing(proxy: CuttingProxy, tmp_path: Path, rng) -> None:
    products = scenes(rng, 2)
    expected = run(products, tmp_path / "c").fingerprint
    for after in (0, 900, 3000):
        out = f"{OUT}{after}"
        proxy.cut(3, after=after)  # as many as a request is repeated
        assert run(products, out, "synchronous").fingerprint == expected
        assert proxy.done == 3
        proxy.cut(3, after=after)
        corpus = Corpus.open(out)
        assert (
            corpus.stream(STREAM).read(np.arange(32)).tobytes()
            == Corpus.open(tmp_path / "c").stream(STREAM).read(np.arange(32)).tobytes()
        )
        assert proxy.done == 3 and corpus.verify() == []


@pytest.mark.parametrize("after", [3_000, 12_000, 40_000])
def test_a_lost_connection_loses_nothing_that_was_committed(
    mock: Mock, proxy: CuttingProxy, tmp_path: Path, rng, after: int
) -> None:
    products = scenes(rng, 4)
    first = run(products[:1], OUT, "synchronous")
    expected = run(products, tmp_path / "c").fingerprint
    proxy.die(after=after)
    with pytest.raises(UserError, match=r"expected to (read|write|list|remove) .*run the same command again"):
        run(products, OUT, "synchronous")
    assert proxy.done
    proxy.revive()
    corpus = Corpus.open(OUT)
    assert (corpus.snapshot, corpus.fingerprint) == (1, first.fingerprint) and corpus.verify() == []
    assert corpus.quarantine() == []  # a store that does not answer is no fault of a product
    report = run(products, OUT, "synchronous")
    assert (report.fingerprint, report.snapshot) == (expected, 2) and Corpus.open(OUT).verify() == []


def test_the_answer_to_a_conditional_put_may_be_lost(mock: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The put took effect, its answer did not arrive: whoever asks again finds its own content and has won."""
    store, put = Bucket(OUT), Bucket._put
    lost = iter([True, False])

    def deaf(self: Bucket, key: str, data: bytes, *, mode: str) -> None:
        put(self, key, data, mode=mode)
        if next(lost, False):
            raise bucket_module.BaseError("the connection was reset")

    monkeypatch.setattr(Bucket, "_put", deaf)
    assert store.create("x", b"mine")
    assert not store.create("x", b"another")
    assert store.read("x") == b"mine"


def test_racing_writers_all_end_up_in_the_corpus(mock: Mock, tmp_path: Path, rng: np.random.Generator) -> None:
    writers = 8
    products = [dataclasses.replace(product, card=card(f"card{n}")) for n, product in enumerate(scenes(rng, writers))]
    failures: list[BaseException] = []

    def write(product) -> None:
        try:
            run([product], OUT, "synchronous")
        except BaseException as error:  # shown below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(product,)) for product in products]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    corpus = Corpus.open(OUT)
    assert corpus.snapshot == writers and corpus.count(STREAM) == 16 * writers and corpus.verify() == []
    assert corpus.fingerprint == run(products, tmp_path / "c").fingerprint == corpus.manifest().fingerprint
    assert set(corpus.manifest().config["cards"]) == {f"card{n}" for n in range(writers)}


def test_two_contents_of_one_fragment_do_not_mix(mock: Mock, rng, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a fragment lie at an address of their own content: who loses the race for fragment.json has overwritten nothing."""
    products = scenes(rng, 1)
    create, arrived, other = Bucket.create, threading.Event(), threading.Event()

    def held(self: Bucket, key: str, data: bytes) -> bool:
        if key.endswith("fragment.json") and threading.current_thread().name == "slow":
            arrived.set()
            assert other.wait(20)
        return create(self, key, data)

    monkeypatch.setattr(Bucket, "create", held)
    first = threading.Thread(target=run, args=(products, OUT, "synchronous"), name="slow")
    first.start()
    assert arrived.wait(20)
    monkeypatch.setitem(
        shards._BLOSC, "lz4", ("lz4", 9)
    )  # the same tiles in other bytes, as another version might write
    run(products, OUT, "synchronous")
    other.set()
    first.join()
    (name,) = Bucket(OUT).names("fragments")
    assert len(Bucket(OUT).names(f"fragments/{name}")) == 3  # fragment.json and two contents, one of them never listed
    assert Corpus.open(OUT).verify() == [] and Corpus.open(OUT).snapshot == 1


def test_a_forked_process_is_refused_and_a_spawned_one_reads(mock: Mock, rng: np.random.Generator) -> None:
    run(scenes(rng, 1), OUT)
    corpus = Corpus.open(OUT)
    expected = corpus.stream(STREAM).read([3]).tobytes()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            corpus.stream(STREAM).read([3])
        except UserError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert "got a forked one; start workers with spawn" in answer.read()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_one, (corpus,)) == expected
        pool.close()
        pool.join()


def read_one(corpus: Corpus) -> bytes:
    return corpus.stream(STREAM).read([3]).tobytes()


def test_processes_make_the_same_corpus_and_leave_no_scratch(mock: Mock, tmp_path: Path, rng, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    products = scenes(rng)
    expected = run(products, tmp_path / "c").fingerprint
    assert run(products, OUT, "processes").fingerprint == expected
    assert list((tmp_path / "scratch").glob("eo_ssl-*/.staging-*")) == []


def test_the_command_line_takes_an_address(mock: Mock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = ArchiveSpec(
        sites=1, dates=1, size_px=96, sensors=("sentinel2_l2a",), exact_duplicates=0, near_duplicates=0, reprocessed=0
    )
    make_archive(tmp_path / "archive", seed=3, spec=spec)
    command = [
        "ingest",
        "--card",
        "sample_s2_l2a",
        "--data",
        str(tmp_path / "archive"),
        "--size_px",
        "32",
        "--min_valid",
        "0.2",
    ]
    assert main([*command, "--out", OUT]) == 0
    assert main([*command, "--out", f"file://{tmp_path}/c"]) == 0
    assert Corpus.open(OUT).fingerprint == Corpus.open(tmp_path / "c").fingerprint
    assert "snapshot 1" in capsys.readouterr().out

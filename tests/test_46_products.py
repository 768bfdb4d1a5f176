"""Damage to what the library itself has written is noticed when it is read, and the advice it gives repairs it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench import damage_trials, damaged_learning, damaged_products, damages
from bench.damaged_products import OPTICAL
from eo_ssl.cli import main
from eo_ssl.corpus import Corpus, ingest
from eo_ssl.corpus import IngestConfig as Config
from eo_ssl.documents import SCHEMA_VERSION, build_record, is_signed, parse_json, sign_json
from eo_ssl.errors import UserError
from eo_ssl.manifest import Manifest, require
from eo_ssl.pretraining import DataSelection, open_training_data
from fake_scenes import scenes

SEED, COUNT, LEARNING = 46, 45, 40
VERSION_0_1 = Path(__file__).parent / "fixtures" / "version_0_1"
CONFIG = Config(size_px=16, edge="pad", min_valid=0.0)
STREAM = "s2_boa_b02b03b04_10m_16px"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damaged_products.make_products(tmp_path_factory.mktemp("products"))


def test_no_change_of_a_file_is_read_as_another_value_or_ends_in_a_stack(made: Path, tmp_path: Path) -> None:
    """Files of a corpus, a subset, pairs, embeddings and results in turns (``python -m bench robustness`` tries more)."""
    found = list(damage_trials.damage(damaged_products.KINDS, made, tmp_path, count=COUNT, seed=SEED))
    print([(one.number, one.kind, one.file, one.mutation, one.verdict) for one in found])
    assert [one for one in found if one.violation] == []
    assert {one.kind for one in found if one.verdict == "refused"} == set(damaged_products.KINDS)
    assert sum(one.verdict == "refused" for one in found) > COUNT / 2


def test_no_change_of_an_encoder_a_run_a_snapshot_or_a_text_goes_unnoticed_or_ends_in_a_stack(
    made: Path, tmp_path: Path
) -> None:
    """Bundles have tests of their own; ``python -m bench robustness`` tries all, and more of each."""
    kinds = {name: kind for name, kind in damaged_learning.KINDS.items() if name != "bundle"}
    damaged_learning.make_learning(made, kinds)
    found = list(damage_trials.damage(kinds, made, tmp_path / "damaged", count=LEARNING, seed=SEED))
    print([(one.number, one.kind, one.file, one.mutation, one.verdict) for one in found])
    assert [one for one in found if one.violation] == []
    assert sum(one.verdict == "refused" for one in found) > LEARNING / 2


def _die(folder: Path) -> Iterator[Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield b""


def _sleep(folder: Path) -> Iterator[Any]:
    time.sleep(600)
    yield b""


def _compute(folder: Path) -> Iterator[Any]:
    resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
    while True:
        yield b""


def _grow(folder: Path) -> Iterator[Any]:
    yield np.ones(int(9e7)).tobytes()[:1]


def _run_code(folder: Path) -> Iterator[Any]:
    Path(damages.MARK).touch()
    yield b""


def _take(folder: Path) -> Iterator[Any]:
    Path(damage_trials.PRECIOUS).unlink()
    yield b""


def _warn(folder: Path) -> Iterator[Any]:
    warnings.warn("a cast of NaN", RuntimeWarning, stacklevel=1)
    yield b""


def _say_pages(folder: Path) -> Iterator[Any]:
    raise UserError("expected\na page")
    yield b""


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        (_die, "crash"),
        (_sleep, "slow"),
        (_compute, "slow"),
        (_grow, "large"),
        (_run_code, "executed"),
        (_take, "lost"),
        (_warn, "unworded"),
        (_say_pages, "unworded"),
    ],
)
def test_what_a_reader_must_not_do_is_seen(
    read: damage_trials.Read, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage_trials, "DEADLINE", 1.0 if read is _sleep else 600.0)
    (tmp_path / damage_trials.PRECIOUS).write_text("mine: 1\n")
    found = damage_trials._try(read, tmp_path / "product")
    assert damage_trials._judge(found, damage_trials.Answer(), tmp_path)[0] == verdict, found


def test_a_change_that_is_read_is_counted_as_one() -> None:
    """By hand: the bench must be able to fail."""
    base: dict[str, Any] = {"number": 0, "kind": "k", "file": "f", "mutation": "m", "done": "d", "detail": ""}
    seen = {
        (verdict, signed)
        for verdict in damage_trials.VERDICTS
        for signed in (True, False)
        if damage_trials.DamagedProduct(**base, verdict=verdict, signed=signed).violation
    }
    always = set(damage_trials.VERDICTS) - {"equal", "refused", "another"}
    assert seen == {(verdict, signed) for verdict in always for signed in (True, False)} | {("another", True)}


# Corpora


@pytest.fixture
def corpus(tmp_path: Path, rng: np.random.Generator) -> Path:
    ingest(scenes(rng), out=tmp_path / "c", config=CONFIG, client="synchronous")
    return tmp_path / "c"


def first_index(corpus: Path) -> Path:
    return sorted(corpus.glob("fragments/*/index.parquet"))[0]


@pytest.mark.parametrize("change", ["3 rows", "without split", "another fragment's"])
def test_an_index_that_lost_something_trains_nothing(corpus: Path, change: str) -> None:
    """Each of these used to train: a missing column was all null, and rows of others stood in for those that were gone."""
    path = first_index(corpus)
    table = pq.read_table(path, partitioning=None)
    if change == "another fragment's":
        shutil.copy(sorted(corpus.glob("fragments/*/index.parquet"))[1], path)
    else:
        pq.write_table(table.slice(0, 3) if change == "3 rows" else table.drop_columns("split"), path)
    words = rf"expected {path} as it was ingested, got .*; remove {path.parent} and run the same ingest again"
    opened = Corpus.open(corpus)
    for read in (
        lambda: opened.index(STREAM),
        lambda: opened.index(STREAM, rows=np.array([0])),
        lambda: opened.dataset(STREAM),
        lambda: open_training_data(DataSelection((corpus,))),
    ):
        with pytest.raises(UserError, match=words):
            read()


@pytest.mark.parametrize("name", ["index.parquet", "statistics.json", "digests.bin", "fragment.json"])
def test_a_damaged_fragment_is_named_and_repaired_as_it_is_told(
    corpus: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The advice was to ingest again, of which the same command said that there was nothing to do."""
    products, whole = scenes(np.random.default_rng(20261121)), Corpus.open(corpus).fingerprint
    path = sorted(corpus.glob(f"fragments/*/{name}"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if name in ("digests.bin", "fragment.json"):  # what the next snapshot is made of
        advice = rf"{path} as it was.*; remove {path.parent} and run the same ingest again"
        with pytest.raises(UserError, match=advice):
            ingest(
                [*products, *scenes(np.random.default_rng(5), 5)[3:]], out=corpus, config=CONFIG, client="synchronous"
            )
    assert main(["inspect", str(corpus), "--verify", "--format", "json"]) == 1
    (sentence,) = json.loads(capsys.readouterr().out)["damaged"]
    assert str(path) in sentence
    shutil.rmtree(path.parent)
    assert ingest(products, out=corpus, config=CONFIG, client="synchronous").added == 1
    assert Corpus.open(corpus).verify() == [] and Corpus.open(corpus).fingerprint == whole


def test_every_edit_of_a_snapshot_is_refused(corpus: Path) -> None:
    """Eighteen of thirty gave a stack or other data."""
    path = corpus / "snapshots" / "000001.json"
    sound = path.read_bytes()
    value = json.loads(sound)
    edits: list[dict[str, Any]] = [value | {"number": 7}, value | {"more": 1}, value | {"fragments": {}}]
    for key in ("rows", "tiles_per_shard", "encoding", "codec", "name", "counts", "chunk_checksum"):
        for wrong in (None, -1, 10**18, "../..", [1], {"dtype": "float16"}):
            entry = {**value["fragments"][0], key: wrong}
            edits.append(value | {"fragments": [entry, *value["fragments"][1:]]})
    edits += [value | {"statistics": {}}, value | {"streams": {STREAM: {}}}, value | {"inputs": {"fake": 5}}]
    (stats,) = value["statistics"][STREAM]
    edits.append(value | {"statistics": {STREAM: [stats | {"bands": ["B02", "B03"]}]}})
    for edit in edits:
        unsigned = {key: item for key, item in edit.items() if key != "sha256"}
        old = unsigned | {"schema_version": 2}  # as version 0.1 wrote it
        for text in (json.dumps(edit), json.dumps(unsigned), json.dumps(old)):
            path.write_text(text)
            with pytest.raises(UserError, match=rf"^expected [^\n]*{path.parent.parent}[^\n]*; [^\n]*$"):
                Corpus.open(corpus)
    path.write_bytes(sound)
    assert len(Corpus.open(corpus).stream(STREAM)) == 48
    path.write_bytes(sound.replace(b'"mean":[0', b'"mean":[1', 1))
    with pytest.raises(UserError, match=r"000001\.json as it was written, got another content"):
        Corpus.open(corpus)


def test_a_corpus_of_version_0_1_says_what_it_cannot_compare(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(VERSION_0_1 / "corpus"), "--verify", "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["damaged"] == "nothing"
    pixels, statistics = facts["unchecked"]
    assert "the pixels of 6 of 6 fragments" in pixels and "statistics" in statistics


def test_a_corpus_of_schema_1_is_compared_with_its_fragments(tmp_path: Path) -> None:
    with zipfile.ZipFile(Path(__file__).parent / "data" / "corpus_schema1.zip") as file:
        file.extractall(tmp_path)
    folder = tmp_path / "corpus"
    assert Corpus.open(folder).verify() == []
    table = pq.read_table(first_index(folder), partitioning=None)
    pq.write_table(table.slice(0, 1), first_index(folder))
    name = table["stream"][0].as_py()
    with pytest.raises(UserError, match="as it was ingested, got"):
        Corpus.open(folder).index(name)


# Products


def test_a_damaged_product_is_not_done_and_is_made_anew_when_told_so(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`nothing to do` used to be said of a subset without its rows."""
    shutil.copytree(made / "subset", tmp_path / "subset")
    path = tmp_path / "subset" / "subset.parquet"
    sound = path.read_bytes()
    path.unlink()
    command = ["curate", "--corpus", str(made / "corpus"), "--out", str(tmp_path / "subset"), "--stream", OPTICAL]
    command += ["--keep", "0.5"]
    assert main(command) == 2
    assert "run the same `eo-ssl curate` again with --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0 and path.read_bytes() == sound
    assert main(command) == 0 and "nothing to do" in capsys.readouterr().out


def test_a_subset_of_version_0_1_is_compared_with_its_fingerprint(tmp_path: Path) -> None:
    shutil.copytree(VERSION_0_1 / "subset", tmp_path / "subset")
    path = tmp_path / "subset" / "subset.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.slice(0, len(table) - 1), path)
    assert require(tmp_path / "subset", "curate").files == {}
    selection = DataSelection((VERSION_0_1 / "corpus",), streams=(OPTICAL,), subsets=(tmp_path / "subset",))
    with pytest.raises(UserError, match=r"expected the rows that were chosen in .*subset\.parquet, got others"):
        open_training_data(selection)


# Documents


def test_a_document_is_signed_and_every_flipped_bit_of_it_is_noticed() -> None:
    value = {"a": [1, 2.5, None], "b": {"c": "é"}, "schema_version": SCHEMA_VERSION}
    for indent in (None, 1):
        data = sign_json(value, indent=indent)
        assert is_signed(data) and parse_json(data, at="x", remedy="y") == value
        assert json.loads(data).keys() == {*value, "sha256"}
        for place in range(len(data) * 8):
            damaged = bytearray(data)
            damaged[place // 8] ^= 1 << (place % 8)
            with pytest.raises(UserError) as caught:  # also in the name of the signature's own key
                parse_json(bytes(damaged), at="x", remedy="y")
            assert "\n" not in str(caught.value)
    assert not is_signed(b'{"a":1}') and parse_json(b'{"a":1}', at="x", remedy="y") == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        f'{{"a": {"9" * 5000}}}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        "[]",
        "5",
        "\udcff",
        '{"a": 1',
    ],
)
def test_what_is_no_document_is_one_short_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"^expected (JSON|a JSON object) in here, got [^\n]{1,150}; do something$"):
        parse_json(text.encode(errors="surrogateescape"), at="here", remedy="do something")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"more": 1}, "the unknown key 'more'"),
        ({"sumary": {}}, "the unknown key 'sumary'; did you mean 'summary'"),
        ({"stage": 5}, "a valid stage in here, got '5'"),
        ({"config": []}, "a valid config in here, got "),
        ({"inputs": {"corpus": 5}}, r"a valid inputs\.corpus in here, got '5'"),
        ({"seed": "0"}, "a valid seed in here, got '0'"),
        ({"wall_s": None}, "a valid wall_s in here, got 'None'"),
    ],
)
def test_a_manifest_of_another_form_is_refused(made: Path, change: dict[str, Any], words: str) -> None:
    value = parse_json((made / "subset" / "manifest.json").read_bytes(), at="x", remedy="y")
    assert build_record(Manifest, value, at="here", remedy="y").stage == "curate"
    with pytest.raises(UserError, match=words):
        build_record(Manifest, value | change, at="here", remedy="y")
    del value["stage"]
    with pytest.raises(UserError, match="got none called 'stage'"):
        build_record(Manifest, value, at="here", remedy="y")

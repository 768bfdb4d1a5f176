"""Products appear whole or not at all, and know whether anything is left to do."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eo_ssl import commits
from eo_ssl.commits import commit, write_beside
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import dump_canonical_json, fingerprint
from eo_ssl.manifest import Clock, finish, open_product, plan, require


def make(folder: Path, config: dict[str, object], **inputs: str) -> None:
    assert plan(folder, stage="curate", config=config, inputs=inputs) == "new"
    finish(
        folder,
        stage="curate",
        config=config,
        inputs=inputs,
        product="f00d",
        started=Clock(),
        seed=3,
        summary={"kept": 5},
    )


def test_fingerprint_depends_on_values_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert dump_canonical_json({"path": Path("x/y")}) == '{"path":"x/y"}'


def test_commit_creates_once_and_tells_the_loser(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: commit(path, str(number).encode()), range(8)))
    assert sum(won) == 1
    assert path.read_bytes() == str(won.index(True)).encode()
    assert [item.name for item in path.parent.iterdir()] == ["file"]


BESIDE = """
with write_beside(path) as temporary:
    temporary.write_bytes(b'x' * 100000)
    commit(path, temporary)
"""


@pytest.mark.parametrize(
    ("point", "there"), [("after-temp-write", False), ("before-fsync", False), ("after-link", True)]
)
@pytest.mark.parametrize("written", ["commit(path, b'x' * 100000)", BESIDE])
def test_a_kill_inside_commit_leaves_the_file_whole_or_absent(
    tmp_path: Path, point: str, there: bool, written: str
) -> None:
    path, log = tmp_path / "file", tmp_path / "log"
    code = f"from pathlib import Path\nfrom eo_ssl.commits import commit, write_beside\npath = Path({str(path)!r})\n{written}"
    environment = {**os.environ, "EO_SSL_FAULT": point, "EO_SSL_FAULT_LOG": str(log)}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, start_new_session=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert log.read_text() == f"{point}\n"
    assert path.exists() == there
    assert not there or path.read_bytes() == b"x" * 100000


def test_plan_knows_done_resume_and_different(tmp_path: Path) -> None:
    folder = tmp_path / "product"
    config: dict[str, object] = {"keep": 0.5, "seed": 1}
    assert plan(folder, stage="curate", config=config, inputs={"corpus": "aa"}) == "new"
    assert plan(folder, stage="curate", config=config, inputs={"corpus": "aa"}) == "resume"
    with pytest.raises(UserError, match=r"differs in inputs\.corpus"):
        plan(folder, stage="curate", config=config, inputs={"corpus": "bb"})
    with pytest.raises(UserError, match="unfinished one; run `eo-ssl curate` again"):
        require(folder, "curate")
    finish(folder, stage="curate", config=config, inputs={"corpus": "aa"}, product="f00d", started=Clock())
    assert plan(folder, stage="curate", config=config, inputs={"corpus": "aa"}) == "done"
    with pytest.raises(UserError, match=r"differs in config\.keep; give another output folder or --overwrite"):
        plan(folder, stage="curate", config={**config, "keep": 0.6}, inputs={"corpus": "aa"})
    assert (
        plan(folder, stage="curate", config={**config, "keep": 0.6}, inputs={"corpus": "aa"}, overwrite=True) == "new"
    )
    assert not (folder / "manifest.json").exists()


def test_overwrite_never_removes_what_is_not_a_product(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="a folder with other files"):
            plan(tmp_path, stage="curate", config={}, inputs={}, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_overwrite_never_removes_what_another_command_or_programme_made(tmp_path: Path) -> None:
    """A web site has a manifest.json too, and a corpus is days of work: --overwrite used to remove both."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "my site", "start_url": "/"}')
    make(tmp_path / "subset", {"keep": 0.5})
    for folder, words in (
        ("site", "a manifest.json that is not of this library"),
        ("subset", "a product of stage curate"),
    ):
        with pytest.raises(UserError, match=f"or a product of report, got {words}; give another output folder"):
            plan(tmp_path / folder, stage="report", config={}, inputs={}, overwrite=True)
        assert (tmp_path / folder / "manifest.json").is_file()


def test_manifest_round_trip_and_requirements(tmp_path: Path) -> None:
    folder = tmp_path / "subset"
    make(folder, {"keep": 0.5}, corpus="aa")
    found = require(folder, ("ingest", "curate"))
    assert (found.stage, found.fingerprint, found.seed, found.summary, found.inputs) == (
        "curate",
        "f00d",
        3,
        {"kept": 5},
        {"corpus": "aa"},
    )
    with pytest.raises(UserError, match=r"expected a product of ingest at .*, got one of curate"):
        require(folder, "ingest")
    with pytest.raises(UserError, match="got no such folder; make it with `eo-ssl pretrain`"):
        require(tmp_path / "nowhere", "pretrain")
    value = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    commit(folder / "manifest.json", json.dumps({**value, "schema_version": 99}).encode())
    with pytest.raises(UserError, match="expected schema version"):
        require(folder, "curate")


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(commits.os, "fsync", full)
    with pytest.raises(UserError, match="got a full disk; free some space and run the same command again"):
        commit(tmp_path / "file", b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_file_written_beside_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with pytest.raises(RuntimeError), write_beside(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    for data, made in ((b"first", True), (b"second", False)):
        with write_beside(path) as temporary:
            temporary.write_bytes(data)
            assert commit(path, temporary) is made
    assert path.read_bytes() == b"first"
    assert [item.name for item in path.parent.iterdir()] == ["file"]
    with pytest.raises(UserError, match=r"expected to write .*file, got No such file"), write_beside(path) as temporary:
        commit(path, temporary)  # nothing was written


def test_an_unwritable_path_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="to be a folder, got a file on the way"):
        commit(tmp_path / "file" / "inside", b"data")


def test_a_product_opened_in_a_block_is_signed_resumed_or_done(tmp_path: Path) -> None:
    made = {"stage": "curate", "config": {"keep": 0.5}, "inputs": {"corpus": "aa"}}
    with (
        pytest.raises(RuntimeError, match="left without its manifest"),
        open_product(tmp_path / "p", **made) as product,
    ):
        assert product.state == "new" and not product.done
    with pytest.raises(KeyError, match="lost"), open_product(tmp_path / "p", **made) as product:
        assert product.state == "resume"
        raise KeyError("lost")  # what went wrong in the block is what is told
    with open_product(tmp_path / "p", **made) as product:
        manifest = product.sign("f00d", seed=3, summary={"kept": 5})
    assert product.done and require(tmp_path / "p", "curate") == manifest
    assert (manifest.fingerprint, manifest.seed, manifest.summary) == ("f00d", 3, {"kept": 5})
    with open_product(tmp_path / "p", **made) as product:
        assert (
            product.done
            and product.nothing_to_do == f"nothing to do: {tmp_path / 'p'} is made with this configuration already"
        )

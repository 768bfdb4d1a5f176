"""What a bundle may do to its reader: nothing runs before the checksums hold, and no name writes more than a name."""

from __future__ import annotations

import importlib.util
import json
import py_compile
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.damages import check_sentence, list_acts
from eo_ssl.cli import main
from eo_ssl.encoder import save_encoder
from eo_ssl.errors import UserError
from eo_ssl.export import Bundle, Options, Terms, export, list_uploads, verify
from eo_ssl.manifest import MANIFEST, Clock, finish
from eo_ssl.printable import check_name, show_bidi, show_controls
from eo_ssl.reporting import collect_report
from eo_ssl.reporting.leaderboard import format_markdown
from eo_ssl.reporting.svg import save_svg
from eo_ssl.reporting.templating import render_template
from exported import RESNET_18, TINY_8, encoder, optical, radar, seal

HOSTILE = "harmless\n_target_: os.system\nargs: [touch, x] | \u202egpj.exe"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With weights.py and a graph."""
    made = encoder(RESNET_18, optical(32))
    return export(made, tmp_path_factory.mktemp("gate") / "bundle", options=Options())


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


def append_mark(copy: Path, mark: Path) -> None:
    """Let weights.py leave a mark when it runs."""
    with (copy / "weights.py").open("a") as file:
        file.write(f"\nPath({str(mark)!r}).touch()\n")


def test_nothing_runs_and_nothing_is_loaded_before_the_checksums_hold(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "executed"
    append_mark(copy, mark)
    loads: list[str] = []
    monkeypatch.setattr("eo_ssl.export.verification.parity.read", lambda *_: loads.append("parity"))
    (check,) = verify(copy)
    assert (
        not check.passed and "other bytes in weights.py" in check.reason and "nothing of it was loaded" in check.reason
    )
    assert not mark.exists() and loads == []
    monkeypatch.undo()
    seal(copy)  # whoever can write the manifest too is whom the bundle is from
    assert all(one.passed for one in verify(copy)) and mark.exists()


def test_a_manifest_that_was_edited_is_seen(copy: Path) -> None:
    content = json.loads((copy / MANIFEST).read_text())
    del content["summary"]["files"]["weights.py"], content["sha256"]
    content["schema_version"] = 2  # of which manifests are not signed
    (copy / MANIFEST).write_text(json.dumps(content))
    (check,) = verify(copy)
    assert not check.passed and check.reason == "the manifest names other files than it was signed with"
    content["another"] = 1
    (copy / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match="got the unknown key 'another'"):
        verify(copy)
    del content["another"]
    for files, words in (
        ({"../x": "0"}, r"got '\.\./x'"),
        ({"/etc/x": "0"}, "got '/etc/x'"),
        ([1], "a sha256 for each"),
    ):
        content["summary"]["files"] = files
        (copy / MANIFEST).write_text(json.dumps(content))
        with pytest.raises(UserError, match=words):
            verify(copy)


def test_bytecode_beside_the_source_is_neither_run_nor_written(copy: Path, tmp_path: Path) -> None:
    source, mark = copy / "weights.py", tmp_path / "executed"
    forged = tmp_path / "forged.py"
    shutil.copy(source, forged)
    forged.write_text(forged.read_text() + f"\nPath({str(mark)!r}).touch()\n")
    cached = Path(importlib.util.cache_from_source(str(source)))
    py_compile.compile(str(forged), cfile=str(cached), dfile=str(source))
    data = bytearray(cached.read_bytes())  # bytes 8 to 16: time and size of the source that it says it is of
    data[8:12] = (int(source.stat().st_mtime) & 0xFFFFFFFF).to_bytes(4, "little")
    data[12:16] = source.stat().st_size.to_bytes(4, "little")
    cached.write_bytes(data)
    spec = importlib.util.spec_from_file_location("as_python_does", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["as_python_does"] = module
    spec.loader.exec_module(module)
    assert mark.exists()  # the forgery works
    mark.unlink()
    assert all(check.passed for check in verify(copy)) and not mark.exists()
    shutil.rmtree(cached.parent)
    verify(copy)
    assert not cached.exists()


def test_a_damaged_bundle_is_not_pushed_and_not_called_done(copy: Path) -> None:
    (copy / "README.md").write_text("other")
    with pytest.raises(UserError, match=r"got other bytes in README\.md"):
        list_uploads(copy)
    with pytest.raises(UserError, match=r"got other bytes in README\.md"):
        export(encoder(RESNET_18, optical(32)), copy, options=Options())


def test_forty_damages_of_a_bundle_are_refused_in_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(88)
    sound = export(encoder(TINY_8, radar(32)), tmp_path / "sound", options=Options()).folder
    names = [path.relative_to(sound).as_posix() for path in sorted(sound.rglob("*")) if path.is_file()]
    for number in range(40):
        folder = Path(shutil.copytree(sound, tmp_path / str(number)))
        name = str(rng.choice(names))
        acts = list_acts(Path(name).suffix)
        acts[rng.integers(len(acts))][1](rng, folder / name)
        forged = name != MANIFEST and (folder / name).is_file() and number % 3 > 0
        if forged:
            seal(folder)
        try:
            passed = all(check.passed for check in verify(folder))
            assert forged or name == MANIFEST or not passed, name
            collect_report([folder])
        except UserError as error:
            check_sentence(error)


@pytest.mark.parametrize("damage", ["cut", "junk", "empty"])
def test_a_broken_graph_is_a_sentence(damage: str, copy: Path) -> None:
    graph = copy / "onnx" / "encoder.onnx"
    data = graph.read_bytes()
    graph.write_bytes({"cut": data[: len(data) // 2], "junk": b"\xff" * 99, "empty": b""}[damage])
    seal(copy)
    wrong = {check.route: check.reason for check in verify(copy) if not check.passed}
    assert list(wrong) == ["onnxruntime onnx/encoder.onnx"]
    assert wrong["onnxruntime onnx/encoder.onnx"].startswith("UserError: expected an ONNX graph of an encoder in")


def test_no_string_writes_more_than_itself_into_a_bundle(tmp_path: Path) -> None:
    source = encoder(TINY_8, radar(32), name=HOSTILE)
    source.provenance = {
        "inputs": {f"corpus {HOSTILE}": "c" * 64},
        "config": {"objective": HOSTILE, "seed": 0, "streams": [HOSTILE]},
    }
    licence = {"card": HOSTILE, "licence": HOSTILE, "attribution": HOSTILE, "non_commercial": False}
    row = {"task": HOSTILE, "protocol": "knn5", "amount": "all", "metric": "accuracy", "value": 0.5, "low": None}
    options = Options(
        onnx=False,
        terms=Terms((licence,)),
        publication=HOSTILE,
        repo=HOSTILE,
        results=({**row, "high": None, "n_test": 3, "split": HOSTILE},),
    )
    folder = export(source, tmp_path / "bundle", options=options).folder
    card = (folder / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert set(yaml.safe_load(head)) == {"library_name", "license", "pipeline_tag", "tags"}
    assert not [line for line in body.splitlines() if line.startswith(("_target_", "args"))]
    assert body.startswith("\n# harmless\\n_target_: os.system\\nargs: [touch, x] | \\u202egpj.exe\n")
    bench = yaml.safe_load((folder / "bench" / "model" / "eo_ssl.yaml").read_text())
    assert bench["_target_"] == "eo_ssl_encoder.BundleEncoder" and "args" not in bench and bench["name"] == HOSTILE
    for path in folder.rglob("*"):
        if path.suffix in (".md", ".yaml", ".json", ".py"):
            assert "\u202e" not in path.read_text(), path.name
    assert [check.reason for check in verify(folder) if not check.passed] == []


def test_the_command_refuses_a_name_that_is_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = encoder(TINY_8, radar(32))
    folder = tmp_path / "encoder"
    product = save_encoder(folder, ours.backbone, preprocessing=ours.preprocessing, provenance=ours.provenance)
    finish(folder, stage="pretrain", config={}, inputs={}, product=product, started=Clock())
    for name in (HOSTILE, "a\u202eb", " ", "a\x1b[31mb", "a\u2028b"):
        assert main(["export", str(folder), "--out", str(tmp_path / "out"), "--name", name]) == 2
        said = capsys.readouterr().err
        assert "expected a name of printable characters on one line, got '" in said and said.count("\n") == 1
        assert "\u202e" not in said and "\x1b" not in said
    assert not (tmp_path / "out").exists()
    check_name("Größe 4 (mae), ünïcode 模型", what="a name")


@pytest.mark.filterwarnings("ignore:Glyph")
def test_controls_are_shown_wherever_text_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_controls(HOSTILE) == "harmless\\n_target_: os.system\\nargs: [touch, x] | \\u202egpj.exe"
    assert show_bidi("a\u2066b\nc\u200f\x1b[1m") == "a\\u2066b\nc\\u200f\x1b[1m"
    page = render_template("leaderboard.html", tasks=[], footnotes=[HOSTILE, "a\x07b"], pictures=[])
    assert "\\u202egpj" in page and "\u202e" not in page and "a\\u0007b" in page
    row = {"notes": [HOSTILE], "task": HOSTILE, "split": HOSTILE, "encoder": HOSTILE, "protocol": "knn5"}
    text = format_markdown([_filled(row)], [])
    assert not [line for line in text.splitlines() if line.startswith(("_target_", "args"))] and "\u202e" not in text
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0, 0, "a\x07b\u202e")
    svg = save_svg(figure, title="", own={}).decode()
    assert "a\\u0007b\\u202e" in svg
    # In the terminal, names of folders that are in error messages too.
    assert main(["export", "a\u202eb", "--out", "o"]) == 2
    assert "a\\u202eb" in capsys.readouterr().err


def _filled(row: dict[str, object]) -> dict[str, object]:
    rest = dict.fromkeys(
        [
            "task_words",
            "protocol_words",
            "amount",
            "interval",
            "pooling",
            "quantity",
            "reference",
            "encoder_fingerprint",
        ],
        "w",
    )
    numbers = dict.fromkeys(["value", "low", "high"], 0.5) | dict.fromkeys(
        ["n_train", "n_test", "n_blocks", "eval_seeds", "pretraining_seeds", "seed", "shots", "family"], 1
    )
    return {
        **rest,
        **numbers,
        "metric": "accuracy",
        "fraction": None,
        "departure": None,
        "kind": "classification",
        **row,
        "reference": "",
    }

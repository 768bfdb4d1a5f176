"""`eo-ssl run` on hostile configurations: names are checked before anything is written, and nothing of the working folder is executed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from eo_ssl.cli import main
from eo_ssl.manifest import require
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows import run


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("../../precious", "expected stages out of ingest, pair, curate"),
        ("/precious", "expected stages out of ingest, pair, curate"),
        ("run", "got 'run'"),  # which would run itself for ever
        ("ingst", "did you mean 'ingest'"),
    ],
)
def test_a_stage_is_a_command_before_anything_is_written(
    stage: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious.yaml").write_text("mine: 1\n")
    config = tmp_path / "run.yaml"
    out = tmp_path / "deep" / "out"
    config.write_text(yaml.safe_dump({"stages": [{"inspect": {}}, {stage: {}}], "out": str(out), "sample_seed": 0}))
    assert main(["run", "--config", str(config)]) == 2
    assert words in capsys.readouterr().err
    assert (tmp_path / "precious.yaml").read_text() == "mine: 1\n" and not out.parent.exists()
    config.write_text(yaml.safe_dump({"stages": [{"inspect": {}}], "out": str(out)}))
    assert main(["run", "--config", str(config), "--only", stage]) == 2
    assert words in capsys.readouterr().err and not out.parent.exists()


def test_no_process_takes_a_module_from_the_working_folder(tmp_path: Path) -> None:
    spec = ArchiveSpec(sites=1, dates=1, size_px=96, exact_duplicates=0, near_duplicates=0, reprocessed=0)
    make_archive(tmp_path / "archive", seed=1, spec=spec)
    for name in ("yaml", "json", "random", "numpy", "dask", "rasterio", "jsonargparse", "sitecustomize", "eo_ssl"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write({name!r})\n")
    stage = {"card": "sample_s2_l2a", "data": "{data}", "out": "{out}/corpus", "size_px": 32, "dask": "processes"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"out": "out", "data": "archive", "stages": [{"ingest": stage}]}))
    command = [str(Path(sys.executable).with_name("eo-ssl")), "run", "--config", "run.yaml"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert not (tmp_path / "executed").exists()
    assert require(tmp_path / "out" / "corpus", "ingest").summary["tiles"] > 0


@pytest.mark.parametrize("path", ["eo_ssl.curation.Hierarchical", "eo_ssl.pretraining.FitConfig"])
def test_options_of_a_stage_are_left_to_its_command(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser of `run` made an object of any class of this library that a stage named, and a stack when it wrote it."""
    method = {"class_path": path, "init_args": {"iterations": 7}}
    stages = [{"pretrain": {"prune": {"method": method}, "corpus": "{out}/c"}}]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"out": "o", "stages": stages}))
    written: list[object] = []
    monkeypatch.setattr(run, "_stage", lambda command, options, config: written.append(options) or {"command": "x"})
    monkeypatch.setattr(run, "_print", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--config", "run.yaml"]) == 0, capsys.readouterr().err
    assert written == [{"prune": {"method": method}, "corpus": "o/c"}]


def test_the_command_as_a_module_takes_none_from_the_working_folder_either(tmp_path: Path) -> None:
    for name in ("yaml", "json", "random", "numpy", "rich", "jsonargparse", "pathlib", "difflib", "fcntl"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write({name!r})\n")
    command = [sys.executable, "-m", "eo_ssl.cli", "inspect", "s2_29rkh_l2a"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr, (tmp_path / "executed").exists()) == (0, "", False)


def test_input_data_are_where_somebody_says_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EO_SSL_DATA", raising=False)
    config = tmp_path / "run.yaml"
    stage = {"ingest": {"card": "sample_s2_l2a", "data": "{data}", "out": "{out}/corpus"}}
    config.write_text(yaml.safe_dump({"stages": [stage], "out": str(tmp_path / "out")}))
    assert main(["run", "--config", str(config)]) == 2
    assert "expected a folder of input data, got none; set EO_SSL_DATA or give --data" in capsys.readouterr().err
    monkeypatch.setenv("EO_SSL_DATA", str(tmp_path / "absent"))
    assert main(["run", "--config", str(config)]) == 2
    assert f"expected the input data in {tmp_path / 'absent'}, got no such folder" in capsys.readouterr().err
    monkeypatch.setenv("EO_SSL_DATA", "")
    assert main(["doctor", "sample_s2_l2a"]) == 2
    assert "expected a folder of data, got none; name it, with --data where PATH is a card" in capsys.readouterr().err
    main(["doctor"])
    assert "none (absent; set EO_SSL_DATA)" in " ".join(capsys.readouterr().out.split())

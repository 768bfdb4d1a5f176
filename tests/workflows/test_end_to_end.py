"""The six workflows in sequence on a tiny archive, through the command line: every product names its inputs, and nothing is done twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from eo_ssl.cli import main
from eo_ssl.manifest import require
from eo_ssl.sample import ArchiveSpec, make_archive

SPEC = ArchiveSpec(sites=2, dates=2, size_px=288, edge_share=0.0, exact_duplicates=1, near_duplicates=0, reprocessed=0)
STREAM = "s2_boa_12b_10m_32px"


def stages(out: Path, archive: Path) -> list[tuple[str, dict[str, Any]]]:
    """A run small enough for a test, with every stage of a real one."""
    corpus, encoder = str(out / "corpus"), str(out / "encoder")
    return [
        (
            "ingest",
            {"card": "sample_s2_l2a", "data": str(archive), "out": corpus, "size_px": 32, "dask": "synchronous"},
        ),
        (
            "ingest",
            {"card": "sample_s1_rtc", "data": str(archive), "out": corpus, "size_px": 32, "dask": "synchronous"},
        ),
        ("curate", {"corpus": corpus, "stream": STREAM, "out": str(out / "subset"), "keep": 0.5}),
        (
            "pretrain",
            {
                "corpus": corpus,
                "streams": [STREAM],
                "subset": str(out / "subset"),
                "out": encoder,
                "steps": 12,
                "batch_size": 16,
                "model": {"Vit": {"name": "vit_tiny_patch16_224", "patch_size": 8, "depth": 1}},
                "prune": {"warmup": 64, "interval": 64, "keep": 0.5, "method": {"levels": [8, 2], "n_resample": 1}},
            },
        ),
        (
            "evaluate",
            {
                "encoders": [encoder, "imagestats"],
                "task": "corpus",
                "data": corpus,
                "streams": [STREAM],
                "protocols": ["knn5"],
                "out": str(out / "results"),
            },
        ),
        ("report", {"inputs": [str(out)], "out": str(out / "report"), "title": "end to end"}),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    make_archive(folder / "archive", seed=1, spec=SPEC)
    for number, (command, options) in enumerate(stages(folder / "run", folder / "archive")):
        config = folder / f"{number}.yaml"
        config.write_text(yaml.safe_dump(options))
        assert main([command, "--config", str(config)]) == 0, command
    return folder


def test_every_product_names_the_products_it_was_made_from(run: Path) -> None:
    out = run / "run"
    made = {
        name: require(out / name, stage)
        for name, stage in (
            ("corpus", "ingest"),
            ("subset", "curate"),
            ("encoder", "pretrain"),
            ("results", "evaluate"),
            ("report", "report"),
        )
    }
    corpus = made["corpus"].fingerprint
    assert corpus in made["subset"].inputs.values()
    assert {corpus, made["subset"].fingerprint} <= set(made["encoder"].inputs.values())
    assert {corpus, made["encoder"].fingerprint} <= set(made["results"].inputs.values())
    assert {manifest.fingerprint for name, manifest in made.items() if name != "report"} <= set(
        made["report"].inputs.values()
    )


def test_results_stand_in_the_report(run: Path) -> None:
    page = (run / "run" / "report" / "index.html").read_text()
    rows = [json.loads(path.read_text()) for path in (run / "run" / "results" / "rows").glob("*.json")]
    assert {row["encoder"] for row in rows} == {"encoder", "imagestats"}
    for row in rows:
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert row["encoder"] in page


def test_planted_duplicates_are_dropped_by_curation(run: Path) -> None:
    report = json.loads((run / "run" / "subset" / "curation_report.json").read_text())
    assert report["reasons"]["duplicate"] > 0


def test_pruning_happened_while_training(run: Path) -> None:
    events = json.loads((run / "run" / "encoder" / "pruning" / "events.json").read_text())
    assert events


def test_the_same_commands_do_nothing_and_say_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.glob("run/**/manifest.json")}
    for number in range(len(stages(run / "run", run / "archive"))):
        assert main([stages(run, run)[number][0], "--config", str(run / f"{number}.yaml")]) == 0
        assert "nothing to do" in capsys.readouterr().out.lower().replace("\n", " ")
    assert {path: path.stat().st_mtime_ns for path in run.glob("run/**/manifest.json")} == before


def test_the_python_of_the_readme_runs_on_a_finished_run(run: Path, project_root: Path) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", (project_root / "README.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("runs/demo", str(run / "run")).replace("s2_boa_12b_10m_64px", STREAM), names)
    assert names["tiles"].shape == (3, 12, 32, 32)
    assert 0 < float(np.nanmedian(names["tiles"])) < 1  # reflectance, not digital numbers
    assert names["encoder"].preprocessing.quantity == "boa_reflectance"

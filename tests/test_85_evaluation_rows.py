"""Rows say everything and are not computed twice, from a task in memory to the command on real scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.errors import UserError
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.intervals import correct_by_holm
from eo_ssl.evaluation.mstar import make_mstar_task
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.protocols import check_protocols
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.manifest import require
from eo_ssl.scene import list_products
from eo_ssl.workflows.evaluate import main
from fake_corpora import chips


def test_rows_say_everything_and_a_second_run_computes_nothing(rng: np.random.Generator, tmp_path: Path) -> None:
    task = make_mstar_task(chips(rng, 48)[0], clutter=chips(np.random.default_rng(20261121), 48)[1])  # type: ignore[arg-type]
    compared, settings = (
        load_candidates(["imagestats", "rcf"]),
        Settings.of(("knn5", "linear"), shots=(1, 5), draws=5, seed=0),
    )
    done: list[int] = []
    computing = Computing(progress=done.append)
    rows, comparisons = judge(task, compared, settings, tmp_path, computing=computing)
    assert len(rows) == 4 * 2 * 2 and len(comparisons) == 4 * 6 and sum(done) == 2 * 48
    for row in rows:
        assert (
            row["low"] <= row["value"] <= row["high"]
            and row["n_test"] == row["n_blocks"] == 24
            and row["eval_seeds"] == 5
        )
        assert (
            row["n_train"] == 3 * row["shots"]
            and row["pretraining_seeds"] == 0
            and row["split"]
            and row["interval"].startswith("95% ")
        )
    assert {row["encoder"] for row in rows} == {"imagestats", "rcf", "control: chip size only", "control: clutter only"}
    size = [c for c in comparisons if c["a"] == "imagestats" and c["b"].startswith("control: chip size")]
    assert "a" not in {c["verdict"] for c in size} and "b" in {
        c["verdict"] for c in size
    }  # the size of the chip tells more
    assert {c["family"] for c in comparisons} == {len(comparisons)}  # of all tables, not of each
    assert [c["p_holm"] for c in comparisons] == correct_by_holm([c["p"] for c in comparisons])
    done.clear()
    (next((tmp_path / "rows").iterdir())).unlink()  # killed before its last row
    assert judge(task, compared, settings, tmp_path, computing=computing) == (rows, comparisons) and sum(done) <= 48
    done.clear()
    assert judge(task, compared, settings, tmp_path, computing=computing)[0] == rows and not done


def test_other_clutter_is_another_task_and_another_row(rng: np.random.Generator, tmp_path: Path) -> None:
    # Crops ingested again behind an unchanged stream of chips must not leave the old control in the table.
    part, settings = chips(rng, 48)[0], Settings.of(("knn5",), shots=(1,), draws=2, seed=0)
    first, second = (
        make_mstar_task(part, clutter=chips(np.random.default_rng(seed), 48)[1])  # type: ignore[arg-type]
        for seed in (1, 2)
    )
    assert first.fingerprint != second.fingerprint
    prints = [
        {
            row["encoder"]: row["encoder_fingerprint"]
            for row in judge(task, [], settings, tmp_path, computing=Computing())[0]
        }
        for task in (first, second)
    ]
    name = "control: clutter only"
    assert prints[0][name] != prints[1][name] and prints[0]["control: chip size only"]


def test_protocols_by_name() -> None:
    assert check_protocols(["linear", "knn5"], "classification") == ("knn5", "linear")
    with pytest.raises(UserError, match="did you mean 'linear'"):
        check_protocols(["liner"], "classification")
    with pytest.raises(UserError, match="each protocol once"):
        check_protocols(["knn5", "knn5"], "classification")


@pytest.fixture(scope="module")
def csmask(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Path:
    out = tmp_path_factory.mktemp("csmask")
    found = [
        p
        for name in ("sentinel2", "landsat5", "landsat7")
        for p in list_products(load_card(f"csmask_{name}"), real_data).products
    ]
    ingest(found, out=out / "corpus", config=IngestConfig(size_px=16), client="synchronous")
    return out / "corpus"


def test_real_scenes_of_three_sensors_end_to_end(
    csmask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = list(Corpus.open(csmask).streams)
    out = tmp_path / "results"
    options: dict[str, Any] = {
        "streams": streams,
        "sensor": "sentinel2_l1c",
        "held_out": "all",
        "cache": tmp_path / "cache",
        "device": "cpu",
    }
    main(["imagestats", "rcf"], "corpus", csmask, out, **options)
    rows = [json.loads(path.read_text()) for path in sorted((out / "rows").glob("*.json"))]
    assert len(rows) == 6 and all(row["n_blocks"] == 3 and "leave one of 3 sites out" in row["split"] for row in rows)
    assert max(row["value"] for row in rows) > 0.6  # cloud, shadow and land of another sensor's scene
    assert require(out, "evaluate").summary["test_items"] == rows[0]["n_test"]
    assert len(json.loads((out / "comparisons.json").read_text())) == 3
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    main(["imagestats", "rcf"], "corpus", csmask, out, **options)
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="--overwrite"):
        main(["imagestats", "rcf"], "corpus", csmask, out, **{**options, "seed": 1})


def test_workflow_refuses_what_it_has_no_use_for(csmask: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got sensor, streams"):
        main(["rcf"], "eurosat", tmp_path, tmp_path / "o", sensor="sentinel2_l1c", streams=["x"])
    with pytest.raises(UserError, match="expected one stream to choose"):
        main(["rcf"], "corpus", csmask, tmp_path / "o")
    with pytest.raises(UserError, match="each once, got rcf, rcf"):
        main(["rcf", "rcf"], "corpus", csmask, tmp_path / "o", streams=list(Corpus.open(csmask).streams)[:1])
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_real_mstar_sizes_give_the_class_away(real_data: Path, tmp_path: Path) -> None:
    # The size of a chip alone reaches 61 % of the SOC test chips (rule on sizes, full split): the control must show it.
    found = list_products(load_card("mstar_soc"), real_data).products
    ingest(found, out=tmp_path / "corpus", config=IngestConfig(size_px=64), client="threads")
    corpus = Corpus.open(tmp_path / "corpus")
    (name,) = corpus.streams
    table = corpus.index(
        name, columns=["label_name", "benchmark_split", "source_width_px", "source_height_px"]
    ).to_pandas()
    sizes = table.groupby(["source_width_px", "source_height_px"])
    train = table[table.benchmark_split == "train"]
    rule = train.groupby(["source_width_px", "source_height_px"]).label_name.agg(lambda names: names.mode()[0])
    test = table[table.benchmark_split == "test"]
    guess = [rule.get(key, "") for key in zip(test.source_width_px, test.source_height_px, strict=True)]
    assert len(test) == 3203 and sizes.ngroups > 3
    assert np.mean(test.label_name.to_numpy() == np.array(guess)) == pytest.approx(0.611, abs=0.01)

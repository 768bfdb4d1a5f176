"""A folder of results takes more of the same task, notices weights that changed, and is not occupied by what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from eo_ssl.encoder import save_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.compatibility import check_compatibility
from eo_ssl.evaluation.encoder_candidates import TrainedCandidate
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.intervals import correct_by_holm
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.evaluation.studies import VariantGrid, expand_study
from eo_ssl.evaluation.tuning import Tuning
from eo_ssl.manifest import require
from eo_ssl.models import Vit
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity, sensor
from eo_ssl.workflows.evaluate import main
from planted import contract, planted, vit
from test_85_evaluation_kinds import masked
from worlds.benchmarks import make_eurosat

ALL = Settings.of(["knn5"], shots=[0], draws=1, seed=0)
Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_eurosat(tmp_path_factory.mktemp("results") / "eurosat", per_class=6)


@pytest.fixture
def evaluate(eurosat: Path) -> Callable[..., None]:
    def run(out: Path, *encoders: str, **options: Any) -> None:
        main(list(encoders), "eurosat", eurosat, out, **{"protocols": ["knn5"], "device": "cpu", **options})

    return run


def written(out: Path) -> Rows:
    return {path.name: json.loads(path.read_text()) for path in (out / "rows").glob("*.json")}


def test_a_folder_takes_more_encoders_protocols_and_amounts(
    evaluate: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "grown", tmp_path / "whole"
    evaluate(out, "imagestats")
    first = {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    evaluate(out, "rcf")
    evaluate(out, "imagestats", "rcf", protocols=["linear"], shots=[2], draws=3)
    assert all(path.stat().st_mtime_ns == before for path, before in first.items())
    evaluate(whole, "imagestats", "rcf")
    evaluate(whole, "imagestats", "rcf", protocols=["linear"], shots=[2], draws=3)
    assert written(out) == written(whole) and len(written(out)) == 4
    for name in ("comparisons.json", "leaderboard.md", "leaderboard.csv", "leaderboard.html"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name  # whoever came first
    grown = require(out, "evaluate")
    assert (grown.fingerprint, grown.config) == (require(whole, "evaluate").fingerprint, grown.config)
    assert set(grown.summary["encoders"]) == {"imagestats", "rcf"} and grown.summary["amounts"] == [
        "all",
        "2 per class",
    ]
    assert (grown.summary["protocols"], grown.config["draws"]) == (["knn5", "linear"], 3)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    evaluate(out, "rcf")
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_other_draws_seeds_and_tasks_are_refused_unless_they_replace(
    evaluate: Callable[..., None], tmp_path: Path
) -> None:
    out = tmp_path / "o"
    evaluate(out, "imagestats", shots=[1], draws=2)
    for change, words in (
        ({"draws": 3}, "config.draws"),
        ({"seed": 1}, "config.seed"),
        ({"name": "other"}, "config.task, inputs.task"),
    ):
        with pytest.raises(UserError, match=rf"differs in {words}; give another output folder or --overwrite"):
            evaluate(out, "rcf", **{"shots": [1], "draws": 2, **change})
    assert {row["encoder"] for row in written(out).values()} == {"imagestats"}
    evaluate(out, "rcf", shots=[1], draws=3, overwrite=True)
    assert {(row["encoder"], row["eval_seeds"]) for row in written(out).values()} == {("rcf", 3)}
    assert "imagestats" not in (out / "leaderboard.md").read_text()


def test_a_recipe_of_training_binds_only_what_is_trained(evaluate: Callable[..., None], tmp_path: Path) -> None:
    out, quick = tmp_path / "o", Tuning(steps=2, rates=(1e-3,), augment="none", selection="last", batch_size=8)
    evaluate(out, "imagestats")
    evaluate(out, "random_init", "imagestats", protocols=["lora"], tuning=quick)
    with pytest.raises(UserError, match=r"differs in config.tuning; give another"):
        evaluate(out, "random_init", protocols=["finetune"], tuning=replace(quick, steps=3))
    evaluate(out, "rcf")
    assert {
        (row["encoder"], row["protocol"], row["tuning"] and row["tuning"]["steps"]) for row in written(out).values()
    } == {
        ("imagestats", "knn5", None),
        ("random_init", "lora", 2),
        ("rcf", "knn5", None),
    }
    assert require(out, "evaluate").config["tuning"]["steps"] == 2
    assert "lora: without imagestats, which have no network to train" in (out / "leaderboard.md").read_text()


def test_a_killed_addition_is_taken_up(
    evaluate: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    evaluate(out, "imagestats")
    with monkeypatch.context() as patched:
        patched.setattr("eo_ssl.workflows.evaluate.render_leaderboard", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate(out, "rcf")
    assert require(out, "evaluate").summary["encoders"] == ["imagestats"]  # still true of the tables
    evaluate(out, "rcf")
    evaluate(whole, "imagestats", "rcf")
    assert require(out, "evaluate").fingerprint == require(whole, "evaluate").fingerprint
    assert (out / "leaderboard.md").read_bytes() == (whole / "leaderboard.md").read_bytes()


def test_other_weights_at_the_same_path_are_judged_anew(
    evaluate: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The rows of `contract=training` were kept under the name of the file alone, so that new weights got the old number.
    path, out = tmp_path / "rn.safetensors", tmp_path / "o"
    name = f"timm:resnet18?contract=training&file={path}"

    def train(seed: int) -> None:
        torch.manual_seed(seed)
        model = timm.create_model("resnet18", num_classes=0, in_chans=13)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)

    train(0)
    evaluate(out, name, "imagestats")
    old = next(row for row in written(out).values() if row["encoder"] == name)
    train(1)
    capsys.readouterr()
    evaluate(out, name)
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing to do" not in said and "superseded holds results of weights that were replaced" in said
    new = next(row for row in written(out).values() if row["encoder"] == name)
    assert new["encoder_fingerprint"] != old["encoder_fingerprint"] and len(written(out)) == 2
    (kept,) = (out / "superseded").glob("*.json")
    assert json.loads(kept.read_text()) == old and require(out, "evaluate").summary["rows"] == 2
    fresh = tmp_path / "fresh"
    evaluate(fresh, name, "imagestats")
    assert written(fresh) == written(out)


def test_an_encoder_of_the_same_name_from_elsewhere_is_no_newer_one(rng: np.random.Generator, tmp_path: Path) -> None:
    task, config, paths = planted(rng, 40), vit().architecture, []
    for seed, parent in enumerate(("mae", "simclr")):
        torch.manual_seed(seed)
        backbone = config.build()
        with torch.no_grad():
            next(backbone.network.parameters()).add_(seed)
        save_encoder(tmp_path / parent / "encoder", backbone, preprocessing=contract(), provenance={})
        paths.append(str(tmp_path / parent / "encoder" / "encoder.safetensors"))
    first, second = (load_candidates([path]) for path in paths)
    assert first[0].name == second[0].name
    judge(task, first, ALL, tmp_path / "o", computing=Computing())
    with pytest.raises(
        UserError,
        match=rf"a name of its own for .*simclr/encoder, got {first[0].name}, .* from .*mae/encoder; write NAME=",
    ):
        judge(task, second, ALL, tmp_path / "o", computing=Computing())
    assert len(list((tmp_path / "o").rglob("*.npz"))) == 1 and not (tmp_path / "o" / "superseded").exists()
    rows, _ = judge(task, load_candidates([f"simclr={paths[1]}"]), ALL, tmp_path / "o", computing=Computing())
    assert {row["encoder"] for row in rows} == {first[0].name, "simclr"}


def test_a_trained_encoder_that_was_trained_again(rng: np.random.Generator, tmp_path: Path) -> None:
    task = planted(rng, 60)
    grid = VariantGrid.of(None, ["zscore"], None)
    for seed in (0, 1):
        ours = vit()
        with torch.no_grad():
            next(ours.parameters()).add_(seed)
        one = TrainedCandidate("ours", ours)
        compared = expand_study((one,), task, "grid" if not seed else "compare", grid=grid, seed=0)
        rows, _ = judge(task, (*compared, *load_candidates(["imagestats"])), ALL, tmp_path, computing=Computing())
    assert [row["encoder"] for row in rows] == [
        "ours",
        "imagestats",
    ]  # the grid of the old weights is no grid of the new ones
    assert rows[0]["encoder_fingerprint"] == ours.fingerprint and len(list((tmp_path / "superseded").iterdir())) == 2


def test_a_refused_run_leaves_no_folder(evaluate: Callable[..., None], tmp_path: Path) -> None:
    toa = Quantity.TOA_REFLECTANCE
    bands = sensor("sentinel2_l1c").band_names
    good = Preprocessing(
        sensor="sentinel2_l1c",
        quantity=toa,
        bands=bands,
        convert=(),
        range=toa.plausible,
        clip=None,
        mean=(0.2,) * 13,
        std=(0.1,) * 13,
        size_px=64,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )
    landsat = {"bands": sensor("landsat8_oli").band_names[:7], "mean": (0.2,) * 7, "std": (0.1,) * 7}
    changes: dict[str, dict[str, Any]] = {
        "got toa_reflectance; convert": {"quantity": Quantity.BOA_REFLECTANCE},
        "expected bands of landsat8_oli": {"sensor": "landsat8_oli", **landsat},
        "at least 96 px to crop": {"resize": "crop", "size_px": 96},
    }
    out = tmp_path / "o"
    for words, change in changes.items():
        name = words.split()[-1]
        made = replace(good, **change)
        backbone = Vit(patch_size=16, depth=1).build(made.bands, made.size_px, 0)
        save_encoder(tmp_path / name, backbone, preprocessing=made, provenance={})
        with pytest.raises(UserError, match=words):
            evaluate(out, "imagestats", str(tmp_path / name / "encoder.safetensors"))
        assert not out.exists(), name
    with pytest.raises(UserError, match="shots"):
        evaluate(out, "imagestats", shots=[500])
    assert not out.exists()
    evaluate(out, "imagestats")


def test_masks_need_a_network_and_who_has_none_is_named(rng: np.random.Generator) -> None:
    task, ours = masked(rng), vit()
    settings = Settings.of(["seg-linear"], kind="segmentation", shots=[0], draws=1, seed=0)
    free = load_candidates(["imagestats", "rcf"])
    with pytest.raises(
        UserError, match=r"with a network to train for seg-linear, got imagestats, rcf; add a trained one"
    ):
        check_compatibility(task, free, settings)
    found = check_compatibility(task, (TrainedCandidate("ours", ours), *free), settings)
    assert found.notes[-1] == "seg-linear: without imagestats, rcf, which have no network to train"
    assert found.fingerprint == task.fingerprint  # a note decides nothing
    both = Settings.of(["knn5", "finetune"], shots=[0], draws=1, seed=0)
    assert check_compatibility(planted(rng, 40), free, both).notes[-1].startswith("finetune: without imagestats, rcf")
    assert not check_compatibility(planted(rng, 40), free, ALL).notes


def test_holm_counts_what_differs_once(rng: np.random.Generator, tmp_path: Path) -> None:
    # Sizes that are the contract's own, resizers where nothing is resized: 17 departures of 5 inputs were 17 comparisons.
    task = planted(rng, 80)
    grid = VariantGrid.of([16, 24], ["contract", "divide"], ["contract", "torchvision", "kornia"])
    ours = vit()
    one = TrainedCandidate("ours", ours)
    compared = expand_study((one,), task, "grid", grid=grid, seed=0)
    rows, comparisons = judge(task, compared, ALL, tmp_path, computing=Computing(cache=tmp_path / "f"))
    inputs = {row["encoder"]: row["inputs"] for row in rows}
    distinct = {inputs[c["b"]]: c["p"] for c in comparisons if inputs[c["b"]] != inputs["ours"]}
    assert len(comparisons) == 17 and {c["family"] for c in comparisons} == {len(distinct)} and len(distinct) == 5
    corrected = dict(zip(distinct, correct_by_holm(list(distinct.values())), strict=True))
    for one_pair in comparisons:
        same = inputs[one_pair["b"]] == inputs["ours"]
        assert one_pair["p_holm"] == (1.0 if same else corrected[inputs[one_pair["b"]]])
        assert not same or (one_pair["difference"], one_pair["verdict"]) == (0.0, "not separable")

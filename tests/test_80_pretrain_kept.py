"""Encoders that a run keeps along its way, and what it has cost by then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from eo_ssl.cli import main as command_line
from eo_ssl.corpus import Corpus
from eo_ssl.curation import DynamicConfig, Random
from eo_ssl.encoder import load_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation import load_candidates
from eo_ssl.manifest import require
from eo_ssl.models import Vit
from eo_ssl.objectives import SimClr
from eo_ssl.pretraining import FitConfig, Pretraining
from eo_ssl.pretraining.kept_encoders import check_steps_kept
from eo_ssl.pretraining.run_cost import RunCost, count_views, describe_cost
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows import ingest, pretrain

KEPT = (0, 2, 4)
WATCHED = FitConfig(log_every=2, monitor_every=3, monitor_tiles=16, checkpoint_every=3, encoders_at=KEPT)
QUICK: dict[str, Any] = {"steps": 6, "batch_size": 8, "model": Vit(patch_size=8, depth=1), "training": WATCHED}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Optical tiles of two dates of each place."""
    root = tmp_path_factory.mktemp("kept")
    spec = ArchiveSpec(sites=2, dates=2, size_px=192, exact_duplicates=0, near_duplicates=0, reprocessed=0)
    make_archive(root / "archive", seed=1, spec=spec)
    common = {"size_px": 32, "min_valid": 0.5, "dask": "synchronous", "shares": (0.7, 0.2, 0.1)}
    ingest.main("sample_s2_l2a", data=root / "archive", out=root / "s2", **common)
    return root / "s2"


def training_rows(corpus: Path) -> int:
    opened = Corpus.open(corpus)
    (stream,) = opened.streams
    return opened.index(stream, columns=["split"])["split"].to_pylist().count("train")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "encoder.safetensors")


def break_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    train = Pretraining.training_step

    def broken(self: Pretraining, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch.step.number == step:
            raise RuntimeError("broken on purpose")
        return train(self, batch, batch_idx)

    monkeypatch.setattr(Pretraining, "training_step", broken)


def test_what_is_kept_is_the_encoder_of_that_step_and_keeping_changes_none(corpus, tmp_path):
    every = FitConfig(log_every=2, monitor_every=3, monitor_tiles=16, checkpoint_every=2, encoders_at=KEPT)
    pretrain.main(corpus, out=tmp_path / "kept", **{**QUICK, "training": every})
    plain = FitConfig(log_every=2, monitor_every=3, monitor_tiles=16)
    pretrain.main(corpus, out=tmp_path / "plain", **{**QUICK, "training": plain})
    ours, others = tensors(tmp_path / "kept"), tensors(tmp_path / "plain")
    assert all(torch.equal(ours[name], others[name]) for name in others)
    for path in (tmp_path / "kept" / "checkpoints").iterdir():  # the two newest, of steps 2 and 4
        step = int(path.name[5:14])
        state = torch.load(path, weights_only=True)["state_dict"]
        found = tensors(tmp_path / "kept" / f"at_{step:06d}")
        assert all(torch.equal(found[name], state[f"objective.encoders.tile.network.{name}"]) for name in found)
    first, second = tensors(tmp_path / "kept" / "at_000000"), tensors(tmp_path / "kept" / "at_000002")
    assert not all(torch.equal(first[name], second[name]) for name in first)
    manifest = require(tmp_path / "kept", "pretrain")
    assert {f"at_{step:06d}/encoder.safetensors" for step in KEPT} <= set(manifest.files)
    assert load_encoder(tmp_path / "kept" / "at_000002").features(torch.zeros(1, 12, 32, 32)).shape == (1, 192)


def test_a_broken_run_keeps_the_same_bytes(corpus, tmp_path, monkeypatch, capsys):
    pretrain.main(corpus, out=tmp_path / "whole", **QUICK)
    with monkeypatch.context() as patch:
        break_at(patch, 5)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            pretrain.main(corpus, out=tmp_path / "broken", **QUICK)
    late = tmp_path / "broken" / "at_000004" / "encoder.safetensors"
    late.write_bytes(b"of the steps after the checkpoint of step 3")  # which are made again
    pretrain.main(corpus, out=tmp_path / "broken", **QUICK)
    for step in KEPT:
        mine, other = (tmp_path / name / f"at_{step:06d}" / "encoder.safetensors" for name in ("broken", "whole"))
        assert mine.read_bytes() == other.read_bytes()
    assert capsys.readouterr().err == ""


def test_a_kept_encoder_that_is_damaged_before_a_resume_is_put_aside_with_a_sentence(
    corpus, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        break_at(patch, 5)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            pretrain.main(corpus, out=tmp_path / "run", **QUICK)
    (tmp_path / "run" / "at_000002" / "encoder.safetensors").write_bytes(b"nothing")
    capsys.readouterr()
    pretrain.main(corpus, out=tmp_path / "run", **QUICK)
    said = capsys.readouterr().err
    assert "at_000002 as it was at step 3 is damaged: put aside as" in said and "the run goes on" in said
    assert not (tmp_path / "run" / "at_000002").exists()
    assert (tmp_path / "run" / "checkpoints" / "damaged_at_000002").is_dir()
    assert "at_000004/encoder.safetensors" in require(tmp_path / "run", "pretrain").files


def test_forward_equivalents_are_three_for_each_view_and_one_for_each_embedding(corpus, tmp_path, capsys):
    rows = training_rows(corpus)
    prune = DynamicConfig(warmup=16, interval=16, keep=0.9, method=Random())
    pretrain.main(corpus, out=tmp_path / "run", prune=prune, **QUICK)
    # Masked autoencoding has one view; events fall on 16 and 32 presentations, after the steps 2 and 4.
    wanted = {
        "at_000000": {"step": 0, "presentations": 0, "curation_passes": 0, "forward_equivalents": 0},
        "at_000002": {"step": 2, "presentations": 16, "curation_passes": 0, "forward_equivalents": 48},
        "at_000004": {"step": 4, "presentations": 32, "curation_passes": rows, "forward_equivalents": 96 + rows},
        ".": {"step": 6, "presentations": 48, "curation_passes": 2 * rows, "forward_equivalents": 144 + 2 * rows},
    }
    for name, cost in wanted.items():
        cost = cost | {"views": 1}
        assert load_encoder(tmp_path / "run" / name).provenance["cost"] == cost
        summary = require(tmp_path / "run" / name, "pretrain").summary
        assert {key: summary[key] for key in cost} == cost
    events = json.loads((tmp_path / "run" / "pruning" / "events.json").read_text())
    spent = sum(event["cost"]["select_s"] for event in events)
    assert require(tmp_path / "run", "pretrain").summary["clustering_s"] == pytest.approx(spent, abs=1e-3)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{144 + 2 * rows:,} forward equivalents: 48 presentations x 1 views x 3 and {2 * rows:,} embeddings" in said


def test_an_item_of_two_dates_is_embedded_twice(corpus, tmp_path):
    """An event embeds every date of a place: it was charged for one."""
    options = {**QUICK, "training": FitConfig(), "items": "places", "objective": SimClr()}
    pretrain.main(
        corpus, out=tmp_path, prune=DynamicConfig(warmup=16, interval=1000, keep=0.9, method=Random()), **options
    )
    summary = require(tmp_path, "pretrain").summary
    (event,) = json.loads((tmp_path / "pruning" / "events.json").read_text())
    assert summary["curation_passes"] == 2 * event["n_rows"] == event["cost"]["forward_equivalents"]
    assert (summary["views"], summary["forward_equivalents"]) == (2, 3 * 48 * 2 + 2 * event["n_rows"])


def test_cost_in_words_and_views_of_all_groups():
    assert count_views(SimClr.views) == 2
    plain = RunCost(10, 320, 2, 0)
    assert describe_cost(plain, clustering_s=0.0) == "1,920 forward equivalents: 320 presentations x 2 views x 3"
    curated = describe_cost(RunCost(10, 320, 2, 80), clustering_s=1.26)
    assert curated.startswith("2,000 forward equivalents") and curated.endswith(
        "80 embeddings for curation, clustered in 1.3 s"
    )


@pytest.mark.parametrize(
    ("kept", "begun", "words"),
    [
        ((6,), 0, "out of the steps 0 to 5, each once, got 6"),
        ((-1, 2), 0, "got -1"),
        ((2, 2), 0, "each once, got 2, 2"),
        ((3,), 3, "out of the steps 4 to 5, each once, got 3"),
    ],
)
def test_steps_that_a_run_does_not_make_are_refused(kept, begun, words):
    check_steps_kept((1, 5), begun=0, steps=6, sharded=False)
    with pytest.raises(UserError, match=words):
        check_steps_kept(kept, begun=begun, steps=6, sharded=False)
    with pytest.raises(UserError, match="under strategy fsdp, which shards"):
        check_steps_kept((1,), begun=0, steps=6, sharded=True)


def test_steps_are_checked_before_anything_is_written(corpus, tmp_path, capsys):
    options = ["--corpus", str(corpus), "--steps", "4", "--batch_size", "8", "--training.encoders_at", "[2, 9]"]
    assert command_line(["pretrain", *options, "--out", str(tmp_path / "run")]) == 2
    assert "expected training.encoders_at out of the steps 0 to 3, each once, got 9" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_encoders_of_different_steps_are_no_seeds_of_one_recipe(corpus, tmp_path):
    for seed in (0, 1):
        pretrain.main(corpus, out=tmp_path / f"run_{seed}", seed=seed, **QUICK)
    (joined,) = load_candidates([f"two={tmp_path}/run_0/at_000002,{tmp_path}/run_1/at_000002"])
    assert [run.seed for run in joined.runs] == [0, 1]
    with pytest.raises(UserError, match="differ in their seed alone, got step 2 in at_000002 and 4 in at_000004"):
        load_candidates([f"{tmp_path}/run_0/at_000002,{tmp_path}/run_1/at_000004"])

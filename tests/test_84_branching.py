"""The infinite schedule, and runs that go on from a checkpoint of another: to the same bits, on more data, to anneal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.curation import DynamicConfig, Random, Readiness
from eo_ssl.encoder import load_encoder
from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.models import Vit
from eo_ssl.objectives import IJepa, MocoV2
from eo_ssl.pretraining import FitConfig, OptimizerConfig
from eo_ssl.pretraining.checkpoints import find_sound_checkpoint
from eo_ssl.pretraining.module import compute_lr_share, compute_weight_decay
from eo_ssl.workflows import pretrain
from fake_scenes import scenes

ENDLESS = {"schedule": "infinite", "warmup_steps": 2, "cooldown_steps": 3, "weight_decay_end": 0.2}
SETTINGS = {
    "model": Vit(patch_size=8, depth=1),
    "batch_size": 8,
    "split": "all",
    "training": FitConfig(log_every=1, monitor_every=100, checkpoint_every=4),
    "objective": IJepa(predictor_dim=32, predictor_depth=1, predictor_heads=2, momentum=0.9, momentum_end=0.99),
    "optimizer": OptimizerConfig(**ENDLESS),
}


def test_the_infinite_schedule_warms_up_cools_down_stays_and_anneals():
    config = OptimizerConfig(
        schedule="infinite", warmup_steps=4, cooldown_steps=10, anneal_steps=5, lr_constant=0.4, lr_end=0.04
    )
    share = np.array([compute_lr_share(step, total=40, config=config) for step in range(41)])
    np.testing.assert_allclose(share[:4], [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(share[4:15], 0.4 + 0.3 * (1 + np.cos(np.pi * np.arange(11) / 10)))
    np.testing.assert_allclose(share[14:36], 0.4)
    np.testing.assert_allclose(share[35:], 0.4 * 0.1 ** (np.arange(6) / 5))
    # Without an annealing the length of the run is of no account, for weight decay neither.
    endless = OptimizerConfig(**ENDLESS)
    for compute in (compute_lr_share, compute_weight_decay):
        short, long = ([compute(step, total=total, config=endless) for step in range(20)] for total in (20, 10**6))
        assert short == long and len(set(short[5:])) == 1 < len(set(short))
    assert OptimizerConfig(warmup_steps=5).count_horizon(100) == 100
    assert OptimizerConfig(horizon=30).count_horizon(100) == 30
    for options, words in (
        ({"anneal_steps": 5}, "anneal_steps of at least 0, and of schedule infinite alone, got 5 with schedule cosine"),
        ({**ENDLESS, "anneal_steps": 5}, "lr_end above 0 and up to lr_constant 0.5 to anneal to, got 0.0"),
        ({**ENDLESS, "lr_constant": 0.0}, "lr_constant in"),
        ({"horizon": 0}, "a sensible horizon, got 0"),
        ({"clip_grad": -1.0}, "a sensible clip_grad, got -1.0"),
        ({"layer_decay": 1.5}, "a sensible layer_decay, got 1.5"),
    ):
        with pytest.raises(UserError, match=words):
            OptimizerConfig(**options)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("branching")
    products = scenes(np.random.default_rng(5), 5)
    config = IngestConfig(size_px=16, edge="pad", min_valid=0.0)
    ingest(products[:3], out=root / "grown", config=config, client="synchronous")
    ingest(products[:3], out=root / "c", config=config, client="synchronous")
    assert len(Corpus.open(root / "c").index(next(iter(Corpus.open(root / "c").streams)))) == 48
    ingest(products[3:], out=root / "other", config=config, client="synchronous")
    return root


def read_log(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_s"} for row in rows]


def test_a_branch_ends_with_the_bits_of_a_run_that_never_ended(corpus, tmp_path):
    pretrain.main(corpus / "c", tmp_path / "whole", steps=12, **SETTINGS)
    pretrain.main(corpus / "c", tmp_path / "first", steps=7, **SETTINGS)
    pretrain.main(corpus / "c", tmp_path / "second", steps=12, branch=tmp_path / "first", **SETTINGS)
    assert require(tmp_path / "second", "pretrain").fingerprint != require(tmp_path / "first", "pretrain").fingerprint
    one, other = (load_encoder(tmp_path / name).model.state_dict() for name in ("whole", "second"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    learned = [
        [(row["step"], row["presentations"], row["loss"], row["lr"]) for row in read_log(tmp_path / name)]
        for name in ("whole", "second")
    ]
    assert learned[0] == learned[1] and len(learned[0]) == 12
    record = json.loads((tmp_path / "second" / "branch.json").read_text())
    assert (record["step"], record["grown"], record["run"]) == (7, False, str(tmp_path / "first"))
    assert "branch.json" in require(tmp_path / "second", "pretrain").files
    # To anneal is another branch of the same checkpoint: the rate falls from there on, by equal factors.
    calm = {**SETTINGS, "optimizer": OptimizerConfig(**ENDLESS, anneal_steps=5, lr_end=0.05)}
    pretrain.main(corpus / "c", tmp_path / "calm", steps=12, branch=tmp_path / "first", **calm)
    rates = [row["lr"] / 5e-4 for row in read_log(tmp_path / "calm")]
    np.testing.assert_allclose(rates[5:], [0.5, 0.5, *(0.5 * 0.1 ** (np.arange(5) / 5))])
    assert read_log(tmp_path / "calm")[:7] == read_log(tmp_path / "first")
    for options, words in (
        ({"steps": 7}, "more steps than the 7 that .* has made, got 7; raise --steps"),
        ({"batch_size": 4}, "the settings of .*first, from which this run goes on, got others of batch_size"),
        ({"optimizer": OptimizerConfig(**ENDLESS, lr_constant=0.3)}, "others of optimizer.lr_constant"),
        ({"optimizer": OptimizerConfig(**ENDLESS, anneal_steps=7, lr_end=0.1)}, "the schedule of .* up to its step 7"),
        ({"corpus": corpus / "other"}, "the corpora of .*first, each as it was or with newer snapshots"),
        ({"branch": tmp_path}, "a finished pretrain product"),
    ):
        given = {"corpus": corpus / "c", "steps": 12, "branch": tmp_path / "first", **SETTINGS, **options}
        with pytest.raises(UserError, match=words):
            pretrain.main(out=tmp_path / "no", **given)
    assert not (tmp_path / "no").exists()
    with pytest.raises(UserError, match="a teacher that goes on following its student in schedule infinite"):
        pretrain.main(corpus / "c", tmp_path / "no", steps=12, **{**SETTINGS, "objective": IJepa()})


def test_a_branch_goes_on_with_the_tiles_that_it_asks_for(corpus, tmp_path):
    """Of the same corpus the training split alone, where the first run took all tiles."""
    for name, options in (("first", {}), ("second", {"branch": tmp_path / "first", "split": "train"})):
        pretrain.main(corpus / "c", tmp_path / name, steps=7 if name == "first" else 9, **{**SETTINGS, **options})
    newest = find_sound_checkpoint(tmp_path / "second" / "checkpoints")
    (loader,) = torch.load(newest, weights_only=True)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    index = Corpus.open(corpus / "c").index(next(iter(Corpus.open(corpus / "c").streams)))
    train = np.flatnonzero(np.array(index["split"].to_pylist()) == "train")
    assert len(train) < index.num_rows and loader["sampler"]["pool"].tolist() == train.tolist()


def test_a_run_goes_on_with_the_tiles_of_a_newer_snapshot(corpus, tmp_path):
    """Under the contract it has learnt, with the queue it has filled, in a new epoch; killed, it goes on again."""
    settings = {**SETTINGS, "objective": MocoV2(queue=1000, hidden_dim=16, output_dim=8)}
    first, out = tmp_path / "first", tmp_path / "second"
    pretrain.main(corpus / "grown", first, steps=8, **settings)
    before = Corpus.open(corpus / "grown").fingerprint
    config = IngestConfig(size_px=16, edge="pad", min_valid=0.0)
    ingest(scenes(np.random.default_rng(5), 5), out=corpus / "grown", config=config, client="synchronous")
    with pytest.raises(UserError, match=r"differs in .*inputs.corpus grown"):
        pretrain.main(corpus / "grown", first, steps=8, **settings)
    for limit in ("00:00:00:00", None):
        given = {**settings, "steps": 12, "branch": first, "max_time": limit}
        if limit:
            with pytest.raises(UserError, match="12 steps within a time of 0:00:00, got 9"):
                pretrain.main(corpus / "grown", out, **given)
        else:
            pretrain.main(corpus / "grown", out, **given)
    log = read_log(out)
    assert [row["pool"] for row in log] == [48] * 8 + [80] * 4
    assert {row["queue"] for row in log} == {12} and log[:8] == read_log(first)
    old, new = load_encoder(first), load_encoder(out)
    assert old.preprocessing == new.preprocessing
    assert json.loads((out / "branch.json").read_text())["grown"]
    manifest = require(out, "pretrain")
    assert manifest.inputs["corpus grown"] == Corpus.open(corpus / "grown").fingerprint != before
    assert (manifest.summary["tiles"], manifest.config["branch"]) == (80, str(first))


def test_a_run_on_a_newer_snapshot_has_spent_what_the_one_before_spent_on_curation(tmp_path):
    products, config = scenes(np.random.default_rng(5), 5), IngestConfig(size_px=16, edge="pad", min_valid=0.0)
    prune = DynamicConfig(warmup=16, interval=16, keep=0.5, method=Random(), readiness=Readiness(full=0))
    settings = {**SETTINGS, "prune": prune}
    ingest(products[:3], out=tmp_path / "c", config=config, client="synchronous")
    pretrain.main(tmp_path / "c", tmp_path / "first", steps=5, **settings)
    ingest(products, out=tmp_path / "c", config=config, client="synchronous")
    pretrain.main(tmp_path / "c", tmp_path / "second", steps=8, branch=tmp_path / "first", **settings)
    pretrain.main(tmp_path / "c", tmp_path / "third", steps=10, branch=tmp_path / "second", **settings)
    first, second, third = (require(tmp_path / name, "pretrain").summary for name in ("first", "second", "third"))
    # Two events on 48 tiles, after the steps 2 and 4; at once and after step 6 on 80; on the same tiles after step 8.
    assert [run["curation_passes"] for run in (first, second, third)] == [96, 96 + 160, 96 + 160 + 80]
    events = json.loads((tmp_path / "second" / "pruning" / "events.json").read_text())
    spent = sum(event["cost"]["select_s"] for event in events)
    assert second["clustering_s"] == pytest.approx(first["clustering_s"] + spent, abs=2e-3) and len(events) == 2

"""Fine-tuning of an encoder of two sensors: everything in it trains, both images of a place alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_ssl.encoder import FusedEncoder, load_fused_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.features import ON_CPU
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning import TUNED, StackedEncoder, Tuning, predict_tuned
from eo_ssl.evaluation.tuning.fitting import TrainingJob, fit
from eo_ssl.evaluation.tuning.optimisation import group_layers
from eo_ssl.models import Vit
from eo_ssl.objectives import MultiMae
from planted import Images
from two_sensors import for_so2sat, make_fused

QUICK = Tuning(steps=30, batch_size=32, rates=(2e-3,), augment="flips", selection="last", drop_path=0.5)
ROWS = np.arange(64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fused(tmp_path_factory.mktemp("fused") / "croma", for_so2sat())


def make_task(fused: FusedEncoder) -> Task:
    """Whether radar and optical images are both bright in the same corner, or in different ones."""
    rng = np.random.default_rng(1)
    places = rng.integers(0, 2, (64, 2))
    sources = []
    for place, (encoder, level) in zip(places.T, ((fused.optical, 0.1), (fused.radar, 0.02)), strict=True):
        contract = encoder.preprocessing
        x = level * (1 + 0.2 * rng.random((64, len(contract.bands), 32, 32)))
        for image, corner in zip(x, place, strict=True):
            image[:, :, 16 * corner : 16 * corner + 16] *= 3
        sources.append(Images(x.astype(np.float32), contract.bands, contract.sensor, contract.quantity))
    labels, fold = places.sum(axis=1) % 2, Fold(ROWS[:48], ROWS[48:], ROWS[:0])
    return Task("xor", (sources[0],), labels, ("a", "b"), ROWS, (fold,), "parts", "accuracy", partners=(sources[1],))


def test_both_sensors_reach_the_network_under_their_own_contracts_and_turn_together(folder: Path) -> None:
    fused = load_fused_encoder(folder)
    task, stacked = make_task(fused), StackedEncoder(fused)
    job = TrainingJob(task, stacked, TUNED["finetune"], QUICK)
    rows = np.array([9, 2, 40])
    (batch,) = job.loader.batches([rows])
    ready = [
        encoder.preprocessing(
            torch.from_numpy(source.x[rows]), bands=source.bands, quantity=source.quantity, sensor=source.sensor
        )
        for encoder, source in ((fused.optical, task.sources[0]), (fused.radar, task.partners[0]))
    ]
    assert torch.equal(batch.image, torch.cat([image for image, _ in ready], dim=1))
    with torch.no_grad():
        wanted = fused.features(ready[1][0], ready[0][0], radar_valid=ready[1][1], optical_valid=ready[0][1])
        assert torch.equal(stacked.features(batch.image, valid=batch.valid), wanted)
    assert batch.target.tolist() == task.labels[rows].tolist()


def test_layers_of_both_encoders_and_of_the_fusion_have_the_rates_of_their_depth(folder: Path) -> None:
    fused = load_fused_encoder(folder)
    trained = ((name, parameter) for name, parameter in fused.named_parameters() if parameter.requires_grad)
    names = {id(parameter): name for name, parameter in trained}
    scales, decays = {}, {}
    for group in group_layers(fused, weight_decay=0.05, layer_decay=0.5):
        for parameter in group["params"]:
            scales[names[id(parameter)]], decays[names[id(parameter)]] = group["lr_scale"], group["weight_decay"]
    # from the top: two blocks of the fusion, two of each encoder, the projections of the patches
    for name, depth in (
        ("fusion.blocks.1.cross.kv.weight", 1),
        ("fusion.norm.weight", 1),
        ("fusion.blocks.0.attn.qkv.weight", 2),
        ("radar.model.blocks.1.mlp.fc1.weight", 3),
        ("optical.model.norm.weight", 3),
        ("optical.model.blocks.0.mlp.fc1.weight", 4),
        ("radar.model.patch_embed.proj.weight", 5),
        ("optical.model.cls_token", 5),
    ):
        assert scales[name] == pytest.approx(0.5**depth), name
    assert len(scales) == len(names) and decays["optical.model.cls_token"] == 0
    assert decays["fusion.norm.weight"] == 0 and decays["fusion.blocks.1.cross.kv.weight"] == 0.05


@pytest.mark.parametrize("protocol", ["finetune", "lora"])
def test_everything_trains_and_the_encoder_itself_stays(folder: Path, protocol: str) -> None:
    fused = load_fused_encoder(folder)
    before = {name: value.clone() for name, value in fused.state_dict().items()}
    job = TrainingJob(make_task(fused), StackedEncoder(fused), TUNED[protocol], dataclasses.replace(QUICK, steps=2))
    tuned = fit(job, ROWS[:48], rate=1e-2).network.encoder.model
    fitted = tuned.state_dict()
    skipped = [type(trunk.blocks[1].drop_path1).__name__ for trunk in tuned.trunks]
    assert skipped == ["DropPath" if protocol == "finetune" else "Identity"] * 2
    assert all(torch.equal(value, before[name]) for name, value in fused.state_dict().items())
    same = {name for name, value in before.items() if torch.equal(value, fitted[name])}
    if protocol == "finetune":  # the class token of an encoder whose patches are joined is no token of theirs
        assert same <= {name for name in before if "cls_token" in name or "pos_embed" in name}, same
    else:
        adapted = ("qkv.weight", "cross.q.weight", "cross.kv.weight")
        assert {name for name in before if name.endswith(adapted)} == set(before) - same
        keys, width = "fusion.blocks.0.cross.kv.weight", fused.dim
        assert torch.equal(before[keys][:width], fitted[keys][:width])  # values alone


def test_what_neither_sensor_tells_alone_is_learned(folder: Path, tmp_path: Path) -> None:
    fused = load_fused_encoder(folder)
    task = make_task(fused)
    candidates = load_candidates([str(folder)])
    settings = Settings.of(["finetune"], shots=[0], draws=1, seed=0, tuning=QUICK)
    (row,), _ = judge(task, candidates, settings, tmp_path, computing=ON_CPU)
    assert row["value"] > 0.85  # chance is a half, and either sensor alone is at chance
    (again,), _ = judge(task, candidates, settings, tmp_path, computing=ON_CPU)
    assert again["answers"] == row["answers"] and row["tuning"]["steps"] == 30


def test_masks_and_other_numbers_of_sensors_are_refused(folder: Path) -> None:
    fused = load_fused_encoder(folder)
    task = make_task(fused)
    for words, encoder, one in (
        ("images of two sensors to train croma on, got one in xor", StackedEncoder(fused), task.sensor_tasks[0]),
        ("images of one sensor to train s2 on, got two in xor", fused.optical, task),
    ):
        with pytest.raises(UserError, match=words):
            predict_tuned(one, one.folds[0], encoder, ROWS[:4], protocol="finetune", config=QUICK)
    fused.radar = fused.radar.at_size(64)
    with pytest.raises(UserError, match=r"contracts of one size in croma .* got 32 px and 64 px; judge it with knn5"):
        StackedEncoder(fused)


def test_one_transformer_of_both_sensors_is_trained_once(tmp_path: Path) -> None:
    model = Vit("test_vit", patch_size=8, depth=2)
    fused = load_fused_encoder(make_fused(tmp_path / "joint", for_so2sat(), model=model, method=MultiMae()))
    scales = [
        {id(parameter): group["lr_scale"] for parameter in group["params"]}
        for group in group_layers(fused, weight_decay=0.05, layer_decay=0.5)
    ]
    found = {key: scale for group in scales for key, scale in group.items()}
    for part, depth in (
        (fused.radar.model.norm.weight, 1),
        (fused.optical.model.blocks[0].mlp.fc1.weight, 2),
        (fused.radar.model.patch_embed.proj.weight, 3),
        (fused.optical.model.patch_embed.proj.weight, 3),
    ):
        assert found[id(part)] == pytest.approx(0.5**depth)
    assert sum(map(len, scales)) == len(found)
    before = {name: value.clone() for name, value in fused.state_dict().items()}
    for protocol in ("finetune", "lora"):
        job = TrainingJob(make_task(fused), StackedEncoder(fused), TUNED[protocol], dataclasses.replace(QUICK, steps=2))
        tuned = fit(job, ROWS[:48], rate=1e-2).network.encoder.model
        assert tuned.radar.model.blocks is tuned.optical.model.blocks
        changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
        blocks = {f"{part}.model.blocks.{at}.attn.qkv.weight" for part in ("radar", "optical") for at in (0, 1)}
        both = {"radar.model.patch_embed.proj.weight", "optical.model.patch_embed.proj.weight"}
        assert changed == blocks if protocol == "lora" else changed >= blocks | both
    assert all(torch.equal(value, before[name]) for name, value in fused.state_dict().items())

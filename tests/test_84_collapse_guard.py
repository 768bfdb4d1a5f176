"""The guard finds a run that collapses, sabotaged once per family, and no other; what it measures has closed forms."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import Vit
from eo_ssl.objectives import Dino, IJepa, Mae, Method, Objective, SimClr, VicReg, ViewSpec
from eo_ssl.pretraining import (
    CollapseGuard,
    FitConfig,
    GuardConfig,
    ItemLoader,
    ItemSampler,
    OptimizerConfig,
    Pretraining,
    Processes,
    Tiles,
    TileSource,
    ViewMaker,
    fit,
)
from eo_ssl.pretraining.checkpoints import find_sound_checkpoint
from eo_ssl.pretraining.collapse_guard import REMEDIES
from eo_ssl.pretraining.monitors import count_different_channels, measure_uniformity
from runs import FakeReader, FakeStream, preprocessing
from tiles import training_tiles

STEPS, LOOKS = 30, 5
SMALL = {"hidden_dim": 64, "output_dim": 32}


class Ramps(FakeReader):
    """Reflectances that differ from tile to tile in direction, gain and level; or all the same."""

    def __init__(self, *, constant: bool = False) -> None:
        super().__init__(n=48)
        image, _ = training_tiles(48, bands=3, size=16)
        self.images = (0.16 + 0.03 * image * (not constant)).numpy()

    def tile(self, row: int) -> np.ndarray:
        return self.images[row]


class Agreement(torch.nn.Module):
    """NT-Xent without negatives."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return -torch.nn.functional.cosine_similarity(first, second).mean()


def straighten(objective: Objective) -> None:
    """A linear projector, for one with batch normalisation keeps its spread whatever the loss is."""
    torch.manual_seed(0)
    objective.projector = torch.nn.Linear(192, 32)


def drop_negatives(objective: Objective) -> None:
    straighten(objective)
    objective.compare = Agreement()


def let_gradient_through(objective: Objective) -> None:
    """Targets from the student itself, which then moves towards what is easy to predict."""

    def find_targets(view):
        patches = objective.encoder(view).patches
        return torch.nn.functional.layer_norm(patches, patches.shape[-1:])

    objective.target_features = find_targets


def leave(objective: Objective) -> None:
    pass


DINO = {"prototypes": 64, "hidden_dim": 64, "bottleneck_dim": 32, "momentum": 0.7}
FAMILIES: dict[str, tuple[Method, Method, Callable, Callable, float]] = {
    "contrastive": (SimClr(), SimClr(), straighten, drop_negatives, 5e-3),
    "distilling": (
        Dino(**DINO),
        Dino(**DINO, teacher_temperature=(0.1, 0.1), center_momentum=1.0),
        leave,
        leave,
        5e-3,
    ),
    "masked": (Mae(decoder_dim=32, decoder_depth=1), Mae(decoder_dim=32, decoder_depth=1), leave, leave, 2e-3),
    "predictive": (
        IJepa(predictor_dim=32, predictor_depth=1, predictor_heads=2),
        IJepa(predictor_dim=32, predictor_depth=1, predictor_heads=2, momentum=0.0),
        leave,
        let_gradient_through,
        2e-3,
    ),
    "decorrelating": (VicReg(**SMALL), VicReg(**SMALL, covariance=0.0), leave, leave, 1e-2),
}
NOISE = {SimClr: 1.0, Dino: 0.2, VicReg: 2.0}
"""Method, the method sabotaged by its options, what makes each ready, and the learning rate of both."""


def train(
    folder: Path,
    method: Method,
    prepare: Callable[[Objective], None] = leave,
    *,
    lr: float,
    guard: GuardConfig,
    constant: bool = False,
    every: int = LOOKS,
) -> list[dict[str, float]]:
    """A run of 30 steps with a look every so many, and its log."""
    torch.set_num_threads(1)
    source = TileSource([Ramps(constant=constant)])
    sampler = ItemSampler(np.arange(len(source)), batch_size=16, seed=1)
    loader = ItemLoader(Tiles(source, preprocessing()), sampler, steps=STEPS, ahead=False)
    encoder = Vit(patch_size=8, depth=1).build(FakeStream().bands, 16, 0)
    objective = method.build({"tile": encoder}, 1)
    prepare(objective)
    quiet = ViewSpec(crop=None, noise=NOISE.get(type(method), 0.0))
    specs = {name: dataclasses.replace(quiet, count=spec.count, size=spec.size) for name, spec in method.views.items()}
    fit(
        Pretraining(objective, lr=lr, steps=STEPS, optimizer=OptimizerConfig()),
        loader,
        views=ViewMaker(specs, loader.items.contracts),
        folder=folder,
        config=FitConfig(log_every=100, monitor_every=every, monitor_tiles=48, checkpoint_every=1000),
        processes=Processes(device="cpu", precision="float32"),
        guard=guard,
    )
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sabotaged_run_is_stopped_with_a_checkpoint_and_a_sound_one_of_the_same_length_is_not(family, tmp_path):
    sound, sabotaged, make_ready, sabotage, lr = FAMILIES[family]
    stop = GuardConfig(action="stop")
    rows = train(tmp_path / "sound", sound, make_ready, lr=lr, guard=stop)
    assert rows[-1]["step"] == STEPS and not any("collapsing" in row for row in rows)
    constant = family == "masked"  # a masked autoencoder collapses where every tile is the same
    with pytest.raises(UserError, match=r"the run is collapsing; .*; a checkpoint is kept") as caught:
        train(tmp_path / "sabotaged", sabotaged, sabotage, lr=lr, guard=stop, constant=constant)
    measure = {"masked": "feature_std", "predictive": "feature_std", "decorrelating": "projection_rank"}
    measure = measure.get(family, "projection_std")
    assert measure in str(caught.value) and REMEDIES[measure] in str(caught.value)
    kept = find_sound_checkpoint(tmp_path / "sabotaged" / "checkpoints")
    assert kept is not None and kept.name < f"step_{STEPS:09d}"  # long before its end


def test_a_stopped_run_stays_stopped_until_it_is_told_to_go_on(tmp_path, capsys):
    """Here at its last step, whose checkpoint is kept too: the encoder of a collapsed run is not made in silence."""
    stop, warn = GuardConfig(action="stop"), GuardConfig(action="warn")
    _, method, *_ = FAMILIES["masked"]
    for _ in range(2):
        with pytest.raises(UserError, match=r"feature_std 0 below 0.05, .* in 2 looks in a row by step 30"):
            train(tmp_path, method, lr=1e-3, guard=stop, constant=True, every=15)
        assert find_sound_checkpoint(tmp_path / "checkpoints").name.startswith("step_000000030.")
    assert "warning" not in capsys.readouterr().err
    rows = train(tmp_path, method, lr=1e-3, guard=warn, constant=True, every=15)
    assert [row.get("collapsing") for row in rows] == [None, 1.0]
    (tmp_path / "other").mkdir()
    train(tmp_path / "other", method, lr=1e-3, guard=warn, constant=True, every=15)
    assert "warning: expected features that differ from tile to tile, got rankme 1 below 1.5" in capsys.readouterr().err


def test_the_guard_waits_for_looks_in_a_row_and_forgets_what_has_passed():
    guard = CollapseGuard(GuardConfig(looks=2))
    bad, good = {"rankme": 1.1, "uniformity": -1.0}, {"rankme": 3.0, "uniformity": -1.0}
    assert [guard.judge(values, step=1) is None for values in (bad, good, bad, bad, good)] == [1, 1, 1, 0, 1]
    guard.judge(bad, step=1)
    other = CollapseGuard(GuardConfig(looks=2))
    other.load_state_dict(guard.state_dict())
    assert "rankme 1.1 below 1.5 in 2 looks in a row by step 7" in other.judge(bad, step=7)
    assert CollapseGuard(GuardConfig(looks=1, action="ignore")).judge(bad, step=1) is None
    each = CollapseGuard(GuardConfig(looks=1))
    for name, value in (("uniformity", -0.001), ("teacher_entropy", 0.01), ("teacher_certainty", 0.0)):
        assert f"{name} {value:.3g}" in each.judge({name: value}, step=1) and REMEDIES[name] in each.sentence
    # Nearest neighbours of 0.9, where the commonest class has 0.5, may fall to 0.7; below 0.6 they never said much.
    for fallen, said in ((0.71, False), (0.69, True)):
        guard = CollapseGuard(GuardConfig(looks=1))
        assert guard.judge({"knn_accuracy": 0.9}, step=1, chance=0.5) is None
        assert bool(guard.judge({"knn_accuracy": fallen}, step=2, chance=0.5)) == said
    weak = CollapseGuard(GuardConfig(looks=1))
    assert [weak.judge({"knn_accuracy": value}, step=1, chance=0.5) for value in (0.59, 0.4)] == [None, None]
    with pytest.raises(UserError, match="looks of at least 1, got 0"):
        GuardConfig(looks=0)


def test_uniformity_and_the_count_of_different_channels_have_their_closed_forms(rng):
    square = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)  # four pairs at 2 squared, two at 4
    assert measure_uniformity(3 * square) == pytest.approx(math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6))
    assert measure_uniformity(np.ones((5, 3), np.float32)) == pytest.approx(0, abs=1e-9)
    columns, _ = np.linalg.qr(rng.normal(size=(400, 4)) - 0)
    columns = np.linalg.qr(columns - columns.mean(axis=0))[0].astype(np.float32)
    assert count_different_channels(columns * [1, 5, 0.1, 2] + 3) == pytest.approx(4, rel=1e-4)
    copies = columns[:, [0, 0, 0, 1]] * [1, -2, 3, 1]  # a spectrum of 3/4 and 1/4
    wanted = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert count_different_channels(copies) == pytest.approx(wanted, rel=1e-4)
    assert count_different_channels(np.concatenate([copies, np.ones((400, 3))], axis=1)) == pytest.approx(wanted)
    assert count_different_channels(np.ones((6, 3), np.float32)) == 0


def test_the_noise_of_few_labelled_tiles_is_no_collapse() -> None:
    """Looks at 20 tiles by an encoder that stays as good as it is, and one of 100 tiles that falls to chance."""
    rng = np.random.default_rng(0)
    warned = 0
    for _ in range(100):
        guard = CollapseGuard(GuardConfig())
        looks = rng.binomial(20, 0.7, size=20) / 20
        warned += any(
            guard.judge({"knn_accuracy": float(value)}, step=step, chance=0.5, tiles=20)
            for step, value in enumerate(looks)
        )
    assert warned <= 5
    fallen = CollapseGuard(GuardConfig(looks=1))
    assert fallen.judge({"knn_accuracy": 0.9}, step=1, chance=0.5, tiles=100) is None
    assert "knn_accuracy 0.5 below 0.7" in str(fallen.judge({"knn_accuracy": 0.5}, step=2, chance=0.5, tiles=100))

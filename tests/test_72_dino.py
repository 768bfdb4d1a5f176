"""DINO: pairs of crops in a loop, its head beside lightly's, its schedules, and what collapse looks like."""

from __future__ import annotations

import pytest
import torch
from lightly.models.modules import DINOProjectionHead

from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, View, Vit
from eo_ssl.objectives import Batch, Dino, Step
from eo_ssl.objectives.dino import DinoObjective
from eo_ssl.objectives.prototypes import measure_entropy
from eo_ssl.pretraining.monitors import measure_feature_std
from tiles import BANDS, holes, poison, training_tiles

SMALL = {"prototypes": 24, "hidden_dim": 32, "bottleneck_dim": 16, "frozen_prototypes": 0.0}


def build(seed: int = 0, **options: object) -> DinoObjective:
    encoder = Vit(patch_size=8, depth=2).build(BANDS[:4], 32, seed)
    return Dino(**{**SMALL, **options}).build({"tile": encoder}, seed + 1)


def make_crops(n: int = 4, *, step: Step | None = None, valid: torch.Tensor | None = None) -> Batch:
    """Two global views of 32 px and two local ones of 16 px of the same tiles."""
    image, _ = training_tiles(n=n)
    known = torch.ones_like(image, dtype=torch.bool) if valid is None else valid
    whole = [View(x, known, BANDS[:4]) for x in (image, image.flip(3) + 0.1)]
    parts = [View(image[..., i : i + 16, :16], known[..., i : i + 16, :16], BANDS[:4]) for i in range(2)]
    return Batch({"global": whole, "local": parts}, torch.arange(n), step or Step(3, 10, 0))


def score(objective: DinoObjective, view: View, *, teacher: bool) -> torch.Tensor:
    """Scores of the prototypes for one view by itself, the class token of timm left aside: [n, K]."""
    network = (objective.teacher.network if teacher else objective.encoders)["tile"]
    return (objective.teacher_head.network if teacher else objective.head)(network(view).pooled)


def test_each_global_crop_of_the_teacher_is_compared_with_each_other_crop_of_the_student() -> None:
    objective, batch = build(), make_crops()
    with torch.no_grad():
        objective.agree.center.normal_(generator=torch.Generator().manual_seed(2))
        for parameter in objective.teacher.network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    crops = batch.all_views()
    center, total, pairs = objective.agree.center[0].clone(), 0.0, 0
    for i, wanted in enumerate(crops[:2]):
        target = ((score(objective, wanted, teacher=True) - center) / 0.04).softmax(1)
        for j, crop in enumerate(crops):
            if i != j:
                answer = (score(objective, crop, teacher=False) / 0.1).log_softmax(1)
                total, pairs = total - (target * answer).sum(1).mean(), pairs + 1
    assert pairs == 6
    results = objective(batch)
    torch.testing.assert_close(results["loss"], total / 6, rtol=1e-4, atol=1e-5)
    means = torch.cat([score(objective, crop, teacher=True) for crop in crops[:2]]).mean(0)
    torch.testing.assert_close(objective.agree.center[0, 0], 0.9 * center[0] + 0.1 * means, rtol=1e-4, atol=1e-5)
    results["loss"].backward()
    assert all(p.grad is None for p in (*objective.teacher.parameters(), *objective.teacher_head.parameters()))
    assert objective.embedders["tile"] is objective.teacher.network["tile"]


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_the_head_is_lightlys_with_normalised_prototypes() -> None:
    head = Dino(**SMALL).make_head(8)
    oracle = DINOProjectionHead(8, 32, 16, 24)
    oracle.layers.load_state_dict(head.layers.layers.state_dict())
    oracle.last_layer.weight_v.data.copy_(head.prototypes.weight)
    x = torch.randn(5, 8)
    torch.testing.assert_close(head(x), oracle(x))


def test_prototypes_wait_and_the_teachers_temperature_warms_up() -> None:
    objective = build(frozen_prototypes=0.4, teacher_temperature=(0.04, 0.08), teacher_warmup=0.5)
    for number, moves in ((3, False), (4, True)):
        objective.zero_grad()
        objective(make_crops(step=Step(number, 10, 0)))["loss"].backward()
        assert bool(objective.head.prototypes.weight.grad.abs().sum()) is moves
        assert objective.head.layers.layers[0].weight.grad.abs().sum() > 0
    cold, hot = build(teacher_temperature=(0.05, 0.05)), build(teacher_temperature=(0.04, 0.06), teacher_warmup=1.0)
    at_half = make_crops(step=Step(5, 10, 0))
    torch.testing.assert_close(cold(at_half)["loss"], hot(at_half)["loss"])
    late = build(teacher_temperature=(0.04, 0.06), teacher_warmup=1.0)
    assert not torch.equal(late(make_crops(step=Step(9, 10, 0)))["loss"], cold(at_half)["loss"])


def test_what_collapse_looks_like() -> None:
    uniform, certain = torch.full((3, 8), 1 / 8), torch.eye(8)[:3]
    torch.testing.assert_close(measure_entropy(uniform), torch.ones(3))
    assert measure_entropy(certain).tolist() == [0, 0, 0]
    objective, batch = build(), make_crops()
    healthy = {name: float(value.detach()) for name, value in objective(batch).items()}
    with torch.no_grad():
        objective.agree.center[0, 0, 0] -= 50  # the teacher's first class wins everywhere
    one = objective(batch)
    assert float(one["teacher_entropy"]) < 0.01 < healthy["teacher_entropy"]
    assert float(one["teacher_certainty"]) > 0.99
    with torch.no_grad():
        objective.agree.center.zero_()
        objective.teacher_head.network.layers.layers[-1].weight.zero_()  # every item is of every class
    none = objective(batch)
    assert float(none["teacher_certainty"]) < 1e-4 and float(none["teacher_entropy"]) > 0.999


def test_teacher_and_head_follow_along_a_cosine() -> None:
    objective = build(momentum=0.8)
    before = objective.teacher_head.network.prototypes.weight.clone()
    with torch.no_grad():
        objective.head.prototypes.weight.add_(1.0)
    objective.after_step(Step(5, 10, 0))
    torch.testing.assert_close(objective.teacher_head.network.prototypes.weight, before + 0.1)


def test_nodata_never_enters() -> None:
    image, _ = training_tiles(n=4)
    valid = holes(image.shape, patch=8)
    clean = make_crops(valid=valid)
    losses = [build()(batch)["loss"] for batch in (clean, poison(clean), make_crops())]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_sixty_steps_on_32_tiles_learn_without_collapse() -> None:
    objective = build(momentum=0.9, prototypes=64)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for number in range(60):
        results = objective(make_crops(32, step=Step(number, 60, number)))
        optimizer.zero_grad()
        results["loss"].backward()
        optimizer.step()
        objective.after_step(Step(number + 1, 60, number))
        losses.append(float(results["loss"].detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert float(results["teacher_entropy"]) > 0.3
    with torch.no_grad():
        features = objective.eval().embed(View(*training_tiles(32), BANDS[:4]))
    assert measure_feature_std(features.numpy()) > 0.2


def test_refusals() -> None:
    batch = make_crops()
    with pytest.raises(UserError, match="two global views of each item for Dino, got 1"):
        build()(Batch({"global": batch.views["global"][:1]}, batch.rows, batch.step))
    for options, words in (
        ({"prototypes": 0}, "prototypes of at least 1, got 0"),
        ({"student_temperature": 0.0}, "student_temperature must be above 0"),
        ({"teacher_temperature": (0.04, 0.0)}, "teacher_temperature must be above 0"),
        ({"momentum": 2}, "momentum must lie between 0 and 1"),
        ({"teacher_warmup": 1.5}, "teacher_warmup between 0 and 1, got 1.5"),
    ):
        with pytest.raises(UserError, match=words):
            Dino(**options)
    pair = {"a": ResNet("resnet18").build(("VV",), 32, 0), "b": ResNet("resnet50").build(("VV",), 32, 0)}
    with pytest.raises(UserError, match="encoders of one width"):
        Dino().build(pair, 0)

"""Methods that compare two views: each loss against a loop or closed form, teachers and queues step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lightly.loss import NTXentLoss

from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, Vit
from eo_ssl.objectives import BarlowTwins, Byol, Dcl, Method, MixedBarlowTwins, MocoV2, MocoV3, Objective, Step, VicReg
from eo_ssl.objectives.mixed_barlow_twins import compute_mixing_loss
from eo_ssl.objectives.moco_v3 import compute_key_loss
from tiles import BANDS, holes, make_batch, train_briefly, training_tiles

SMALL = {"hidden_dim": 32, "output_dim": 16}
METHODS: dict[str, Method] = {
    "Dcl": Dcl(**SMALL),
    "BarlowTwins": BarlowTwins(**SMALL),
    "MixedBarlowTwins": MixedBarlowTwins(**SMALL),
    "VicReg": VicReg(**SMALL),
    "Byol": Byol(**SMALL),
    "MocoV2": MocoV2(**SMALL, queue=64, momentum=0.9),
    "MocoV3": MocoV3(**SMALL),
}
every_method = pytest.mark.parametrize("name", list(METHODS))


def build(method: Method, *, seed: int = 0) -> Objective:
    return method.build({"tile": Vit(patch_size=8, depth=2).build(BANDS[:4], 32, seed)}, seed + 1)


def features(objective: Objective, *images: torch.Tensor, teacher: bool = False) -> list[torch.Tensor]:
    """Mean patch tokens of images, by timm's own calls."""
    encoders = objective.teacher.network if teacher else objective.encoders
    return [encoders["tile"].network.forward_features(image)[:, 1:].mean(1) for image in images]


def two_images(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    image, _ = training_tiles(n=n)
    return image, image.flip(3) + 0.1


def unit(x: torch.Tensor) -> np.ndarray:
    numbers = x.detach().double().numpy()
    return numbers / np.linalg.norm(numbers, axis=1, keepdims=True)


# Losses


def test_dcl_leaves_the_pair_itself_out_of_the_denominator(rng) -> None:
    n, temperature = 5, 0.3
    z = rng.normal(size=(2 * n, 6))
    lengths = z / np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(2 * n):
        pair = (i + n) % (2 * n)
        others = [math.exp(lengths[i] @ lengths[k] / temperature) for k in range(2 * n) if k not in (i, pair)]
        total += math.log(sum(others)) - lengths[i] @ lengths[pair] / temperature
    objective = build(Dcl(temperature=temperature))
    assert float(objective.compare(*torch.from_numpy(z).chunk(2))) == pytest.approx(total / (2 * n), rel=1e-9)
    image, other = two_images()
    projected = objective.projector(torch.cat(features(objective, image, other)))
    loss = objective(make_batch(image, other))["loss"]
    torch.testing.assert_close(loss, objective.compare(*projected.chunk(2)))


def test_barlow_twins_brings_the_cross_correlation_to_the_identity() -> None:
    objective = build(BarlowTwins(**SMALL, redundancy=0.02))
    image, other = two_images(16)
    z = [objective.projector(x).detach().double().numpy() for x in features(objective, image, other)]
    correlation = np.corrcoef(*(value.T for value in z))[:16, 16:]  # [d, d], of numpy, which standardises by itself
    wanted = sum((1 - correlation[i, i]) ** 2 for i in range(16))
    wanted += 0.02 * sum(correlation[i, j] ** 2 for i in range(16) for j in range(16) if i != j)
    assert float(objective(make_batch(image, other))["loss"].detach()) == pytest.approx(wanted, rel=1e-3)
    twins = torch.linalg.qr(torch.randn(64, 16, dtype=torch.float64))[0]
    twins = torch.linalg.qr(twins - twins.mean(0))[0]  # uncorrelated, so that equal views cost nothing
    assert float(objective.correlate(twins, twins)) == pytest.approx(0, abs=1e-4)


def test_vicreg_adds_up_its_three_terms() -> None:
    method = VicReg(**SMALL, invariance=3, variance=5, covariance=7)
    objective = build(method)
    image, other = two_images(12)
    a, b = (objective.projector(x).detach().double().numpy() for x in features(objective, image, other))
    spread = [np.mean([max(0, 1 - math.sqrt(np.var(z[:, j], ddof=1) + 1e-4)) for j in range(16)]) for z in (a, b)]
    covariance = [np.cov(z.T) for z in (a, b)]
    apart = [sum(c[i, j] ** 2 for i in range(16) for j in range(16) if i != j) / 16 for c in covariance]
    wanted = 3 * np.mean((a - b) ** 2) + 5 * (spread[0] + spread[1]) / 2 + 7 * sum(apart)
    assert float(objective(make_batch(image, other))["loss"].detach()) == pytest.approx(wanted, rel=1e-4)
    collapsed = torch.ones(8, 16)
    assert float(objective.regularise(collapsed, collapsed)) == pytest.approx(5 * (1 - 0.01), rel=1e-6)


def test_features_that_mix_as_pixels_do_cost_nothing(rng) -> None:
    first, second = (torch.from_numpy(rng.normal(size=(7, 5))) for _ in range(2))
    order, share = torch.tensor([3, 1, 0, 6, 2, 5, 4]), torch.full((7,), 0.3, dtype=torch.float64)
    linear = torch.from_numpy(rng.normal(size=(5, 4)))
    mixed = (0.3 * first + 0.7 * second[order]) @ linear
    none = compute_mixing_loss(mixed, first @ linear, second @ linear, share=share, order=order)
    assert float(none) == pytest.approx(0, abs=1e-20)
    z_mixed, a, b = (torch.from_numpy(rng.normal(size=(7, 4))) for _ in range(3))
    wanted = 0.0
    for view in (a, b):  # the authors' form: a correlation for each part of the mixture
        wanted_correlation = 0.3 * a.T @ view / 7 + 0.7 * b[order].T @ view / 7
        wanted += float(((z_mixed.T @ view / 7 - wanted_correlation) ** 2).sum())
    assert float(compute_mixing_loss(z_mixed, a, b, share=share, order=order)) == pytest.approx(wanted, rel=1e-12)


def test_mixtures_are_made_of_one_view_and_another_item_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = build(MixedBarlowTwins(**SMALL, mixture=2.0))
    image, other = two_images()
    valid = torch.ones_like(image, dtype=torch.bool)
    valid[2, :, :8] = False
    seen: list[torch.Tensor] = []
    encode = objective.encode
    monkeypatch.setattr(objective, "encode", lambda views: seen.extend(views) or encode(views))
    results = objective(make_batch(image, other, valid=valid))
    assert float(results["loss"].detach()) == pytest.approx(float(results["twins"] + results["mixtures"]), rel=1e-6)
    first, second, mixed = seen
    known = image[0, 0, 16:, 16:], other[:, 0, 16:, 16:], mixed.image[0, 0, 16:, 16:]  # valid in every item
    shares = (known[2] - known[1]) / (known[0] - known[1])  # of the first view, were it mixed with item i
    partner = int(shares.std(dim=(1, 2)).argmin())
    share = float(shares[partner].mean())
    assert 0 < share < 1
    torch.testing.assert_close(known[2], share * known[0] + (1 - share) * known[1][partner], rtol=1e-4, atol=1e-4)
    assert torch.equal(mixed.valid[0], first.valid[0] & second.valid[partner])
    with pytest.raises(UserError, match="items of one stream for MixedBarlowTwins"):
        narrow = {name: ResNet("resnet18").build(("VV",), 32, 0) for name in ("a", "b")}
        MixedBarlowTwins().build(narrow, 0)


def test_byol_sums_the_distances_of_predictions_and_the_teachers_projections() -> None:
    objective = build(METHODS["Byol"])
    with torch.no_grad():  # a teacher of its own, or nothing tells it from the student
        for parameter in objective.teacher.network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    image, other = two_images()
    predictions = [objective.predictor(objective.projector(x)) for x in features(objective, image, other)]
    targets = [objective.teacher_projector.network(x) for x in features(objective, image, other, teacher=True)]
    pairs = zip(map(unit, predictions), map(unit, reversed(targets)), strict=True)
    wanted = sum(np.mean(((p - t) ** 2).sum(axis=1)) for p, t in pairs)
    loss = objective(make_batch(image, other))["loss"]
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert objective.embedders["tile"] is objective.encoder


def test_a_key_is_found_among_those_of_the_batch(rng) -> None:
    queries, keys = (torch.from_numpy(rng.normal(size=(4, 6))) for _ in range(2))
    q, k = unit(queries), unit(keys)
    wanted = 0.0
    for i in range(4):
        scores = [math.exp(q[i] @ k[j] / 0.3) for j in range(4)]
        wanted -= math.log(scores[i] / sum(scores)) / 4
    assert float(compute_key_loss(queries, keys, temperature=0.3)) == pytest.approx(wanted, rel=1e-9)


def test_moco_v3_asks_both_ways_and_leaves_the_patch_projection_alone() -> None:
    objective = build(METHODS["MocoV3"])
    image, other = two_images()
    queries = [objective.predictor(objective.projector(x)) for x in features(objective, image, other)]
    keys = [objective.teacher_projector.network(x) for x in features(objective, image, other, teacher=True)]
    both = [compute_key_loss(q, k, temperature=0.2) for q, k in zip(queries, reversed(keys), strict=True)]
    loss = objective(make_batch(image, other))["loss"]
    torch.testing.assert_close(loss, 0.4 * (both[0] + both[1]))
    frozen = {name for name, p in objective.encoder.named_parameters() if not p.requires_grad} - {"network.pos_embed"}
    assert frozen == {"network.patch_embed.proj.weight", "network.patch_embed.proj.bias"}
    free = build(MocoV3(**SMALL, frozen_patches=False))
    assert free.encoder.network.patch_embed.proj.weight.requires_grad


# Queue and teacher


def test_moco_v2_tells_its_key_from_those_of_the_queue_as_lightly_does() -> None:
    objective = build(METHODS["MocoV2"])
    image, other = two_images()
    query = objective.projector(features(objective, image)[0])
    key = objective.teacher_projector.network(features(objective, other, teacher=True)[0])
    oracle = NTXentLoss(temperature=0.2, memory_bank_size=(64, 16))
    oracle.memory_bank.bank = objective.queue.clone()
    oracle.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    results = objective(make_batch(image, other))
    torch.testing.assert_close(results["loss"], oracle(query, key.detach()))
    assert int(results["queue"]) == 64


def test_keys_of_a_step_take_the_places_of_the_oldest() -> None:
    objective = build(METHODS["MocoV2"])
    objective.prepare(items=40)
    assert objective.queue.shape == (10, 16)  # a quarter of the items
    image, other = two_images()
    key = objective.teacher_projector.network(features(objective, other, teacher=True)[0])
    key = torch.nn.functional.normalize(key, dim=1)
    before = objective.queue.clone()
    objective(make_batch(image, other))
    assert torch.equal(objective.queue, before)  # what a step sees is that of the steps before it
    objective.after_step(Step(1, 10, 0))
    torch.testing.assert_close(objective.queue, torch.cat([key, before[6:]]))
    objective(make_batch(image, other))  # two parts of a step that accumulates, 12 keys for 10 places
    objective(make_batch(image, other))
    objective.after_step(Step(2, 10, 0))
    assert int(objective.oldest) == 6 and torch.isfinite(objective.queue).all()
    torch.testing.assert_close(objective.queue.norm(dim=1), torch.ones(10))
    state = objective.state_dict()
    assert state["queue"].shape == (10, 16) and int(state["oldest"]) == 6
    objective.eval()(make_batch(image, other))
    assert objective._fresh == []
    objective.prepare(items=10_000)
    assert len(objective.queue) == 64  # no longer than asked for


@pytest.mark.parametrize("name", ["Byol", "MocoV2", "MocoV3"])
def test_a_teacher_follows_its_student_and_its_heads(name: str) -> None:
    objective = build(METHODS[name])
    start = objective.teacher.network["tile"].network.blocks[0].attn.qkv.weight.clone()
    head = objective.teacher_projector.network.layers[0].weight.clone()
    with torch.no_grad():
        for parameter in (*objective.encoders.parameters(), *objective.projector.parameters()):
            parameter.add_(1.0)
    image, other = two_images()
    objective(make_batch(image, other))
    half = {"Byol": 0.99, "MocoV3": 0.99}.get(name)
    momentum = 0.9 if half is None else 1 - (1 - half) / 2  # a cosine to 1 has gone half of its way
    objective.after_step(Step(5, 10, 0))
    moved = objective.teacher.network["tile"].network.blocks[0].attn.qkv.weight
    torch.testing.assert_close(moved, start + (1 - momentum), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        objective.teacher_projector.network.layers[0].weight, head + (1 - momentum), rtol=1e-4, atol=1e-5
    )


def test_only_batch_normalisation_of_a_teacher_sees_its_batch_and_only_while_it_trains() -> None:
    network = {"tile": ResNet("resnet18").build(BANDS[:4], 32, 0)}
    for method, seen in ((Byol(**SMALL), True), (MocoV2(**SMALL), False)):
        objective = method.build(network, 1)
        norm = objective.teacher.network["tile"].network.bn1
        for _ in range(2):
            objective.train()
            assert norm.training is seen and not objective.teacher.network["tile"].training
            objective.eval()
            assert not norm.training


# What holds for all


@every_method
def test_nodata_never_enters(name: str) -> None:
    objective = build(METHODS[name], seed=1)
    image, other = two_images(8)
    valid = holes(image.shape, patch=8)
    poisoned = torch.where(valid, image, torch.tensor(float("nan")))
    clean = objective(make_batch(image, other, valid=valid))["loss"].detach()
    assert torch.equal(objective(make_batch(poisoned, other, valid=valid))["loss"].detach(), clean)
    assert not torch.equal(objective(make_batch(image, other))["loss"].detach(), clean)


@every_method
def test_forty_steps_on_32_tiles_learn_without_collapse(name: str) -> None:
    objective = build(METHODS[name])
    objective.prepare(items=32)  # a queue of 8, or it would hold the keys of all tiles
    first, last, spread = train_briefly(objective, lr=1e-3, views=2, steps=40)
    assert last < 0.8 * first, (first, last)
    assert spread > 0.2, spread


@every_method
def test_refusals(name: str) -> None:
    image, other = two_images()
    with pytest.raises(UserError, match=f"expected two views of each item for {name}, got 1"):
        build(METHODS[name])(make_batch(image))
    with pytest.raises(UserError, match="at least two tiles per step to tell apart, got 1"):
        build(METHODS[name])(make_batch(image[:1], other[:1]))
    with pytest.raises(UserError, match="expected hidden_dim of at least 1, got 0"):
        type(METHODS[name])(hidden_dim=0)
    if name != "MixedBarlowTwins":
        pair = {"a": ResNet("resnet18").build(("VV",), 32, 0), "b": ResNet("resnet50").build(("VV",), 32, 0)}
        with pytest.raises(UserError, match=r"encoders of one width in front of one projector, got \[512, 2048\]"):
            METHODS[name].build(pair, 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Dcl(temperature=0), "temperature must be above 0, got 0"),
        (lambda: BarlowTwins(redundancy=-1), "redundancy of at least 0, got -1"),
        (lambda: MixedBarlowTwins(mixture=-1), "mixture of at least 0, got -1"),
        (lambda: VicReg(covariance=-1), "covariance of at least 0, got -1"),
        (lambda: Byol(momentum=1.1), "momentum must lie between 0 and 1, got 1.1"),
        (lambda: MocoV2(queue=0), "a queue of at least 1 key, got 0"),
        (lambda: MocoV3(temperature=-1), "temperature must be above 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()

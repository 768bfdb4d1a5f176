"""Distillation: what the teacher sees is physical, in its own contract; the loss in a loop; patches without a pixel."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_ssl.encoder import EncoderBase, TrainedEncoder, load_encoder
from eo_ssl.errors import UserError
from eo_ssl.models import Backbone, ResNet, View, Vit
from eo_ssl.objectives import Batch, Distill, Step
from eo_ssl.objectives.distill import DistillObjective, RunningScale, fit_positions
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity
from tiles import BANDS, holes, make_batch, train_briefly, training_tiles

TEACHER = "timm:test_vit@random?contract=imagenet&sensor=sentinel2_l2a&white=0.3&size=64"  # 4 x 4 patches of 16 px
SMALL = {"teacher": TEACHER, "hidden_dim": 32}


def contract(bands: tuple[str, ...] = BANDS[:4], *, mean: float = 0.15, std: float = 0.02) -> Preprocessing:
    """Of the student: another normalisation than the teacher's, other bands in another order."""
    own = load_encoder(TEACHER).preprocessing
    return dataclasses.replace(
        own,
        bands=bands,
        clip=None,
        mean=tuple(mean + 0.01 * i for i in range(len(bands))),
        std=(std,) * len(bands),
        size_px=32,
    )


def build(seed: int = 0, patch: int = 8, **options: object) -> DistillObjective:
    encoder = Vit(patch_size=patch, depth=1).build(BANDS[:4], 32, seed)
    objective = Distill(**{**SMALL, **options}).build({"tile": encoder}, seed + 1)
    objective.accept({"tile": contract()})
    return objective


def test_the_teacher_sees_physical_values_under_its_own_contract() -> None:
    image, valid = training_tiles(4)
    valid = holes(image.shape, patch=8)
    teacher, student = load_encoder(TEACHER), contract()
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (student.mean, student.std))
    physical = torch.where(valid, image * std + mean, torch.nan)
    assert teacher.preprocessing.bands == ("B04", "B03", "B02")
    said = {"bands": BANDS[:4], "quantity": "boa_reflectance", "sensor": "sentinel2_l2a"}
    pooled, patches = build().ask_teacher(View(image, valid, BANDS[:4]))
    torch.testing.assert_close(pooled, teacher(physical, **said), rtol=1e-4, atol=1e-5)
    x, known = teacher.preprocessing(physical, **said)
    torch.testing.assert_close(patches, teacher.tokens(x), rtol=1e-4, atol=1e-5)
    assert not known.all()
    # another normalisation of the same ground, and the bands in another order, change nothing
    objective, order = build(), [3, 1, 0, 2]
    bands = tuple(BANDS[i] for i in order)
    other = contract(bands, mean=0.3, std=0.05)
    objective.accept({"tile": other})
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (other.mean, other.std))
    again, _ = objective.ask_teacher(View((physical[:, order] - mean) / std, valid[:, order], bands))
    torch.testing.assert_close(again, pooled, rtol=1e-3, atol=1e-4)
    # what a wrong contract would do: the student's own numbers taken for the teacher's
    with torch.no_grad():
        wrong = teacher.features(torch.nn.functional.interpolate(image[:, [2, 1, 0]], size=64))
    assert float((wrong - pooled).abs().max()) > 0.1


def test_decibels_become_power_for_a_teacher_that_converts_itself() -> None:
    power = dataclasses.replace(
        contract(),
        sensor="sentinel1_grd",
        quantity=Quantity.GAMMA0,
        bands=("VV", "VH"),
        convert=("gamma0->gamma0_db",),
        range=Quantity.GAMMA0.plausible,
        mean=(-10.0, -17.0),
        std=(3.0, 3.0),
    )
    teacher = TrainedEncoder(Vit(patch_size=8, depth=1).build(("VV", "VH"), 32, 0), power)
    student = Vit(patch_size=8, depth=1).build(("VH", "VV"), 32, 1)
    objective = DistillObjective({"tile": student}, Distill(teacher="given", hidden_dim=16), teacher)
    own = dataclasses.replace(power, bands=("VH", "VV"), mean=(-16.0, -9.0), std=(2.0, 4.0))
    objective.accept({"tile": own})
    gamma0 = 10 ** (torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2 - 1.2)
    said = {"bands": ("VH", "VV"), "quantity": "gamma0", "sensor": "sentinel1_grd"}
    x, valid = own(gamma0, **said)
    pooled, _ = objective.ask_teacher(View(x, valid, ("VH", "VV")))
    torch.testing.assert_close(pooled, teacher(gamma0, **said), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="conversion between a power and its own dB form, got 'sigma0_db->gamma0'"):
        objective.accept({"tile": dataclasses.replace(own, quantity=Quantity.SIGMA0, convert=("sigma0->sigma0_db",))})


def test_the_loss_is_that_of_a_loop_over_images_and_patches() -> None:
    image, _ = training_tiles(4)
    valid = holes(image.shape, patch=8)
    valid[3, :3] = False  # an image of which the teacher sees nothing, while the student has B08
    objective = build(cosine=0.9, smooth_l1=0.1, pooled=0.3, patches=0.7)
    batch = make_batch(image, valid=valid)
    view, encoder = batch.views["tile"][0], objective.encoder
    answers = dict(zip(("pooled", "patches"), objective.ask_teacher(view), strict=True))
    tokens = encoder(view)
    known = valid[:, :3].any(1).reshape(4, 4, 8, 4, 8).any(4).any(2).reshape(4, 16).numpy()  # of the teacher's bands
    assert 0 < known.sum() < known.size and not known[3].any()
    total = 0.0
    for kind, features, weight, share in (
        ("pooled", tokens.pooled[:, None], known.any(1)[:, None], 0.3),
        ("patches", tokens.patches, known, 0.7),
    ):
        target = answers[kind].reshape(4, -1, 64).double().numpy()
        seen = target[weight]
        target = (target - seen.mean(0)) / (seen.std(0) + 1e-6)
        guess = objective.projectors[kind](features).detach().double().numpy()
        terms = []
        for i, j in zip(*np.nonzero(weight), strict=True):
            a, b = guess[i, j], target[i, j]
            far = np.abs(a - b)
            bent = np.where(far < 1, 0.5 * far**2, far - 0.5).mean()
            terms.append(0.9 * (1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)) + 0.1 * bent)
        total += share * np.mean(terms)
    results = objective(batch)
    assert float(results["loss"].detach()) == pytest.approx(total, rel=2e-5)
    assert set(results) == {"loss", "pooled_cosine", "patches_cosine"}
    results["loss"].backward()
    assert all(parameter.grad is not None for parameter in encoder.network.blocks.parameters())
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    assert not any("teacher" in name for name in objective.state_dict())  # its weights stay in its file
    empty = objective(make_batch(image, valid=torch.zeros_like(valid)))["loss"]
    assert float(empty.detach()) == 0


def test_statistics_average_over_batches_with_a_falling_share_and_rest_in_evaluation() -> None:
    scale, draw = RunningScale(3), torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 4, 3, generator=draw) * 2 + 1 for _ in range(2))
    weight = (torch.rand(5, 4, generator=draw) > 0.3).float()
    scale.update(first, weight, share=1.0)
    scale.update(second, weight, share=0.25)
    seen = [x[weight > 0].double().numpy() for x in (first, second)]
    expected = {"mean": 0.75 * seen[0].mean(0) + 0.25 * seen[1].mean(0), "std": 0.75 * seen[0].std(0)}
    expected["std"] = expected["std"] + 0.25 * seen[1].std(0)
    np.testing.assert_allclose(scale.running_mean.numpy(), expected["mean"], rtol=1e-5)
    np.testing.assert_allclose(scale.running_std.numpy(), expected["std"], rtol=1e-5)
    before = scale.running_mean.clone()
    scale.update(first, torch.zeros_like(weight), share=1.0)  # nothing was seen
    assert torch.equal(scale.running_mean, before)
    objective = build()
    image, _ = training_tiles(4)
    objective(make_batch(image, step=0, total=10))
    kept = objective.scales["pooled"].running_mean.clone()
    objective.eval()(make_batch(image + 1, step=5, total=10))
    assert torch.equal(objective.scales["pooled"].running_mean, kept)
    answers, _ = objective.ask_teacher(make_batch(image).views["tile"][0])
    torch.testing.assert_close(kept, answers.mean(0), rtol=1e-4, atol=1e-5)  # the first batch counts whole


def test_a_finer_grid_is_averaged_onto_the_students_and_an_equal_one_is_left_alone() -> None:
    ramp = torch.arange(8.0).repeat(8, 1)  # along the columns
    fine = torch.stack([ramp, ramp.T]).flatten(1).T[None]  # [1, 64, 2]
    coarse = fit_positions(fine, 4).reshape(4, 4, 2)
    assert coarse.shape == (4, 4, 2)
    torch.testing.assert_close(coarse[:, 1:3, 0], torch.tensor([2.5, 4.5]).repeat(4, 1))  # the middles stay in place
    torch.testing.assert_close(coarse[..., 0], coarse[..., 1].T)
    assert fit_positions(fine, 8) is fine
    corner = torch.zeros(1, 64, 1)
    corner[0, 0] = 1
    assert fit_positions(corner, 2)[0, 0] > 0  # a coarse position holds all fine ones, not the middle alone


def test_nodata_never_enters() -> None:
    image, _ = training_tiles(4)
    valid = holes(image.shape, patch=8)
    poison = torch.where(valid, image, torch.tensor(float("nan")))
    losses = [build()(make_batch(x, valid=valid))["loss"] for x in (image, poison)]
    assert torch.equal(*losses)
    assert not torch.equal(losses[0], build()(make_batch(image))["loss"])


def test_twenty_steps_on_16_tiles_learn_without_collapse() -> None:
    objective = build(seed=2)
    first, last, spread = train_briefly(objective, lr=2e-3, steps=20, tiles=16)
    assert last < 0.75 * first and spread > 0.2


def test_a_residual_network_learns_from_the_positions_of_its_last_map() -> None:
    encoder: Backbone = ResNet("test_resnet").build(BANDS[:4], 32, 0)
    objective = Distill(**SMALL).build({"tile": encoder}, 1)
    objective.accept({"tile": contract()})
    objective(make_batch(training_tiles(2)[0]))["loss"].backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_a_trained_encoder_teaches_and_the_answers_are_one_pass(tmp_path: Path) -> None:
    teacher = TrainedEncoder(Vit(patch_size=8, depth=1).build(("B03", "B08"), 32, 3), contract(("B03", "B08")))
    objective = DistillObjective({"tile": Vit(patch_size=8, depth=1).build(BANDS[:4], 32, 0)}, Distill(), teacher)
    objective.accept({"tile": contract()})
    (name,) = objective.inputs
    assert (name, objective.inputs[name]) == ("teacher encoder", teacher.fingerprint)
    for encoder in (teacher, load_encoder(TEACHER), load_encoder(f"{TEACHER}&pooling=mean")):
        assert isinstance(encoder, EncoderBase)
        side, channels = encoder.preprocessing.size_px, len(encoder.preprocessing.bands)
        x = torch.randn(2, channels, side, side)
        both = encoder.encode(x)
        assert torch.equal(both[0], encoder.features(x)) and torch.equal(both[1], encoder.tokens(x))


def test_refusals() -> None:
    encoders = {"tile": Vit(patch_size=8, depth=1).build(BANDS[:4], 32, 0)}
    for options, words in (
        ({"teacher": ""}, "expected a teacher for Distill, got none; name a folder"),
        ({"teacher": "imagestats"}, "expected a preprocessing contract for the weight-free encoder imagestats"),
        ({"teacher": "timm:test_vit@random?contract=training"}, "expected contract=imagenet .*, got 'training'"),
    ):
        with pytest.raises(UserError, match=words):
            Distill(**options).build(encoders, 0)
    with pytest.raises(UserError, match=r"items of one stream for Distill, got \['s1', 's2'\]"):
        Distill(**SMALL).build({"s1": encoders["tile"], "s2": encoders["tile"]}, 0)
    for options, words in (
        ({"pooled": 0.0, "patches": 0.0}, "weights of at least 0 of pooled and patches, one of them above 0"),
        ({"cosine": -1.0}, "of cosine and smooth_l1"),
        ({"momentum": (1.0, 0.0)}, "momentum above 0 and up to 1, got 0"),
        ({"hidden_dim": 0}, "hidden_dim of at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=words):
            Distill(**options)
    objective = build()
    for accepted, words in (
        (
            dataclasses.replace(contract(), sensor="sentinel2_l1c", quantity=Quantity.TOA_REFLECTANCE),
            "of sensor sentin",
        ),
        (contract(("B04", "B03", "B08")), "bands B04, B03, B02 that the teacher sees, got B04, B03, B08 without B02"),
    ):
        with pytest.raises(UserError, match=words):
            objective.accept({"tile": accepted})
    with pytest.raises(TypeError, match="accept"):
        Distill(**SMALL).build(encoders, 0)(
            Batch({"tile": make_batch(training_tiles(2)[0]).views["tile"]}, torch.arange(2), Step(0, 1, 0))
        )

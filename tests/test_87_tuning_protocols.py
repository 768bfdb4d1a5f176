"""Trained protocols find planted answers, leave the encoder and the test items alone, and come out equal for equal seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from eo_ssl.encoder import load_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.task_metrics import measure
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning import TUNED, Tuning, predict_tuned
from eo_ssl.evaluation.tuning.fitting import TrainingJob, fit, predict
from eo_ssl.evaluation.tuning.network import make_network
from eo_ssl.evaluation.tuning.task_loader import TaskLoader
from tuned_tasks import Planted, TinyCnn, classes, contract, images, labels_of_bands, masked, means, vit

QUICK = Tuning(steps=40, batch_size=16, rates=(2e-3,), decoder_width=16, lora_rank=4, lora_alpha=8.0)


def answered(task: Task, encoder: object, protocol: str, config: Tuning = QUICK, **options: object) -> np.ndarray:
    fold = task.folds[0]
    return predict_tuned(task, fold, encoder, fold.train, protocol=protocol, config=config, **options)  # type: ignore[arg-type]


def value(task: Task, answers: np.ndarray) -> float:
    return measure(task.metric, answers[None], task.labels[task.folds[0].test]).value


@pytest.mark.parametrize("protocol", ["finetune", "lora"])
def test_classes_told_by_one_band_are_learned(protocol: str) -> None:
    task = classes()
    found = answered(task, vit(), protocol, dataclasses.replace(QUICK, rates=(1e-2,)) if protocol == "lora" else QUICK)
    assert found.dtype == np.int64 and value(task, found) > 0.9


def test_a_residual_network_is_fine_tuned() -> None:
    task = classes()
    assert value(task, answered(task, TinyCnn(contract()), "finetune")) > 0.9


def test_labels_of_two_bands_are_learned() -> None:
    task = labels_of_bands()
    found = answered(task, vit(), "finetune")
    assert found.shape == (32, 2) and found.dtype == np.float32 and value(task, found) > 0.95


def test_values_are_learned_in_their_own_unit() -> None:
    task = means()
    found = answered(task, vit(), "finetune", dataclasses.replace(QUICK, steps=120))
    assert found.dtype == np.float32 and value(task, found) > 0.9
    # In thousandths of reflectance, not in standard deviations.
    assert abs(float(found.mean()) - float(task.labels.mean())) < 15


@pytest.mark.parametrize("protocol", ["seg-linear", "seg-upernet", "seg-dpt", "seg-finetune"])
@pytest.mark.parametrize("kind", ["vit", "cnn"])
def test_bright_cells_are_found(protocol: str, kind: str) -> None:
    # A residual network's last map has a position for 32 pixels.
    size, cell = (32, 8) if kind == "vit" else (64, 32)
    task = masked(size=size, cell=cell)
    encoder = vit() if kind == "vit" else TinyCnn(contract(size))
    found = answered(task, encoder, protocol, dataclasses.replace(QUICK, rates=(1e-2,)))
    assert found.shape == (16, 2, 2)
    assert (found.sum(axis=(1, 2)) == size * (size - 1)).all()  # the first row is not asked about
    assert value(task, found) > 0.7


@pytest.mark.parametrize("protocol", ["seg-linear", "seg-upernet", "seg-dpt"])
@pytest.mark.parametrize(("side", "input_px"), [(24, 24), (20, 40)])
def test_odd_grids_and_resized_inputs_are_scored_at_the_masks_own_size(protocol: str, side: int, input_px: int) -> None:
    # Three or five patches a side: a decoder that doubles maps must not stumble; the input is resized, the mask never.
    task = masked(12, size=side, cell=4, test=4)
    for encoder in (vit(input_px), TinyCnn(contract(input_px))):
        found = answered(task, encoder, protocol, dataclasses.replace(QUICK, steps=2))
        assert (found.sum(axis=(1, 2)) == side * (side - 1)).all()


def test_equal_seeds_give_equal_bits_and_nobodys_state_changes() -> None:
    encoder, task = vit(), classes(48, test=16)
    config = dataclasses.replace(QUICK, steps=6, drop_path=0.5)
    before = (encoder.fingerprint, encoder.training, [p.requires_grad for p in encoder.parameters()])
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    network = fit(TrainingJob(task, encoder, TUNED["finetune"], config), task.folds[0].train, rate=1e-3).network
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(12)
    again = fit(TrainingJob(task, encoder, TUNED["finetune"], config), task.folds[0].train, rate=1e-3).network
    other = fit(
        TrainingJob(task, encoder, TUNED["finetune"], dataclasses.replace(config, seed=1)),
        task.folds[0].train,
        rate=1e-3,
    ).network
    weights, repeated = network.state_dict(), again.state_dict()
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)
    assert not torch.equal(weights["head.1.weight"], other.state_dict()["head.1.weight"])
    assert before == (encoder.fingerprint, encoder.training, [p.requires_grad for p in encoder.parameters()])
    assert not torch.equal(weights["encoder.model.blocks.0.attn.qkv.weight"], encoder.model.blocks[0].attn.qkv.weight)
    assert torch.equal(weights["encoder.model.pos_embed"], encoder.model.pos_embed)  # fixed codes stay fixed


@pytest.mark.parametrize("make", [vit, lambda: TinyCnn(contract())])
def test_a_frozen_encoder_keeps_every_bit_under_a_decoder(make: object) -> None:
    task, encoder = masked(12, test=4), make()  # type: ignore[operator]
    network = fit(
        TrainingJob(task, encoder, TUNED["seg-upernet"], dataclasses.replace(QUICK, steps=4)),
        task.folds[0].train,
        rate=1e-2,
    ).network
    kept, frozen = network.encoder.state_dict(), encoder.state_dict()
    assert all(torch.equal(kept[name], frozen[name]) for name in frozen)  # batch statistics too


def test_lora_begins_with_features_standardised_as_a_linear_probes_are() -> None:
    # What images share is large beside what tells them apart: a norm over each vector alone would hide the difference.
    task, encoder = classes(24, test=8), vit()
    (batch,) = TaskLoader(task, (encoder.preprocessing,), "cpu").batches([np.arange(16)])
    network = make_network(encoder, batch, protocol=TUNED["lora"], config=QUICK, outputs=3).train()
    features = encoder.features(batch.image).detach().numpy()
    seen = network.head[0](network.seen(batch.image, batch.valid)).detach().numpy()  # type: ignore[index]
    np.testing.assert_allclose(seen, (features - features.mean(axis=0)) / features.std(axis=0), atol=2e-3)


def test_lora_trains_factors_and_head_alone() -> None:
    task, encoder = classes(24, test=8), vit()
    network = fit(
        TrainingJob(task, encoder, TUNED["lora"], dataclasses.replace(QUICK, steps=4)), task.folds[0].train, rate=1e-2
    ).network
    before, after = encoder.state_dict(), network.encoder.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.blocks.{number}.attn.qkv.weight" for number in range(2)}
    middle = slice(64, 128)  # keys
    assert torch.equal(*(one["model.blocks.1.attn.qkv.weight"][middle] for one in (before, after)))


def test_test_items_decide_nothing() -> None:
    task = classes(48, test=16, validation=8)
    fold, config = task.folds[0], dataclasses.replace(QUICK, steps=5, rates=(1e-4, 1e-2))
    poisoned = task.labels.copy()
    poisoned[fold.test] = (poisoned[fold.test] + 1) % 3
    found = answered(task, vit(), "finetune", config)
    assert (answered(dataclasses.replace(task, labels=poisoned), vit(), "finetune", config) == found).all()
    # Few samples do not borrow a large validation split.
    poisoned[fold.validation] = (poisoned[fold.validation] + 1) % 3
    other = dataclasses.replace(task, labels=poisoned)
    few = [predict_tuned(one, fold, vit(), fold.train[:12], protocol="lora", config=config) for one in (task, other)]
    assert (few[0] == few[1]).all()


def test_validation_chooses_the_rate_that_learns() -> None:
    # The one rate teaches nothing, the other does; with and without a declared split.
    for validation in (0, 16):
        task = classes(112, validation=validation)
        config = dataclasses.replace(QUICK, rates=(1e-7, 2e-3))
        assert value(task, answered(task, vit(), "finetune", config)) > 0.9


def test_the_best_state_on_the_validation_split_is_kept() -> None:
    task = classes(112, validation=16)
    job = TrainingJob(task, vit(), TUNED["finetune"], QUICK)
    fold = task.folds[0]
    fitted = fit(job, fold.train, rate=2e-3, chosen_by=fold.validation)
    last = fit(job, fold.train, rate=2e-3)
    found = [
        task.labels[fold.validation] == predict(job, one.network, one.criterion, fold.validation)
        for one in (fitted, last)
    ]
    assert fitted.score == pytest.approx(found[0].mean())
    assert found[0].mean() >= found[1].mean() and np.isnan(last.score)


def test_missing_pixels_and_another_band_order_are_the_contracts_business() -> None:
    task = classes(48, test=16)
    x = task.sources[0].x.copy()  # type: ignore[attr-defined]
    x[:, :, :6] = np.nan
    config = dataclasses.replace(QUICK, steps=4)
    holed = dataclasses.replace(task, sources=(Planted(x),))
    turned = dataclasses.replace(task, sources=(Planted(x[:, ::-1].copy(), bands=("B04", "B03", "B02")),))
    assert (answered(holed, vit(), "finetune", config) == answered(turned, vit(), "finetune", config)).all()


def test_progress_counts_images_and_mixed_precision_is_asked_for() -> None:
    task, counted = classes(24, test=8), []
    config = dataclasses.replace(QUICK, steps=3, batch_size=8)
    plain = answered(task, vit(), "finetune", config, progress=counted.append)
    assert sum(counted) == 3 * 8 + 8
    mixed = answered(task, vit(), "finetune", dataclasses.replace(config, precision="bfloat16"))
    assert plain.shape == mixed.shape
    jobs = [
        TrainingJob(task, vit(), TUNED["finetune"], dataclasses.replace(config, precision=one))
        for one in ("float32", "bfloat16")
    ]
    first, second = (fit(job, task.folds[0].train, rate=1e-3).network.state_dict()["head.1.weight"] for job in jobs)
    assert not torch.equal(first, second) and torch.allclose(first, second, atol=0.02)


def test_one_image_is_enough_to_train_a_decoder() -> None:
    # Batch statistics of one pooled position do not exist.
    task = masked(5, test=4)
    assert answered(task, vit(), "seg-upernet", dataclasses.replace(QUICK, steps=2)).shape == (4, 2, 2)


def test_wrong_uses_are_refused_with_the_remedy() -> None:
    task, masks = classes(24, test=8), masked(12, test=4)
    for name in ("imagestats", "rcf"):
        with pytest.raises(
            UserError, match=f"expected an encoder with a network to train, got {name}.*judge it with knn5"
        ):
            answered(task, load_encoder(name, preprocessing=contract()), "finetune")
    with pytest.raises(
        UserError, match=r"expected a protocol for a segmentation task, got finetune.*choose out of seg-linear"
    ):
        answered(masks, vit(), "finetune")
    with pytest.raises(UserError, match="did you mean 'finetune'"):
        answered(task, vit(), "fine-tune")
    with pytest.raises(UserError, match="expected a transformer with fused query"):
        answered(task, TinyCnn(contract()), "lora")
    with pytest.raises(UserError, match=r"keeps whole images for the masks .* got a crop of 16 px out of 32 x 32"):
        answered(masks, TinyCnn(contract(16, resize="crop")), "seg-linear")
    with pytest.raises(UserError, match="expected images of one sensor"):
        answered(dataclasses.replace(task, partners=(Planted(images(24)),)), vit(), "finetune")
    with pytest.raises(UserError, match=r"expected a finite loss of tiny_vit .* give lower rates"):
        answered(task, vit(), "finetune", dataclasses.replace(QUICK, rates=(1e30,)))
    with pytest.raises(UserError, match="expected samples to train on"):
        predict_tuned(task, task.folds[0], vit(), np.empty(0, dtype=np.int64), protocol="lora", config=QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augment": "colour"}, "expected augment out of none, flips, dihedral"),
        ({"epochs": 0}, "expected epochs of at least 1"),
        ({"steps": 0}, "expected at least one step"),
        ({"rates": (0.0,)}, "expected positive learning rates"),
        ({"layer_decay": 0.0}, "expected layer_decay between 0 and 1, got 0.0"),
        ({"drop_path": 1.0}, "expected drop_path between 0 and 1"),
        ({"weight_decay": -1.0}, "expected weight_decay >= 0"),
    ],
)
def test_impossible_choices_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tuning(**change)  # type: ignore[arg-type]


def test_words_say_everything_that_decides_a_number() -> None:
    # Two recipes that differ must not be described alike, or rows of different numbers would look equal.
    changes = {
        "epochs": 7,
        "steps": 9,
        "batch_size": 5,
        "rates": (0.5,),
        "weight_decay": 0.01,
        "warmup": 0.2,
        "augment": "none",
        "selection": "last",
        "precision": "bfloat16",
        "seed": 3,
    }
    own = {
        "finetune": {"layer_decay": 0.7, "drop_path": 0.0},
        "lora": {"lora_rank": 2, "lora_alpha": 3.0},
        "seg-linear": {"class_weights": "balanced"},
        "seg-upernet": {"decoder_width": 8},
        "seg-dpt": {"decoder_width": 8},
        "seg-finetune": {"finetuned_decoder": "dpt", "layer_decay": 0.7},
    }

    def describe(protocol: str, tuning: Tuning) -> str:
        return TUNED[protocol].describe(kind="classification", amount=Amount(), has_validation=False, tuning=tuning)

    for protocol in TUNED:
        plain = describe(protocol, Tuning())
        for field, changed in {**changes, **own[protocol]}.items():
            assert describe(protocol, dataclasses.replace(Tuning(), **{field: changed})) != plain, (protocol, field)

"""Parts of trained protocols: rates of layers by hand, LoRA by its formula, symmetries, losses and counts by other libraries."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from sklearn.metrics import confusion_matrix
from sklearn.utils.class_weight import compute_class_weight
from timm.optim import param_groups_layer_decay
from torch.nn import functional
from torchmetrics.classification import MulticlassJaccardIndex

from eo_ssl.encoder import ExternalEncoder, Readout
from eo_ssl.errors import UserError
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.task_metrics import measure
from eo_ssl.evaluation.tuning import TUNED, Tuning
from eo_ssl.evaluation.tuning.decoders import make_decoder
from eo_ssl.evaluation.tuning.feature_maps import check_maps, compute_four_maps, compute_last_map, prepare_network_input
from eo_ssl.evaluation.tuning.losses import TuningLoss, count_confusion, make_loss
from eo_ssl.evaluation.tuning.network import make_network
from eo_ssl.evaluation.tuning.optimisation import LayerwiseAdamW, add_stochastic_depth, group_layers, scale_rate
from eo_ssl.evaluation.tuning.prediction import reserve_validation
from eo_ssl.evaluation.tuning.task_loader import TaskBatch, TaskLoader, augment_batch, shuffle_batches
from eo_ssl.models import insert_lora, merge_lora, seed_weights
from tuned_tasks import BANDS, EMPTY, Planted, TinyCnn, classes, contract, images, masked, task_of, vit


def scales(model: torch.nn.Module, **options: float) -> dict[str, tuple[float, float]]:
    """(share of the rate, weight decay) of each trained parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = group_layers(model, **options)  # type: ignore[arg-type]
    return {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_rates_of_a_transformers_layers_are_those_of_a_table_made_by_hand() -> None:
    found = scales(vit(depth=3).model.requires_grad_(True), weight_decay=0.1, layer_decay=0.5)
    table = {
        "norm.weight": (0.5, 0.0),
        "norm.bias": (0.5, 0.0),
        "blocks.2.mlp.fc1.weight": (0.5, 0.1),
        "blocks.2.mlp.fc1.bias": (0.5, 0.0),
        "blocks.1.attn.qkv.weight": (0.25, 0.1),
        "blocks.1.norm1.weight": (0.25, 0.0),
        "blocks.0.attn.proj.weight": (0.125, 0.1),
        "patch_embed.proj.weight": (0.0625, 0.1),
        "cls_token": (0.0625, 0.0),
        "pos_embed": (0.0625, 0.0),
    }
    assert {name: found[name] for name in table} == table
    assert set(found) == {name for name, _ in vit(depth=3).model.named_parameters()}  # each once, none forgotten


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "vit_medium_patch16_gap_240"])
def test_rates_are_those_that_timm_gives_below_its_own_head(name: str) -> None:
    options = {"weight_decay": 0.1, "layer_decay": 0.5}
    headless, whole = (timm.create_model(name, num_classes=classes) for classes in (0, 7))
    names = {id(parameter): key for key, parameter in whole.named_parameters()}
    theirs = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(
            whole, no_weight_decay_list=getattr(whole, "no_weight_decay", set)(), **options
        )
        for p in group["params"]
    }
    ours = scales(headless, **options)
    assert ours == {key: theirs[key] for key in ours} and len(theirs) == len(ours) + 2  # weight and bias of the head


def test_rates_of_a_residual_networks_layers_begin_below_the_head() -> None:
    found = scales(TinyCnn(contract()).model, weight_decay=0.1, layer_decay=0.5)
    of_layer = {name.split(".")[0]: scale for name, (scale, _) in found.items()}
    assert of_layer == {
        "layer4": 0.5,
        "layer3": 0.25,
        "layer2": 0.125,
        "layer1": 0.0625,
        "conv1": 0.03125,
        "bn1": 0.03125,
    }


def test_the_first_step_moves_each_group_by_its_own_rate() -> None:
    # Adam's first step is the rate itself, whatever the gradient.
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    groups = [{"params": [p], "lr_scale": s, "weight_decay": 0.0} for p, s in zip(parameters, (1.0, 0.25), strict=True)]
    descent = LayerwiseAdamW(groups, rate=0.1, steps=10, warmup=0.2)
    descent.step(sum((p * torch.tensor([0.1, -0.2, 0.3])).sum() for p in parameters))  # type: ignore[arg-type]
    for parameter, scale in zip(parameters, (1.0, 0.25), strict=True):
        expected = 0.1 * 0.5 * scale * torch.tensor([-1.0, 1.0, -1.0])  # first of two warm-up steps: half the rate
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-8)


def test_schedule_rises_in_a_line_and_falls_as_half_a_cosine() -> None:
    found = [scale_rate(step, steps=110, warmup=0.1) for step in range(110)]  # 11 steps up, 99 down
    np.testing.assert_allclose(found[:11], np.arange(1, 12) / 11)
    np.testing.assert_allclose(found[11:], 0.5 + 0.5 * np.cos(np.pi * np.arange(99) / 99))


def test_blocks_are_skipped_more_often_the_deeper_they_lie() -> None:
    model = vit(depth=3).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    add_stochastic_depth(model, rate=0.2)
    chances = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert chances == [0.0, 0.1, 0.2]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_lora_starts_as_the_frozen_network_bit_for_bit_and_trains_its_factors_alone() -> None:
    encoder, plain = vit(depth=3), vit(depth=3)
    trained = insert_lora(encoder.model, rank=4, alpha=8.0)
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder.features(x), plain.features(x))
    encoder.features(x).square().sum().backward()
    graded = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert graded == {f"model.blocks.{i}.attn.qkv.{ab}" for i in range(3) for ab in "ab"}
    # rank x (in + out) for query and value of each block of width 64
    assert sum(p.numel() for p in trained) == 3 * 2 * 4 * (64 + 64)


def test_lora_is_its_formula_and_merges_into_plain_weights() -> None:
    encoder = vit()
    insert_lora(encoder.model, rank=3, alpha=6.0)
    draw = torch.Generator().manual_seed(1)
    layer = encoder.model.blocks[0].attn.qkv
    for block in encoder.model.blocks:
        block.attn.qkv.b.data.normal_(generator=draw)
    x = torch.randn(2, 7, 64, generator=draw)
    expected = (x @ layer.base.weight.T + layer.base.bias).detach().numpy()
    for part, number in ((slice(0, 64), 0), (slice(128, 192), 1)):
        change = 2.0 * layer.b[number].detach().numpy() @ layer.a[number].detach().numpy()
        expected[..., part] += x.numpy() @ change.T
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-5)
    image = torch.randn(3, 3, 32, 32, generator=draw)
    adapted = encoder.features(image).detach()
    merge_lora(encoder.model)
    assert {type(block.attn.qkv) for block in encoder.model.blocks} == {torch.nn.Linear}
    assert set(encoder.state_dict()) == set(vit().state_dict())
    torch.testing.assert_close(encoder.features(image).detach(), adapted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(adapted, vit().features(image), atol=1e-2)


def test_lora_refuses_what_it_cannot_adapt() -> None:
    with pytest.raises(
        UserError, match="expected a transformer with fused query, key and value for LoRA, got ResNet; train it whole"
    ):
        insert_lora(TinyCnn(contract()).model, rank=4, alpha=4.0)
    with pytest.raises(UserError, match="expected a rank of LoRA below the width 64"):
        insert_lora(vit().model, rank=64, alpha=4.0)


def test_symmetries_move_image_validity_and_mask_together() -> None:
    x = torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(2)).expand(-1, 2, -1, -1)
    batch = TaskBatch(x, x > 0.5, (1000 * x[:, 0]).long())
    seen = augment_batch(batch, "dihedral", masked=True, generator=torch.Generator().manual_seed(3))
    assert torch.equal(seen.valid, seen.image > 0.5) and torch.equal(seen.target, (1000 * seen.image[:, 0]).long())
    eight = [
        np.rot90(mirror, turns, (1, 2))
        for mirror in (x[:, 0].numpy(), x[:, 0].numpy()[:, :, ::-1])
        for turns in range(4)
    ]
    which = np.array([(one == seen.image[:, 0].numpy()).all(axis=(1, 2)) for one in eight])  # [8, n]
    assert (which.sum(axis=0) == 1).all()
    assert which.sum(axis=1).min() > 25  # each of the eight about 50 times in 400
    tall = TaskBatch(x[:, :, :2], x[:, :, :2] > 0.5, torch.zeros(400))
    turned = augment_batch(tall, "dihedral", masked=False, generator=torch.Generator().manual_seed(3))
    assert turned.image.shape == tall.image.shape and not torch.equal(turned.image, tall.image)
    assert augment_batch(batch, "none", masked=True, generator=torch.Generator()) is batch


def test_shuffled_shows_every_sample_equally_often() -> None:
    rows = np.arange(10, 17)
    groups = list(shuffle_batches(rows, size=3, steps=7, generator=torch.Generator().manual_seed(0)))
    values, counts = np.unique(np.concatenate(groups), return_counts=True)
    assert values.tolist() == rows.tolist() and set(counts.tolist()) == {3}
    one = list(shuffle_batches(np.array([4]), size=2, steps=3, generator=torch.Generator()))
    assert np.array(one).tolist() == [[4, 4]] * 3


def test_pixel_counts_are_scikit_learns_and_their_index_torchmetrics(rng: np.random.Generator) -> None:
    truth, predicted = rng.integers(-1, 3, (4, 9, 7)), rng.integers(0, 3, (4, 9, 7))
    counts = count_confusion(torch.from_numpy(predicted), torch.from_numpy(truth), 3)
    for image in range(4):
        asked = truth[image] >= 0
        oracle = confusion_matrix(truth[image][asked], predicted[image][asked], labels=[0, 1, 2])
        assert (counts[image] == oracle).all()
    jaccard = MulticlassJaccardIndex(3, average="macro", ignore_index=-1)
    expected = float(jaccard(torch.from_numpy(predicted), torch.from_numpy(truth)))
    assert measure("miou", counts[None], np.empty((4, 0))).value == pytest.approx(expected, abs=1e-6)


def test_the_loss_of_masks_leaves_ignored_pixels_out() -> None:
    draw = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 3, 5, 5, generator=draw, requires_grad=True)
    target = torch.randint(-1, 3, (2, 5, 5), generator=draw)
    weights = torch.tensor([0.5, 1.0, 3.0])
    for given in (None, weights):
        found = TuningLoss("segmentation", 3, weights=given).loss(logits, target)
        torch.testing.assert_close(found, functional.cross_entropy(logits, target, weight=given, ignore_index=-1))
    nothing = TuningLoss("segmentation", 3).loss(logits, torch.full_like(target, -1))  # torch's own mean is NaN here
    nothing.backward()
    assert float(nothing.detach()) == 0 and float(logits.grad.abs().max()) == 0  # type: ignore[union-attr]


def test_logits_are_resized_to_the_mask_and_not_the_mask_to_them() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 1, :, 1] = 8.0
    logits[:, 0, :, 0] = 8.0
    truth = torch.zeros(1, 6, 6, dtype=torch.int64)
    truth[:, :, 3:] = 1
    assert TuningLoss("segmentation", 2).predict(logits, truth).tolist() == [[[18, 0], [0, 18]]]


def test_balanced_weights_are_scikit_learns() -> None:
    task = masked(8, test=4)
    feed = TaskLoader(task, (contract(),), "cpu")
    rows = task.folds[0].train
    found = make_loss(feed, rows, class_weights="balanced", batch_size=3)
    pixels = task.sources[0].masks[rows]  # type: ignore[attr-defined]
    oracle = compute_class_weight("balanced", classes=np.arange(2), y=pixels[pixels >= 0])
    np.testing.assert_allclose(found.weights.numpy(), oracle, rtol=1e-6)  # type: ignore[union-attr]


def test_batches_keep_the_order_asked_for_across_sources() -> None:
    x = images(10)
    x[3, 0, :5] = np.nan
    whole = classes(10, test=3)
    halves = (Planted(x[:4]), Planted(x[4:][:, ::-1], bands=("B04", "B03", "B02")))  # by name, not by place
    task = dataclasses.replace(whole, sources=halves)
    rows = np.array([7, 3, 9, 0, 5])
    (batch, other) = TaskLoader(task, (contract(16),), "cpu").batches([rows, np.array([2])])
    image, valid = contract(16)(
        torch.from_numpy(x[rows]), bands=("B02", "B03", "B04"), quantity=halves[0].quantity, sensor="sentinel2_l1c"
    )
    assert torch.equal(batch.image, image) and torch.equal(batch.valid, valid) and not valid.all()
    assert batch.target.tolist() == task.labels[rows].tolist() and other.target.tolist() == [task.labels[2]]


def test_wrong_masks_and_mixed_sizes_are_refused() -> None:
    task = masked(8, test=4)
    source = task.sources[0]
    wrong = dataclasses.replace(source, masks=np.where(source.masks == 1, 7, source.masks))  # type: ignore[type-var, attr-defined]
    with pytest.raises(
        UserError, match=r"expected classes 0 \.\.\. 1 or -1 \(ignored\) in the masks .* got -1 \.\.\. 7"
    ):
        list(TaskLoader(dataclasses.replace(task, sources=(wrong,)), (contract(),), "cpu").batches([np.arange(3)]))
    mixed = task_of(
        Planted(images(4)),
        np.zeros(6),
        Fold(np.arange(3), np.arange(3, 6), EMPTY),
        "regression",
        sources=(Planted(images(4)), Planted(images(2, 16))),
    )
    with pytest.raises(UserError, match="expected inputs and masks of one size"):
        list(TaskLoader(mixed, (contract(resize="native"),), "cpu").batches([np.array([0, 5])]))


def test_maps_of_a_transformer_are_its_blocks_and_its_tokens() -> None:
    encoder = vit(depth=8)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    outputs: list[torch.Tensor] = []
    for block in encoder.model.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
    with torch.no_grad():
        found, last = compute_four_maps(encoder.model, x), compute_last_map(encoder.model, x)
        tokens = encoder.tokens(x)
    for one, prefix, number in zip(found.maps, found.prefix, (1, 3, 5, 7), strict=True):
        assert torch.equal(one.flatten(2).transpose(1, 2), outputs[number][:, 1:])
        assert torch.equal(prefix, outputs[number][:, :1])  # type: ignore[arg-type]
    assert torch.equal(last.maps[0].flatten(2).transpose(1, 2), tokens)
    cnn = TinyCnn(contract())
    with torch.no_grad():
        sizes = [one.shape[-1] for one in compute_four_maps(cnn.model, x).maps]
        assert torch.equal(compute_last_map(cnn.model, x).maps[0].flatten(2).transpose(1, 2), cnn.tokens(x))
    assert sizes == [8, 4, 2, 1]


@pytest.mark.parametrize("blocks", ["quads", "one", "own"])
def test_a_fifth_is_held_out_in_whole_blocks_and_no_class_is_lost(blocks: str) -> None:
    task = classes(80, test=20)
    numbers = {"quads": np.arange(80) // 4, "one": np.zeros(80, dtype=np.int64), "own": np.arange(80)}[blocks]
    task = dataclasses.replace(task, blocks=numbers)
    train = task.folds[0].train
    taught, held = reserve_validation(task, train)
    assert sorted([*taught, *held]) == train.tolist() and 8 <= len(held) <= 16
    assert set(task.labels[taught]) == {0, 1, 2}
    if blocks == "quads":
        assert not set(numbers[taught]) & set(numbers[held])
    few = np.array([int(np.flatnonzero(task.labels == one)[0]) for one in range(3)])
    assert reserve_validation(task, few)[1].size == 0  # one sample of each class: nothing to spare


def foreign(name: str, size_px: int = 32, **readout: object) -> ExternalEncoder:
    made = Readout(name, **readout)  # type: ignore[arg-type]
    channels = len(BANDS) + len(made.blank)
    with seed_weights(0):
        model = timm.create_model(name, in_chans=channels, num_classes=0, **({"img_size": 32} if "vit" in name else {}))
    return ExternalEncoder(model, contract(size_px), name=name, readout=made, provenance={})


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"])
def test_networks_made_elsewhere_are_decoded_and_tuned(name: str) -> None:
    encoder = foreign(name, blank=(1,))  # a channel of the network without a band
    before = encoder.fingerprint
    task = masked(8, test=4)
    (batch,) = TaskLoader(task, (encoder.preprocessing,), "cpu").batches([np.arange(2)])
    with torch.no_grad():
        prepared, _ = prepare_network_input(encoder, batch.image, batch.valid)
        grid = compute_last_map(encoder.model, prepared).maps[0]
        if name != "test_efficientnet":  # whose positions come after one more convolution
            assert torch.equal(grid.flatten(2).transpose(1, 2), encoder.tokens(batch.image))
    for protocol in ("seg-upernet", "seg-dpt", "seg-finetune"):
        config = Tuning(steps=2, decoder_width=8)
        network = make_network(encoder, batch, protocol=TUNED[protocol], config=config, outputs=2)
        network(batch.image, batch.valid).square().sum().backward()
        inside = {name for name, p in network.encoder.named_parameters() if p.grad is not None}
        assert bool(inside) == (protocol == "seg-finetune")
    assert all(p.grad is None for p in encoder.parameters()) and encoder.fingerprint == before


def test_what_sees_a_part_of_the_image_or_gives_no_maps_is_no_encoder_for_masks() -> None:
    windowed = foreign("test_resnet", 40, window_px=32)
    with pytest.raises(UserError, match=r"sees whole images .* sees the central 32 px; take `at_size\(32\)`"):
        check_maps(windowed, windowed.model)
    check_maps(windowed.at_size(32), windowed.model)
    with pytest.raises(UserError, match="expected a timm network with maps at 4 depths"):
        check_maps(windowed, torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="expected a transformer with fused query"):
        insert_lora(timm.create_model("beit_base_patch16_224", depth=1, num_classes=0), rank=2, alpha=2.0)


def test_decoders_are_wired_as_in_their_own_library() -> None:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    whole = smp.DPT(
        "tu-test_vit",
        encoder_weights=None,
        classes=2,
        img_size=64,
        decoder_fusion_channels=8,
        decoder_intermediate_channels=(8, 16, 32, 32),
        encoder_output_indices=[1, 2, 4, 5],
    ).eval()
    maps = compute_four_maps(whole.encoder.model, x)
    ours = make_decoder("dpt", maps, classes=2, width=8).eval()
    ours.load_state_dict(
        {f"decoder.{key}": value for key, value in whole.decoder.state_dict().items()}
        | {f"head.{key}": value for key, value in whole.segmentation_head.state_dict().items()}
    )
    torch.testing.assert_close(ours(maps), whole(x))
    residual = smp.UPerNet("tu-test_resnet", encoder_weights=None, classes=2, decoder_channels=8).eval()
    model = timm.create_model("test_resnet", num_classes=0).eval()
    model.load_state_dict(residual.encoder.model.state_dict(), strict=False)
    maps = compute_four_maps(model, x)
    ours = make_decoder("upernet", maps, classes=2, width=8).eval()
    ours.load_state_dict(
        {f"decoder.{key}": value for key, value in residual.decoder.state_dict().items()}
        | {f"project.{key[2:]}": value for key, value in residual.segmentation_head.state_dict().items()}
    )
    theirs = residual.segmentation_head[0](residual.decoder(residual.encoder(x)))  # before it is enlarged
    torch.testing.assert_close(ours(maps), theirs)

"""Encoders adapted in part: a frozen trunk, changes of low rank, and what optimiser, teacher and file see of them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import TARGETS, Backbone, LoraLinear, ResNet, Vit, copy_merged
from eo_ssl.objectives import Dino, Step
from eo_ssl.pretraining import Frozen, Lora, Whole, count_trained
from eo_ssl.pretraining.module import group_parameters
from test_81_choices import parsed
from tiles import BANDS, make_batch, training_tiles

DEPTH, WIDTH = 3, 192


def build(seed: int = 0) -> Backbone:
    return Vit(patch_size=8, depth=DEPTH).build(BANDS[:4], 32, seed)


def trained(backbone: torch.nn.Module) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


def whole_view(n: int = 4):
    return make_batch(training_tiles(n)[0]).views["tile"][0]


def scatter(backbone: torch.nn.Module) -> None:
    """Move all trained factors away from their start."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, LoraLinear):
                module.b.normal_(std=0.1, generator=draw)


def test_lora_begins_as_the_trunk_bit_for_bit_and_ends_in_plain_weights_that_do_the_same() -> None:
    plain, adapted = build(), build()
    Lora(rank=4, alpha=8.0).apply(adapted, seed=5)
    assert torch.equal(adapted(whole_view()).patches, plain(whole_view()).patches)
    names = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    wanted = {f"network.blocks.{i}.{name}.{ab}" for i in range(DEPTH) for name in names for ab in "ab"}
    assert trained(adapted) == wanted
    # r (in + out) of each matrix: q, k, v, proj, and twice the MLP's, four times as wide
    assert count_trained(adapted) == DEPTH * 4 * (4 * 2 * WIDTH + 2 * 5 * WIDTH)
    scatter(adapted)
    # an independent sum W + alpha / r * B A, part by part of the fused matrix
    layer = adapted.network.blocks[1].attn.qkv
    expected = plain.network.blocks[1].attn.qkv.weight + 2.0 * torch.cat(
        [b @ a for b, a in zip(layer.b, layer.a, strict=True)]
    )
    merged = copy_merged(adapted)
    torch.testing.assert_close(merged.network.blocks[1].attn.qkv.weight, expected)
    assert set(merged.state_dict()) == set(plain.state_dict()) and isinstance(layer, LoraLinear)
    torch.testing.assert_close(merged(whole_view()).patches, adapted(whole_view()).patches, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(merged(whole_view()).patches, plain(whole_view()).patches, atol=1e-2)
    assert copy_merged(plain) is plain


def test_named_targets_blocks_and_norms_alone_are_trained() -> None:
    adapted = build()
    Lora(rank=2, targets=("q", "fc2"), blocks=1, norms=True).apply(adapted, seed=0)
    found = trained(adapted)
    assert {name for name in found if name.endswith((".a", ".b"))} == {
        f"network.blocks.{i}.{name}.{ab}" for i in (0, 1) for name in ("attn.qkv", "mlp.fc2") for ab in "ab"
    }
    assert "network.blocks.2.mlp.fc1.weight" in found and "network.blocks.0.norm1.weight" in found
    scatter(adapted)
    changed = copy_merged(adapted).network.blocks[0].attn.qkv.weight - build().network.blocks[0].attn.qkv.weight
    assert [bool(part.abs().max() > 0) for part in changed.chunk(3)] == [True, False, False]  # q alone
    frozen = build()
    Frozen(blocks=1, patches=True).apply(frozen, seed=0)
    norms = {
        f"network.blocks.{i}.{name}.{part}"
        for i in (0, 1)
        for name in ("norm1", "norm2")
        for part in ("weight", "bias")
    }
    patches = {f"network.patch_embed.proj.{part}" for part in ("weight", "bias")}
    others = {name for name in trained(build()) if name.startswith(("network.blocks.2.", "network.norm."))}
    assert trained(frozen) == norms | patches | others
    untouched = build()
    Whole().apply(untouched, seed=0)
    assert trained(untouched) == trained(build())


@pytest.mark.parametrize("adapt", [Lora(rank=4), Frozen(blocks=1)])
def test_optimiser_decay_and_teacher_see_what_is_trained_and_the_trunk_is_held_once(adapt: Lora | Frozen) -> None:
    encoder = build()
    before = copy.deepcopy(encoder.state_dict())
    adapt.apply(encoder, seed=3)
    objective = Dino(prototypes=16, hidden_dim=16, bottleneck_dim=8, frozen_prototypes=0.0).build({"tile": encoder}, 1)
    teacher = objective.teacher.network["tile"]
    groups = group_parameters(objective, weight_decay=0.1)
    seen = {id(parameter) for group in groups for parameter in group["params"]}
    assert seen == {id(p) for p in (*encoder.parameters(), *objective.head.parameters()) if p.requires_grad}
    assert all(parameter.ndim > 1 for parameter in groups[0]["params"])
    for mine, theirs in zip(teacher.parameters(), encoder.parameters(), strict=True):
        assert (mine is theirs) is not theirs.requires_grad and not mine.requires_grad
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    image, _ = training_tiles(8)
    for number in range(2):
        batch = make_batch(image, image.flip(3), step=number)
        views = {"global": batch.views["tile"]}
        loss = objective(type(batch)(views, batch.rows, Step(number, 9, 0)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(Step(number + 1, 9, 0))
    names = dict(encoder.named_parameters())
    for name, value in before.items():
        kept = names.get(name, names.get(f"{name.removesuffix('.weight').removesuffix('.bias')}.base.{name[-6:]}"))
        if kept is not None and not kept.requires_grad:
            assert torch.equal(kept, value), name  # decay reaches no frozen weight
    moved = [(mine, theirs) for mine, theirs in zip(teacher.parameters(), encoder.parameters(), strict=True)]
    assert all(torch.equal(mine, theirs) is not theirs.requires_grad for mine, theirs in moved)


def test_an_adaptation_is_chosen_by_name_with_its_options(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("corpus: c\nout: o\nadapt: {Frozen: {blocks: 2, norms: false}}\n")
    for arguments, expected in (
        (["--adapt", "Lora", "--adapt.rank", "4", "--adapt.targets", "[q, v]"], Lora(rank=4, targets=("q", "v"))),
        (["--config", str(config)], Frozen(blocks=2, norms=False)),
        ([], Whole()),
    ):
        assert parsed(*arguments)["adapt"] == expected
    assert parsed("--init", "timm:resnet50?contract=training")["init"] == "timm:resnet50?contract=training"


def test_refusals() -> None:
    resnet = ResNet("resnet18").build(BANDS[:4], 32, 0)
    for adapt in (Lora(), Frozen()):
        with pytest.raises(
            UserError, match=r"expected a transformer for adapt \w+, got ResNet, whose batch statistics"
        ):
            adapt.apply(resnet, seed=0)
    for options, words in (
        ({"targets": ("query",)}, "targets of LoRA out of q, k, v, proj, fc1, fc2, got 'query'"),
        ({"rank": 192}, "a rank of LoRA below the width 192 of the transformer, got 192"),
        ({"blocks": 4}, "at most 3 blocks to train, got 4"),
    ):
        with pytest.raises(UserError, match=words):
            Lora(**options).apply(build(), seed=0)
    for make, words in (
        (lambda: Lora(rank=0), "rank of at least 1"),
        (lambda: Lora(targets=()), "and a target for adapt Lora, got 8, 8.0 and none"),
        (lambda: Frozen(blocks=0, norms=False), "blocks, norms or patches of the encoder to train"),
        (lambda: Frozen(blocks=-1), "blocks of at least 0"),
    ):
        with pytest.raises(UserError, match=words):
            make()
    assert TARGETS == ("q", "k", "v", "proj", "fc1", "fc2")

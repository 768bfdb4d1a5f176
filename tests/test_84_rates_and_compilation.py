"""Rates by layer, the clipped gradient, and compiled blocks: what they change, and that they change nothing else."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import runs
from eo_ssl.errors import UserError
from eo_ssl.models import ResNet, Vit
from eo_ssl.objectives import Mae
from eo_ssl.pretraining import OptimizerConfig, Pretraining, compilation
from eo_ssl.pretraining.compilation import compile_blocks, find_missing_compiler
from eo_ssl.pretraining.module import scale_layers
from tiles import BANDS, make_batch, training_tiles


def build(*, depth: int = 3) -> torch.nn.Module:
    encoder = Vit(patch_size=8, depth=depth).build(BANDS[:4], 16, 0)
    return Mae(decoder_dim=32, decoder_depth=1).build({"tile": encoder}, 1)


def test_rates_fall_from_block_to_block_as_timm_has_them():
    """One factor more below the last norm, which timm counts to the last block, and the authors of MAE do not."""
    objective = build()
    network = objective.encoder.network
    norm = {id(parameter) for parameter in network.norm.parameters()}
    wanted = {
        id(parameter): 1.0 if id(parameter) in norm else 0.75 * group["lr_scale"]
        for group in param_groups_layer_decay(network, layer_decay=0.75)
        for parameter in group["params"]
    }
    names = {id(parameter): name for name, parameter in network.named_parameters() if parameter.requires_grad}
    got = scale_layers([objective.encoder], layer_decay=0.75)
    assert {names[key]: got[key] for key in names} == pytest.approx({names[key]: wanted[key] for key in names})
    assert min(wanted.values()) == 0.75**4 and max(wanted.values()) == 1
    # One step of plain gradient descent moves each parameter by its own rate, those of the decoder by the whole.
    config = OptimizerConfig("sgd", momentum=0, weight_decay=0.5, layer_decay=0.75)
    module = Pretraining(objective, lr=0.1, steps=10, optimizer=config)
    optimizer = module.configure_optimizers()["optimizer"]
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    for parameter in trained.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in trained.items():
        decay = 0.0 if parameter.ndim <= 1 or name.endswith(("_token", "pos_embed")) else 0.5
        rate = 0.1 * wanted.get(id(parameter), 1.0)
        torch.testing.assert_close(parameter.detach(), before[name] - rate * (1 + decay * before[name]))
    with pytest.raises(UserError, match="expected transformers for layer_decay, got ResNet; leave it out"):
        scale_layers([ResNet("resnet18").build(BANDS[:4], 16, 0)], layer_decay=0.5)


def test_the_gradient_is_clipped_to_its_norm(tmp_path: Path, monkeypatch):
    """One step of plain gradient descent, whose length then is the rate times the norm."""
    monkeypatch.setattr(runs, "STEPS", 1)
    plain = OptimizerConfig("sgd", momentum=0, weight_decay=0, clip_grad=1e-2)
    monkeypatch.setattr(runs, "OptimizerConfig", lambda **options: plain)
    monkeypatch.setattr(runs.make_loader, "__kwdefaults__", {**runs.make_loader.__kwdefaults__, "steps": 1})
    before = dict(runs.make_objective("mae").named_parameters())
    after, _ = runs.run(tmp_path)
    moved = torch.cat([(p - before[name]).detach().flatten() for name, p in after.named_parameters()])
    assert float(moved.norm()) == pytest.approx(2e-3 * 1e-2, rel=1e-3)


def test_compiled_blocks_are_those_of_all_networks_and_keep_their_names(monkeypatch):
    objective, plain = build(depth=2), build(depth=2)
    assert compile_blocks(objective) == 3  # two of the encoder, one of the decoder
    assert list(objective.state_dict()) == list(plain.state_dict())
    assert compile_blocks(timm.create_model("resnet18", pretrained=False)) == 8
    with pytest.raises(UserError, match="expected blocks to compile in the networks of the method, got none"):
        compile_blocks(torch.nn.Linear(2, 2))
    monkeypatch.setattr(compilation.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"a C\+\+ compiler \(g\+\+ or clang\+\+\) for --compile, got none; install it"):
        compilation.require_compiler(on_cuda=False)


@pytest.mark.filterwarnings("ignore")  # of torch about its own tensors
@pytest.mark.parametrize("part", ["block", "mlp"])
def test_compiled_blocks_give_their_layers_where_they_ran_without_being_asked_for_them(part: str):
    plain = Vit(depth=2).build(BANDS[:4], 32, seed=0)
    objective = copy.deepcopy(plain)
    for block in objective.network.blocks:
        block.compile(backend="eager")  # torch's tracing alone, without the C++ compiler
    (view,) = make_batch(training_tiles(2)[0]).all_views()
    with torch.no_grad():
        objective(view)
        found, wanted = (one.layers(view, last=2, part=part) for one in (objective, plain))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.slow  # the C++ compiler takes a minute
@pytest.mark.filterwarnings("ignore")  # of torch about its own tensors
def test_compiled_blocks_give_the_loss_and_the_gradient_of_plain_ones():
    if missing := find_missing_compiler(on_cuda=False):
        pytest.skip(f"this machine lacks {missing}, without which torch compiles nothing")
    image, _ = training_tiles(4, size=16)
    found = []
    for compiled in (False, True):
        objective = build(depth=1)
        if compiled:
            compile_blocks(objective.encoder)
        loss = objective(make_batch(image))["loss"]
        loss.backward()
        gradient = [p.grad.flatten() for p in objective.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(gradient)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-6)

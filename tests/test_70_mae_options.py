"""Options of the masked autoencoder: a decoder that looks at the visible patches alone, hard patches, groups of bands."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from eo_ssl.errors import UserError
from eo_ssl.models import Vit, split_patches, take_patches
from eo_ssl.objectives import Mae, Step
from eo_ssl.objectives.hard_patches import HardPatches, compute_ranking_loss, move_hard_last
from eo_ssl.objectives.mae import MaeObjective, compute_masked_loss, normalise_patches
from tiles import BANDS, holes, make_batch, train_briefly, training_tiles

SMALL = Mae(decoder_dim=32, decoder_heads=4)
CROSS = dataclasses.replace(SMALL, decoder="cross", predicted=1 / 3)
HARD = dataclasses.replace(SMALL, hard=HardPatches(share=0.5, momentum=(0.9, 0.99), momentum_ramp=0.5))


def build(method: Mae = SMALL, *, size: int = 32, seed: int = 0) -> MaeObjective:
    return method.build({"tile": Vit(patch_size=8, depth=2).build(BANDS[:4], size, seed)}, seed + 1)


# ---------------------------------------------------------------- decoder that looks at the visible patches alone


def test_the_cross_decoder_is_the_published_one_written_out() -> None:
    """Each hidden patch in turn: mixture of the encoder's blocks, softmax over the visible patches, head by head."""
    decoder = build(CROSS).decoder
    gen = torch.Generator().manual_seed(0)
    view = make_batch(training_tiles(n=2)[0]).views["tile"][0]
    keep = torch.tensor([[3, 8, 9], [0, 15, 4]])
    targets = torch.tensor([[1, 14, 7, 2], [5, 1, 8, 3]])
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=gen))
        tokens, entered = build(CROSS).encoder.visible_layers(view, keep)
        found = decoder(tokens, entered, targets)
    sources = [*entered, torch.cat([tokens.prefix, tokens.patches], dim=1)]
    assert len(sources) == 3 and all(source.shape == (2, 4, 192) for source in sources)
    for b in range(2):
        for m in range(4):
            x = decoder.mask_token[0, 0] + decoder.positions[0, targets[b, m]]
            for j, block in enumerate(decoder.blocks):
                mixed = sum(w * source[b] for w, source in zip(decoder.mixtures[j], sources, strict=True))
                seen = functional.layer_norm(mixed, (192,), decoder.norms[j].weight, decoder.norms[j].bias, 1e-6)
                inside, attend = block.norm1(x), block.attention
                bias = attend.in_proj_bias.split(32)
                query = attend.q_proj_weight @ inside + bias[0]
                key, value = (
                    seen @ w.T + c for w, c in ((attend.k_proj_weight, bias[1]), (attend.v_proj_weight, bias[2]))
                )
                heads = []
                for h in range(4):
                    part = slice(8 * h, 8 * h + 8)
                    score = torch.exp(key[:, part] @ query[part] / 8**0.5)
                    heads.append((score / score.sum()) @ value[:, part])
                x = x + attend.out_proj(torch.cat(heads))
                x = x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))
            wanted = decoder.head(decoder.norm(x))
            torch.testing.assert_close(found[b, m], wanted, rtol=1e-4, atol=1e-5)


def test_what_entered_the_blocks_is_timms_and_the_tokens_are_those_of_visible() -> None:
    encoder = build().encoder.eval()
    view = make_batch(training_tiles(n=2)[0]).views["tile"][0]
    every = torch.arange(16).expand(2, -1)
    tokens, entered = encoder.visible_layers(view, every)
    assert torch.equal(tokens.patches, encoder.visible(view, every).patches)
    (first,) = encoder.network.forward_intermediates(
        view.pixels, indices=[0], output_fmt="NLC", intermediates_only=True, return_prefix_tokens=True
    )
    torch.testing.assert_close(entered[1], torch.cat([first[1], first[0]], dim=1))
    torch.testing.assert_close(encoder.network.blocks[0](entered[0]), entered[1])
    assert not any(module._forward_pre_hooks for module in encoder.modules())


@pytest.mark.parametrize("decoder", ["full", "cross"])
def test_a_third_of_the_hidden_patches_is_predicted_and_counts(decoder: str) -> None:
    """From the image to the loss: the last third of the hidden patches, targets of those."""
    objective = build(dataclasses.replace(CROSS, decoder=decoder))
    image, _ = training_tiles(n=3)
    valid = holes(image.shape, patch=8)
    batch = make_batch(image, valid=valid, seed=11)
    view = batch.views["tile"][0]
    keep, hidden = objective.draw_mask(3, batch.step.generator())
    assert keep.shape == (3, 4) and hidden.shape == (3, 12)
    asked = hidden[:, 8:]
    if decoder == "cross":
        prediction = objective.decoder(*objective.encoder.visible_layers(view, keep), asked)
    else:
        prediction = objective.decoder(objective.encoder.visible(view, keep), keep, asked[:, None])[:, 0]
    target, known = (take_patches(split_patches(x, 8), asked) for x in (view.pixels, valid))
    error = (prediction.view_as(target) - normalise_patches(target, known, norm="patch_band")).square()
    torch.testing.assert_close(objective(batch)["loss"], error[known].mean())


def test_a_cross_decoder_answers_for_each_patch_by_itself_and_trains_every_weight() -> None:
    objective = build(CROSS)
    view = make_batch(training_tiles(n=2)[0]).views["tile"][0]
    keep, hidden = objective.draw_mask(2, torch.Generator().manual_seed(0))
    layers = objective.encoder.visible_layers(view, keep)
    torch.testing.assert_close(
        objective.decoder(*layers, hidden)[:, :3], objective.decoder(*layers, hidden[:, :3]), rtol=1e-4, atol=1e-5
    )
    objective(make_batch(training_tiles(n=2)[0]))["loss"].backward()
    assert [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None] == []


# ---------------------------------------------------------------- hard patches


def test_ranking_loss_is_the_authors_over_pairs_one_by_one(rng: np.random.Generator) -> None:
    scores, errors = rng.normal(size=(3, 6)), rng.normal(size=(3, 6)).round(1)
    errors[0, 1] = errors[0, 4]  # a tie is no pair
    counts = rng.random((3, 6)) > 0.2
    total, pairs = 0.0, 0
    for b, i, j in np.ndindex(3, 6, 6):
        if counts[b, i] and counts[b, j] and errors[b, i] != errors[b, j]:
            chance = 1 / (1 + np.exp(-(scores[b, i] - scores[b, j])))
            total -= np.log(chance if errors[b, i] > errors[b, j] else 1 - chance)
            pairs += 1
    found = compute_ranking_loss(*(torch.from_numpy(x) for x in (scores, errors, counts)))
    assert float(found) == pytest.approx(total / pairs, rel=1e-9)
    ranked = torch.tensor([[0.0, 30.0, 60.0]])
    assert float(compute_ranking_loss(ranked, ranked, torch.ones(1, 3, dtype=torch.bool))) < 1e-9
    assert float(compute_ranking_loss(ranked, torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool))) == 0


def test_the_patches_of_the_highest_scores_come_last_and_the_others_stay_in_order() -> None:
    order = torch.tensor([[4, 2, 0, 1, 3], [0, 1, 2, 3, 4]])
    scores = torch.tensor([[9.0, 1.0, 7.0, 0.0, 2.0], [-torch.inf, 5.0, -torch.inf, 4.0, 6.0]])
    assert move_hard_last(order, scores, hard=2).tolist() == [[4, 1, 3, 2, 0], [0, 2, 3, 1, 4]]
    assert torch.equal(move_hard_last(order, scores, hard=0), order)


def scores_of(objective: MaeObjective, view) -> Tensor:
    """What the teacher expects of each patch of the whole tile, by its modules one after another."""
    judge, tokens = objective.slow_judge.network, objective.teacher.network.forward(view)
    known = judge.embed(torch.cat([tokens.prefix, tokens.patches], dim=1))
    known = torch.cat([known[:, :1], known[:, 1:] + judge.positions], dim=1)
    return judge.head(judge.norm(judge.blocks(known)))[:, 1:, 0]


def test_the_share_of_hard_patches_grows_and_they_are_hidden() -> None:
    objective = build(HARD)
    image, valid = training_tiles(n=4)
    valid = valid.clone()
    valid[:, :, :8, :8] = False  # patch 0 has no valid pixel
    with torch.no_grad():
        for parameter in (*objective.teacher.parameters(), *objective.slow_judge.parameters()):
            parameter.mul_(1.3)  # a teacher of its own
    for number, hard in ((0, 0), (10, 2), (30, 6)):  # 12 hidden patches, 0 to half of them
        batch = make_batch(image, valid=valid, seed=3, step=number)
        view = batch.views["tile"][0]
        keep, hidden = objective.draw_mask(4, batch.step.generator())
        seen, away = objective.hide_hard(view, keep, hidden, batch.step)
        assert seen.shape == keep.shape and away.shape == hidden.shape
        assert torch.equal(torch.cat([seen, away], 1).sort(1).values, torch.arange(16).expand(4, -1))
        scores = scores_of(objective, view)
        scores[:, 0] = -torch.inf
        for b in range(4):
            highest = set(scores[b].topk(hard).indices.tolist()) if hard else set()
            assert set(away[b, 12 - hard :].tolist()) == highest
            others = [patch for patch in [*keep[b].tolist(), *hidden[b].tolist()] if patch not in highest]
            assert [*seen[b].tolist(), *away[b, : 12 - hard].tolist()] == others


@pytest.mark.parametrize("decoder", ["full", "cross"])
def test_the_loss_is_that_of_the_changed_mask_and_of_the_ranking(decoder: str) -> None:
    objective = build(dataclasses.replace(HARD, decoder=decoder))
    image, _ = training_tiles(n=3)
    valid = holes(image.shape, patch=8)
    batch = make_batch(image, valid=valid, seed=3, step=20)
    view = batch.views["tile"][0]
    keep, hidden = objective.hide_hard(view, *objective.draw_mask(3, batch.step.generator()), batch.step)
    tokens, entered = objective.encoder.visible_layers(view, keep)
    asked = (tokens, entered, hidden) if decoder == "cross" else (tokens, keep, hidden[:, None])
    target, known = (take_patches(split_patches(x, 8), hidden) for x in (view.pixels, valid))
    prediction = objective.decoder(*asked).reshape(target.shape)
    error = (prediction - normalise_patches(target, known, norm="patch_band")).square()
    scores = objective.judge(tokens, keep, hidden[:, None])[:, 0, :, 0]
    terms = []
    for b in range(3):
        each = [float(error[b, m][known[b, m]].detach().mean()) if known[b, m].any() else None for m in range(12)]
        for i, first in enumerate(each):
            for j, second in enumerate(each):
                if first is not None and second is not None and first > second:
                    terms.append(-functional.logsigmoid(scores[b, i] - scores[b, j]))
    found = objective(batch)
    torch.testing.assert_close(found["reconstruction"], error[known].mean())
    torch.testing.assert_close(found["ranking"], torch.stack(terms).mean())
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["ranking"])
    found["loss"].backward()
    assert [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in (*objective.teacher.parameters(), *objective.slow_judge.parameters()))


def test_the_teacher_that_ranks_follows_encoder_and_judge() -> None:
    objective = build(HARD)
    pairs = [(objective.encoder.network.cls_token, objective.teacher.network.network.cls_token)]
    pairs.append((objective.judge.head.weight, objective.slow_judge.network.head.weight))
    wanted = [teacher.clone() for _, teacher in pairs]
    for number in (1, 2, 3):
        for i, (student, _) in enumerate(pairs):
            with torch.no_grad():
                student.add_(0.1)
            keep = min(0.9 + 0.09 * number / 2, 0.99)
            wanted[i] = keep * wanted[i] + (1 - keep) * student.detach()
        objective.after_step(Step(number, 4, 0))
    for (_, teacher), value in zip(pairs, wanted, strict=True):
        torch.testing.assert_close(teacher, value)


def test_errors_are_ranked_better_than_by_chance_after_some_steps() -> None:
    objective = build(dataclasses.replace(HARD, norm="patch"))
    first, last, spread = train_briefly(objective, lr=2e-3, tiles=16)
    assert last < 0.8 * first and spread > 0.3
    ranking = objective(make_batch(training_tiles(16)[0], seed=77, step=30))["ranking"]
    assert float(ranking) < 0.67  # chance is log 2, 0.693


# ---------------------------------------------------------------- groups of bands


def test_a_group_of_bands_shares_the_statistics_of_a_patch(rng: np.random.Generator) -> None:
    method = dataclasses.replace(SMALL, norm="patch_group", groups=(("B08",), ("B04", "B02", "B03")))
    target = torch.from_numpy(rng.normal(size=(2, 3, 4, 9)) * [[[[1.0], [5.0], [0.1], [2.0]]]] + 3)
    valid = torch.from_numpy(rng.random((2, 3, 4, 9)) > 0.3)
    target = torch.where(valid, target, 0.0)
    found = normalise_patches(target, valid, norm="patch_group", groups=build(method).groups)
    for b, m in np.ndindex(2, 3):
        for channels in ([3], [0, 1, 2]):
            inside = target[b, m, channels][valid[b, m, channels]]
            wanted = (inside - inside.mean()) / (inside.var() + 1e-6).sqrt()
            torch.testing.assert_close(found[b, m, channels][valid[b, m, channels]], wanted)
    assert (found[~valid] == 0).all()
    alone = build(dataclasses.replace(method, groups=tuple((band,) for band in BANDS[:4])))
    batch = make_batch(training_tiles(n=3)[0], valid=holes(torch.Size((3, 4, 32, 32)), patch=8))
    assert torch.equal(alone(batch)["loss"], build()(batch)["loss"])
    joint = build(dataclasses.replace(method, groups=(BANDS[:4],)))
    assert torch.equal(joint(batch)["loss"], build(dataclasses.replace(SMALL, norm="patch"))(batch)["loss"])
    assert build(method)(batch)["loss"] not in (joint(batch)["loss"], alone(batch)["loss"])


# ---------------------------------------------------------------- all


@pytest.mark.parametrize("method", [CROSS, HARD])
def test_values_under_nodata_change_nothing(method: Mae) -> None:
    objective = build(method)
    image, _ = training_tiles(n=4)
    valid = holes(image.shape, patch=8)
    valid[0] = False  # a whole tile without a pixel
    poisoned = torch.where(valid, image, torch.tensor(float("nan")))
    loss = objective(make_batch(poisoned, valid=valid, step=20))["loss"]
    assert torch.equal(loss, objective(make_batch(image, valid=valid, step=20))["loss"]) and loss.isfinite()
    nothing = objective(make_batch(image, valid=torch.zeros_like(valid), step=20))["loss"]
    assert float(nothing.detach()) == 0


def test_a_cross_decoder_learns_in_25_steps_without_collapse() -> None:
    first, last, spread = train_briefly(build(CROSS), lr=2e-3, steps=25, tiles=16)
    assert last < 0.8 * first
    assert spread > 0.3


def test_options_that_are_left_out_add_no_weight_and_no_draw() -> None:
    plain = build(Mae())
    assert plain.judge is None and not any("judge" in name or "teacher" in name for name in plain.state_dict())
    batch = make_batch(training_tiles(n=3)[0], step=20)
    keep, hidden = plain.draw_mask(3, batch.step.generator())
    view = batch.views["tile"][0]
    prediction = plain.decoder(plain.encoder.visible(view, keep), keep, hidden[:, None])[:, 0]
    target, known = (take_patches(split_patches(x, 8), hidden) for x in (view.pixels, view.valid))
    found = plain(batch)
    assert list(found) == ["loss"]
    assert torch.equal(found["loss"], compute_masked_loss(prediction.view_as(target), target, known, norm="patch_band"))


def test_refusals() -> None:
    with pytest.raises(UserError, match="decoder out of full, cross, got 'half'"):
        Mae(decoder="half")
    with pytest.raises(UserError, match="norm out of patch_band, patch, patch_group, got 'all'"):
        Mae(norm="all")
    with pytest.raises(UserError, match="predicted above 0 and at most 1, got 0"):
        Mae(predicted=0)
    with pytest.raises(UserError, match=r"hard\.share between 0 and 1, got 2"):
        HardPatches(share=2)
    with pytest.raises(UserError, match="momentum must lie between 0 and 1, got -1"):
        HardPatches(momentum=(-1, 0.9))
    with pytest.raises(
        UserError, match="groups of bands where norm is patch_group, and only there, got norm patch and 1"
    ):
        Mae(norm="patch", groups=(("B02",),))
    with pytest.raises(UserError, match="groups that name each of B02, B03, B04, B08 once, got B02, B03"):
        build(dataclasses.replace(SMALL, norm="patch_group", groups=(("B02", "B03"), ("B03", "B08"))))

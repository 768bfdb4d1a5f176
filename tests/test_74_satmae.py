"""SatMAE: the loss from image to number one token at a time, the masks, and what must not matter to either."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from eo_ssl.errors import UserError
from eo_ssl.models import SpectralVit, Vit, split_patches
from eo_ssl.objectives import SatMae, SatMaePp, Step
from eo_ssl.objectives.satmae import Masks, SatMaeObjective, compute_token_loss
from eo_ssl.objectives.satmae_pp import shrink
from tiles import BANDS, holes, make_batch, training_tiles

GROUPS = (("B02", "B11", "B04"), ("B08", "B03"))  # not in the order of the bands
ENCODER = SpectralVit("test_vit", groups=GROUPS, patch_size=8, depth=2)
SMALL = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
CHANNELS = [[BANDS.index(band) for band in group] for group in GROUPS]
N = 16


def build(method: SatMae = SatMae(**SMALL), *, size: int = 32) -> SatMaeObjective:  # noqa: B008  (frozen)
    return method.build({"tile": ENCODER.build(BANDS, size, 0)}, 1)


def draw(objective: SatMaeObjective, valid: torch.Tensor, seed: int = 0) -> Masks:
    """The masks of the batch of that seed."""
    view = make_batch(valid.float(), valid=valid).views["tile"][0]
    return objective.draw_tokens(objective.encoder.present_tokens(view), Step(0, 1, seed).generator())


def has_pixels(valid: torch.Tensor, token: int) -> bool:
    """Whether a token of a tile [C, H, W] has a valid pixel."""
    row, col = divmod(token % N, 4)
    return bool(valid[CHANNELS[token // N], row * 8 : row * 8 + 8, col * 8 : col * 8 + 8].any())


def test_with_nothing_missing_a_token_weighs_the_same_whatever_its_bands(rng) -> None:
    """As the authors' models_mae_group_channels.py, with predictions and targets in one order."""
    prediction, target = (torch.from_numpy(rng.normal(size=(2, 2 * N, 5, 64))) for _ in range(2))
    mask = torch.from_numpy(rng.random((2, 2, N)) < 0.75)
    total, removed = 0.0, 0.0
    for group, channels in enumerate(CHANNELS):
        part = slice(group * N, group * N + N)
        error = (prediction[:, part, channels] - target[:, part, channels]).square().mean(dim=3).mean(dim=2)  # [B, N]
        total += float((error * mask[:, group]).sum())
        removed += float(mask[:, group].sum())
    valid = torch.zeros(2, 2 * N, 5, 64, dtype=torch.bool)
    for group, channels in enumerate(CHANNELS):
        valid[:, group * N : group * N + N, channels] = mask[:, group, :, None, None]
    got = compute_token_loss(prediction, target, valid, norm="none")
    assert float(got) == pytest.approx(total / removed, rel=1e-12)


@pytest.mark.parametrize(("masks", "norm"), [("independent", "none"), ("shared", "group"), ("independent", "band")])
def test_the_loss_of_a_batch_is_that_of_a_loop_over_its_tokens(masks, norm) -> None:
    """Every tile by itself, through encoder and decoder with those tokens alone that are there."""
    objective = build(SatMae(**SMALL, masks=masks, norm=norm))
    encoder, decoder = objective.encoder, objective.decoder
    image, _ = training_tiles(n=4, bands=5)
    valid = holes(image.shape, patch=8)
    valid[0, CHANNELS[1]] = False  # a group that is missing altogether
    drawn = draw(objective, valid, seed=11)
    batch = make_batch(image, valid=valid, seed=11)
    pixels = batch.views["tile"][0].pixels
    errors = []
    for number in range(4):
        keep, hidden = (
            index[number][there[number]].tolist()
            for index, there in ((drawn.keep, drawn.shown), (drawn.hidden, drawn.wanted))
        )
        assert not set(keep) & set(hidden)
        assert sorted(keep + hidden) == [token for token in range(2 * N) if has_pixels(valid[number], token)]
        every = encoder.patch_embed(pixels[number : number + 1])[0] + encoder.network.pos_embed[0, 1:]
        entered = torch.cat([encoder.network.cls_token[0], every[keep]])
        encoded = decoder.embed(encoder.network.norm(encoder.network.blocks(entered[None]))[0])
        codes = decoder.positions[0]
        known = torch.cat([encoded[:1], encoded[1:] + codes[keep], decoder.mask_token[0] + codes[hidden]])
        answers = decoder.head(decoder.norm(decoder.blocks(known[None])))[0, 1 + len(keep) :].detach().double()
        for token, answer in zip(hidden, answers.numpy(), strict=True):
            row, col = divmod(token % N, 4)
            window = (number, slice(None), slice(row * 8, row * 8 + 8), slice(col * 8, col * 8 + 8))
            values, seen = image[window].reshape(5, 64).double().numpy(), valid[window].reshape(5, 64).numpy()
            own = CHANNELS[token // N]
            squares = []
            for channels in [own] if norm != "band" else [[channel] for channel in own]:
                inside = values[channels][seen[channels]]
                if norm != "none" and len(inside):
                    spread = inside.var(ddof=1) if len(inside) > 1 else 0.0
                    inside = (inside - inside.mean()) / np.sqrt(spread + 1e-6)
                squares.append((answer.reshape(5, 64)[channels][seen[channels]] - inside) ** 2)
            errors.append(np.concatenate(squares).mean())
    assert 0 < len(errors) < 4 * 2 * N * 0.75
    assert float(objective(batch)["loss"].detach()) == pytest.approx(np.mean(errors), rel=1e-4)


def test_masks_hide_a_share_of_what_is_there() -> None:
    whole = torch.ones(64, 5, 32, 32, dtype=torch.bool)
    half = whole.clone()
    half[:, CHANNELS[0]] = False  # one of two groups
    for masks, valid, counts in (
        ("independent", whole, (8, 24)),
        ("shared", whole, (8, 24)),
        ("independent", half, (4, 12)),
        ("shared", half, (4, 12)),
    ):
        drawn = draw(build(SatMae(**SMALL, masks=masks)), valid)
        assert all(
            (there.sum(dim=1) == count).all() for there, count in zip((drawn.shown, drawn.wanted), counts, strict=True)
        )
        hidden = torch.zeros(64, 2 * N, dtype=torch.bool).scatter(1, drawn.hidden, drawn.wanted).view(64, 2, N)
        alike = bool((hidden[:, 0] == hidden[:, 1]).all())
        assert alike == (masks == "shared" and valid is whole)
        often = hidden[:, 1].float().mean(dim=0)  # every patch of a group that is there, about as often
        assert float(often.min()) > 0.5 and float(often.max()) < 0.95


@pytest.mark.parametrize("masks", ["independent", "shared"])
def test_values_under_nodata_change_nothing(masks) -> None:
    objective = build(SatMae(**SMALL, masks=masks, norm="group"))
    image, _ = training_tiles(n=4, bands=5)
    valid = holes(image.shape, patch=8)
    valid[0, CHANNELS[0]], valid[1] = False, False
    loss = objective(make_batch(image, valid=valid))["loss"]
    assert float(loss.detach()) > 0
    for poison in (-9999.0, float("nan")):
        again = objective(make_batch(torch.where(valid, image, torch.tensor(poison)), valid=valid))["loss"]
        assert torch.equal(again, loss)
    again.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)
    nothing = objective(make_batch(image, valid=torch.zeros_like(valid)))["loss"]
    nothing.backward()
    assert float(nothing.detach()) == 0


def test_the_seed_of_the_step_alone_draws_the_mask() -> None:
    objective = build()
    image, _ = training_tiles(n=4, bands=5)
    torch.manual_seed(0)
    first = objective(make_batch(image, seed=11))["loss"]
    torch.manual_seed(1)
    assert torch.equal(objective(make_batch(image, seed=11))["loss"], first)
    assert not torch.equal(objective(make_batch(image, seed=12))["loss"], first)


def test_a_hidden_group_is_told_from_the_other_better_than_by_the_means_of_its_bands() -> None:
    """Two materials in changing shares: what one group shows says what the other hides."""
    gen = torch.Generator().manual_seed(0)
    share = torch.randn(48, 1, 1, 1, generator=gen) + 0.1 * torch.randn(48, 1, 32, 32, generator=gen)
    spectrum = torch.tensor([1.0, -1.0, 0.5, 1.0, -0.5])[:, None, None]
    tiles = share * spectrum
    image, unseen = tiles[:40], tiles[40:]
    objective = build(SatMae(**SMALL))
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    for step in range(30):
        loss = objective(make_batch(image, seed=step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    view = make_batch(unseen).views["tile"][0]
    keep, hidden = (torch.arange(N).expand(8, -1) + start for start in (0, N))
    there = torch.ones_like(keep, dtype=torch.bool)
    with torch.no_grad():
        tokens = objective.encoder.encode_tokens(view, keep, there)
        answer = objective.decoder(tokens, keep, hidden[:, None], present=there[:, None])[:, 0]
        error = objective.compare(answer, view, Masks(keep, there, hidden, there))
        features = objective.embed(view)
    mean = image.mean(dim=(0, 2, 3), keepdim=True)
    by_mean = float((split_patches(unseen - mean, 8)[:, :, CHANNELS[1]]).square().mean())
    assert float(error) < 0.5 * by_mean
    assert float(features.std(dim=0).mean()) > 0.05


def test_finer_scales_are_made_from_all_predictions_and_compared_whole() -> None:
    """SatMAE's own loss on the halved view, and the authors' upsampling blocks written out."""
    objective = SatMaePp(**SMALL, upsampling_width=2).build({"tile": ENCODER.build(BANDS, 32, 0)}, 1)
    image, _ = training_tiles(n=3, bands=5, size=128)
    half = functional.interpolate(image, scale_factor=0.5, mode="bilinear")
    quarter = functional.interpolate(half, scale_factor=0.5, mode="bilinear")
    batch = make_batch(image, seed=11)
    assert torch.equal(shrink(batch.views["tile"][0]).image, half)
    painted: list[torch.Tensor] = []
    objective.widen.register_forward_pre_hook(lambda module, given: painted.append(given[0]))
    result = objective(batch)
    alone = build()(make_batch(quarter, seed=11))["loss"]  # the same weights and masks
    assert float(result["masked"]) == pytest.approx(float(alone.detach()), rel=1e-5)

    maps, errors = objective.widen(painted[0]), []
    for block, target in zip(objective.upsampling, (half, image), strict=True):
        up, up_norm, _ = block.enlarge
        first, _, second = block.change
        maps = functional.leaky_relu(normalise(up(maps), up_norm))
        maps = normalise(second(functional.relu(first(maps))) * 0.5 + maps, block.norm)
        errors.append(functional.l1_loss(block.image(maps), target))
    wanted = 0.6 * alone + 0.4 * (0.5 * errors[0] + 0.5 * errors[1])
    assert float(result["loss"].detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def normalise(maps: torch.Tensor, norm: torch.nn.Module) -> torch.Tensor:
    """Each position over its channels: [B, W, h, w]."""
    centred = maps - maps.mean(dim=1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def test_every_prediction_is_painted_where_its_token_lies() -> None:
    objective = SatMaePp(**SMALL, upsampling_width=1).build({"tile": ENCODER.build(BANDS, 32, 0)}, 1)
    _, valid = training_tiles(n=3, bands=5)
    valid = valid & holes(valid.shape, patch=8)
    valid[0, CHANNELS[0]] = False
    masks = draw(objective, valid)
    gen = torch.Generator().manual_seed(0)
    prediction = torch.randn(3, 2 * N, 5 * 64, generator=gen)
    wanted = torch.zeros(3, 5, 32, 32)
    tokens, there = (torch.cat(pair, dim=1) for pair in (masks[::2], masks[1::2]))
    for number, place in there.nonzero().tolist():
        group, patch = divmod(int(tokens[number, place]), N)
        row, col = divmod(patch, 4)
        pixels = prediction[number, place].view(5, 8, 8)
        wanted[number, CHANNELS[group], row * 8 : row * 8 + 8, col * 8 : col * 8 + 8] = pixels[CHANNELS[group]]
    assert torch.equal(objective.paint(prediction, masks), wanted)


def test_finer_scales_leave_out_what_is_missing_and_learn() -> None:
    objective = SatMaePp(**SMALL, scales=1, upsampling_width=1).build({"tile": ENCODER.build(BANDS, 32, 0)}, 1)
    image, _ = training_tiles(n=8, bands=5, size=64)
    valid = holes(image.shape, patch=16)
    poisoned = torch.where(valid, image, torch.tensor(float("nan")))
    results = [objective(make_batch(x, valid=valid)) for x in (image, poisoned)]
    assert torch.equal(results[0]["loss"], results[1]["loss"])
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(25):
        results.append(objective(make_batch(poisoned, valid=valid)))
        optimizer.zero_grad()
        results[-1]["loss"].backward()
        optimizer.step()
    assert float(results[-1]["finer"]) < 0.8 * float(results[0]["finer"])
    nothing = objective(make_batch(image, valid=torch.zeros_like(valid)))["loss"]
    assert float(nothing.detach()) == 0
    with pytest.raises(
        UserError, match="views of 2 times the tile's size for SatMaePp, 4 x 4 patches, got 2 x 2; leave"
    ):
        objective(make_batch(image[..., :32, :32]))


def test_refusals() -> None:
    with pytest.raises(UserError, match="1 to 3 scales, got 0; try 2"):
        SatMaePp(scales=0)
    with pytest.raises(UserError, match=r"scales_weight in \[0, 1\), got 1; try 0.4"):
        SatMaePp(scales_weight=1)
    with pytest.raises(UserError, match=r"mask_ratio between 0 and 1, got 1\.5; try 0\.75"):
        SatMae(mask_ratio=1.5)
    with pytest.raises(UserError, match="masks out of independent, shared, got 'none'"):
        SatMae(masks="none")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="norm out of none, group, band, got 'patch'"):
        SatMae(norm="patch")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="decoder_dim must be a multiple of decoder_heads"):
        SatMae(decoder_dim=130)
    with pytest.raises(UserError, match="hides nothing of a 1 x 1 grid: use smaller patches"):
        build(SatMae(**SMALL, masks="shared", mask_ratio=0.1), size=8)
    with pytest.raises(UserError, match="over groups of bands for SatMae, got VitBackbone; choose --model SpectralVit"):
        SatMae().build({"tile": Vit(patch_size=8, depth=1).build(BANDS, 32, 0)}, 1)

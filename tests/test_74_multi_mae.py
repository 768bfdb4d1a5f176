"""MultiMAE: patches of two sensors through one transformer, from their images to the loss of each sensor."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import ChannelVit, JointSequence, ResNet, SpectralVit, View, Vit, encode_together
from eo_ssl.objectives import Batch, MultiMae, Step
from eo_ssl.objectives.multi_mae import MultiMaeObjective
from eo_ssl.objectives.parts import find_seen
from eo_ssl.objectives.satmae import Masks
from eo_ssl.objectives.two_sensors import SENSORS
from eo_ssl.pretraining.monitors import measure_feature_std
from tiles import holes, poison, training_tiles

BANDS = {"s1": ("VV", "VH"), "s2": ("B02", "B03", "B04")}
NAMES = {"s1": "sentinel1_grd", "s2": "sentinel2_l2a"}
SMALL = MultiMae(decoder_dim=32, decoder_depth=1)
PLAIN = Vit("test_vit", patch_size=8, depth=1)
CHANNEL = ChannelVit("test_vit", patch_size=8, depth=1, band_dropout=False)


def build(
    method: MultiMae = SMALL, *, model: Vit = PLAIN, sizes: tuple[int, int] = (32, 32), order: tuple[str, ...] = SENSORS
) -> MultiMaeObjective:
    sides = dict(zip(SENSORS, sizes, strict=True))
    encoders = {
        stream: model.build(BANDS[stream], sides[stream], len(BANDS[stream]), sensor=NAMES[stream]) for stream in order
    }
    return method.build(encoders, 5)


def make_pair(*, n: int = 4, punched: bool = False, step: int = 0) -> Batch:
    """Radar and optical images of one scene: bands of a tile of `training_tiles`, each sensor with holes of its own."""
    image, valid = training_tiles(n, bands=5)
    views = {}
    for seed, (group, stream, part) in enumerate((("radar", "s1", slice(3, 5)), ("optical", "s2", slice(0, 3)))):
        known = holes(image[:, part].shape, patch=8, seed=seed) if punched else valid[:, part]
        views[group] = [View(image[:, part], known, BANDS[stream], stream)]
    return Batch(views, torch.arange(n), Step(step, 40, step))


def change(batch: Batch, group: str, **parts: object) -> Batch:
    (view,) = batch.views[group]
    return dataclasses.replace(batch, views={**batch.views, group: [dataclasses.replace(view, **parts)]})


def darken(batch: Batch, *groups: str, rows: slice = slice(None)) -> Batch:
    """The batch with images of these sensors that have no valid pixel."""
    for group in groups:
        valid = batch.views[group][0].valid.clone()
        valid[rows] = False
        batch = change(batch, group, valid=valid)
    return batch


def list_views(batch: Batch) -> list[View]:
    return [batch.views[group][0] for group in ("radar", "optical")]


@pytest.mark.parametrize("norm", ["sensor", "band"])
def test_the_loss_is_that_of_every_token_by_itself(norm: str) -> None:
    objective = build(dataclasses.replace(SMALL, norm=norm, alone=0.4)).double().eval()
    batch = make_pair(n=6, punched=True, step=2)
    for group in batch.views:
        batch = change(batch, group, image=batch.views[group][0].image.double())
    batch = darken(batch, "radar", rows=slice(5, 6))
    found = objective(batch)
    views = list_views(batch)
    masks = objective.draw_tokens(torch.cat([find_seen(view, 8) for view in views], 1), batch.step.generator())
    sums, alone = np.zeros((2, 2)), 0
    decoder, trunk = objective.decoder, objective.encoders["s2"].network
    codes = decoder.positions[0]

    def cut(values: torch.Tensor, place: int) -> torch.Tensor:
        row, col = divmod(place, 4)
        return values[:, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8].flatten(1)

    def embed(b: int, token: int) -> torch.Tensor:
        sensor, place = divmod(token, 16)
        view, network = views[sensor], objective.encoders[SENSORS[sensor]].network
        pixels = cut(torch.where(view.valid[b], view.image[b], 0.0), place).flatten()
        proj = network.patch_embed.proj
        return proj.weight.flatten(1) @ pixels + proj.bias + network.pos_embed[0, 1 + place]

    for b in range(6):
        keep = masks.keep[b][masks.shown[b]].tolist()
        hidden = masks.hidden[b][masks.wanted[b]].tolist()
        alone += len({token // 16 for token in keep}) == 1
        entered = torch.stack([trunk.cls_token[0, 0] + trunk.pos_embed[0, 0], *(embed(b, token) for token in keep)])
        context = decoder.embed(trunk.norm(trunk.blocks(entered[None])))[0]
        context = torch.cat([context[:1], context[1:] + codes[keep]])
        asked = torch.cat([context, decoder.mask_token[0] + codes[hidden]])
        answers = decoder.head(decoder.norm(decoder.blocks(asked[None])))[0, 1 + len(keep) :].reshape(-1, 5, 64)
        for token, answer in zip(hidden, answers.detach().numpy(), strict=True):
            sensor, place = divmod(token, 16)
            values, known = (cut(x[b], place).numpy() for x in (views[sensor].image, views[sensor].valid))
            said = answer[[slice(0, 2), slice(2, 5)][sensor]]
            for group in [slice(None)] if norm == "sensor" else [[c] for c in range(len(values))]:
                seen = values[group][known[group]]
                wanted = (seen - seen.mean()) / np.sqrt(seen.var(ddof=1) + 1e-6) if len(seen) > 1 else 0 * seen
                sums[sensor] += ((said[group][known[group]] - wanted) ** 2).sum(), len(seen)
    radar, optical = sums[:, 0] / sums[:, 1]
    assert float(found["radar"]) == pytest.approx(radar, rel=1e-9)
    assert float(found["optical"]) == pytest.approx(optical, rel=1e-9)
    assert float(found["loss"].detach()) == pytest.approx(radar + optical, rel=1e-9)
    assert 1 < alone < 6  # of items that lack no sensor too


def test_what_is_shown_and_what_is_predicted() -> None:
    objective, n = build(dataclasses.replace(SMALL, alone=0.3)), 4000

    def draw(present: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        masks = objective.draw_tokens(present, torch.Generator().manual_seed(seed))
        blank = torch.zeros(n, 32, dtype=torch.int64)
        shown, hidden = (
            blank.scatter_add(1, index, there.long()) for index, there in zip(masks[::2], masks[1::2], strict=True)
        )
        assert torch.equal(shown + hidden, present.long())  # each once
        return shown.bool(), hidden.bool()

    shown, _ = draw(torch.ones(n, 32, dtype=torch.bool))
    assert (shown.sum(1) == 8).all()  # a quarter of both together
    radar = torch.bincount(shown[:, :16].sum(1), minlength=9) / n
    wanted = torch.full((9,), 0.7 / 8)
    wanted[[0, 8]] = 0.3 / 2 + 0.7 / 16
    torch.testing.assert_close(radar, wanted, rtol=0, atol=0.02)
    torch.testing.assert_close(shown.float().mean(0), torch.full((32,), 0.25), rtol=0, atol=0.03)
    both = [(shown[:, :16] & shown[:, 16:].roll(by, 1)).float().mean() for by in (0, 1)]
    assert abs(both[0] - both[1]) < 0.01  # the sensors' masks know nothing of each other
    assert not torch.equal(draw(torch.ones(n, 32, dtype=torch.bool), seed=1)[0], shown)

    present = torch.rand(n, 32, generator=torch.Generator().manual_seed(3)) > 0.3
    present[::4, :16] = False  # no radar
    present[1::4, 16:] = False
    present[2] = False
    shown, hidden = draw(present)
    total = (present.sum(1) // 4).clamp(min=1)
    lacking = [0, 1]
    for first in lacking:
        assert torch.equal(shown[first::4].sum(1), total[first::4])
    assert (shown.sum(1)[3:] >= 1).all() and (shown.sum(1) <= total).all()
    assert not shown[2].any() and not hidden[2].any()


@pytest.mark.parametrize("model", [PLAIN, CHANNEL])
def test_without_the_other_sensor_the_sequence_is_that_of_one_encoder(model: Vit) -> None:
    objective, batch = build(model=model).eval(), make_pair()
    encoders = [objective.encoders[stream] for stream in SENSORS]
    with torch.no_grad():
        both = encode_together(encoders, list_views(batch))
        for number, group in enumerate(("optical", "radar")):
            views = list_views(poison(darken(batch, group)))
            one = encode_together(encoders, views).pooled
            torch.testing.assert_close(one, encoders[number](views[number]).pooled)
            torch.testing.assert_close(JointSequence().pool(encoders, views), one)
            assert not torch.allclose(one, both.pooled, atol=1e-3)
        turned = encode_together(encoders[::-1], list_views(batch)[::-1])
        torch.testing.assert_close(turned.pooled, both.pooled)
        torch.testing.assert_close(turned.patches, both.patches.roll(16, 1))
        # the code of a sensor is the bias of its projection: it stands in all its tokens and in no other
        before = [encoder.place_patches(view)[0] for encoder, view in zip(encoders, list_views(batch), strict=True)]
        code = torch.randn(64)
        if model is PLAIN:
            encoders[0].network.patch_embed.proj.bias += code
            after = [encoder.place_patches(view)[0] for encoder, view in zip(encoders, list_views(batch), strict=True)]
            torch.testing.assert_close(after[0], before[0] + code)
            assert torch.equal(after[1], before[1])


def test_pixels_that_are_not_valid_never_reach_the_loss() -> None:
    for model in (PLAIN, CHANNEL):
        objective, batch = build(model=model), make_pair(punched=True)
        batch = darken(batch, "radar", rows=slice(0, 2))  # two pairs that radar knows nothing of
        found, poisoned = objective(batch), objective(poison(batch))
        assert all(torch.equal(poisoned[name], found[name]) for name in found)
        assert float(found["loss"].detach()) > 0
        for groups, none in ((("radar",), 1), (("optical",), 1), (("radar", "optical"), 2)):
            dark = objective(darken(batch, *groups))
            dark["loss"].backward()
            assert [float(dark[name].detach()) for name in ("radar", "optical")].count(0.0) == none
            gradients = [p.grad for p in objective.parameters() if p.requires_grad]
            assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


def test_sensors_and_bands_may_come_in_any_order() -> None:
    objective, batch = build(), make_pair(punched=True)
    found = objective(batch)
    turned = build(order=SENSORS[::-1])
    assert all(torch.equal(turned(batch)[name], found[name]) for name in found)
    assert list(turned.embedders) == list(SENSORS)
    (view,) = batch.views["optical"]
    order = [2, 0, 1]
    other = change(
        batch,
        "optical",
        image=view.image[:, order],
        valid=view.valid[:, order],
        bands=tuple(view.bands[c] for c in order),
    )
    assert all(torch.equal(objective(other)[name], found[name]) for name in found)


def test_training_fills_in_one_sensor_from_the_other_and_serves_each_alone() -> None:
    objective = build()
    encoders = [objective.encoders[stream] for stream in SENSORS]
    whole = sum(part.numel() for part in encoders[0].parameters())
    projection = sum(part.numel() for part in encoders[1].network.patch_embed.parameters())
    assert sum(part.numel() for part in objective.encoders.parameters()) == whole + projection
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.01)
    logged, kept = [], None
    for step in range(40):
        found = objective(make_pair(n=16, step=step))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        logged.append([float(found[name]) for name in ("radar", "optical")])
        if step == 19:
            kept = copy.deepcopy((objective.state_dict(), optimizer.state_dict()))
    first, last = np.mean(logged[:3], axis=0), np.mean(logged[-3:], axis=0)
    assert (last < 0.5 * first).all(), (first, last)
    trunks = [encoder.network.blocks[0].attn.qkv.weight for encoder in encoders]
    assert trunks[0] is trunks[1]
    objective.eval()
    batch = make_pair(n=16)
    with torch.no_grad():
        whole, there = torch.arange(16).repeat(16, 1), torch.ones(16, 16, dtype=torch.bool)
        for masks, name in (
            (Masks(whole, there, whole + 16, there), "optical"),
            (Masks(whole + 16, there, whole, there), "radar"),
        ):
            objective.draw_tokens = lambda *args, planted=masks: planted
            assert float(objective(batch)[name]) < 0.5 * first[0]
        features = [objective.embed(view) for view in list_views(batch)]
        features.append(objective.fused.pool(encoders, list_views(batch)))
    assert min(measure_feature_std(one.numpy()) for one in features) > 0.2
    # weights under two names come back as one, and the run goes on with the same bits
    again = build()
    again.load_state_dict(kept[0])
    second = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.01)
    second.load_state_dict(kept[1])
    for step in range(20, 23):
        found = again(make_pair(n=16, step=step))
        second.zero_grad()
        found["loss"].backward()
        second.step()
        assert [float(found[name]) for name in ("radar", "optical")] == logged[step]


def test_refusals() -> None:
    two = {stream: PLAIN.build(BANDS[stream], 32, 0) for stream in SENSORS}
    groups = SpectralVit("test_vit", groups=(("B02",), ("B03", "B04")), depth=1).build(BANDS["s2"], 32, 0)
    deeper = dataclasses.replace(PLAIN, depth=2).build(BANDS["s2"], 32, 0)
    finer = dataclasses.replace(PLAIN, patch_size=4).build(BANDS["s2"], 16, 0)
    channel = CHANNEL.build(BANDS["s2"], 32, 0, sensor=NAMES["s2"])
    for words, make in (
        ("mask_ratio between 0 and 1, got 1", lambda: MultiMae(mask_ratio=1)),
        ("alone within 0 and 1, got 1.5", lambda: MultiMae(alone=1.5)),
        ("norm out of sensor, band, got 'joint'", lambda: MultiMae(norm="joint")),
        ("decoder_dim must be a multiple", lambda: MultiMae(decoder_dim=30)),
        ("radar and an optical stream, s1 and s2, for MultiMae, got tile", lambda: SMALL.build({"tile": 0}, 1)),
        ("expected a transformer for MultiMae", lambda: SMALL.build({**two, "s2": ResNet().build(("B02",), 32, 0)}, 1)),
        ("one token for a patch for MultiMae, got Spectral", lambda: SMALL.build({**two, "s2": groups}, 1)),
        ("of one size in both streams for MultiMae, got 4 x 4 patches and 8 x 8", lambda: build(sizes=(32, 64))),
        ("of one architecture and size, to make one of, got .*depth=1", lambda: SMALL.build({**two, "s2": deeper}, 1)),
        ("of one architecture and size, .* and .* at 16 px", lambda: SMALL.build({**two, "s2": finer}, 1)),
        ("of one architecture and size", lambda: SMALL.build({**two, "s2": channel}, 1)),
        ("with alibi attention; choose", lambda: build(model=dataclasses.replace(PLAIN, position="alibi"))),
        ("one view of each tile for MultiMae, got 0", lambda: build()(dataclasses.replace(make_pair(), views={}))),
    ):
        with pytest.raises(UserError, match=words):
            make()
    apart = {stream: PLAIN.build(BANDS[stream], 32, seed) for seed, stream in enumerate(SENSORS)}
    with pytest.raises(UserError, match="encoders of two sensors with one transformer, got two"):
        JointSequence().join_encoders([apart[stream] for stream in SENSORS])
    read = [copy.deepcopy(encoder) for encoder in build().encoders.values()]  # one transformer, in two files
    JointSequence().join_encoders(read)
    assert read[0].network.blocks is read[1].network.blocks

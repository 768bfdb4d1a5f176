"""CROMA: two sensors of the same ground, from their images to contrast and reconstructions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import ChannelVit, ResNet, SpectralVit, View, Vit
from eo_ssl.objectives import Batch, Croma, Step, croma
from eo_ssl.objectives.croma import SENSORS, CromaObjective, compute_contrast
from eo_ssl.pretraining.monitors import measure_feature_std
from tiles import holes, training_tiles

BANDS = {"s1": ("VV", "VH"), "s2": ("B02", "B03", "B04")}
SMALL = Croma(fusion_depth=1, decoder_dim=32)
ALIBI = Vit("test_vit", patch_size=8, depth=1, position="alibi")


def build(method: Croma = SMALL, *, sizes: tuple[int, int] = (32, 32), model: Vit = ALIBI) -> CromaObjective:
    encoders = {
        stream: model.build(BANDS[stream], size, 3 + size) for (stream, size) in zip(SENSORS, sizes, strict=True)
    }
    return method.build(encoders, 5)


def make_pair(*, n: int = 4, punched: bool = False, step: int = 0, seed: int = 0) -> Batch:
    """Radar and optical images of one scene: the bands of a tile of `training_tiles`, in another order of size."""
    image, valid = training_tiles(n, bands=5, seed=seed)
    valid = holes(image.shape, patch=8) if punched else valid
    parts = {"s1": slice(3, 5), "s2": slice(0, 3)}
    views = {
        name: [View(image[:, part], valid[:, part], BANDS[stream], stream)]
        for (stream, part), name in zip(parts.items(), ("radar", "optical"), strict=True)
    }
    return Batch(views, torch.arange(n), Step(step, 30, step))


def change(batch: Batch, group: str, **parts: torch.Tensor) -> Batch:
    (view,) = batch.views[group]
    return dataclasses.replace(batch, views={**batch.views, group: [dataclasses.replace(view, **parts)]})


def test_the_contrast_is_the_cross_entropy_of_both_directions() -> None:
    gen = torch.Generator().manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(5, 7, generator=gen).double(), dim=1) for _ in "ab")
    total = 0.0
    for a, b in ((first.numpy(), second.numpy()), (second.numpy(), first.numpy())):
        for i in range(5):
            scores = np.array([a[i] @ b[j] / 0.07 for j in range(5)])
            total -= scores[i] - np.log(np.exp(scores).sum())
    found = compute_contrast(first, second, scale=torch.tensor(1 / 0.07, dtype=torch.float64))
    assert float(found) == pytest.approx(total / 10, abs=1e-12)
    assert float(compute_contrast(first[:0], second[:0], scale=torch.tensor(1.0))) == 0
    assert float(build().log_scale.detach().exp()) == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("norm", ["joint", "sensor", "band"])
def test_the_loss_is_that_of_the_parts_it_names(norm: str) -> None:
    method = dataclasses.replace(SMALL, norm=norm, radar_mask_ratio=0.5)
    objective, batch = build(method).eval(), make_pair(punched=True)
    found = objective(batch)
    splits = objective.draw_splits(4, batch.step.generator())
    assert [len(part[0]) for split in splits for part in split] == [8, 8, 4, 12]
    views = [batch.views["radar"][0], batch.views["optical"][0]]
    keep = [split[0] for split in splits]
    tokens = [objective.encoders[view.stream].visible(view, index) for view, index in zip(views, keep, strict=True)]
    vectors = [
        torch.nn.functional.normalize(objective.heads[stream](one.patches.mean(dim=1)), dim=1)
        for stream, one in zip(SENSORS, tokens, strict=True)
    ]
    contrast = compute_contrast(*vectors, scale=objective.log_scale.exp())
    prediction = objective.reconstruct(*tokens, *splits).detach().double()
    sums = {"radar": [0.0, 0], "optical": [0.0, 0]}
    for b, place in np.ndindex(4, 16):
        row, col = divmod(place, 4)
        values, known = (
            np.concatenate([getattr(view, name)[b, :, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] for view in views])
            for name in ("image", "valid")
        )
        groups = {"joint": [range(5)], "sensor": [range(2), range(2, 5)], "band": [[c] for c in range(5)]}[norm]
        for group in groups:
            seen = values[list(group)][known[list(group)]]
            for c in group:
                name, hidden = ("radar", splits[0][1]) if c < 2 else ("optical", splits[1][1])
                if place not in hidden[b]:
                    continue
                wanted = (values[c] - seen.mean()) / np.sqrt(seen.var(ddof=1) + 1e-6) if len(seen) > 1 else 0
                error = (prediction[b, place, c].reshape(8, 8).numpy() - wanted) ** 2
                sums[name][0] += error[known[c]].sum()
                sums[name][1] += known[c].sum()
    for name, (total, count) in sums.items():
        assert float(found[name]) == pytest.approx(total / count, rel=1e-5)
    assert float(found["contrast"]) == pytest.approx(float(contrast.detach()), rel=1e-5)
    assert float(found["loss"].detach()) == pytest.approx(float(found["contrast"] + found["radar"] + found["optical"]))


def test_a_sensor_is_predicted_from_what_both_show_and_from_nothing_else() -> None:
    objective, batch = build().eval(), make_pair()

    def predict(batch: Batch) -> torch.Tensor:
        splits = objective.draw_splits(4, torch.Generator().manual_seed(1))
        views = objective.take_sensors(batch)
        tokens = [objective.encoders[v.stream].visible(v, s[0]) for v, s in zip(views, splits, strict=True)]
        return objective.reconstruct(*tokens, *splits).detach()

    splits = objective.draw_splits(4, torch.Generator().manual_seed(1))
    assert not torch.equal(splits[0][0].sort(1).values, splits[1][0].sort(1).values)
    before = predict(batch)
    for group, (keep, hidden) in zip(("radar", "optical"), splits, strict=True):
        image = batch.views[group][0].image
        for index, same in ((hidden, True), (keep, False)):
            mask = torch.zeros(4, 16, dtype=torch.bool).scatter(1, index, True).reshape(4, 1, 4, 1, 4, 1)
            other = torch.where(mask.expand(4, 1, 4, 8, 4, 8).reshape(4, 1, 32, 32), image.flip(0), image)
            assert torch.equal(predict(change(batch, group, image=other)), before) == same
    # each answer stands at its own place: another order of the visible patches changes nothing
    radar, optical = objective.take_sensors(batch)
    shuffled = (splits[0][0].flip(1), splits[0][1].flip(1)), (splits[1][0].flip(1), splits[1][1])
    tokens = [objective.encoders[v.stream].visible(v, s[0]) for v, s in zip((radar, optical), shuffled, strict=True)]
    torch.testing.assert_close(objective.reconstruct(*tokens, *shuffled), before, rtol=1e-4, atol=1e-5)


def test_pixels_that_are_not_valid_never_reach_the_loss() -> None:
    objective, batch = build().eval(), make_pair(punched=True)
    found = objective(batch)
    for group in ("radar", "optical"):
        (view,) = batch.views[group]
        batch = change(batch, group, image=torch.where(view.valid, view.image, torch.nan))
    poisoned = objective(batch)
    assert all(torch.equal(poisoned[name], found[name]) for name in found)
    # an item that one sensor lacks has no counterpart, and is none
    valid = batch.views["radar"][0].valid.clone()
    valid[1] = False
    lacking = objective(change(batch, "radar", valid=valid))
    splits = objective.draw_splits(4, batch.step.generator())
    rest = [0, 2, 3]
    vectors = [
        torch.nn.functional.normalize(objective.heads[v.stream](objective.encoders[v.stream].visible(v, s[0]).pooled))
        for v, s in zip(objective.take_sensors(batch), splits, strict=True)
    ]
    wanted = compute_contrast(*(one[rest] for one in vectors), scale=objective.log_scale.exp())
    assert float(lacking["contrast"]) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for group in ("radar", "optical"):
        batch = change(batch, group, valid=torch.zeros_like(batch.views[group][0].valid))
    nothing = objective(batch)["loss"]
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in objective.parameters())


def test_training_lets_sensors_find_each_other_and_fill_each_other_in() -> None:
    objective = build()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3, weight_decay=0.01)
    logged = []
    for step in range(40):
        found = objective(make_pair(n=32, step=step))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        logged.append([float(found[name]) for name in ("contrast", "radar", "optical")])
    first, last = np.mean(logged[:3], axis=0), np.mean(logged[-3:], axis=0)
    assert (last < 0.7 * first).all(), (first, last)
    objective.eval()
    with torch.no_grad():
        views = objective.take_sensors(make_pair(n=32))
        features = [objective.embed(view) for view in views]
        vectors = [objective.heads[stream](one) for stream, one in zip(SENSORS, features, strict=True)]
        found = torch.nn.functional.cosine_similarity(vectors[0][:, None], vectors[1][None], dim=2).argmax(1)
        larger = objective.embedders["s2"].at_size(64)
        double = View(*(x.repeat(1, 1, 2, 2) for x in (views[1].image, views[1].valid)), views[1].bands)
        assert larger(double).pooled.isfinite().all()
    assert float((found == torch.arange(32)).float().mean()) > 0.5  # chance is 1 of 32
    assert min(measure_feature_std(one.numpy()) for one in features) > 0.2


def test_refusals() -> None:
    two = {"s1": ALIBI.build(BANDS["s1"], 32, 0), "s2": ALIBI.build(BANDS["s2"], 32, 0)}
    groups = SpectralVit("test_vit", groups=(("B02",), ("B03", "B04")), depth=1).build(BANDS["s2"], 32, 0)
    any_bands = ChannelVit("test_vit", depth=1).build(BANDS["s2"], 32, 0, sensor="sentinel2_l1c")
    for words, make in (
        ("radar_mask_ratio between 0 and 1, got 1", lambda: Croma(radar_mask_ratio=1)),
        ("norm out of joint, sensor, band, got 'patch'", lambda: Croma(norm="patch")),
        ("fusion_depth of at least 1, got 0", lambda: Croma(fusion_depth=0)),
        ("temperature must be above 0, got 0", lambda: Croma(temperature=0)),
        ("decoder_dim must be a multiple", lambda: Croma(decoder_dim=30)),
        ("pairs of a radar and an optical stream, s1 and s2, for Croma, got tile", lambda: SMALL.build({"tile": 0}, 1)),
        ("expected a transformer for Croma", lambda: SMALL.build({**two, "s2": ResNet().build(("B02",), 32, 0)}, 1)),
        ("one token for a patch for Croma, got Spectral", lambda: SMALL.build({**two, "s2": groups}, 1)),
        ("a plain vision transformer for Croma, got Channel", lambda: SMALL.build({**two, "s2": any_bands}, 1)),
        ("tiles of one size in both streams for Croma, got 4 x 4 patches and 8 x 8", lambda: build(sizes=(32, 64))),
        ("hide a patch of a 1 x 1 grid", lambda: build(sizes=(8, 8))),
        ("fusion_heads that divide the width of 64, got 7", lambda: build(Croma(fusion_heads=7))),
        ("at least two tiles per step", lambda: build()(make_pair(n=1))),
        ("one view of each tile for Croma, got 0", lambda: build()(dataclasses.replace(make_pair(), views={}))),
    ):
        with pytest.raises(UserError, match=words):
            make()
    assert croma.RADAR == "s1"

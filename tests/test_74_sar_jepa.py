"""SAR-JEPA: windows, relative attention, and the path from a normalised radar image to the loss of each target."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_ssl.cli import main
from eo_ssl.encoder import load_encoder
from eo_ssl.errors import UserError
from eo_ssl.export.encoder_module import run_module
from eo_ssl.models import ResNet, View, Vit
from eo_ssl.models.relative_attention import BUCKETS, RelativeAttention, bin_offsets, index_pairs
from eo_ssl.objectives import SarJepa
from eo_ssl.objectives.ratio_gradients import RatioGradients, compute_ratio_gradients
from eo_ssl.objectives.sar_jepa import SarJepaObjective
from eo_ssl.objectives.window_masks import WindowMasks, draw_windows
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.sensors import Quantity
from eo_ssl.workflows import ingest
from tiles import BANDS, make_batch, radar_contract, train_briefly, training_tiles

SMALL = {"decoder_dim": 32, "decoder_depth": 1, "masks": WindowMasks(count=3, mask_ratio=0.6)}
NEAR = RatioGradients(scales=(1, 2))


def build(*, position: str = "sincos", accept: bool = True, **options: object) -> SarJepaObjective:
    encoder = Vit(patch_size=8, depth=2, position=position).build(BANDS[:4], 32, 0)
    objective = SarJepa(**{**SMALL, "gradients": NEAR, **options}).build({"tile": encoder}, 1)
    if accept:
        objective.accept({"tile": radar_contract()})
    return objective


# Windows


def test_windows_are_those_of_the_paper_on_its_grid() -> None:
    places, hidden = draw_windows((14, 14), 5, masks=WindowMasks(), rng=torch.Generator().manual_seed(0))
    assert places.shape == hidden.shape == (5, 4, 49)
    assert (hidden.sum(dim=2) == 39).all() and torch.equal(places, places[:1].expand(5, -1, -1))
    assert len(hidden.flatten(0, 1).unique(dim=0)) == 20  # drawn for each image and window
    corners = places[0, :, 0]
    assert len(set((corners // 14).tolist())) == len(set((corners % 14).tolist())) == 4
    for window, corner in zip(places[0], corners, strict=True):
        wanted = [int(corner) + row * 14 + col for row in range(7) for col in range(7)]
        assert window.tolist() == wanted


def test_every_patch_is_seen_and_hidden_on_small_grids_too() -> None:
    rng = torch.Generator().manual_seed(1)
    for grid in ((7, 7), (8, 8), (9, 14)):
        counts = torch.zeros(2, grid[0] * grid[1])
        for _ in range(60):
            places, hidden = draw_windows(grid, 2, masks=WindowMasks(), rng=rng)
            for kind in (0, 1):
                counts[kind] += torch.bincount(places[hidden == bool(kind)], minlength=counts.shape[1])
        assert counts.min() > 0
    # the reference code silently takes fewer windows where there is no room for four
    with pytest.raises(
        UserError, match="room for 4 windows of 7 x 7 patches at different rows and columns, got a 8 x 8"
    ):
        WindowMasks(side=7).choose_side((8, 8))


# Relative attention


def test_offsets_fall_into_the_buckets_of_the_authors_formula() -> None:
    def piecewise(x: int, alpha: float = 1.9, beta: float = 3.8, gamma: float = 15.2) -> int:
        if abs(x) <= alpha:
            return x
        far = alpha + math.log(abs(x) / alpha) / math.log(gamma / alpha) * (beta - alpha)
        return int(math.copysign(min(round(far), beta), x))

    offsets = torch.arange(-40, 41)
    assert bin_offsets(offsets).tolist() == [piecewise(int(x)) for x in offsets]
    places = torch.tensor([[0, 9, 5], [3, 8, 11]])  # on a grid of four columns
    buckets = index_pairs(places, columns=4, prefix=1)
    for b, i, j in np.ndindex(2, 3, 3):
        query, key = divmod(int(places[b, i]), 4), divmod(int(places[b, j]), 4)
        row, col = piecewise(query[0] - key[0]) + 3, piecewise(query[1] - key[1]) + 3
        assert int(buckets[b, 1 + i, 1 + j]) == row * 7 + col
    assert (buckets[:, 0] == BUCKETS - 1).all() and (buckets[:, :, 0] == BUCKETS - 1).all()


def test_relative_attention_adds_the_querys_product_with_the_pair() -> None:
    gen = torch.Generator().manual_seed(0)
    encoder = Vit(patch_size=8, depth=1, position="relative").build(BANDS[:4], 24, 0)
    attention = encoder.network.blocks[0].attn
    assert isinstance(attention, RelativeAttention) and not attention.relative_keys.any()
    x = torch.randn(2, 10, 192, generator=gen)
    buckets = index_pairs(torch.arange(9)[None], columns=3, prefix=1)
    plain = Vit(patch_size=8, depth=1).build(BANDS[:4], 24, 0).network.blocks[0].attn
    torch.testing.assert_close(attention(x, buckets), plain(x))  # before training it is timm's own
    with torch.no_grad():
        attention.relative_keys.normal_(generator=gen)
    q, k, v = attention.qkv(x).reshape(2, 10, 3, 3, 64).permute(2, 0, 3, 1, 4)
    wanted = torch.zeros(2, 10, 192)
    for b, h, i in np.ndindex(2, 3, 10):
        scores = [
            q[b, h, i] @ k[b, h, j] / 8 + q[b, h, i] @ attention.relative_keys[:, buckets[0, i, j]] for j in range(10)
        ]
        wanted[b, i, h * 64 : h * 64 + 64] = torch.stack(scores).softmax(0) @ v[b, h]
    torch.testing.assert_close(attention(x, buckets), attention.proj(wanted), rtol=1e-4, atol=1e-4)


def test_a_relative_encoder_sees_a_window_as_an_image_of_its_own() -> None:
    encoder = Vit(patch_size=8, depth=2, position="relative").build(BANDS[:4], 32, 0).eval()
    with torch.no_grad():
        for block in encoder.network.blocks:
            block.attn.relative_keys.normal_(generator=torch.Generator().manual_seed(1))
    view = make_batch(training_tiles(n=3)[0]).views["tile"][0]
    places = torch.tensor([5, 6, 9, 10]).expand(3, 1, -1)
    hidden, token = torch.zeros(3, 1, 4, dtype=torch.bool), torch.zeros(192)
    part = View(view.image[..., 8:24, 8:24], view.valid[..., 8:24, 8:24], view.bands)
    torch.testing.assert_close(encoder.windows(view, places, hidden, token).patches, encoder(part).patches)
    torch.testing.assert_close(encoder.network.forward_features(view.image)[:, 1:], encoder(view).patches)
    absolute = Vit(patch_size=8, depth=2).build(BANDS[:4], 32, 0)
    whole = torch.arange(16).expand(3, 1, -1)
    mask = torch.rand(3, 1, 16, generator=torch.Generator().manual_seed(2)) < 0.5
    for network in (encoder, absolute):
        parts = network.windows(view, whole, mask, token + 1)
        torch.testing.assert_close(parts.patches, network.masked(view, mask[:, 0], token + 1).patches)
    assert not encoder.config.model.in_timm and absolute.config.model.in_timm


# The loss


@pytest.mark.parametrize("target", ["gradients", "pixels"])
def test_the_loss_of_a_batch_is_that_of_a_loop_over_hidden_patches(target: str) -> None:
    """From normalised dB to the loss: windows of the step, the token, targets of the whole image, known numbers only."""
    objective = build(target=target, position="relative")
    image, _ = training_tiles(n=3)
    valid = torch.rand(image.shape, generator=torch.Generator().manual_seed(5)) > 0.02
    batch = make_batch(image, valid=valid, seed=11)
    view = batch.views["tile"][0]
    places, hidden = draw_windows((4, 4), 3, masks=SMALL["masks"], rng=torch.Generator().manual_seed(11))
    tokens = objective.encoder.windows(view, places, hidden, objective.mask_token)
    prediction = objective.decoder(tokens, places.flatten(0, 1)).reshape(*places.shape, -1).detach().double()
    physical = 10 ** ((torch.where(valid, image, 0.0).double() * 3 - 12) / 20)
    made = compute_ratio_gradients(physical, NEAR)
    total, count = 0.0, 0
    for b, m, k in np.ndindex(*places.shape):
        if not hidden[b, m, k]:
            continue
        row, col = divmod(int(places[b, m, k]), 4)
        n = 0
        for band in range(4):
            window = (slice(row * 8, row * 8 + 8), slice(col * 8, col * 8 + 8))
            if target == "pixels":
                values, seen = image[b, band][window].double(), valid[b, band][window]
                inside = values[seen]
                wanted = (values - inside.mean()) / (inside.var() + 1e-6).sqrt()
                error = (prediction[b, m, k, n : n + 64].reshape(8, 8) - wanted)[seen]
                total, count, n = total + float(error.square().sum()), count + len(error), n + 64
                continue
            for s, scale in enumerate(NEAR.scales):
                for i, j in np.ndindex(8, 8):
                    y, x = row * 8 + i, col * 8 + j
                    around = valid[b, band, max(y - scale, 0) : y + scale + 1, max(x - scale, 0) : x + scale + 1]
                    if around.all():
                        total += float((prediction[b, m, k, n + i * 8 + j] - made[b, band, s, y, x]) ** 2)
                        count += 1
                n += 64
    assert 0 < count < int(hidden.sum()) * prediction.shape[3]
    assert float(objective(batch)["loss"].detach()) == pytest.approx(total / count, rel=1e-4)


def test_what_is_predicted_does_not_depend_on_hidden_pixels_nor_on_other_windows() -> None:
    objective = build()
    image, _ = training_tiles(n=3)
    places, hidden = draw_windows((4, 4), 3, masks=SMALL["masks"], rng=torch.Generator().manual_seed(3))
    view = make_batch(image).views["tile"][0]
    seen = torch.zeros(3, 16, dtype=torch.bool)  # visible in window 0
    for b in range(3):
        seen[b, places[b, 0][~hidden[b, 0]]] = True
    shown = seen.reshape(3, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = make_batch(torch.where(shown, image, 7.0)).views["tile"][0]
    first, second = (objective.predict(v, places, hidden) for v in (view, changed))
    assert torch.equal(first[:, 0], second[:, 0]) and not torch.equal(first[:, 1], second[:, 1])


@pytest.mark.parametrize("target", ["gradients", "pixels", "hog"])
def test_nodata_never_enters(target: str) -> None:
    objective = build(target=target)
    image, everywhere = training_tiles(n=4)
    valid = everywhere.clone()
    valid[:, :, 3:11, 9:30] = False
    clean = objective(make_batch(image, valid=valid))["loss"]
    poisoned = objective(make_batch(torch.where(valid, image, torch.tensor(float("nan"))), valid=valid))["loss"]
    assert torch.equal(poisoned, clean) and not torch.equal(objective(make_batch(image))["loss"], clean)
    poisoned.backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)
    nothing = objective(make_batch(image, valid=torch.zeros_like(valid)))["loss"]
    assert float(nothing.detach()) == 0


def test_a_gain_of_the_sensor_leaves_the_targets() -> None:
    """+3 dB move every amplitude, and the ratios of bright pixels by nothing."""
    objective = build(gradients=RatioGradients(scales=(1, 2), floor=1e-6))
    image, _ = training_tiles(n=2)
    first, second = (objective.measure_targets(make_batch(x).views["tile"][0])[0] for x in (image, image + 1.0))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    assert first.std() > 0.01


def test_some_tens_of_steps_on_32_tiles_learn_without_collapse() -> None:
    objective = build(position="relative")
    first, last, spread = train_briefly(objective, lr=1e-3, steps=20, tiles=16)
    assert last < 0.7 * first, (first, last)
    assert spread > 0.2, spread
    assert all(block.attn.relative_keys.any() for block in objective.encoder.network.blocks)


def test_refusals() -> None:
    objective = build(accept=False)
    with pytest.raises(UserError, match="a radar stream for SarJepa: a power, dB or amplitude, got boa_reflectance"):
        objective.accept({"tile": radar_contract(quantity=Quantity.BOA_REFLECTANCE)})
    with pytest.raises(UserError, match="contract of the stream before the first step, got none"):
        objective(make_batch(training_tiles(n=2)[0]))
    build(target="pixels", accept=False).accept({"tile": radar_contract(quantity=Quantity.BOA_REFLECTANCE)})
    for make, words in (
        (lambda: build(target="edges"), "target out of gradients, pixels, hog, got edges"),
        (lambda: build(gradients=RatioGradients(scales=(32,))), "below the tile's 32 px, got 32"),
        (lambda: build(masks=WindowMasks()), "room for 4 windows of 2 x 2 patches"),
        (lambda: WindowMasks(mask_ratio=1), "mask_ratio must lie between 0 and 1, got 1"),
        (lambda: WindowMasks(count=0), "count and side of windows must be at least 1, got 0"),
        (lambda: SarJepa().build({"tile": ResNet("resnet18").build(("VV",), 32, 0)}, 1), "a plain vision transformer"),
    ):
        with pytest.raises(UserError, match=words):
            make()


def test_the_command_trains_a_radar_encoder_that_loads_and_refuses_an_optical_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = ArchiveSpec(sites=1, dates=1, size_px=192, exact_duplicates=0, near_duplicates=0, reprocessed=0)
    make_archive(tmp_path / "archive", seed=1, spec=spec)
    for name, card in (("s1", "sample_s1_rtc"), ("s2", "sample_s2_l2a")):
        ingest.main(card, data=tmp_path / "archive", out=tmp_path / name, size_px=32, dask="synchronous")
    options = ["--objective", "SarJepa", "--objective.gradients.scales", "[2, 4]", "--objective.masks.count", "3"]
    options += ["--model.depth", "1", "--model.position", "relative", "--steps", "2", "--batch_size", "4"]
    command = ["pretrain", "--corpus", str(tmp_path / "s1"), "--out", str(tmp_path / "encoder"), *options]
    assert main(command) == 0
    encoder = load_encoder(tmp_path / "encoder")
    assert encoder.architecture.model.position == "relative"
    image = torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    assert encoder.at_size(64).features(image).shape == (2, 192)
    command[2:5] = [str(tmp_path / "s2"), "--out", str(tmp_path / "optical")]
    assert main(command) == 2 and not (tmp_path / "optical").exists()
    assert "expected a radar stream for SarJepa: a power, dB or amplitude, got boa_refl" in capsys.readouterr().err
    assert main(["export", "--encoder", str(tmp_path / "encoder"), "--out", str(tmp_path / "bundle")]) == 0
    assert "a vision transformer with relative attention" in (tmp_path / "bundle" / "README.md").read_text()
    assert not (tmp_path / "bundle" / "timm").exists()
    x = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(run_module(tmp_path / "bundle", x), encoder.features(x), rtol=1e-4, atol=1e-5)

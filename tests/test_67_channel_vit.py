"""The channel transformer: any subset of its bands, in any patch, and bands of another sensor by their wavelength."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import BackboneConfig, ChannelVit, ChannelVitBackbone, View, Vit, encode_bands
from eo_ssl.models.channel_vit import draw_bands
from eo_ssl.objectives import Batch, Dino, IJepa, Mae, MocoV3, Step, ViewSpec
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.view_maker import ItemBatch, ViewMaker
from tiles import BANDS, holes, train_briefly, training_tiles

S2 = "sentinel2_l2a"
TINY = ChannelVit(patch_size=8, depth=2)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def build(model: ChannelVit = TINY, bands: tuple[str, ...] = BANDS, sensor: str = S2) -> ChannelVitBackbone:
    """Random weights, the embedding of bands included, which begins as zeros."""
    backbone = model.build(bands, 32, 3, sensor=sensor).eval()
    with torch.no_grad():
        backbone.embed.channel_embed.normal_(generator=torch.Generator().manual_seed(4))
    return backbone


def view(valid: torch.Tensor | None = None, bands: tuple[str, ...] = BANDS, **options: object) -> View:
    image = torch.randn(3, len(bands), 32, 32, generator=torch.Generator().manual_seed(1))
    return View(image, torch.ones_like(image, dtype=torch.bool) if valid is None else valid, bands, **options)


def dropped(*bands: str) -> torch.Tensor:
    """Validity of images without some bands."""
    given = torch.tensor([band not in bands for band in BANDS])
    return given[None, :, None, None].expand(3, -1, 32, 32)


def test_with_all_bands_it_is_timms_transformer_with_one_kernel_for_each_band():
    ours, images = build(), view()
    plain = Vit(patch_size=8, depth=2).build(BANDS, 32, 0).network.eval()
    state = {key: value for key, value in ours.network.state_dict().items() if not key.startswith("patch_embed.")}
    kernels = torch.stack([sum(c * k for c, k in zip(code, ours.embed.proj.weight.unbind(1), strict=True)) for code in ours.embed.codes], dim=1)  # fmt: skip
    state["patch_embed.proj.weight"] = kernels.detach() / len(BANDS)
    state["patch_embed.proj.bias"] = (ours.embed.codes @ ours.embed.channel_embed).mean(dim=0).detach()
    plain.load_state_dict(state, strict=True)
    tokens, wanted = ours(images), plain.forward_features(images.image)
    torch.testing.assert_close(torch.cat([tokens.prefix, tokens.patches], dim=1), wanted, **CLOSE)
    torch.testing.assert_close(tokens.pooled, wanted[:, 1:].mean(dim=1), **CLOSE)
    torch.testing.assert_close(
        ours.network.forward_features(images.image), wanted, **CLOSE
    )  # what timm's own users call
    every = torch.arange(16).expand(3, -1)
    torch.testing.assert_close(ours.visible(images, every).patches, tokens.patches, **CLOSE)


def test_a_band_that_is_missing_is_one_that_the_network_does_not_have():
    ours, kept = build(), ("B02", "B04", "B11")
    images = view()
    fewer = ours.for_bands(kept, sensor=S2)
    given = View(images.image[:, [0, 2, 4]], images.valid[:, [0, 2, 4]], kept)
    poison = torch.where(dropped("B03", "B08"), images.image, torch.nan)
    for made in (ours(View(poison, dropped("B03", "B08"), BANDS)), ours(view(dropped("B03", "B08")))):
        torch.testing.assert_close(made.pooled, fewer(given).pooled, **CLOSE)
        torch.testing.assert_close(made.patches, fewer(given).patches, **CLOSE)
    zeros = View(torch.where(dropped("B03", "B08"), images.image, 0.0), images.valid, BANDS)
    assert (ours(zeros).pooled - fewer(given).pooled).abs().max() > 0.1  # zeros are data and not the lack of it


def test_a_band_is_left_out_in_the_patches_that_lack_it_alone():
    ours, valid = build(), dropped().clone()
    valid[:, 1, :8, :8] = False  # B03 in the first patch
    known, part, whole = ours.embed.find_valid(valid), view(valid), view()
    assert (~known).nonzero()[:, 1:].tolist() == [[0, 1]] * 3
    tokens = ours.embed.project(part.pixels, known)
    torch.testing.assert_close(
        tokens[:, 1:], ours.embed.project(whole.pixels, ours.embed.find_valid(whole.valid))[:, 1:]
    )
    pixels = part.image[:, [0, 2, 3, 4], :8, :8]  # by hand
    kernels, embeds = ours.embed.kernels[:, [0, 2, 3, 4]], (ours.embed.codes @ ours.embed.channel_embed)[[0, 2, 3, 4]]
    wanted = (torch.einsum("bcij,dcij->bd", pixels, kernels) + embeds.sum(dim=0)) / 4
    torch.testing.assert_close(tokens[:, 0], wanted, **CLOSE)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_patches_without_a_pixel_are_as_if_they_were_not_there(pooling):
    ours, valid = build(replace(TINY, pooling=pooling)), dropped().clone()
    valid[:, :, 8:16, :] = False  # the second row of patches
    images = view(valid)
    images = replace(images, image=torch.where(valid, images.image, torch.nan))
    rest = torch.tensor([*range(4), *range(8, 16)]).expand(3, -1)
    alone, among = ours.visible(images, rest), ours(images)
    torch.testing.assert_close(among.patches[:, rest[0]], alone.patches, **CLOSE)
    torch.testing.assert_close(among.prefix, alone.prefix, **CLOSE)
    torch.testing.assert_close(among.pooled, alone.pooled, **CLOSE)
    more = ours.visible(images, torch.cat([rest, torch.tensor([[5, 6]] * 3)], dim=1))
    torch.testing.assert_close(more.patches[:, :12], alone.patches, **CLOSE)
    torch.testing.assert_close(more.pooled, alone.pooled, **CLOSE)
    nothing = ours(replace(images, valid=torch.zeros_like(valid)))
    assert torch.isfinite(nothing.pooled).all() and torch.isfinite(nothing.patches).all()
    assert pooling == "cls" or not nothing.pooled.any()
    token = torch.ones(192)
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[:, 5] = True  # a token in place of a patch without pixels is seen
    assert (ours.masked(images, mask, token).pooled - among.pooled).abs().max() > 1e-3
    torch.testing.assert_close(ours.masked(images, torch.zeros_like(mask), token).pooled, among.pooled)


def test_the_order_of_bands_and_bands_of_no_interest_change_no_bit():
    ours, valid = build(), holes(torch.Size((3, 5, 32, 32)), patch=8)
    images, order = view(valid), [3, 0, 4, 2, 1]
    turned = View(images.image[:, order], valid[:, order], tuple(BANDS[i] for i in order))
    extra = View(
        torch.cat([images.image, images.image[:, :1]], 1), torch.cat([valid, valid[:, :1]], 1), (*BANDS, "B12")
    )
    for other in (turned, extra):
        assert torch.equal(ours(other).pooled, ours(images).pooled)
    with pytest.raises(UserError, match="without B11"):
        ours(View(images.image[:, :4], valid[:, :4], BANDS[:4]))


def test_codes_of_bands_are_the_written_numbers():
    codes = encode_bands(S2, ("B02", "B8A"))
    # 1.5 sin and 1.5 cos of 2 pi ln(0.4927) / 8, / 8 (1/32)^(1/15), ..., / 0.25
    assert codes.shape == (2, 36) and not codes[:, 32:].any()
    torch.testing.assert_close(codes[0, :2], torch.tensor([-0.791623, 1.274101]), **CLOSE)
    torch.testing.assert_close(codes[0, 30:32], torch.tensor([1.307964, 0.734323]), **CLOSE)
    torch.testing.assert_close(codes.square().mean(dim=1), torch.ones(2))
    radar = encode_bands("sentinel1_grd", ("VH", "VV"))
    assert radar.nonzero().tolist() == [[0, 33], [1, 32]] and (radar[radar > 0] == 6).all()
    names = ("B02", "B03", "B04", "B8A", "B11", "B12")
    alike = torch.cosine_similarity(
        encode_bands(S2, names)[:, None],
        encode_bands("landsat8_oli", ("B2", "B3", "B4", "B5", "B6", "B7"))[None],
        dim=2,
    )
    assert alike.argmax(dim=1).tolist() == list(range(6)) and alike.diagonal().min() > 0.97
    twelve = encode_bands(S2, ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"))
    assert torch.linalg.matrix_rank(twelve) == 12  # each band can have any kernel
    with pytest.raises(
        UserError, match=r"central wavelength or a polarisation.*got SAR of sar_chip; choose --model Vit"
    ):
        TINY.build(("SAR",), 32, 0, sensor="sar_chip")


def test_bands_are_dropped_in_training_alone_by_a_number_first():
    rng = torch.Generator().manual_seed(0)
    shown = torch.stack([draw_bands(4, fewest=2, rng=rng) for _ in range(8000)])
    count = shown.sum(dim=1)
    shares = torch.bincount(count, minlength=5) / len(count)
    torch.testing.assert_close(shares, torch.tensor([0, 0, 1 / 3, 1 / 3, 1 / 3]), atol=0.02, rtol=0)
    torch.testing.assert_close(shown.float().mean(dim=0), torch.full((4,), 0.75), atol=0.02, rtol=0)
    ours = build()
    first, again, other = (ours.train()(view(bands_seed=seed)).pooled for seed in (5, 5, 6))
    assert torch.equal(first, again) and (first - other).abs().max() > 1e-2
    _, known = ours._shown(view(bands_seed=5))
    wanted = draw_bands(5, fewest=1, rng=torch.Generator().manual_seed(5))
    assert torch.equal(known[:, 0], wanted.expand(3, -1)) and not wanted.all()  # of every image
    for same in (ours.eval()(view(bands_seed=5)), ours.train()(view())):
        assert torch.equal(same.pooled, ours.eval()(view()).pooled)
    kept = replace(TINY, band_dropout=False).build(BANDS, 32, 3, sensor=S2).train()
    assert torch.equal(kept(view(bands_seed=5)).pooled, kept(view()).pooled)
    with pytest.raises(UserError, match="fewest_bands of 1 to the 2 bands VV, VH, got 3; lower it"):
        replace(TINY, fewest_bands=3).build(("VV", "VH"), 32, 0, sensor="sentinel1_grd")


def test_views_of_a_step_hide_the_same_bands_which_stay_targets():
    """In every process alike: bands must not tell which views belong together."""
    stream = type("Stream", (), {"sensor": S2, "quantity": "boa_reflectance", "bands": BANDS[:4], "gsd_m": 10.0, "size_px": 32})()  # fmt: skip
    moments = type("Stats", (), {"quantity": "boa_reflectance", "mean": np.zeros(4), "std": np.ones(4)})()
    maker = ViewMaker(
        {"tile": ViewSpec(count=2, crop=None, flips=False)}, {"tile": Preprocessing.of_stream(stream, moments)}
    )
    image, valid = training_tiles(8)
    items = {"tile": (image[:, None], valid[:, None])}
    steps = [Step(number, 2, seed=2 * number + rank, common_seed=number) for number in range(2) for rank in range(2)]
    views = [view for step in steps for view in maker(ItemBatch(items, torch.arange(8), step)).all_views()]
    assert len({view.seed for view in views}) == 8
    assert [view.bands_seed == views[0].bands_seed for view in views] == 4 * [True] + 4 * [False]
    ours = ChannelVit("test_vit", patch_size=8, depth=1).build(BANDS[:4], 32, 0, sensor=S2)
    objective = Mae().build({"tile": ours}, 1)
    shown = draw_bands(4, fewest=1, rng=torch.Generator().manual_seed(views[0].bands_seed))
    changed = replace(views[0], image=torch.where(shown[:, None, None], image, image.flip(2)))
    assert not shown.all() and torch.equal(ours(changed).pooled, ours(views[0]).pooled)
    losses = [objective(Batch({"tile": [one]}, torch.arange(8), Step(0, 1, 0)))["loss"] for one in (changed, views[0])]
    assert losses[0] != losses[1]


def test_every_kind_of_objective_trains_it():
    def fresh() -> dict[str, ChannelVitBackbone]:
        return {"tile": ChannelVit("test_vit", patch_size=8, depth=1).build(BANDS[:4], 32, 0, sensor=S2)}

    first, last, spread = train_briefly(Mae().build(fresh(), 1), lr=3e-3)
    assert last < 0.8 * first and spread > 0.05
    image, valid = training_tiles(8)
    pairs = [View(x, valid, BANDS[:4], bands_seed=3) for x in (image, image.flip(3))]
    small = [replace(one, image=one.image[..., :16, :16], valid=one.valid[..., :16, :16]) for one in pairs]
    for method, views in (
        (Mae(), {"tile": pairs[:1]}),
        (IJepa(), {"tile": pairs[:1]}),
        (MocoV3(hidden_dim=16, output_dim=8), {"tile": pairs}),
        (Dino(prototypes=32, hidden_dim=16, bottleneck_dim=8), {"global": pairs, "local": small}),
    ):
        objective = method.build(fresh(), 1)
        loss = objective(Batch(views, torch.arange(8), Step(0, 1, 0)))["loss"]
        loss.backward()
        grad = objective.encoder.embed.proj.weight.grad
        assert torch.isfinite(loss) and (isinstance(method, MocoV3) or grad.abs().sum() > 0)
        objective.after_step(Step(1, 2, 0))
        # every view is drawn for, and what is invalid changes nothing
        unseen = {name: [replace(one, bands_seed=None) for one in group] for name, group in views.items()}
        assert objective(Batch(unseen, torch.arange(8), Step(0, 1, 0)))["loss"] != loss
        poisoned = {
            name: [
                replace(one, valid=(hole := holes(one.image.shape, patch=8)), image=torch.where(hole, one.image, fill))
                for one in group
            ]
            for fill in (torch.nan,)
            for name, group in views.items()
        }
        filled = {
            name: [replace(one, image=torch.nan_to_num(one.image, nan=7.0)) for one in group]
            for name, group in poisoned.items()
        }
        losses = [
            copy.deepcopy(objective)(Batch(given, torch.arange(8), Step(0, 1, 0)))["loss"]
            for given in (poisoned, filled)
        ]
        assert torch.isfinite(losses[0]) and torch.equal(*losses), type(method).__name__


def test_it_is_rebuilt_from_plain_values_and_for_other_sizes():
    config = BackboneConfig(replace(TINY, fewest_bands=2, pooling="cls"), BANDS, 32, S2)
    again = ChannelVit.from_json(config.to_json(), pooling="cls")
    assert again == config.model and type(again) is ChannelVit
    with pytest.raises(UserError, match=r"fields timm_name, .*, fewest_bands of a channel transformer, got 'depht'"):
        ChannelVit.from_json({**config.to_json(), "depht": 3}, pooling="cls")
    larger = build().at_size(48)
    assert type(larger) is ChannelVitBackbone and larger.grid == (6, 6)
    image = torch.randn(2, 5, 48, 48)
    assert larger(View(image, torch.ones_like(image, dtype=torch.bool), BANDS)).patches.shape == (2, 36, 192)
    assert math.isclose(float(larger.embed.codes[0, 0]), float(build().embed.codes[0, 0]))

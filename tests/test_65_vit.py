"""Vision transformers: timm's own numbers, timm's own state dict, and a subset of the tokens."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import BackboneConfig, View, Vit, VitBackbone, make_sincos_positions, split_patches
from tiles import BANDS

TINY = Vit(patch_size=8, depth=2)


def build(architecture: Vit = TINY, *, bands: int = 5, size: int = 32, seed: int = 3) -> VitBackbone:
    return architecture.build(BANDS[:bands], size, seed).eval()


def view(bands: int = 5, size: int = 32, batch: int = 3) -> View:
    image = torch.randn(batch, bands, size, size, generator=torch.Generator().manual_seed(1))
    return View(image, torch.ones_like(image, dtype=torch.bool), BANDS[:bands])


@pytest.mark.parametrize(
    ("architecture", "bands", "size"),
    [
        (TINY, 5, 32),
        (Vit(patch_size=16, depth=1, position="learned"), 2, 32),
        (Vit(patch_size=8, depth=1, position="relative"), 2, 32),
        (Vit(patch_size=8, depth=1, position="alibi"), 2, 32),
        (Vit("vit_small_patch14_reg4_dinov2", patch_size=14, depth=2), 3, 28),
        (Vit("vit_base_patch16_clip_224", patch_size=16, depth=1), 3, 32),
        (Vit("test_vit", patch_size=8, depth=1), 3, 32),
    ],
    ids=["sincos", "learned", "relative", "alibi", "registers", "norm_pre", "dynamic_size"],
)
def test_all_tokens_equal_timms_own_forward(architecture, bands, size):
    vit, images = build(architecture, bands=bands, size=size), view(bands, size)
    encoded = vit.network.forward_features(images.image)
    tokens = vit(images)
    assert torch.equal(torch.cat([tokens.prefix, tokens.patches], dim=1), encoded)
    assert tokens.prefix.shape[1] == vit.network.num_prefix_tokens
    # The path that embeds named patches alone must agree with the convolution when every patch is named.
    every = torch.arange(vit.grid[0] * vit.grid[1]).expand(3, -1)
    torch.testing.assert_close(vit.visible(images, every).patches, tokens.patches, rtol=1e-4, atol=1e-5)


def test_plain_timm_loads_the_state_dict():
    vit, images = build(), view()
    plain = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=5, num_classes=0, depth=2
    ).eval()
    plain.load_state_dict(vit.network.state_dict(), strict=True)
    assert torch.equal(plain(images.image), vit(images).prefix[:, 0])


def test_visible_tokens_do_not_depend_on_hidden_pixels_nor_on_their_order():
    vit, images = build(), view()
    keep = torch.tensor([[0, 5, 10], [3, 2, 1], [15, 8, 7]])
    tokens = vit.visible(images, keep).patches
    hidden = torch.ones(3, 16, dtype=torch.bool).scatter(1, keep, False)
    pixels = hidden.view(3, 1, 4, 1, 4, 1).expand(3, 5, 4, 8, 4, 8).reshape(images.image.shape)
    changed = View(torch.where(pixels, 1e6, images.image), images.valid, images.bands)
    assert torch.equal(vit.visible(changed, keep).patches, tokens)
    torch.testing.assert_close(vit.visible(images, keep.flip(1)).patches.flip(1), tokens, rtol=1e-4, atol=1e-5)
    # and each visible token does carry its own position: the same pixels elsewhere give another token
    same = View(images.image[:, :, :1, :1].expand(images.image.shape), images.valid, images.bands)
    assert not torch.allclose(vit.visible(same, keep).patches, vit.visible(same, (keep + 1) % 16).patches)


def test_masked_positions_hold_the_token_and_keep_their_place():
    vit, images = build(), view()
    mask = torch.zeros(3, 16, dtype=torch.bool)
    assert torch.equal(vit.masked(images, mask, torch.zeros(192)).patches, vit(images).patches)
    mask[:, 4:9] = True
    first = vit.masked(images, mask, torch.zeros(192)).patches
    pixels = mask.view(3, 1, 4, 1, 4, 1).expand(3, 5, 4, 8, 4, 8).reshape(images.image.shape)
    changed = View(torch.where(pixels, 1e6, images.image), images.valid, images.bands)
    assert torch.equal(vit.masked(changed, mask, torch.zeros(192)).patches, first)
    assert not torch.allclose(vit.masked(images, mask, torch.ones(192)).patches, first)
    assert not torch.allclose(first[:, 4], first[:, 5])  # the same token at two places


def test_a_view_of_another_size_has_timms_resampled_positions():
    vit = build(Vit(patch_size=8, depth=1))
    small = view(size=16)
    wanted = vit.at_size(16).network.forward_features(small.image)
    torch.testing.assert_close(vit(small).patches, wanted[:, 1:], rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="multiples of the patch of 8 px, got 20 x 20 px"):
        vit(view(size=20))


def test_channels_are_found_by_name():
    vit, images = build(bands=3), view(5)
    order = [4, 2, 0, 1, 3]
    shuffled = View(images.image[:, order], images.valid[:, order], tuple(BANDS[i] for i in order))
    assert torch.equal(vit(shuffled).pooled, vit(View(images.image[:, :3], images.valid[:, :3], BANDS[:3])).pooled)
    with pytest.raises(UserError, match="got B02, B03 without B04; make the view of a stream that holds them"):
        vit(view(2))


def test_patches_are_cut_where_an_index_loop_cuts_them():
    image = view(batch=2).image
    patches = split_patches(image, 8)
    for row in range(4):
        for col in range(4):
            wanted = image[:, :, row * 8 : row * 8 + 8, col * 8 : col * 8 + 8].flatten(2)
            assert torch.equal(patches[:, row * 4 + col], wanted)


def test_sincos_positions_follow_the_formula_and_are_distinct():
    code = make_sincos_positions((3, 5), 16)
    assert torch.equal(code[0, 0], torch.zeros(16))
    row, col = 2, 3
    omega = 10_000.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    wanted = torch.cat([(row * omega).sin(), (row * omega).cos(), (col * omega).sin(), (col * omega).cos()]).float()
    torch.testing.assert_close(code[0, 1 + row * 5 + col], wanted)
    assert len(torch.unique(code[0], dim=0)) == 16


def test_the_seed_alone_decides_the_weights_and_global_randomness_is_left_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.rand(3), wanted)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.network.patch_embed.proj.weight, other.network.patch_embed.proj.weight)


def test_pooled_is_the_mean_of_the_patches_or_the_class_token():
    registers = Vit("vit_small_patch14_reg4_dinov2", patch_size=14, depth=1)
    images = view(3, 28)
    tokens = build(registers, bands=3, size=28)(images)
    encoded = build(registers, bands=3, size=28).network.forward_features(images.image)
    assert torch.equal(tokens.pooled, encoded[:, 5:].mean(1))  # one class token and four registers first
    by_class = build(dataclasses.replace(registers, pooling="cls"), bands=3, size=28)(images)
    assert torch.equal(by_class.pooled, encoded[:, 0])


def test_fixed_codes_stay_fixed_at_another_size():
    for position, trained in (("sincos", False), ("learned", True)):
        larger = build(Vit(patch_size=8, depth=1, position=position)).at_size(64)
        assert larger.network.pos_embed.requires_grad is trained and larger.grid == (8, 8)


def test_an_architecture_comes_back_from_the_file_of_an_encoder():
    values = BackboneConfig(TINY, BANDS[:5], 32).to_json()
    assert Vit.from_json(values, pooling="mean") == TINY and (values["in_chans"], values["img_size"]) == (5, 32)
    with pytest.raises(UserError, match="got 'patch_sise'; did you mean 'patch_size'"):
        Vit.from_json({**values, "patch_sise": 8}, pooling="mean")


def test_refusals():
    with pytest.raises(UserError, match="patch 7 and image 64; choose a divisor"):
        build(Vit(patch_size=7), size=64)
    with pytest.raises(UserError, match="vit_tinny_patch16_224'; did you mean 'vit_tiny_patch16_224'"):
        build(Vit("vit_tinny_patch16_224"))
    with pytest.raises(
        UserError, match="vision transformer with a class token and position embeddings, got 'vit_base_patch16_gap_224'"
    ):
        build(Vit("vit_base_patch16_gap_224", depth=1))
    with pytest.raises(UserError, match="takes no patch or image size"):
        build(Vit("resnet18"))
    for wrong, said in (
        ({"pooling": "max"}, "expected pooling out of mean, cls, got 'max'"),
        ({"position": "rotary"}, "expected position out of sincos, learned, relative, alibi, got 'rotary'"),
        ({"depth": 0}, "expected a depth of at least 1 for a vision transformer, got 0"),
        ({"patch_size": 0}, "expected a patch size of at least 1 for a vision transformer, got 0"),
    ):
        with pytest.raises(UserError, match=said):
            Vit(**wrong)
    with pytest.raises(UserError, match="multiple of 4, got 10"):
        make_sincos_positions((2, 2), 10)

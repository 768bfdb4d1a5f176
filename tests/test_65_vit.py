"""Vision transformers: timm's own numbers, timm's own state dict, and a subset of the tokens."""

from __future__ import annotations

import pytest
import timm
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import (
    VitConfig,
    embed_patches,
    encode_tokens,
    make_vit,
    mean_patch_token,
    sincos_positions,
    split_patches,
)

TINY = VitConfig(img_size=32, in_chans=5, patch_size=8, depth=2)


def _image(config: VitConfig = TINY, batch: int = 3) -> torch.Tensor:
    shape = (batch, config.in_chans, config.img_size, config.img_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        VitConfig(img_size=32, in_chans=2, patch_size=16, depth=1, position="learned"),
        VitConfig("vit_small_patch14_reg4_dinov2", img_size=28, in_chans=3, patch_size=14, depth=2),
        VitConfig("vit_base_patch16_clip_224", img_size=32, in_chans=3, patch_size=16, depth=1),
    ],
    ids=["sincos", "learned", "registers", "norm_pre"],
)
def test_all_tokens_equal_timms_own_forward(config):
    vit = make_vit(config, seed=3).eval()
    image = _image(config)
    assert torch.equal(encode_tokens(vit, image), vit.forward_features(image))
    # The path that embeds named patches alone must agree with the convolution when every patch is named.
    every = torch.arange(config.grid[0] * config.grid[1]).expand(len(image), -1)
    torch.testing.assert_close(encode_tokens(vit, image, every), vit.forward_features(image), rtol=1e-4, atol=1e-5)


def test_plain_timm_loads_the_state_dict():
    vit = make_vit(TINY, seed=3).eval()
    plain = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=5, num_classes=0, depth=2
    ).eval()
    plain.load_state_dict(vit.state_dict(), strict=True)
    image = _image()
    assert torch.equal(plain(image), vit(image))


def test_visible_tokens_do_not_depend_on_hidden_pixels_nor_on_their_order():
    vit = make_vit(TINY).eval()
    image = _image()
    keep = torch.tensor([[0, 5, 10], [3, 2, 1], [15, 8, 7]])
    tokens = encode_tokens(vit, image, keep)
    hidden = torch.ones(3, 16, dtype=torch.bool).scatter(1, keep, False)
    pixels = hidden.view(3, 1, 4, 1, 4, 1).expand(3, 5, 4, 8, 4, 8).reshape(image.shape)
    assert torch.equal(encode_tokens(vit, torch.where(pixels, 1e6, image), keep), tokens)
    turned = encode_tokens(vit, image, keep.flip(1))
    torch.testing.assert_close(turned[:, 1:].flip(1), tokens[:, 1:], rtol=1e-4, atol=1e-5)
    # and each visible token does carry its own position: another position gives another token
    assert not torch.allclose(embed_patches(vit, image, keep), embed_patches(vit, image, (keep + 1) % 16))


def test_patches_are_cut_where_an_index_loop_cuts_them():
    image = _image(batch=2)
    patches = split_patches(image, 8)
    for row in range(4):
        for col in range(4):
            wanted = image[:, :, row * 8 : row * 8 + 8, col * 8 : col * 8 + 8].flatten(2)
            assert torch.equal(patches[:, row * 4 + col], wanted)


def test_sincos_positions_follow_the_formula_and_are_distinct():
    code = sincos_positions((3, 5), 16)
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
    first, second, other = make_vit(TINY, seed=1), make_vit(TINY, seed=1), make_vit(TINY, seed=2)
    assert torch.equal(torch.rand(3), wanted)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.patch_embed.proj.weight, other.patch_embed.proj.weight)


def test_mean_of_patches_leaves_out_class_and_register_tokens():
    vit = make_vit(VitConfig("vit_small_patch14_reg4_dinov2", img_size=28, patch_size=14, depth=1))
    tokens = torch.zeros(1, 9, 384)
    tokens[:, 5:] = 2.0  # one class token and four registers first
    assert torch.equal(mean_patch_token(vit, tokens), torch.full((1, 384), 2.0))


def test_config_round_trip_and_refusals():
    assert VitConfig.from_json(TINY.to_json()) == TINY
    with pytest.raises(UserError, match="no field 'patch_sise'; did you mean 'patch_size'"):
        VitConfig.from_json({"patch_sise": 8})
    with pytest.raises(UserError, match="patch 7 and image 64: choose a divisor"):
        VitConfig(patch_size=7)
    with pytest.raises(UserError, match="vit_tinny_patch16_224'; did you mean 'vit_tiny_patch16_224'"):
        make_vit(VitConfig("vit_tinny_patch16_224"))
    with pytest.raises(
        UserError, match="vision transformer with a class token and position embeddings, got 'vit_base_patch16_gap_224'"
    ):
        make_vit(VitConfig("vit_base_patch16_gap_224", depth=1))
    with pytest.raises(UserError, match="takes no patch or image size"):
        make_vit(VitConfig("resnet18"))
    with pytest.raises(UserError, match="multiple of 4, got 10"):
        sincos_positions((2, 2), 10)

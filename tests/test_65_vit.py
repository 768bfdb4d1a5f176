"""Vision transformers: timm's own numbers, timm's own state dict, and a subset of the tokens."""

from __future__ import annotations

import pytest
import timm
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import BackboneConfig, View, Vit, VitBackbone, sincos_positions, split_patches

BANDS = ("B02", "B03", "B04", "B08", "B8A")
TINY = Vit(patch_size=8, depth=2)


def built(model: Vit = TINY, *, size_px: int = 32, bands: int = 5, seed: int = 3) -> VitBackbone:
    return model.build(BANDS[:bands], size_px, seed).eval()


def view(backbone: VitBackbone, batch: int = 3) -> View:
    size = backbone.config.size_px
    image = torch.randn(batch, len(backbone.bands), size, size, generator=torch.Generator().manual_seed(1))
    return View(image, torch.ones_like(image, dtype=torch.bool), backbone.bands)


@pytest.mark.parametrize(
    "backbone",
    [
        built(),
        built(Vit(patch_size=16, depth=1, position="learned"), bands=2),
        built(Vit("vit_small_patch14_reg4_dinov2", patch_size=14, depth=2), size_px=28, bands=3),
        built(Vit("vit_base_patch16_clip_224", patch_size=16, depth=1), bands=3),
    ],
    ids=["sincos", "learned", "registers", "norm_pre"],
)
def test_all_tokens_equal_timms_own_forward(backbone):
    seen = view(backbone)
    theirs = backbone.network.forward_features(seen.image)
    tokens = backbone(seen)
    assert torch.equal(torch.cat([tokens.prefix, tokens.patches], dim=1), theirs)
    assert torch.equal(tokens.pooled, theirs[:, backbone.network.num_prefix_tokens :].mean(dim=1))
    # The path that embeds named patches alone must agree with the convolution when every patch is named.
    every = torch.arange(backbone.grid[0] * backbone.grid[1]).expand(len(seen), -1)
    torch.testing.assert_close(backbone.visible(seen, every).patches, tokens.patches, rtol=1e-4, atol=1e-5)


def test_plain_timm_loads_the_state_dict():
    backbone = built()
    plain = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=5, num_classes=0, depth=2
    ).eval()
    plain.load_state_dict(backbone.network.state_dict(), strict=True)
    seen = view(backbone)
    assert torch.equal(plain(seen.image), backbone(seen).prefix[:, 0])


def test_visible_tokens_do_not_depend_on_hidden_pixels_nor_on_their_order():
    backbone = built()
    seen = view(backbone)
    keep = torch.tensor([[0, 5, 10], [3, 2, 1], [15, 8, 7]])
    tokens = backbone.visible(seen, keep).patches
    hidden = torch.ones(3, 16, dtype=torch.bool).scatter(1, keep, False)
    pixels = hidden.view(3, 1, 4, 1, 4, 1).expand(3, 5, 4, 8, 4, 8).reshape(seen.image.shape)
    poisoned = View(torch.where(pixels, 1e6, seen.image), seen.valid, seen.bands)
    assert torch.equal(backbone.visible(poisoned, keep).patches, tokens)
    turned = backbone.visible(seen, keep.flip(1)).patches
    torch.testing.assert_close(turned.flip(1), tokens, rtol=1e-4, atol=1e-5)
    # and each visible token does carry its own position: the same pixels elsewhere give another token
    rolled = View(seen.image.roll(8, dims=3), seen.valid, seen.bands)
    same = backbone.visible(rolled, torch.tensor([[1], [4], [9]])).patches
    assert not torch.allclose(same, backbone.visible(seen, torch.tensor([[0], [7], [8]])).patches)


def test_patches_are_cut_where_an_index_loop_cuts_them():
    image = view(built(), 2).image
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
    first, second, other = built(seed=1), built(seed=1), built(seed=2)
    assert torch.equal(torch.rand(3), wanted)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.network.patch_embed.proj.weight, other.network.patch_embed.proj.weight)


def test_mean_of_patches_leaves_out_class_and_register_tokens():
    backbone = built(Vit("vit_small_patch14_reg4_dinov2", patch_size=14, depth=1), size_px=28, bands=3)
    tokens = backbone(view(backbone, 1))
    assert tokens.prefix.shape == (1, 5, 384) and tokens.patches.shape == (1, 4, 384)  # a class token, four registers
    assert torch.equal(tokens.pooled, tokens.patches.mean(dim=1))
    classes = built(Vit("vit_small_patch14_reg4_dinov2", patch_size=14, depth=1, pooling="cls"), size_px=28, bands=3)
    assert torch.equal(classes(view(classes, 1)).pooled, tokens.prefix[:, 0])


def test_fixed_codes_stay_fixed_at_another_size():
    for position, trained in (("sincos", False), ("learned", True)):
        larger = built(Vit(patch_size=8, depth=1, position=position)).at_size(64)
        assert larger.network.pos_embed.requires_grad is trained and larger.grid == (8, 8)


def test_an_architecture_comes_back_from_a_file_and_refuses_what_it_is_not():
    values = BackboneConfig(TINY, BANDS, 32).to_json()
    assert Vit.from_json(values, pooling="mean") == TINY
    with pytest.raises(UserError, match="got 'patch_sise'; did you mean 'patch_size'"):
        Vit.from_json({"patch_sise": 8}, pooling="mean")
    with pytest.raises(UserError, match="patch 7 and image 64; choose a divisor"):
        built(Vit(patch_size=7), size_px=64)
    with pytest.raises(UserError, match="vit_tinny_patch16_224'; did you mean 'vit_tiny_patch16_224'"):
        built(Vit("vit_tinny_patch16_224"))
    with pytest.raises(
        UserError, match="vision transformer with a class token and position embeddings, got 'vit_base_patch16_gap_224'"
    ):
        built(Vit("vit_base_patch16_gap_224", depth=1))
    with pytest.raises(UserError, match="takes no patch or image size"):
        built(Vit("resnet18"))
    for wrong in ({"depth": 0}, {"patch_size": 0}, {"position": "rotary"}, {"pooling": "max"}):
        with pytest.raises(UserError, match=f"expected .*{next(iter(wrong)).split('_')[0]}"):
            Vit(**wrong)
    with pytest.raises(UserError, match="multiple of 4, got 10"):
        sincos_positions((2, 2), 10)

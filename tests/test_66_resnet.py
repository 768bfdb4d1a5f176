"""Residual networks: timm's own numbers and state dict, any bands, any size."""

from __future__ import annotations

import pytest
import timm
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import FAMILIES, BackboneConfig, ResNet, View, Vit, require_maskable
from tiles import BANDS


def view(bands: int = 5, size: int = 64) -> View:
    image = torch.randn(2, bands, size, size, generator=torch.Generator().manual_seed(1))
    return View(image, torch.ones_like(image, dtype=torch.bool), BANDS[:bands])


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_plain_timm_loads_the_state_dict_and_gives_the_same_vector(name):
    network = ResNet(name).build(BANDS, 64, 3).eval()
    plain = timm.create_model(name, in_chans=5, num_classes=0).eval()
    plain.load_state_dict(network.network.state_dict(), strict=True)
    tokens = network(view())
    assert torch.equal(tokens.pooled, plain(view().image))
    assert tokens.patches.shape == (2, 4, network.dim) and tokens.prefix.shape == (2, 0, network.dim)
    torch.testing.assert_close(tokens.patches.mean(1), tokens.pooled)  # positions row by row, pooled by their mean
    assert torch.equal(tokens.patches[:, 1], plain.forward_features(view().image)[:, :, 0, 1])


def test_any_size_and_the_seed_alone_decides_the_weights():
    first, second, other = (ResNet("resnet18").build(BANDS, 64, seed).eval() for seed in (1, 1, 2))
    assert torch.equal(first(view()).pooled, second(view()).pooled)
    assert not torch.equal(first(view()).pooled, other(view()).pooled)
    assert first.at_size(96).network is first.network
    assert first.at_size(96)(view(size=96)).patches.shape[1] == 9


def test_an_architecture_comes_back_from_the_file_of_an_encoder():
    values = BackboneConfig(ResNet("resnet18"), BANDS, 64).to_json()
    assert values == {"timm_name": "resnet18", "img_size": 64, "in_chans": 5}
    assert FAMILIES["resnet"].from_json(values, pooling="avg") == ResNet("resnet18")
    with pytest.raises(UserError, match="got 'depth'"):
        ResNet.from_json({**values, "depth": 2}, pooling="avg")
    with pytest.raises(UserError, match="pooling avg of a residual network, got cls"):
        ResNet.from_json(values, pooling="cls")


def test_it_hides_no_patches():
    with pytest.raises(UserError, match="expected a transformer for Mae, which hides patches, got ResNetBackbone"):
        require_maskable(ResNet("resnet18").build(BANDS, 64, 0), method="Mae")
    assert require_maskable(Vit(depth=1).build(BANDS, 16, 0), method="Mae").patch_px == 8


def test_refusals():
    with pytest.raises(UserError, match="name of a timm residual network, got 'resnet19'; did you mean 'resnet18'"):
        ResNet("resnet19").build(BANDS, 64, 0)
    with pytest.raises(UserError, match="expected a residual network of timm, got 'vit_tiny_patch16_224'"):
        ResNet("vit_tiny_patch16_224").build(BANDS, 64, 0)

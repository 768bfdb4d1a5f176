"""Random weights go by the names of bands: the order in which files store their planes decides nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import timm
import torch

from eo_ssl.cards import load_card
from eo_ssl.encoder import load_encoder
from eo_ssl.encoder.first_layer import order_first_layer
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import load_benchmark
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.models import seed_weights
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity
from worlds.benchmarks import make_eurosat

ORDER = ("B02", "B03", "B04", "B08", "B8A", "B11")
OTHER = ("B8A", "B11", "B03", "B02", "B08", "B04")
RANDOM = (
    "rcf",
    "random_init",
    "random_resnet50",
    "timm:resnet18@random",
    "timm:vit_tiny_patch16_224@random",
    "timm:convnext_atto@random",
)


def contract(bands: tuple[str, ...]) -> Preprocessing:
    toa, place = Quantity.TOA_REFLECTANCE, {band: at for at, band in enumerate(ORDER)}
    return Preprocessing(
        sensor="sentinel2_l1c",
        quantity=toa,
        bands=bands,
        convert=(),
        range=toa.plausible,
        clip=None,
        mean=tuple(0.1 + 0.02 * place[band] for band in bands),
        std=tuple(0.05 + 0.01 * place[band] for band in bands),
        size_px=32,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )


def features(source: str, bands: tuple[str, ...], planes: dict[str, torch.Tensor], *, seed: int = 3) -> torch.Tensor:
    encoder = load_encoder(source, preprocessing=contract(bands), seed=seed)
    image = torch.stack([planes[band] for band in bands], dim=1)
    known = encoder.preprocessing
    x, valid = known(image, bands=bands, quantity=known.quantity, sensor=known.sensor)
    with torch.no_grad():
        return encoder.features(x, valid=valid)


@pytest.fixture
def planes() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {band: 0.05 + 0.3 * torch.rand(2, 32, 32, generator=rng) for band in ORDER}


@pytest.mark.parametrize("source", RANDOM)
def test_a_seed_gives_each_band_its_own_kernels(source: str, planes: dict[str, torch.Tensor]) -> None:
    given, other = (features(source, bands, planes) for bands in (ORDER, OTHER))
    torch.testing.assert_close(other, given, rtol=1e-4, atol=1e-5)
    exchanged = dict(zip(OTHER, (planes[band] for band in ORDER), strict=True))
    assert not torch.allclose(features(source, ORDER, exchanged), given, rtol=1e-3, atol=1e-4)  # bands do count
    assert not torch.allclose(features(source, ORDER, planes, seed=4), given, rtol=1e-3, atol=1e-4)


def test_in_the_order_of_the_sensor_they_are_the_plain_draws() -> None:
    """What stands in published tables was drawn so."""
    drawn = torch.randn(256, len(ORDER), 3, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(load_encoder("rcf", preprocessing=contract(ORDER), seed=3).weights, drawn)  # type: ignore[attr-defined]
    with seed_weights(3):
        plain = timm.create_model("resnet18", pretrained=False, in_chans=len(ORDER), num_classes=0)
    encoder = load_encoder("timm:resnet18@random", preprocessing=contract(ORDER), seed=3)
    assert torch.equal(encoder.model.conv1.weight, plain.conv1.weight)  # type: ignore[attr-defined]
    place = [ORDER.index(band) for band in OTHER]
    encoder = load_encoder("timm:resnet18@random", preprocessing=contract(OTHER), seed=3)
    assert torch.equal(encoder.model.conv1.weight, plain.conv1.weight[:, place])  # type: ignore[attr-defined]


def test_a_network_without_one_first_layer_is_refused_in_another_order() -> None:
    model = timm.create_model("resnet18", pretrained=False, in_chans=len(ORDER), num_classes=0)
    model.pretrained_cfg = {**model.pretrained_cfg, "first_conv": ("conv1", "conv2")}
    order_first_layer(model, contract(ORDER), name="two")
    with pytest.raises(UserError, match=r"one kernel for each band, to give B8A, .* theirs by name, got two; give a"):
        order_first_layer(model, contract(OTHER), name="two")


def permute(root: Path, order: list[int]) -> None:
    for path in root.rglob("*.tif"):
        with rasterio.open(path) as file:
            planes, profile = file.read(), file.profile
        with rasterio.open(path, "w", **profile) as file:
            file.write(planes[order])


@pytest.mark.parametrize("source", ["rcf", "rcf_zca", "random_init", "timm:resnet18@random?contract=training&size=32"])
def test_a_benchmark_with_its_planes_in_another_order_has_the_same_features(tmp_path: Path, source: str) -> None:
    root, card = make_eurosat(tmp_path / "eurosat", seed=9, per_class=5), load_card("eurosat")
    shutil.copytree(root, tmp_path / "other")
    order = np.random.default_rng(2).permutation(len(card.bands)).tolist()
    permute(tmp_path / "other", order)
    permuted = replace(card, bands=tuple(card.bands[at] for at in order), statistics=None)
    (candidate,) = load_candidates([source])
    tasks = load_benchmark("eurosat", root), load_benchmark("eurosat", tmp_path / "other", card=permuted)
    ours, theirs = (candidate.features(task)[0] for task in tasks)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)

"""Encoders at other sizes and behind other contracts: the same bits where nothing changes, timm's own resampling where positions do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn

from eo_ssl.encoder import EmpiricalFeatures, Encoder, TrainedEncoder, load_encoder, save_encoder
from eo_ssl.errors import UserError
from eo_ssl.models import Vit
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity

NAMES = (
    "imagestats",
    "rcf",
    "rcf_zca",
    "random_init",
    "random_resnet50",
    "timm:vit_tiny_patch16_224@random",
    "timm:resnet18@random",
)


def contract(size_px: int = 32, **changes: Any) -> Preprocessing:
    toa = Quantity.TOA_REFLECTANCE
    fields = dict(  # noqa: C408
        sensor="sentinel2_l1c",
        quantity=toa,
        bands=("B02", "B03", "B04"),
        convert=(),
        range=toa.plausible,
        clip=None,
        mean=(0.1, 0.2, 0.3),
        std=(0.05, 0.05, 0.05),
        size_px=size_px,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )
    return Preprocessing(**{**fields, **changes})


def made(name: str) -> Encoder:
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    return load_encoder(name, preprocessing=contract(), images=images if name == "rcf_zca" else None)


def vit(position: Any = "sincos", pooling: Any = "mean") -> TrainedEncoder:
    model = Vit(patch_size=8, depth=2, position=position, pooling=pooling)
    return TrainedEncoder(model.build(contract().bands, 32, 1), contract(), name="ours")


def batch(size: int, n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("name", NAMES)
def test_own_size_gives_the_same_bits_and_another_the_same_weights(name: str) -> None:
    encoder = made(name)
    assert isinstance(encoder, Encoder)
    x = batch(32)
    with torch.inference_mode():
        before = encoder.features(x)
        same, larger = encoder.at_size(32), encoder.at_size(64)
        assert torch.equal(same.features(x), before) and same.fingerprint == encoder.fingerprint
        assert torch.equal(encoder.features(x), before)  # making others changed nothing here
        assert larger.features(batch(64)).shape == before.shape
    assert (larger.preprocessing.size_px, larger.preprocessing.resize) == (64, "to_size")
    assert larger.fingerprint != encoder.fingerprint and encoder.preprocessing == contract()
    assert (larger.name, larger.provenance) == (encoder.name, encoder.provenance)


@pytest.mark.parametrize("name", ["imagestats", "rcf", "random_resnet50"])
def test_weights_that_know_no_size_see_larger_images_as_they_are(name: str) -> None:
    encoder = made(name)
    with torch.inference_mode():
        assert torch.equal(encoder.at_size(64).features(batch(64)), encoder.features(batch(64)))


@pytest.mark.parametrize("position", ["sincos", "learned"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_larger_vit_is_the_one_that_timm_makes_of_the_weights(position: str, pooling: str) -> None:
    encoder = vit(position, pooling)
    theirs: Any = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=8, in_chans=3, num_classes=0, depth=2
    ).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(encoder.model.state_dict()), theirs))
    x = batch(64)
    with torch.inference_mode():
        encoded = theirs.forward_features(x)
        larger = encoder.at_size(64)
        torch.testing.assert_close(larger.tokens(x), encoded[:, 1:])
        torch.testing.assert_close(
            larger.features(x), encoded[:, 0] if pooling == "cls" else encoded[:, 1:].mean(dim=1)
        )
    assert larger.architecture == dataclasses.replace(encoder.architecture, size_px=64)


def test_resampled_codes_stay_between_those_of_training() -> None:
    # Twice as many patches on the same ground lie at half steps; the codes computed there directly are the oracle.
    encoder = vit()
    got = encoder.at_size(64).model.pos_embed[0, 1:].detach().reshape(8, 8, -1)  # type: ignore[index]
    places = (torch.arange(8, dtype=torch.float64) + 0.5) / 2 - 0.5
    quarter = got.shape[2] // 4
    angles = places[:, None] * 10_000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1).float()  # [8, D/2]
    direct = torch.cat([axis[:, None].expand(8, 8, -1), axis[None].expand(8, 8, -1)], dim=2)
    likeness = torch.nn.functional.cosine_similarity(got[1:-1, 1:-1], direct[1:-1, 1:-1], dim=2)
    assert float(likeness.min()) > 0.99


def test_size_must_be_a_multiple_of_the_patch_and_the_nearest_are_named() -> None:
    with pytest.raises(UserError, match="multiple of the patch of 8 px of ours, got 36 px; choose 32 or 40"):
        vit().at_size(36)
    with pytest.raises(UserError, match=r"got 5 px; choose 8$"):
        vit().at_size(5)
    with pytest.raises(
        UserError, match="patch of 16 px of timm:vit_tiny_patch16_224@random, got 40 px; choose 32 or 48"
    ):
        made("timm:vit_tiny_patch16_224@random").at_size(40)
    with pytest.raises(UserError, match="at least 1 px, got 0"):
        made("imagestats").at_size(0)
    with pytest.raises(UserError, match="at least 3 px for rcf, got 2 px"):
        made("rcf").at_size(2)


@pytest.mark.parametrize("name", NAMES)
def test_another_contract_leaves_weights_and_the_first_encoder_alone(name: str) -> None:
    encoder = made(name)
    other = contract(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    twin = encoder.with_preprocessing(other)
    x = batch(32)
    with torch.inference_mode():
        assert torch.equal(twin.features(x), encoder.features(x))  # x is already prepared
    assert twin.preprocessing == other and encoder.preprocessing == contract()
    assert twin.fingerprint != encoder.fingerprint
    assert twin.with_preprocessing(contract()).fingerprint == encoder.fingerprint
    weights, shared = encoder.state_dict(), twin.state_dict()  # type: ignore[attr-defined]
    assert all(weights[key].data_ptr() == shared[key].data_ptr() for key in weights)
    with pytest.raises(UserError, match="weights belong to bands"):
        encoder.with_preprocessing(contract(bands=("B03", "B02", "B04")))


def test_another_size_needs_positions_first() -> None:
    for encoder in (vit(), made("timm:vit_tiny_patch16_224@random")):
        with pytest.raises(UserError, match=r"take `at_size\(48\)` of the encoder first"):
            encoder.with_preprocessing(contract(48))
        native = encoder.with_preprocessing(
            contract(48, resize="native")
        )  # then the images have the size, or are refused
        with torch.inference_mode(), pytest.raises(UserError, match="pass the output of its preprocessing"):
            native.features(batch(48))
    assert made("imagestats").with_preprocessing(contract(48)).preprocessing.size_px == 48


def test_an_encoder_at_another_size_is_saved_and_comes_back(tmp_path: Any) -> None:
    larger = vit("learned").at_size(64)
    saved = save_encoder(tmp_path, larger.backbone, preprocessing=larger.preprocessing, provenance={})
    assert saved == larger.fingerprint
    with torch.inference_mode():
        assert torch.equal(
            load_encoder(tmp_path / "encoder.safetensors").features(batch(64)), larger.features(batch(64))
        )


def test_fitted_encoder_is_its_own_class() -> None:
    assert isinstance(made("rcf_zca"), EmpiricalFeatures)

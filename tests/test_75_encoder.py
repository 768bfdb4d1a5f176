"""Encoders: random filters equal TorchGeo's, statistics equal numpy's, and a saved encoder comes back bit by bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import timm
import torch
from torchgeo.models import RCF

from eo_ssl.encoder import (
    ENCODER_FILE,
    WEIGHT_FREE,
    Encoder,
    RandomFeatures,
    TrainedEncoder,
    load_encoder,
    save_encoder,
)
from eo_ssl.encoder.protocol import measure_output_range
from eo_ssl.errors import UserError
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.manifest import Clock, finish
from eo_ssl.models import BackboneConfig, ResNet, View, Vit
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity

BANDS = ("B02", "B03", "B04")
SMALL = Vit(patch_size=8, depth=2)
BANDS = ("B02", "B03", "B04")


def contract(size_px: int = 16, **changes: object) -> Preprocessing:
    toa = Quantity.TOA_REFLECTANCE
    fields = dict(  # noqa: C408
        sensor="sentinel2_l1c",
        quantity=toa,
        bands=BANDS,
        convert=(),
        range=toa.plausible,
        clip=None,
        mean=(0.1, 0.1, 0.1),
        std=(0.05, 0.05, 0.05),
        size_px=size_px,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )
    return Preprocessing(**{**fields, **changes})  # type: ignore[arg-type]


def batch(size: int = 16, n: int = 20) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(3))


def save(folder: Path, *, model: Vit = SMALL, seed: int = 4, **changes: object) -> str:
    options = {"preprocessing": contract(), "provenance": {"seed": 4, "objective": "mae"}}
    return save_encoder(folder, model.build(BANDS, 16, seed), **{**options, **changes})  # type: ignore[arg-type]


def test_random_features_equal_torchgeos_with_the_same_filters() -> None:
    ours = RandomFeatures(contract(), features=64, seed=0)
    theirs = RCF(in_channels=3, features=64, kernel_size=3, bias=-1.0, seed=1)
    theirs.weights = ours.weights
    x = batch(n=37)  # more than one inner batch
    torch.testing.assert_close(ours.features(x), theirs(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.tokens(x).mean(dim=1), theirs(x), rtol=1e-5, atol=1e-6)


def test_random_features_draw_the_filters_torchgeo_would() -> None:
    ours = RandomFeatures(contract(), features=64, seed=11)
    assert torch.equal(ours.weights, RCF(in_channels=3, features=64, kernel_size=3, seed=11).weights)


def test_seed_zero_is_a_seed() -> None:
    # torchgeo 0.8.1 takes seed=0 for no seed.
    before = torch.random.get_rng_state()
    for name in ("rcf", "random_init", "random_resnet50"):
        first, again, other = (load_encoder(name, preprocessing=contract(32), seed=seed) for seed in (0, 0, 1))
        assert first.fingerprint == again.fingerprint != other.fingerprint, name
    assert torch.equal(before, torch.random.get_rng_state())  # the global generator is nobody's


def test_image_statistics_equal_numpys() -> None:
    x = batch()
    v = x.numpy().reshape(20, 3, -1)
    expected = np.concatenate([v.mean(axis=2), v.std(axis=2, ddof=1), v.max(axis=2), v.min(axis=2)], axis=1)
    got = load_encoder("imagestats", preprocessing=contract())
    np.testing.assert_allclose(got.features(x).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_one_encoder_under_two_names_is_not_two_candidates(tmp_path: Path) -> None:
    # Compared with itself it would fill the table with rows that differ in nothing.
    for name in ("a", "b"):
        save(tmp_path / name)
    with pytest.raises(UserError, match="expected different encoders, got equal ones"):
        load_candidates([str(tmp_path / name / ENCODER_FILE) for name in ("a", "b")])


@pytest.mark.parametrize("name", WEIGHT_FREE)
def test_every_weight_free_encoder_is_an_encoder(name: str) -> None:
    encoder = load_encoder(name, preprocessing=contract(32))
    assert isinstance(encoder, Encoder) and encoder.name == name
    with torch.inference_mode():
        x = batch(32, 4)
        features, tokens = encoder.features(x), encoder.tokens(x)
    assert features.shape == (4, encoder.dim) and tokens.shape[::2] == (4, encoder.dim)
    if name != "imagestats":  # all of them pool by the mean over positions
        torch.testing.assert_close(tokens.mean(dim=1), features, rtol=1e-4, atol=1e-5)
    assert float(features.std(dim=0).max()) > 0


def test_random_resnet_is_timms_with_neutral_normalisation() -> None:
    encoder = load_encoder("random_resnet50", preprocessing=contract(32))
    assert not encoder.training  # type: ignore[attr-defined]
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]  # type: ignore[attr-defined]
    assert norms and all(bool((m.running_mean == 0).all()) and bool((m.running_var == 1).all()) for m in norms)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_saved_encoder_comes_back(tmp_path: Path, pooling: str) -> None:
    model = replace(SMALL, pooling=pooling)  # type: ignore[arg-type]
    fingerprint = save(tmp_path, model=model)
    back = load_encoder(tmp_path / ENCODER_FILE)
    assert isinstance(back, TrainedEncoder)
    assert (back.fingerprint, back.preprocessing, back.architecture, back.pooling) == (
        fingerprint,
        contract(),
        BackboneConfig(model, BANDS, 16),
        pooling,
    )
    assert back.provenance == {"seed": 4, "objective": "mae"}
    x, network = batch(), SMALL.build(BANDS, 16, 4).network.eval()
    with torch.inference_mode():
        encoded = network.forward_features(x)
        assert torch.equal(back.features(x), encoded[:, 0] if pooling == "cls" else encoded[:, 1:].mean(dim=1))
        assert torch.equal(back.tokens(x), encoded[:, 1:])


def test_weights_are_plain_timm(tmp_path: Path) -> None:
    save(tmp_path)
    with safetensors.safe_open(tmp_path / ENCODER_FILE, framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    config = json.loads(metadata["architecture"])["config"]
    model = timm.create_model(config["timm_name"], img_size=16, patch_size=8, in_chans=3, num_classes=0, depth=2)
    model.load_state_dict(tensors)
    assert Preprocessing.from_json(json.loads(metadata["preprocessing"])) == contract()


def test_equal_encoders_are_equal_bytes(tmp_path: Path) -> None:
    prints = {save(tmp_path / str(i)) for i in range(6)}
    assert len(prints) == 1 and len({(tmp_path / str(i) / ENCODER_FILE).read_bytes() for i in range(6)}) == 1
    save(tmp_path / "0")  # again is no mistake


def test_fingerprint_sees_weights_contract_and_pooling_but_not_provenance(tmp_path: Path) -> None:
    same = [save(tmp_path / "a"), save(tmp_path / "b", provenance={})]
    other = [
        save(tmp_path / "c", model=replace(SMALL, pooling="cls")),
        save(tmp_path / "d", preprocessing=contract(clip=(0.0, 1.0))),
        save(tmp_path / "e", seed=5, provenance={}),
    ]
    assert same[0] == same[1] and len({*same, *other}) == 4


def test_folder_needs_its_manifest(tmp_path: Path) -> None:
    clock = Clock()
    product = save(tmp_path / "run")
    with pytest.raises(UserError, match="expected a finished pretrain product"):
        load_encoder(tmp_path / "run")
    finish(tmp_path / "run", stage="pretrain", config={}, inputs={}, product=product, started=clock)
    assert load_encoder(tmp_path / "run").name == "run"


def _damage(path: Path, change: str) -> None:
    data = path.read_bytes()
    if change == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif change == "foreign":
        import safetensors.torch

        path.write_bytes(safetensors.torch.save({"w": torch.zeros(2)}))
    else:
        path.write_bytes(data.replace(b"blocks.0.norm1.weight", b"blocks.0.norm9.weight"))


@pytest.mark.parametrize(
    ("change", "message"),
    [("truncated", "SafetensorError"), ("foreign", "KeyError"), ("renamed", "got other weights or another contract")],
)
def test_damaged_files_are_refused(tmp_path: Path, change: str, message: str) -> None:
    save(tmp_path)
    _damage(tmp_path / ENCODER_FILE, change)
    with pytest.raises(UserError, match=message):
        load_encoder(tmp_path / ENCODER_FILE)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'imagestats'"):
        load_encoder("image_stats")
    with pytest.raises(UserError, match="expected a preprocessing contract"):
        load_encoder("rcf")
    save(tmp_path)
    with pytest.raises(UserError, match="it carries its own"):
        load_encoder(tmp_path / ENCODER_FILE, preprocessing=contract())
    with pytest.raises(UserError, match="expected no other encoder"):
        save(tmp_path, model=replace(SMALL, pooling="cls"))
    with pytest.raises(UserError, match="bands B02, B03, B04 and 24 px, got one for B02, B03, B04 and 16 px"):
        save(tmp_path / "x", preprocessing=contract(24))
    with pytest.raises(UserError, match="expected pooling out of mean, cls, got 'max'"):
        replace(SMALL, pooling="max")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="even number"):
        RandomFeatures(contract(), features=7)
    with pytest.raises(UserError, match="pass the output of its preprocessing"):
        load_encoder(tmp_path / ENCODER_FILE).features(batch(24))
    assert not (tmp_path / "x").exists()


def holed() -> tuple[torch.Tensor, torch.Tensor]:
    """Contract output of five images: one whole, one without its right half, one with scattered holes, one lacking a band, one empty."""
    x, valid = batch(n=5), torch.ones(5, 3, 16, 16, dtype=torch.bool)
    valid[1, :, :, 8:] = False
    valid[2] = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(5)) > 0.1
    valid[3, 1] = False
    valid[4] = False
    return torch.where(valid, x, 0.0), valid


def test_image_statistics_of_a_holed_tile_are_those_of_its_measured_pixels() -> None:
    # The fill value is the band's mean: it must not pull extremes and spread towards it.
    x, valid = holed()
    v = np.where(valid.numpy(), x.numpy(), np.nan).reshape(5, 3, -1)[:3]
    expected = np.concatenate(
        [np.nanmean(v, 2), np.nanstd(v, 2, ddof=1), np.nanmax(v, 2), np.nanmin(v, 2)], axis=1, dtype=np.float32
    )
    encoder = load_encoder("imagestats", preprocessing=contract())
    got = encoder.features(x, valid=valid)
    np.testing.assert_allclose(got[:3].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(got[0], encoder.features(x[:1])[0])  # what else is in the batch changes no bit of a whole tile
    assert (got[3, [1, 4, 7, 10]] == 0).all() and (got[4] == 0).all()


def test_random_features_of_a_holed_tile_are_those_of_its_measured_part() -> None:
    x, valid = holed()
    encoder = load_encoder("rcf", preprocessing=contract())
    got = encoder.features(x, valid=valid)
    assert torch.equal(got[0], encoder.features(x)[0])
    torch.testing.assert_close(got[1], encoder.features(x[1:2, :, :, :8])[0], rtol=1e-5, atol=1e-6)
    positions = encoder.tokens(x[2:3])[0].reshape(14, 14, -1)
    whole = [(r, c) for r in range(14) for c in range(14) if valid[2, :, r : r + 3, c : c + 3].all()]
    torch.testing.assert_close(got[2], torch.stack([positions[at] for at in whole]).mean(dim=0), rtol=1e-4, atol=1e-5)
    # A band that is missing altogether hides no filter; without any filter the tile is taken as it is.
    torch.testing.assert_close(got[3:], encoder.features(x[3:]), rtol=1e-5, atol=1e-6)


def test_a_residual_network_is_saved_and_comes_back_in_evaluation_mode(tmp_path: Path) -> None:
    backbone = ResNet("resnet18").build(BANDS, 16, 4)
    with torch.no_grad():
        backbone.train()(View(batch(32, 8), torch.ones(8, 3, 32, 32, dtype=torch.bool), BANDS))  # moves its statistics
    fingerprint = save_encoder(tmp_path, backbone, preprocessing=contract(), provenance={})
    back = load_encoder(tmp_path / ENCODER_FILE)
    assert isinstance(back, TrainedEncoder) and not back.training and back.fingerprint == fingerprint
    assert (back.architecture, back.pooling, back.dim) == (BackboneConfig(ResNet("resnet18"), BANDS, 16), "avg", 512)
    with torch.inference_mode():
        x, network = batch(), backbone.eval().network
        assert torch.equal(back.features(x), network(x)) and float(back.features(x).std(dim=0).max()) > 0
        larger = back.at_size(64)
        assert torch.equal(larger.features(batch(64, 2)), network(batch(64, 2))) and larger.tokens(x).shape[1] == 1
    with pytest.raises(UserError, match=r"take `at_size\(64\)` of the encoder first"):
        back.with_preprocessing(contract(64))
    assert load_encoder("random_init", preprocessing=contract(), architecture=back.architecture, seed=4).dim == 512


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / ENCODER_FILE
    path.write_bytes(path.read_bytes().replace(b'\\"family\\":\\"vit\\"', b'\\"family\\":\\"vat\\"'))
    with pytest.raises(
        UserError, match=r"expected encoder format 1 of family vit or resnet or .* in .*, got 1 and vat"
    ):
        load_encoder(path)


def test_a_folder_of_two_encoders_names_them(tmp_path: Path) -> None:
    # Pretraining on pairs of two streams writes one encoder for each.
    products = {stream: save(tmp_path / "pair" / stream, seed=seed) for seed, stream in enumerate(("s1", "s2"))}
    for folder, product in ((tmp_path / "pair" / name, value) for name, value in products.items()):
        finish(folder, stage="pretrain", config={}, inputs={}, product=product, started=Clock())
    finish(tmp_path / "pair", stage="pretrain", config={}, inputs={}, product="p", started=Clock())
    with pytest.raises(
        UserError, match=r"got a folder of 2: .*pair/s1, .*pair/s2; name the one you mean, such as .*s1"
    ):
        load_encoder(tmp_path / "pair")
    assert load_encoder(tmp_path / "pair" / "s1").fingerprint == products["s1"]


def physical(n: int = 4, size: int = 16) -> torch.Tensor:
    """Reflectances with invalid pixels."""
    images = 0.2 + 0.05 * batch(size, n)
    images[0, 0, :2] = torch.nan
    return images


@pytest.mark.parametrize("name", [*WEIGHT_FREE, "timm:resnet18@random", "trained"])
def test_the_call_checks_prepares_and_encodes(name: str, tmp_path: Path) -> None:
    save(tmp_path)
    encoder = (
        load_encoder(tmp_path / ENCODER_FILE) if name == "trained" else load_encoder(name, preprocessing=contract(32))
    )
    images, tags = (
        physical(size=encoder.preprocessing.size_px),
        {"quantity": "toa_reflectance", "sensor": "sentinel2_l1c"},
    )
    x, valid = encoder.preprocessing(images, bands=BANDS, **tags)
    wanted = encoder.features(x, valid=valid)
    got = encoder(images, bands=BANDS, **tags)
    assert torch.equal(got, wanted) and got.dtype == torch.float32 and not got.requires_grad
    shuffled = images[:, [2, 0, 1]].double().numpy()[:, :, :, ::-1].copy()[:, :, :, ::-1]  # negative strides too
    assert torch.equal(encoder(shuffled, bands=("red", "B02", "green"), **tags), wanted)
    torch.testing.assert_close(encoder(images[1].numpy(), bands=BANDS, **tags)[0], wanted[1], rtol=1e-4, atol=1e-5)
    hidden = np.ma.masked_invalid(images.numpy())
    assert torch.equal(encoder(hidden, bands=BANDS, **{**tags, "quantity": None}), wanted)


def test_the_call_refuses_what_is_no_such_image() -> None:
    encoder = load_encoder("imagestats", preprocessing=contract())
    tags = {"bands": BANDS, "quantity": "toa_reflectance", "sensor": "sentinel2_l1c"}
    with pytest.raises(UserError, match="expected toa_reflectance, got boa_reflectance"):
        encoder(physical(), **{**tags, "quantity": "boa_reflectance"})
    with pytest.raises(UserError, match="expected bands of sentinel2_l1c, got bands of sentinel2_l2a"):
        encoder(physical(), **{**tags, "sensor": "sentinel2_l2a"})
    with pytest.raises(UserError, match="expected physical values as floating-point numbers, got an array of uint16"):
        encoder(np.ones((3, 16, 16), np.uint16), **tags)
    with pytest.raises(
        UserError, match=r"expected an array or tensor \[B, C, H, W\] or \[C, H, W\], got ndarray \(16, 16\)"
    ):
        encoder(np.ones((16, 16)), **tags)
    with pytest.raises(UserError, match="apply the product's scale and offset once"):
        encoder(physical() * 10_000, **tags)
    with pytest.raises(TypeError, match="quantity"):
        encoder(physical(), bands=BANDS, sensor="sentinel2_l1c")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", [*WEIGHT_FREE, "timm:resnet18@random", "trained"])
def test_features_of_numbers_that_were_never_prepared_are_refused(name: str, tmp_path: Path) -> None:
    save(tmp_path)
    encoder = (
        load_encoder(tmp_path / ENCODER_FILE) if name == "trained" else load_encoder(name, preprocessing=contract(32))
    )
    raw = torch.nan_to_num(physical(size=encoder.preprocessing.size_px), nan=0.2)
    for method in (encoder.features, encoder.tokens):
        with pytest.raises(
            UserError, match=r"got a median of (2|1\.99)e\+03; give physical values to the encoder itself"
        ):
            method(raw * 10_000)
    with pytest.raises(UserError, match="got a median of nan; give physical values"):
        encoder.features(torch.full_like(raw, torch.nan))
    # Reflectance lies where normalised values may lie too: nothing can be told, and nothing is said.
    assert encoder.features(raw).shape == (4, encoder.dim)


def test_the_range_of_prepared_values_follows_conversion_clip_and_filling() -> None:
    assert measure_output_range(
        contract(range=(-0.1, 1.6), mean=(0.1, 0.2, 0.3), std=(0.05, 0.1, 0.1))
    ) == pytest.approx(
        (-4.0, 30.0)  # (-0.1 - 0.1) / 0.05 = -4 and -0.4 / 0.1 = -4; (1.6 - 0.1) / 0.05
    )
    clipped = contract(range=(-0.1, 1.6), clip=(0.0, 1.0), mean=(0.1,) * 3, std=(0.1,) * 3)
    assert measure_output_range(clipped) == pytest.approx((-1.0, 9.0))
    far = contract(range=(0.5, 1.0), mean=(0.1,) * 3, std=(0.1,) * 3)
    assert measure_output_range(far) == pytest.approx((0.0, 9.0))  # an invalid pixel becomes 0
    decibel = contract(
        sensor="sentinel1_rtc",
        quantity="gamma0",
        bands=("VV",),
        convert=("gamma0->gamma0_db",),
        range=(0.001, 10.0),
        mean=(-10.0,),
        std=(5.0,),
    )
    assert measure_output_range(decibel) == pytest.approx((-4.0, 4.0))  # -30 and 10 dB

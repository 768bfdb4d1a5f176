"""Encoders made elsewhere: TorchGeo's own loader and timm are the oracles; nothing is downloaded."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchgeo.models
from torch import Tensor

from eo_ssl.encoder import Encoder, ExternalEncoder, derive_contract, load_encoder
from eo_ssl.encoder.foreign_weights import read_tensors
from eo_ssl.encoder.specs import is_spec, parse_spec
from eo_ssl.encoder.torchgeo_weights import find_hub_file, find_weights
from eo_ssl.errors import UserError
from eo_ssl.models import seed_weights
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity


def contract(size_px: int = 32, bands: tuple[str, ...] = ("B02", "B03", "B04")) -> Preprocessing:
    toa = Quantity.TOA_REFLECTANCE
    return Preprocessing(
        sensor="sentinel2_l1c",
        quantity=toa,
        bands=bands,
        convert=(),
        range=toa.plausible,
        clip=None,
        mean=(0.1,) * len(bands),
        std=(0.05,) * len(bands),
        size_px=size_px,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )


def load(source: str, **options: Any) -> ExternalEncoder:
    encoder = load_encoder(source, **options)
    assert isinstance(encoder, ExternalEncoder) and isinstance(encoder, Encoder) and not encoder.training
    return encoder


def batch(channels: int = 3, size: int = 32, n: int = 2) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    """An empty folder of torch's hub."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


@pytest.mark.parametrize(
    ("member", "builder"),
    [
        ("ResNet18_Weights.SENTINEL2_ALL_MOCO", torchgeo.models.resnet18),
        ("ViTSmall16_Weights.SENTINEL1_GRD_MAE", torchgeo.models.vit_small_patch16_224),
        ("Swin_V2_T_Weights.SENTINEL2_SI_MS_SATLAS", torchgeo.models.swin_v2_t),
    ],
)
def test_cached_weights_give_the_features_of_torchgeos_own_loader(hub: Path, member: str, builder: Any) -> None:
    weights: Any = find_weights(member)
    with seed_weights(5):
        stand_in = builder(in_chans=weights.meta["in_chans"]) if "Swin" not in member else builder()
        if "Swin" in member:
            stand_in.features[0][0] = torch.nn.Conv2d(9, 96, kernel_size=4, stride=4)
    torch.save(stand_in.state_dict(), hub / Path(weights.url).name)
    theirs = builder(weights=weights).eval()
    if "Swin" in member:
        theirs.head = torch.nn.Identity()
    else:
        theirs.reset_classifier(0)
    ours = load(f"torchgeo:{member}")
    hashed = re.search(r"-[0-9a-f]{8}\.pth$", str(weights.url)) is not None  # some bear no hash in their name
    assert ("is not the published one: its sha256 begins with" in ours.provenance.get("remark", "")) == hashed
    assert ours.provenance["weights"] == weights.url and ours.provenance["dataset"] == weights.meta["dataset"]
    image = torch.rand(1, len(ours.preprocessing.bands), 256, 256, generator=torch.Generator().manual_seed(0)) * 0.3
    quantity = ours.preprocessing.quantity
    dn = image * 10_000 if quantity.is_reflectance else image * 60 - 25
    if "SATLAS" in member:
        dn[:, :3] = image[:, :3] * 255 / 0.3558
    given = image if quantity.is_reflectance else dn.clone()
    x, _ = ours.preprocessing(
        given, bands=ours.preprocessing.bands, quantity=quantity, sensor=ours.preprocessing.sensor
    )
    with torch.inference_mode():
        torch.testing.assert_close(ours.features(x), theirs(weights.transforms(dn)), rtol=1e-4, atol=1e-4)


def test_missing_weights_name_the_file_and_the_folder(hub: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"expected the weights of ResNet18_Weights\.SENTINEL2_ALL_MOCO as resnet18_sentinel2_all_moco-59bfdff9\.pth",
    ) as caught:
        load("torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO")
    assert str(hub) in str(caught.value) and "?download" in str(caught.value)


def test_a_download_needs_its_flag_and_its_hash(hub: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    torch.save({"w": torch.arange(3)}, there / "file")
    digest = hashlib.sha256((there / "file").read_bytes()).hexdigest()[:8]
    good, bad = there / f"net-{digest}.pth", there / "net-00000000.pth"
    for copy in (good, bad):
        copy.write_bytes((there / "file").read_bytes())
    with pytest.raises(UserError, match="allow the download"):
        find_hub_file(good.as_uri(), name="net", download=False)
    assert torch.equal(read_tensors(find_hub_file(good.as_uri(), name="net", download=True))["w"], torch.arange(3))
    assert (hub / good.name).exists()
    with pytest.raises(UserError, match="invalid hash value"):
        find_hub_file(bad.as_uri(), name="net", download=True)
    with pytest.raises(UserError, match="fetch the file by other means"):
        find_hub_file((there / "absent.pth").as_uri(), name="net", download=True)
    assert [file.name for file in hub.iterdir()] == [good.name]  # nothing half fetched stays


def test_power_reaches_weights_of_decibels_only_where_it_is_named() -> None:
    source = "torchgeo:ViTSmall16_Weights.SENTINEL1_GRD_MAE@random"
    decibel, power = load(source), load(f"{source}?quantity=sigma0")
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(1, 2, 256, 256, generator=rng) * 0.5 + 0.001
    x, _ = power.preprocessing(image, bands=("VV", "VH"), quantity="sigma0", sensor="sentinel1_grd")
    same, _ = decibel.preprocessing(
        10 * image.log10(), bands=("VV", "VH"), quantity="sigma0_db", sensor="sentinel1_grd"
    )
    torch.testing.assert_close(x, same, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="expected sigma0_db, got sigma0"):
        decibel.preprocessing(image, bands=("VV", "VH"), quantity="sigma0", sensor="sentinel1_grd")
    with pytest.raises(UserError, match="between a power and its own dB form"):
        load(f"{source}?quantity=gamma0")  # differs by geometry


class Bomb:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


def test_a_file_that_would_run_code_is_refused(hub: Path, capsys: Any) -> None:
    torch.save({"x": Bomb()}, hub / "resnet18_sentinel2_all_moco-59bfdff9.pth")
    with pytest.raises(UserError, match=r"give a state dict that torch\.load reads with weights_only"):
        load("torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO")
    assert "executed" not in capsys.readouterr().out


def test_another_models_file_is_refused(hub: Path) -> None:
    file = hub / "resnet18_sentinel2_all_moco-59bfdff9.pth"
    torch.save(timm.create_model("resnet18", in_chans=12).state_dict(), file)
    with pytest.raises(UserError, match=r"expected weights of ResNet18_Weights\.SENTINEL2_ALL_MOCO, got others"):
        load("torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO")
    torch.save({"conv1.weight": torch.zeros(64, 13, 7, 7)}, file)
    with pytest.raises(UserError, match=r"got a file without bn1\.weight"):
        load("torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO")


def test_architecture_follows_the_enum_and_not_its_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    # TorchGeo's metadata called this ResNet-50 resnet18 up to 0.9.
    weights: Any = find_weights("ResNet50_Weights.LANDSAT_ETM_SR_MOCO")
    monkeypatch.setitem(weights.meta, "model", "resnet18")
    encoder = load("torchgeo:ResNet50_Weights.LANDSAT_ETM_SR_MOCO@random")
    assert encoder.provenance["architecture"] == "resnet50" and encoder.dim == 2048


def test_stand_in_has_the_published_contract_and_seeded_weights() -> None:
    source = "torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO@random"
    before = torch.random.get_rng_state()
    first, again, other = (load(source, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.preprocessing == derive_contract(find_weights("ResNet18_Weights.SENTINEL2_ALL_MOCO")).preprocessing
    assert first.provenance["weights"] == "random" and first.provenance["pooling"] == "avg" and first.name == source


def test_published_window_is_seen_until_another_size_is_chosen() -> None:
    source = "torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO@random"
    encoder = load(source)
    assert (encoder.preprocessing.size_px, encoder.readout.window_px) == (256, 224)
    x = batch(13, 256)
    with torch.inference_mode():
        assert torch.equal(encoder.features(x), encoder.model(x[..., 16:240, 16:240].contiguous()))
        assert torch.equal(encoder.at_size(256).features(x), encoder.features(x))
        whole = encoder.at_size(64)
        small = batch(13, 64)
        assert torch.equal(whole.features(small), encoder.model(small))
    assert whole.readout.window_px is None and whole.preprocessing.size_px == 64
    with pytest.raises(UserError, match=r"expected a contract of 256 px .* take `at_size\(224\)`"):
        encoder.with_preprocessing(whole.at_size(224).preprocessing)
    assert load(f"{source}?size=64").fingerprint == whole.fingerprint


def test_channels_that_were_always_empty_get_zeros() -> None:
    encoder = load("torchgeo:ResNet50_Weights.SENTINEL2_ALL_CLOSP@random")
    assert "B10" not in encoder.preprocessing.bands and encoder.preprocessing.sensor == "sentinel2_l2a"
    x = batch(12, 64)
    with torch.inference_mode():
        padded = torch.cat([x[:, :10], torch.zeros(2, 1, 64, 64), x[:, 10:]], dim=1)
        assert torch.equal(encoder.features(x), encoder.model(padded))


def test_weights_that_belong_to_one_size_say_so() -> None:
    encoder = load("torchgeo:EarthLoc_Weights.SENTINEL2_RESNET50@random?pooling=mean")
    with pytest.raises(UserError, match="whose weights belong to that size, got 64 px; bring the images to 320 px"):
        encoder.at_size(64)
    with torch.inference_mode():
        x = batch(3, 320, n=1)
        assert encoder.features(x).shape == (1, encoder.dim)
        torch.testing.assert_close(encoder.features(x), encoder.model.backbone(x).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "convnext_atto",
        "efficientnet_b0",
        "swin_tiny_patch4_window7_224",
        "vit_tiny_patch16_224",
        "mobilenetv3_small_050",
    ],
)
def test_timms_models_answer_as_timm_does(name: str) -> None:
    size = 64 if "224" not in name else 224
    encoder = load(f"timm:{name}@random", preprocessing=contract(size), seed=2)
    with seed_weights(2):
        theirs: Any = timm.create_model(name, num_classes=0).eval()
    x = batch(3, size)
    with torch.inference_mode():
        features, tokens, maps = encoder.features(x), encoder.tokens(x), theirs.forward_features(x)
        assert torch.equal(features, theirs.forward_head(maps, pre_logits=True)) and features.shape[1] == encoder.dim
    spatial = {3: maps[:, 1:] if maps.ndim == 3 else maps, 4: maps}[maps.ndim]
    channels_last = spatial if maps.ndim == 3 or name.startswith("swin") else spatial.permute(0, 2, 3, 1)
    assert torch.equal(tokens, channels_last.reshape(2, -1, tokens.shape[2]))
    assert encoder.pooling == encoder.provenance["pooling"] == ("token" if name.startswith("vit") else "avg")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_mean_over_positions_is_a_named_pooling(name: str) -> None:
    own, mean = (load(f"timm:{name}@random{option}", preprocessing=contract(32)) for option in ("", "?pooling=mean"))
    x = batch()
    with torch.inference_mode():
        torch.testing.assert_close(mean.features(x), own.tokens(x).mean(dim=1))
        assert mean.features(x).shape[1] == mean.dim
    assert mean.pooling == "mean" and mean.fingerprint != own.fingerprint


def test_any_bands_reach_a_timm_model_by_name() -> None:
    c = contract(64, bands=("B08", "B04", "B11", "B02"))
    encoder = load("timm:resnet18@random", preprocessing=c)
    names = ("B02", "B04", "B08", "B11")
    image = torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.3
    results = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        x, _ = c(image[:, order], bands=[names[i] for i in order], quantity="toa_reflectance", sensor="sentinel2_l1c")
        with torch.inference_mode():
            results.append(encoder.features(x))
    assert torch.equal(results[0], results[1])


def test_weights_of_a_timm_model_come_from_a_file(tmp_path: Path) -> None:
    with seed_weights(9):
        theirs: Any = timm.create_model("resnet18", num_classes=7)
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), file)
    encoder = load(f"timm:resnet18.a1_in1k?file={file}", preprocessing=contract(64, ("B04", "B03", "B02")))
    x = batch(3, 64)
    theirs.eval().reset_classifier(0)
    with torch.inference_mode():
        assert torch.equal(encoder.features(x), theirs(x))
    assert encoder.provenance["weights"] == "model.safetensors"
    with pytest.raises(UserError, match="correct the option file"):
        load("timm:resnet18.a1_in1k?file=/nowhere.safetensors", preprocessing=contract(64))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="give a file of this model"):
        load(f"timm:resnet18.a1_in1k?file={tmp_path / 'bad.safetensors'}", preprocessing=contract(64))


def test_imagenets_statistics_only_where_they_are_named() -> None:
    with pytest.raises(
        UserError,
        match=r"expected a preprocessing contract for timm:resnet50\.a1_in1k, got none; give one .*\?contract=imagenet",
    ):
        load("timm:resnet50.a1_in1k")
    encoder = load("timm:resnet18.a1_in1k@random?contract=imagenet")
    p = encoder.preprocessing
    assert (p.sensor, p.bands, p.quantity.value, p.size_px, p.interpolation) == (
        "aerial_rgb",
        ("R", "G", "B"),
        "dn",
        224,
        "bicubic",
    )
    rng = torch.Generator().manual_seed(4)
    image = torch.randint(0, 256, (1, 3, 224, 224), generator=rng).float()
    x, _ = p(image.flip(1), bands=("B", "G", "R"), quantity="dn", sensor="aerial_rgb")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(x, (image / 255 - mean) / std)
    optical = load("timm:resnet18.a1_in1k@random?contract=imagenet&sensor=sentinel2_l1c&white=0.3558").preprocessing
    assert optical.bands == ("B04", "B03", "B02") and optical.clip == (0.0, 0.3558)
    torch.testing.assert_close(torch.tensor(optical.mean), 0.3558 * mean.flatten())
    for source, words in (
        ("timm:resnet18@random?contract=imagenet&sensor=sentinel2_l1c", "is to see as white, got None"),
        ("timm:resnet18@random?contract=imagenet&sensor=sentinel1_grd", "choose an optical one"),
        ("timm:resnet18@random?contract=clip", "expected contract=imagenet"),
    ):
        with pytest.raises(UserError, match=words):
            load(source)
    with pytest.raises(UserError, match="leave out either"):
        load("timm:resnet18@random?contract=imagenet", preprocessing=contract())


def test_uncached_timm_weights_name_what_is_missing(tmp_path: Path, monkeypatch: Any) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"as model\.safetensors of timm/resnet18\.a1_in1k in .*\?download"):
        load("timm:resnet18.a1_in1k", preprocessing=contract(64))
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        load("timm:resnet118@random", preprocessing=contract(64))
    with pytest.raises(UserError, match="add @random"):
        load("timm:darknet17", preprocessing=contract(64))


def test_a_contract_of_ones_own_for_weights_without_one() -> None:
    own = contract(64, bands=("B02", "B03"))
    encoder = load("torchgeo:ResNet50_Weights.SENTINEL1_GRD_CLOSP@random", preprocessing=own)
    assert encoder.preprocessing == own and encoder.provenance["contract"] == "given by the caller"
    with pytest.raises(UserError, match="one band for each of 2 channels"):
        load("torchgeo:ResNet50_Weights.SENTINEL1_GRD_CLOSP@random", preprocessing=contract(64))
    with pytest.raises(UserError, match="expected weights of an image encoder"):
        load("torchgeo:DOFABase16_Weights.DOFA_MAE@random", preprocessing=own)


def test_specs_are_read_strictly() -> None:
    spec = parse_spec("timm:resnet18.a1_in1k@random?contract=imagenet&size=64")
    assert (spec.route, spec.name, spec.random, spec.size_px) == ("timm", "resnet18.a1_in1k", True, 64)
    assert is_spec("remoteclip:x.pt") and not is_spec("runs/encoder") and not is_spec("imagestats")
    for source, words in (
        ("timm:resnet18?contrast=imagenet", "did you mean 'contract'"),
        ("torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO@random?size=big", "expected size as a number"),
        ("timm:@random", "name the encoder"),
        ("timm:resnet18@random?contract=imagenet&pooling=max", "expected pooling own or mean"),
    ):
        with pytest.raises(UserError, match=words):
            load_encoder(source)
    with pytest.raises(UserError, match="expected no architecture"):
        from eo_ssl.models import BackboneConfig, Vit

        load_encoder("timm:resnet18@random", architecture=BackboneConfig(Vit(), ("B02",), 64))


def test_images_that_vanish_in_the_strides_are_refused_in_a_sentence() -> None:
    encoder = load("timm:convnext_atto@random", preprocessing=contract(16))
    with pytest.raises(UserError, match=r"large enough for the network's strides, got 16 x 16 px.*\?size=64"):
        encoder.features(batch(size=16))
    assert encoder.at_size(64).features(batch(size=64)).shape[0] == 2

"""Residual networks leave as transformers do: every route gives the encoder's features to 1e-5."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from eo_ssl.export import SEGMENTATION_FILES, Bundle, Options, export, verify
from eo_ssl.export.parity import read
from eo_ssl.export.torchgeo_tasks import ClassificationTask, SemanticSegmentationTask
from eo_ssl.export.weights_enum import load_weights_module
from eo_ssl.models import ResNet
from exported import RESNET_18, encoder, optical, radar
from test_88_export_bench import L1C, eurosat_files, module_of, settings

ROUTES = {
    "preprocess.json",
    "timm local-dir",
    "torchgeo ClassificationTask",
    "torchgeo SemanticSegmentationTask (unet)",
    "torchgeo WeightsEnum ClassificationTask(weights=enum)",
    "torchgeo WeightsEnum torchgeo.models.resnet18(weights=enum)",
    "WeightsEnum transforms",
    "onnxruntime onnx/encoder.onnx",
    "onnxruntime onnx/encoder_physical.onnx",
    "STAC item (MLM)",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """All 13 bands at 32 px, both graphs."""
    out = tmp_path_factory.mktemp("resnet") / "bundle"
    return export(encoder(RESNET_18, optical(32, L1C), name="res"), out, options=Options(onnx_preprocessing=True))


def test_every_route_gives_the_features(bundle: Bundle) -> None:
    checks = [check for check in verify(bundle.folder) if "checksums" not in check.route]
    assert {check.route: check.reason for check in checks if not check.passed} == {}
    assert {check.route for check in checks} == ROUTES
    assert max(check.difference for check in checks if check.difference is not None) <= 1e-5
    measured = read(bundle.folder, ("native", "torchgeo"))
    features = measured.features("native")
    ours = encoder(RESNET_18, optical(32, L1C))
    assert torch.equal(features, ours.features(measured.input("native"))) and features.shape == (4, 512)
    assert float(features.std(dim=0).max()) > 1e-3  # images are told apart, or parity would prove nothing
    assert torch.equal(measured.features("torchgeo"), features)  # nothing is resized for TorchGeo


def test_torchgeos_tasks_compute_on_the_features(bundle: Bundle) -> None:
    # Its own forward passes, not ours: the classifier over the vector, and the decoder over maps at five depths.
    x, features = (read(bundle.folder).tensors[f"native.{part}"] for part in ("input", "features"))
    common = {"in_channels": 13, "num_classes": 5}
    task = ClassificationTask("resnet18", weights=str(bundle.folder / "torchgeo_classification.ckpt"), **common).eval()
    segmenter = SemanticSegmentationTask(
        "unet", "resnet18", weights=str(bundle.folder / SEGMENTATION_FILES["unet"]), **common
    ).eval()
    own = timm.create_model("resnet18", in_chans=13, features_only=True).eval()
    own.load_state_dict(encoder(RESNET_18, optical(32, L1C)).model.state_dict(), strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(task(x), task.model.fc(features), rtol=1e-5, atol=1e-5)
        maps = segmenter.model.encoder(x)[1:]
        for theirs, ours in zip(maps, own(x), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
        assert segmenter(x).shape == (4, 5, 32, 32)


def test_papers_speak_of_a_residual_network(bundle: Bundle) -> None:
    card = (bundle.folder / "README.md").read_text()
    assert "A residual network (resnet18, " in card and "patches" not in card
    assert "A feature vector is the mean of the last map's positions, 512 numbers." in card
    assert "TorchGeo's tasks take the encoder as it was trained, and images of any size." in card
    assert 'SemanticSegmentationTask("unet", "resnet18", weights="torchgeo_segmentation_unet.ckpt"' in card
    item = json.loads((bundle.folder / "stac_item.json").read_text())
    assert item["properties"]["mlm:architecture"] == "ResNet (resnet18)"
    assert item["properties"]["mlm:hyperparameters"] == {"objective": "mae", "pooling": "avg"}
    weights = load_weights_module(bundle.folder).WEIGHTS
    assert type(weights).__name__ == "ResNet18_EoSsl_Weights" and "patch_size" not in weights.meta
    configurations = json.loads((bundle.folder / "preprocess.json").read_text())["configurations"]
    assert configurations["native"] == configurations["torchgeo"]


def test_timm_takes_the_overrides_its_users_give(bundle: Bundle) -> None:
    source = f"local-dir:{bundle.folder / 'timm'}"
    plain = timm.create_model(source, pretrained=True).eval()
    assert timm.data.resolve_data_config(model=plain)["input_size"] == (13, 32, 32)
    x = torch.randn(2, 13, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        larger = encoder(RESNET_18, optical(32, L1C)).at_size(96)
        torch.testing.assert_close(plain(x), larger.features(x), rtol=1e-5, atol=1e-5)
        wider = timm.create_model(source, pretrained=True, num_classes=5).eval()
        torch.testing.assert_close(wider.forward_head(wider.forward_features(x), pre_logits=True), plain(x))


@pytest.mark.parametrize("size_px", [None, 64])
def test_the_benchmarks_adapter_takes_any_size(
    bundle: Bundle, size_px: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = module_of(bundle.folder, monkeypatch).BundleEncoder(bands=eurosat_files(), **settings(size_px=size_px))
    twin = encoder(RESNET_18, optical(32, L1C)).at_size(size_px or 32)
    images = torch.rand(2, 13, 40, 40, generator=torch.Generator().manual_seed(0))
    stored = torch.cat([images[:, :8], images[:, 9:], images[:, 8:9]], dim=1) * 1e4  # EuroSAT's files end with B8A
    with torch.inference_mode():
        wanted = twin(images, bands=L1C, quantity="toa_reflectance", sensor="sentinel2_l1c")
        torch.testing.assert_close(model.eval()(stored), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_network_of_bottlenecks_opens_everywhere(tmp_path: Path) -> None:
    bundle = export(encoder(ResNet("resnet50"), radar(32)), tmp_path / "resnet50", options=Options())
    checks = verify(bundle.folder)
    assert {check.route: check.reason for check in checks if not check.passed} == {}
    assert max(check.difference for check in checks if check.difference is not None) <= 1e-5


def test_a_network_that_segmentation_models_does_not_have_comes_from_timm(tmp_path: Path) -> None:
    bundle = export(encoder(ResNet("resnet26d"), radar(32)), tmp_path / "deep_stem", options=Options(onnx=False))
    assert {check.route: check.reason for check in verify(bundle.folder) if not check.passed} == {}
    assert '"unet", "tu-resnet26d"' in (bundle.folder / "README.md").read_text()

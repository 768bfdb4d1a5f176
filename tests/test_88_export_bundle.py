"""A bundle opens everywhere: every route gives the encoder's features, and a route that does not is caught."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from eo_ssl.encoder import ImageStats
from eo_ssl.errors import UserError
from eo_ssl.export import Bundle, Check, Options, Terms, export, verify
from eo_ssl.export.onnx_graph import run_graph
from eo_ssl.export.parity import generate_images
from eo_ssl.export.parity import read as read_parity
from eo_ssl.export.torchgeo_checkpoints import CLASSIFICATION_FILE, SEGMENTATION_FILES, make_segmentation_checkpoint
from eo_ssl.export.torchgeo_naming import find_torchgeo_name, resize_for_torchgeo
from eo_ssl.export.torchgeo_tasks import ClassificationTask
from eo_ssl.manifest import MANIFEST, require
from eo_ssl.models import Architecture, BackboneConfig, ResNet, Vit
from exported import PROVENANCE, SMALL_16, TINY_8, encoder, optical, radar, seal

ROUTES = {
    "preprocess.json",
    "timm local-dir",
    "torchgeo ClassificationTask",
    "torchgeo SemanticSegmentationTask (dpt)",
    "torchgeo WeightsEnum ClassificationTask(weights=enum)",
    "torchgeo WeightsEnum torchgeo.models.vit_small_patch16_224(weights=enum)",
    "WeightsEnum transforms",
    "STAC item (MLM)",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Radar in power, converted to decibel, mean of the patch tokens, 64 px with patches of 16."""
    return export(encoder(), tmp_path_factory.mktemp("export") / "bundle", options=Options(onnx=False))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two blocks and both graphs."""
    options = Options(onnx_preprocessing=True)
    return export(encoder(TINY_8, radar(32)), tmp_path_factory.mktemp("graphs") / "bundle", options=options)


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle, to be damaged."""
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


def failed(checks: list[Check]) -> dict[str, str]:
    return {check.route: check.reason for check in checks if not check.passed}


def test_every_route_gives_the_features(bundle: Bundle) -> None:
    checks = verify(bundle.folder)
    assert failed(checks) == {}
    assert {check.route for check in checks if "checksums" not in check.route} == ROUTES
    assert max(check.difference for check in checks if check.difference is not None) < 1e-4


def test_parity_is_of_the_encoder_itself(bundle: Bundle) -> None:
    ours, measured = encoder(), read_parity(bundle.folder)
    images = measured.tensors["images"]
    x, valid = ours.preprocessing(images, bands=("VV", "VH"), quantity="gamma0", sensor="sentinel1_rtc")
    assert torch.equal(measured.input("native"), x)
    assert torch.equal(measured.features("native"), ours.features(x, valid=valid))
    assert torch.isnan(images[-1]).any() and not torch.isnan(images[:-1]).any()
    assert measured.input("torchgeo").shape == (4, 2, 224, 224)


def test_timm_takes_the_overrides_its_users_give(bundle: Bundle) -> None:
    source = f"local-dir:{bundle.folder / 'timm'}"
    x = read_parity(bundle.folder).input("native")
    plain = timm.create_model(source, pretrained=True).eval()
    assert timm.data.resolve_data_config(model=plain)["mean"] == [-11.0, -18.0]
    with torch.inference_mode():
        wider = timm.create_model(source, pretrained=True, num_classes=5).eval()
        torch.testing.assert_close(wider.forward_head(wider.forward_features(x), pre_logits=True), plain(x))
        maps = timm.create_model(source, pretrained=True, features_only=True, out_indices=(11,)).eval()(x)
        wanted = plain.forward_intermediates(x, indices=[11], intermediates_only=True)
        torch.testing.assert_close(maps[0], wanted[0])
        assert timm.create_model(source, pretrained=True, img_size=224).eval()(torch.zeros(1, 2, 224, 224)).shape == (
            1,
            384,
        )
        assert timm.create_model(source, pretrained=True, in_chans=3).patch_embed.proj.in_channels == 3


def test_the_224_px_configuration_equals_timms_own_resampling(bundle: Bundle) -> None:
    # timm resamples positions itself when it loads weights of 64 px into a model of 224 px: an independent route to the same model.
    source = f"local-dir:{bundle.folder / 'timm'}"
    measured = read_parity(bundle.folder)
    with torch.inference_mode():
        theirs = timm.create_model(source, pretrained=True, img_size=224).eval()(measured.input("torchgeo"))
    torch.testing.assert_close(theirs, measured.features("torchgeo"), rtol=1e-5, atol=1e-5)


def test_an_encoder_that_torchgeo_can_name_as_it_is_leaves_unchanged() -> None:
    ours = encoder(SMALL_16, radar(224))
    other = resize_for_torchgeo(ours, find_torchgeo_name(ours.architecture).model or "")
    x = torch.randn(1, 2, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours.features(x), other.features(x))


@pytest.mark.parametrize(
    ("model", "size_px", "name", "said"),
    [
        (SMALL_16, 64, "vit_small_patch16_224", ""),
        (Vit("vit_small_patch16_224", patch_size=8), 64, "vit_small_patch8_224", ""),
        (Vit("vit_tiny_patch16_224", patch_size=16), 64, "vit_tiny_patch16_224", ""),
        (Vit("vit_tiny_patch16_224", patch_size=8), 64, None, "timm registers no vit_tiny_patch8_224"),
        (Vit("vit_small_patch16_224", patch_size=16, depth=2), 64, None, "vit_small_patch16_224 has 12 blocks"),
        (Vit("vit_base_patch14_reg4_dinov2", patch_size=14), 56, None, "names no patch and image size"),
        (ResNet("resnet18"), 64, "resnet18", ""),
    ],
)
def test_which_encoders_torchgeo_can_name(model: Architecture, size_px: int, name: str | None, said: str) -> None:
    naming = find_torchgeo_name(BackboneConfig(model, ("VV", "VH"), size_px))
    assert naming.model == name
    assert said in naming.reason


def test_what_torchgeo_cannot_name_leaves_by_timm_alone_and_says_so(tmp_path: Path) -> None:
    bundle = export(encoder(TINY_8, radar(32)), tmp_path / "tiny", options=Options(onnx=False))
    names = " ".join(bundle.files)
    assert "torchgeo" not in names and ".pth" not in names and "weights.py" not in names
    assert bundle.manifest.summary["torchgeo_left_out"].endswith("timm registers no vit_tiny_patch8_224")
    card = (bundle.folder / "README.md").read_text()
    assert "TorchGeo's checkpoints are left out:** TorchGeo builds models by their timm name alone" in card
    assert failed(verify(bundle.folder)) == {}


def test_segmentation_checkpoints_carry_a_head_only_where_the_name_has_one() -> None:
    # timm's default for vit_small_patch8_224 has no classifier, that for vit_small_patch16_224 has 1000 classes; the load is strict.
    for patch, shape in ((8, None), (16, (1000, 384))):
        ours = encoder(Vit("vit_small_patch16_224", patch_size=patch))
        data = make_segmentation_checkpoint(resize_for_torchgeo(ours, f"vit_small_patch{patch}_224"))
        weights = torch.load(io.BytesIO(data), weights_only=True)["state_dict"]
        head = weights.get("model.backbone.model.model.head.weight")
        assert (None if head is None else head.shape) == shape


@pytest.mark.slow
def test_patches_of_8_px_open_in_torchgeo(tmp_path: Path) -> None:
    model = Vit("vit_small_patch16_224", patch_size=8, pooling="cls")
    bundle = export(encoder(model, optical()), tmp_path / "patch8", options=Options(onnx=False))
    assert bundle.manifest.summary["torchgeo"] == "vit_small_patch8_224"
    assert failed(verify(bundle.folder)) == {}


def rewritten(path: Path, change) -> None:
    """Save a checkpoint again after `change` of its content."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_a_prefix_that_loads_nothing_is_caught(copy: Path) -> None:
    # TorchGeo takes what fits and says nothing: with this prefix only the patch projection would arrive.
    def moved(content: dict) -> None:
        weights = content["state_dict"]
        content["state_dict"] = {
            key if "patch_embed" in key else key.replace("model.", "model.inner."): value
            for key, value in weights.items()
        }

    rewritten(copy / CLASSIFICATION_FILE, moved)
    ClassificationTask("vit_small_patch16_224", weights=str(copy / CLASSIFICATION_FILE), in_channels=2, num_classes=3)
    assert set(failed(verify(copy))) == {"checksums of 12 files"}
    seal(copy)
    found = failed(verify(copy))
    assert found["torchgeo ClassificationTask"] == "loaded, but other weights or another order of channels"
    assert set(found) == {"torchgeo ClassificationTask"}


def test_swapped_channels_and_missing_heads_are_caught(copy: Path) -> None:
    rewritten(
        copy / SEGMENTATION_FILES["dpt"],
        lambda content: content["state_dict"].pop("model.backbone.model.model.head.bias"),
    )
    document = json.loads((copy / "preprocess.json").read_text())
    document["configurations"]["torchgeo"]["preprocessing"]["mean"].reverse()
    (copy / "preprocess.json").write_text(json.dumps(document))
    seal(copy)
    found = failed(verify(copy))
    assert found["torchgeo SemanticSegmentationTask (dpt)"].startswith("RuntimeError")
    assert {"preprocess.json", "WeightsEnum transforms"} <= set(found)  # one file decides both
    assert "timm local-dir" not in found


def test_a_foreign_pth_is_refused_by_its_checksum(copy: Path) -> None:
    (path,) = copy.glob("*.pth")
    torch.save({}, path)
    seal(copy)
    assert "RuntimeError: expected radar_small" in failed(verify(copy))["torchgeo WeightsEnum"]


def test_a_killed_export_is_resumed_and_a_finished_one_left_alone(bundle: Bundle, copy: Path) -> None:
    options = Options(onnx=False)
    again = export(encoder(), copy, options=options)
    assert not again.made and again.manifest.created == bundle.manifest.created
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / "unfinished.json").write_text(json.dumps({key: manifest[key] for key in ("stage", "config", "inputs")}))
    for name in (MANIFEST, CLASSIFICATION_FILE, "README.md"):
        (copy / name).unlink()
    kept = (copy / "timm" / "model.safetensors").stat().st_mtime_ns
    resumed = export(encoder(), copy, options=options)
    assert resumed.made
    assert resumed.manifest.fingerprint == bundle.manifest.fingerprint  # equal bytes, checkpoints included
    assert (copy / "timm" / "model.safetensors").stat().st_mtime_ns == kept
    with pytest.raises(UserError, match=r"differs in inputs\.encoder"):
        export(encoder(replace(SMALL_16, pooling="cls")), copy, options=options)


def test_graphs_take_any_number_of_images_and_fill_what_is_invalid(graphs: Bundle) -> None:
    checks = {check.route: check for check in verify(graphs.folder)}
    assert checks["onnxruntime onnx/encoder.onnx"].passed and checks["onnxruntime onnx/encoder_physical.onnx"].passed
    measured = read_parity(graphs.folder)
    physical = graphs.folder / "onnx" / "encoder_physical.onnx"
    one = run_graph(physical, measured.tensors["images"][3:])  # the one with invalid pixels
    torch.testing.assert_close(one, measured.features("native")[3:], rtol=1e-4, atol=1e-5)
    infinite = torch.where(torch.isnan(measured.tensors["images"][3:]), torch.inf, measured.tensors["images"][3:])
    np.testing.assert_allclose(run_graph(physical, infinite).numpy(), one.numpy(), rtol=1e-6)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a trained encoder of this library, got imagestats"):
        export(ImageStats(radar()), tmp_path / "no")
    assert not (tmp_path / "no").exists()
    with pytest.raises(UserError, match="expected a finished export product"):
        verify(tmp_path)


def test_damaged_papers_are_refused_in_a_sentence(copy: Path) -> None:
    document = json.loads((copy / "preprocess.json").read_text())
    for changed, said in (
        ({"format": 9}, "got 9, which a newer eo_ssl wrote; update"),
        ({"format": 0}, "got 0 and mean"),
        ({"pooling": "max"}, "got 1 and max"),
        ({"configurations": {}}, "got KeyError"),
    ):
        (copy / "preprocess.json").write_text(json.dumps({**document, **changed}))
        seal(copy)
        with pytest.raises(UserError, match=said):
            verify(copy)
    (copy / "preprocess.json").write_text(json.dumps(document))
    (copy / "parity.safetensors").write_bytes(b"nothing")
    seal(copy)
    with pytest.raises(UserError, match=r"expected a parity file at .*; export the encoder again"):
        verify(copy)


def test_the_manifest_says_what_may_be_done_with_it(bundle: Bundle, tmp_path: Path) -> None:
    assert require(bundle.folder, "export").summary["non_commercial"] is None
    assert "whether commercial use is allowed is not known" in (bundle.folder / "README.md").read_text()
    licence = {"card": "chips", "licence": "CC BY-NC 4.0", "attribution": "somebody", "non_commercial": True}
    flagged = export(
        encoder(TINY_8, radar(32)), tmp_path / "flagged", options=Options(onnx=False, terms=Terms((licence,)))
    )
    assert flagged.manifest.summary["non_commercial"] is True
    card = (flagged.folder / "README.md").read_text()
    assert "forbid commercial use" in card and "- non-commercial" in card and "somebody" in card
    item = json.loads((flagged.folder / "stac_item.json").read_text())
    assert item["properties"]["eo_ssl:non_commercial"] is True
    assert PROVENANCE["inputs"]["corpus archive"][:12] in card


def test_parity_images_are_plausible_and_repeatable() -> None:
    for contract in (radar(), optical()):
        images = generate_images(contract, size_px=64)
        assert torch.equal(images.nan_to_num(), generate_images(contract, size_px=64).nan_to_num())
        x, valid = contract(images, bands=contract.bands, quantity=contract.quantity, sensor=contract.sensor)
        assert 0.5 < float(x[valid].std()) < 1.5

"""A bundle of an encoder of two sensors: two inputs, both contracts, and the same vectors by every route."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from eo_ssl.cli import main
from eo_ssl.encoder import load_fused_encoder
from eo_ssl.export import ENCODER_GRAPH, MODULE_FILE, PHYSICAL_GRAPH, PREPROCESS_FILE, parity, verify
from eo_ssl.export.onnx_graph import run_graph
from eo_ssl.image_metadata import KINDS, make_metadata
from eo_ssl.manifest import require
from eo_ssl.models import Vit
from eo_ssl.objectives import MultiMae
from eo_ssl.preprocessing import Preprocessing
from exported import seal
from two_sensors import ALIBI, SHALLOW, for_so2sat, make_fused

PROGRAM = ["--onnx", "false", "--licence", "cc-by-nc-4.0"]
MODELS = {
    "croma": (dataclasses.replace(ALIBI, depth=1, metadata=("incidence",)), SHALLOW, PROGRAM),
    "joint": (
        Vit("test_vit", patch_size=8, depth=1, metadata=KINDS),
        MultiMae(decoder_dim=32, decoder_depth=1),
        [*PROGRAM, "--onnx_preprocessing", "true"],
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a run of each architecture, whose encoders are told metadata too."""
    root = tmp_path_factory.mktemp("fused")
    return {
        name: make_fused(root / name, for_so2sat(), model=model, method=method)
        for name, (model, method, _) in MODELS.items()
    }


@pytest.fixture(scope="module")
def bundles(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each architecture; graphs of one alone, as they take most of the time."""
    root = tmp_path_factory.mktemp("export")
    for name, (_, _, options) in MODELS.items():
        assert main(["export", str(folders[name]), "--out", str(root / name), *options]) == 0
    return {name: root / name for name in MODELS}


def make_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Radar and optical images, one of which lacks a patch and more."""
    gen = torch.Generator().manual_seed(1)
    radar, optical = 0.1 * torch.rand(3, 2, 32, 32, generator=gen), 0.4 * torch.rand(3, 10, 32, 32, generator=gen)
    radar[1, :, :9, :9] = torch.nan
    return radar, optical


def prepare(contract: Preprocessing, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return contract(images, bands=contract.bands, quantity=contract.quantity, sensor=contract.sensor)


@pytest.mark.parametrize("name", MODELS)
def test_every_route_gives_the_vectors_of_both_images_where_nothing_else_is_known(
    name: str, folders: dict[str, Path], bundles: dict[str, Path]
) -> None:
    bundle, radar_optical = bundles[name], make_images()
    checks = verify(bundle)
    assert [check.route for check in checks if not check.passed] == []
    wanted_routes = {"preprocess.json", "torch.export", "STAC item (MLM)"}
    graphs = {f"onnxruntime {PHYSICAL_GRAPH}"} if name == "joint" else set()
    assert wanted_routes | graphs <= {check.route for check in checks}
    fused = load_fused_encoder(folders[name])
    contracts = (fused.radar.preprocessing, fused.optical.preprocessing)
    (x, x_valid), (y, y_valid) = map(prepare, contracts, radar_optical)
    valid = {"radar_valid": x_valid, "optical_valid": y_valid}
    known = torch.from_numpy(make_metadata(3, time=["2021-07-23"] * 3, incidence_deg=[30.0, 35.0, 40.0]))
    plain = fused.without_metadata()
    with torch.no_grad():
        wanted = fused.features(x, y, **valid)
        told = fused.features(x, y, **valid, radar_metadata=known, optical_metadata=known)
        assert torch.equal(plain.features(x, y, **valid), wanted) and not torch.allclose(told, wanted, atol=1e-2)
        program = torch.export.load(bundle / MODULE_FILE).module()
        found = program(x.masked_fill(~x_valid, torch.nan), y)  # another number of images than it was made with
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        assert not torch.allclose(program(x, y.flip(0)), found, atol=1e-2)
    if name == "joint":
        torch.testing.assert_close(run_graph(bundle / PHYSICAL_GRAPH, *radar_optical), wanted, rtol=0, atol=1e-5)
        assert plain.radar.model.blocks is plain.optical.model.blocks  # still one transformer
    assert plain.without_metadata() is plain and not any("metadata" in key for key in plain.state_dict())
    content = json.loads((bundle / PREPROCESS_FILE).read_text())
    for one in content["configurations"].values():
        assert "metadata" not in one["preprocessing"] and "metadata" not in one["architecture"]
    left_out = ", ".join(fused.radar.architecture.model.metadata)
    assert f"trained to be told {left_out} too, which is left out here" in (bundle / "README.md").read_text()


@pytest.mark.slow
def test_graphs_of_attention_between_the_sensors_give_the_same_vectors(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    options = ["--onnx", "true", "--onnx_preprocessing", "true"]
    assert main(["export", str(folders["croma"]), "--out", str(tmp_path / "bundle"), *options]) == 0
    checks = {check.route: check.passed for check in verify(tmp_path / "bundle")}
    assert all(checks.values()) and {f"onnxruntime {ENCODER_GRAPH}", f"onnxruntime {PHYSICAL_GRAPH}"} <= set(checks)


def test_the_papers_of_the_bundle_tell_of_both_contracts(bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = bundles["joint"]
    card = (bundle / "README.md").read_text()
    for line in (
        "for 2 bands of sentinel1_grd and 10 bands of sentinel2_l1c of the same ground",
        "### `radar`\n\n- Bands of Sentinel-1 ground range detected by name, in this order: VV, VH.",
        "- Convert sigma0 to sigma0_db.",
        "in this order: B02, B03, B04, B05, B06, B07, B08, B8A, B11, B12.",
        "features = model(radar, optical)",
        "`radar` and `optical` -> `features`",
        "**timm and TorchGeo have no networks of two sensors**",
        "- radar_card: CC BY 4.0. Owners of the radar.",
        "- colour_card: CC BY-NC 4.0 (non-commercial). Owners of colours.",
    ):
        assert line in card, line
    item = json.loads((bundle / "stac_item.json").read_text())
    assert [len(one["bands"]) for one in item["properties"]["mlm:input"]] == [2, 10]
    assert require(bundle, "export").summary["non_commercial"] is True
    assert main(["report", "--inputs", str(bundle), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    for words in ("2 bands, 32 px and 10 bands, 32 px", "Radar images, 32 px", "Optical images, 32 px"):
        assert words in page, words


def test_other_vectors_and_exchanged_bands_do_not_pass(bundles: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundles["joint"], tmp_path / "copy"))
    measured = parity.read(copy, ("radar", "optical"))
    measured.tensors["optical.input"] = measured.input("optical").roll(1, dims=0)  # of other ground
    (copy / parity.PARITY_FILE).write_bytes(parity.to_bytes(measured.tensors, measured.facts))
    content = json.loads((copy / PREPROCESS_FILE).read_text())
    contract = content["configurations"]["radar"]["preprocessing"]
    contract["mean"] = contract["mean"][::-1]  # of VH for VV
    (copy / PREPROCESS_FILE).write_text(json.dumps(content))
    assert [check.passed for check in verify(copy)] == [False]  # its checksums
    seal(copy)
    failed = {check.route: check.reason for check in verify(copy) if not check.passed}
    assert set(failed) == {"torch.export", "preprocess.json"} and "other weights" in failed["torch.export"]
    del content["configurations"]["optical"]
    (copy / PREPROCESS_FILE).write_text(json.dumps(content))
    seal(copy)
    assert main(["export", "--verify", str(copy)]) == 2

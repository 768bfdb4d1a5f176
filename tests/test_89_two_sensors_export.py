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
from eo_ssl.export import PHYSICAL_GRAPH, PREPROCESS_FILE, parity, verify
from eo_ssl.export.encoder_module import run_module
from eo_ssl.export.onnx_graph import run_graph
from eo_ssl.manifest import require
from eo_ssl.preprocessing import Preprocessing
from exported import seal
from two_sensors import ALIBI, SHALLOW, for_so2sat, make_fused


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = dataclasses.replace(ALIBI, depth=1)
    return make_fused(tmp_path_factory.mktemp("fused") / "croma", for_so2sat(), model=model, method=SHALLOW)


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "bundle"
    options = ["--onnx", "false", "--onnx_preprocessing", "true", "--name", "both", "--licence", "cc-by-nc-4.0"]
    assert main(["export", str(folder), "--out", str(out), *options]) == 0
    return out


def prepare(contract: Preprocessing, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return contract(images, bands=contract.bands, quantity=contract.quantity, sensor=contract.sensor)


def test_torch_and_onnxruntime_give_the_vectors_of_both_images(folder: Path, bundle: Path) -> None:
    checks = verify(bundle)
    assert [check.route for check in checks if not check.passed] == []
    routes = {check.route for check in checks}
    assert {"preprocess.json", "torch.export", f"onnxruntime {PHYSICAL_GRAPH}", "STAC item (MLM)"} <= routes
    fused, gen = load_fused_encoder(folder), torch.Generator().manual_seed(1)
    radar, optical = 0.1 * torch.rand(3, 2, 32, 32, generator=gen), 0.4 * torch.rand(3, 10, 32, 32, generator=gen)
    radar[1, :, :9, :9] = torch.nan
    (x, x_valid), (y, y_valid) = (
        prepare(fused.radar.preprocessing, radar),
        prepare(fused.optical.preprocessing, optical),
    )
    with torch.no_grad():
        wanted = fused.features(x, y, radar_valid=x_valid, optical_valid=y_valid)
    torch.testing.assert_close(run_graph(bundle / PHYSICAL_GRAPH, radar, optical), wanted, rtol=0, atol=1e-5)
    found = run_module(bundle, x.masked_fill(~x_valid, torch.nan), y)  # another number of images than it was made with
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(run_module(bundle, x, y.flip(0)), found, atol=1e-2)


def test_the_papers_of_the_bundle_tell_of_both_contracts(bundle: Path, tmp_path: Path) -> None:
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


def test_other_vectors_and_exchanged_bands_do_not_pass(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
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

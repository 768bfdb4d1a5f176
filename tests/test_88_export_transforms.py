"""The transforms in a bundle need no eo_ssl and do exactly what the contract does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torchgeo.models import api, get_weight

from eo_ssl.export import standalone
from eo_ssl.export.contract_file import describe_configurations, describe_contract, to_bytes
from eo_ssl.export.parity import generate_images
from eo_ssl.export.torchgeo_naming import resize_for_torchgeo
from eo_ssl.export.weights_enum import describe_weights, load_weights_module, make_weights_files
from eo_ssl.models import Vit
from eo_ssl.preprocessing import Preprocessing
from exported import TINY_8, encoder, optical, radar


def as_read(contract: Preprocessing) -> dict[str, Any]:
    return json.loads(json.dumps(contract.to_json()))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size_px": 224},
        {"size_px": 20},
        {"size_px": 20, "antialias": False},
        {"size_px": 48, "interpolation": "bicubic"},
        {"size_px": 48, "interpolation": "bilinear-corners", "antialias": False},
        {"size_px": 48, "interpolation": "nearest", "antialias": False},
        {"size_px": 16, "interpolation": "area", "antialias": False},
        {"size_px": 32, "resize": "crop"},
        {"resize": "native"},
        {"clip": (-20.0, -5.0), "size_px": 48},
        {"clip": ((-20.0, -5.0), (-25.0, -10.0)), "size_px": 48},
    ],
)
def test_transforms_equal_the_contract_bit_by_bit(changes: dict[str, Any]) -> None:
    contract = radar(**changes)
    images = generate_images(radar(), size_px=64)
    x, _ = contract(images, bands=contract.bands, quantity=contract.quantity, sensor=contract.sensor)
    transforms = standalone.make_transforms(as_read(contract))
    assert torch.equal(transforms(images), x)
    torch.testing.assert_close(transforms(images[3]), x[3], rtol=1e-6, atol=1e-6)  # a single sample


def test_transforms_squeeze_no_image_either() -> None:
    transforms = standalone.make_transforms(as_read(radar(48)))
    with pytest.raises(ValueError, match="expected square images, got 64 x 32 px"):
        transforms(generate_images(radar(), size_px=64)[..., :32])


def test_decibel_to_power_too() -> None:
    fields = {"quantity": "gamma0_db", "convert": ("gamma0_db->gamma0",), "mean": (0.1, 0.02), "std": (0.1, 0.02)}
    contract = radar(range=(-50.0, 25.0), **fields)
    images = generate_images(contract, size_px=64)
    x, _ = contract(images, bands=contract.bands, quantity=contract.quantity, sensor=contract.sensor)
    assert torch.equal(standalone.make_transforms(as_read(contract))(images), x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The enumeration of a tiny encoder under a name that need not exist for this."""
    ours = encoder(Vit("vit_tiny_patch16_224", patch_size=16), optical(), name="tiny sentinel-2")
    other = resize_for_torchgeo(ours, "vit_tiny_patch16_224")
    where = tmp_path_factory.mktemp("enum")
    (where / "preprocess.json").write_bytes(to_bytes(describe_configurations(ours, other, reason="")))
    meta = describe_weights(other, dataset="archive", method="mae", publication="none", repo="none")
    for name, data in make_weights_files(other, meta).items():
        (where / name).write_bytes(data)
    return where


def test_metadata_have_torchgeos_keys_and_ours(folder: Path) -> None:
    weights = load_weights_module(folder).WEIGHTS
    theirs = set(api.ViTSmall16_Weights.SENTINEL2_ALL_MAE.meta)
    assert theirs <= set(weights.meta)
    assert {"normalization", "unit", "level", "processing_baseline", "gsd", "patch_size"} <= set(weights.meta)
    assert (weights.meta["bands"], weights.meta["in_chans"]) == (["B02", "B03", "B04", "B08"], 4)
    assert str(weights) == "ViTTiny16_EoSsl_Weights.SENTINEL2_L1C_TOA_REFLECTANCE_4B_MAE"


def test_torchgeo_finds_registered_weights_by_their_string(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_model_weights", dict(api._model_weights))
    module = load_weights_module(folder)
    module.register()
    assert get_weight("ViTTiny16_EoSsl_Weights.SENTINEL2_L1C_TOA_REFLECTANCE_4B_MAE") is module.WEIGHTS


def test_the_file_is_named_by_its_bytes_and_runs_without_this_library(folder: Path) -> None:
    (path,) = folder.glob("*.pth")
    assert path.name.startswith("tiny_sentinel_2-")
    code = """
import hashlib, pathlib, sys
sys.modules["eo_ssl"] = None  # an import of it fails from here on
import torch
from weights import WEIGHTS, samples
state = WEIGHTS.get_state_dict(progress=True)
path = pathlib.Path(WEIGHTS.url.removeprefix("file://"))
assert hashlib.sha256(path.read_bytes()).hexdigest()[:8] == path.stem.rsplit("-", 1)[1]
assert state["patch_embed.proj.weight"].shape == (192, 4, 16, 16)
try:
    samples("boa_reflectance", scale=1e-4)
except ValueError as error:
    assert "expected toa_reflectance, got boa_reflectance; take an encoder" in str(error)
batch = samples("toa_reflectance", scale=1e-4, offset=-1000)({"image": torch.full((2, 4, 64, 64), 2000.0), "label": torch.zeros(2)})
assert batch["image"].shape == (2, 4, 224, 224)
print(*(f"{float(v):.4f}" for v in batch["image"].mean(dim=(0, 2, 3))))
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    wanted = [(0.1 - (0.1 + 0.03 * i)) / (0.05 + 0.01 * i) for i in range(4)]  # reflectance 0.1 everywhere
    assert [float(value) for value in found.stdout.split()] == pytest.approx(wanted, abs=1e-3)


def test_the_contract_in_words_names_every_step() -> None:
    said = " ".join(describe_contract(radar(224, clip=(-30.0, 5.0))))
    for part in ("VV, VH", "gamma0 to gamma0_db", "[-30.0, 5.0]", "224 x 224", "bilinear, with antialias", "mean"):
        assert part in said
    assert "not resized" in " ".join(describe_contract(radar(resize="native")))
    assert TINY_8.patch_size == 8

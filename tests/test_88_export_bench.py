"""The adapter for torchgeo-bench: bands by name, units against the benchmark's statistics, features of the parity file.

Its own logic is tested on a stand-in of the benchmark's base class; that it runs in torchgeo-bench is tested where that can be imported
(Python 3.12 or later) and by ``tests/second_environment/run_bench.sh``.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from eo_ssl.export import Options, export
from eo_ssl.export.bench_adapter import BENCH_CONFIG, BENCH_MODULE
from eo_ssl.export.parity import read
from exported import TINY_8, encoder, optical, radar

L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
NAMES = (
    "coastal_aerosol",
    "blue",
    "green",
    "red",
    "red_edge_1",
    "red_edge_2",
    "red_edge_3",
    "nir",
    "red_edge_4",
    "water_vapour",
    "swir_cirrus",
    "swir_1",
    "swir_2",
)
# Means of torchgeo-bench 0.4.0, in the order of its channels.
EUROSAT = (
    1354.41,
    1118.24,
    1042.93,
    947.627,
    1199.47,
    1999.79,
    2369.22,
    2296.83,
    2594.14,
    732.084,
    12.1133,
    1819.01,
    1118.92,
)
M_EUROSAT = (
    1359.95,
    1125.53,
    1055,
    957.344,
    1219.67,
    2051.62,
    2433.6,
    2360.1,
    751.164,
    12.2881,
    1848.9,
    1131.27,
    2665.44,
)
BRICK_KILN = (
    572.205,
    669,
    879.878,
    807.583,
    1127.9,
    1960.74,
    2075.83,
    2039.48,
    1625.46,
    1135.59,
    82.471,
    89.8659,
    68.4528,
)


@dataclass(frozen=True)
class Spec:
    """What torchgeo-bench says of a channel."""

    sensor: str
    name: str
    mean: float
    max: float = 20_000.0


class Base(nn.Module):
    """The published interface of torchgeo-bench's BenchModel, as far as an adapter meets it."""

    def __init__(self, bands: list[Any], normalization: str) -> None:
        super().__init__()
        assert normalization == "identity"
        self.bands = bands

    def forward(self, images: Any) -> Any:
        return self._forward_patch_features(self.normalize_inputs(images))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle of an encoder of all 13 bands."""
    out = tmp_path_factory.mktemp("bench") / "bundle"
    export(encoder(TINY_8, optical(32, L1C), name="13 bands"), out, options=Options(onnx=False))
    return out


def module_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bundle's module, imported as Hydra does; where torchgeo-bench is absent, over the stand-in."""
    if importlib.util.find_spec("torchgeo_bench") is None:
        for name in ("torchgeo_bench", "torchgeo_bench.models", "torchgeo_bench.models.interface"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules["torchgeo_bench.models.interface"].BenchModel = Base  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("eo_ssl_encoder", folder / BENCH_MODULE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(**changes: Any) -> dict[str, Any]:
    said = {
        "quantity": "toa_reflectance",
        "scale": 1e-4,
        "offset": 0,
        "image_size": None,
        "normalization": "model_native",
    }
    return {**said, **changes}


def eurosat_files() -> list[Spec]:
    """Channels of EuroSAT's files: B8A last."""
    specs = [Spec("s2", name, mean) for name, mean in zip(NAMES, EUROSAT, strict=True)]
    return [*specs[:8], *specs[9:], specs[8]]


def test_the_module_is_alone_and_the_configuration_names_it(folder: Path) -> None:
    text = (folder / BENCH_MODULE).read_text()
    assert "import eo_ssl" not in text and "from eo_ssl" not in text
    config = yaml.safe_load((folder / BENCH_CONFIG).read_text())
    assert config["_target_"] == "eo_ssl_encoder.BundleEncoder" and config["name"] == "13 bands"
    assert {key for key, value in config.items() if value == "???"} == {"quantity", "scale", "offset"}


def test_features_are_those_of_the_parity_file_whatever_the_order_of_channels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [replace(one, mean=one.mean + 1000) for one in eurosat_files()]  # of processing baseline 04.00
    model = module_of(folder, monkeypatch).BundleEncoder(bands=specs, **settings(offset=-1000)).eval()
    parity = read(folder, ("native",))
    stored = parity.tensors["images"] * 1e4 + 1000
    stored = torch.cat([stored[:, :8], stored[:, 9:], stored[:, 8:9]], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(model(stored), parity.features("native"), rtol=1e-4, atol=1e-4)


def test_another_input_size_is_the_encoders_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = module_of(folder, monkeypatch).BundleEncoder(bands=eurosat_files(), **settings(size_px=48)).eval()
    twin = encoder(TINY_8, optical(32, L1C)).at_size(48).eval()
    images = torch.rand(2, 13, 40, 40, generator=torch.Generator().manual_seed(0))
    contract = twin.preprocessing
    x, _ = contract(images, bands=contract.bands, quantity=contract.quantity, sensor=contract.sensor)
    stored = torch.cat([images[:, :8], images[:, 9:], images[:, 8:9]], dim=1) * 1e4
    with torch.inference_mode():
        torch.testing.assert_close(model(stored), twin.features(x), rtol=1e-4, atol=1e-5)


def test_names_that_are_known_to_be_wrong_are_set_right(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of(folder, monkeypatch)
    specs = [Spec("s2", name, mean) for name, mean in zip(NAMES, M_EUROSAT, strict=True)]
    found = module.match_channels(specs, {"bands": L1C, "sensor": "sentinel2_l1c"}, rename={}, missing="refuse")
    assert found == [0, 1, 2, 3, 4, 5, 6, 7, 12, 8, 9, 10, 11]  # files hold B09, B10, B11, B12, B8A behind B08

    kiln = [Spec("s2", name, mean) for name, mean in zip(NAMES, BRICK_KILN, strict=True)]
    with pytest.raises(ValueError, match="without B06, B09, B10"):
        module.match_channels(kiln, {"bands": L1C, "sensor": "sentinel2_l1c"}, rename={}, missing="refuse")
    bands = ("B07", "B08", "B8A", "B11", "B12")
    assert module.match_channels(kiln, {"bands": bands, "sensor": "sentinel2_l2a"}, rename={}, missing="refuse") == [
        5,
        7,
        6,
        8,
        9,
    ]


def test_a_missing_band_takes_its_mean_only_when_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, specs = module_of(folder, monkeypatch), [one for one in eurosat_files() if one.name != "swir_cirrus"]
    with pytest.raises(ValueError, match=r"without B10; set dataset.bands=all, or model.missing=mean"):
        module.BundleEncoder(bands=specs, **settings())
    x = module.BundleEncoder(bands=specs, **settings(missing="mean")).normalize_inputs(
        torch.full((1, 12, 32, 32), 5000.0)
    )
    assert x.shape == (1, 13, 32, 32)
    assert (x[:, L1C.index("B10")] == 0).all() and (x[:, L1C.index("B11")] != 0).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantity": "boa_reflectance"}, "expected toa_reflectance, got boa_reflectance"),
        ({"normalization": "bandspec_zscore"}, "set dataset.normalization=model_native"),
        ({"image_size": 224}, "set dataset.image_size=null"),
        ({"scale": 1}, "got a mean of 1354.41 in B01; correct model.scale"),
        ({"offset": -1000}, "got a mean of -0.0052373 in B04"),
        ({"rename": {"nir": "B8A"}}, "expected one channel of B8A"),
        ({"missing": "zero"}, "expected missing out of refuse, mean"),
    ],
)
def test_wrong_uses_are_refused_with_the_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        module_of(folder, monkeypatch).BundleEncoder(bands=eurosat_files(), **settings(**changes))


def test_reflectance_is_not_divided_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    so2sat = [Spec("s2", name, 0.15, 2.8) for name in NAMES]
    module = module_of(folder, monkeypatch)
    with pytest.raises(ValueError, match=r"got 0.00028 in the brightest pixel; .* set model.scale=1"):
        module.BundleEncoder(bands=so2sat, **settings())
    module.BundleEncoder(bands=so2sat, **settings(scale=1))


def test_swapped_polarisations_are_refused_until_renamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of(folder, monkeypatch)
    contract = {
        "bands": ("VV", "VH"),
        "sensor": "sentinel1_rtc",
        "quantity": "gamma0_db",
        "range": radar().to_json()["range"],
    }
    contract["range"] = (-50.0, 25.0)
    benv2 = [Spec("s1", "vv", -19.361, 24.3), Spec("s1", "vh", -12.6317, 33.5)]
    with pytest.raises(ValueError, match="expected VV stronger than VH"):
        module.check_statistics({"VV": benv2[0], "VH": benv2[1]}, contract, scale=1, offset=0)
    assert module.match_channels(benv2, contract, rename={"vv": "VH", "vh": "VV"}, missing="refuse") == [1, 0]
    module.check_statistics({"VV": benv2[1], "VH": benv2[0]}, contract, scale=1, offset=0)


def test_it_runs_in_torchgeo_bench(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchgeo_bench", reason="torchgeo-bench is not installed")
    from torchgeo_bench.datasets import get_bench_dataset_class

    model = module_of(folder, monkeypatch).BundleEncoder(bands=get_bench_dataset_class("eurosat").bands, **settings())
    parity = read(folder, ("native",))
    stored = parity.tensors["images"] * 1e4
    stored = torch.cat([stored[:, :8], stored[:, 9:], stored[:, 8:9]], dim=1)
    with torch.inference_mode():
        found = model.eval().forward_patch_features(stored)
    torch.testing.assert_close(found, parity.features("native"), rtol=1e-4, atol=1e-4)

"""Run a bundle in torchgeo-bench where eo_ssl is not installed: features against the parity file, then the benchmark's own command."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import safetensors
import torch
from torchgeo_bench.datasets import get_bench_dataset_class

BANDS = {
    "B8A": "red_edge_4",
    "B08": "nir",
    "B09": "water_vapour",
    "B10": "swir_cirrus",
    "B11": "swir_1",
    "B12": "swir_2",
}
BANDS |= {"B01": "coastal_aerosol", "B02": "blue", "B03": "green", "B04": "red"}
BANDS |= {f"B0{number}": f"red_edge_{number - 4}" for number in (5, 6, 7)}


def difference(bundle: Path) -> float:
    """Largest difference from the parity file's features, its images given as EuroSAT stores them: whole band list, B8A last."""
    sys.path.insert(0, str(bundle / "bench"))
    from eo_ssl_encoder import BundleEncoder  # type: ignore[import-not-found]

    contract = json.loads((bundle / "preprocess.json").read_text())["configurations"]["native"]["preprocessing"]
    with safetensors.safe_open(bundle / "parity.safetensors", framework="pt") as file:
        images, wanted = file.get_tensor("images"), file.get_tensor("native.features")
    specs = get_bench_dataset_class("eurosat").bands
    stored = torch.full((len(images), len(specs), *images.shape[2:]), 1.0)
    names = [one.name for one in specs]
    for channel, band in enumerate(contract["bands"]):
        stored[:, names.index(BANDS[band])] = images[:, channel] * 1e4
    said = {"quantity": contract["quantity"], "scale": 1e-4, "offset": 0, "image_size": None}
    model = BundleEncoder(bands=specs, normalization="model_native", **said).eval()
    with torch.inference_mode():
        return float((model(stored) - wanted).abs().max())


def main(bundle: Path, data: Path) -> int:
    if importlib.util.find_spec("eo_ssl") is not None:
        print("eo_ssl can be imported here, so nothing would be proved")
        return 1
    packages = ("torch", "timm", "torchgeo", "torchgeo-bench")
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"without eo_ssl; Python {python},", ", ".join(f"{name} {version(name)}" for name in packages), flush=True)
    found = difference(bundle)
    print(f"parity of features {found:.1e}  {'passed' if found < 1e-5 else 'FAILED'}", flush=True)
    results = data / "results.csv"
    results.unlink(missing_ok=True)
    command = [
        Path(sys.executable).with_name("torchgeo-bench"),
        "run",
        "--config-dir",
        bundle / "bench",
        "model=eo_ssl",
    ]
    command += ["dataset.names=[eurosat]", "dataset.bands=all", "dataset.image_size=null", "dataset.num_workers=0"]
    command += [
        "dataset.normalization=model_native",
        "model.quantity=toa_reflectance",
        "model.scale=1e-4",
        "model.offset=0",
    ]
    command += ["device=cpu", "eval.c_range=[-2,2,3]", f"output={results}"]
    path = {"PYTHONPATH": str(bundle / "bench"), "PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "ignore"}
    subprocess.run([str(part) for part in command], check=True, cwd=data, env=path, capture_output=True)
    for row in csv.DictReader(results.open()):
        print(
            f"torchgeo-bench {row['dataset']} {row['method']}: {float(row['metric_value']):.3f}, {row['n_test']} test images"
        )
    return int(found >= 1e-5)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

"""The machine as the pipeline needs it: versions, cores, memory, disk, GDAL drivers, GPU."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from eo_ssl.errors import expect

_PACKAGES = (
    "eo_ssl",
    "numpy",
    "xarray",
    "dask",
    "zarr",
    "rasterio",
    "pyarrow",
    "faiss-cpu",
    "torch",
    "lightning",
    "timm",
    "torchgeo",
)
_DRIVERS = {
    "GTiff": "GeoTIFF",
    "COG": "cloud-optimised GeoTIFF",
    "JP2OpenJPEG": "JPEG 2000",
    "netCDF": "NetCDF",
    "SENTINEL2": "Sentinel-2 SAFE",
    "SAFE": "Sentinel-1 SAFE",
}


def find_data(folder: str | Path | None) -> Path | None:
    """Return ``folder``, or the one that the environment variable EO_SSL_DATA names; None where neither does."""
    told = folder or os.environ.get("EO_SSL_DATA")
    return Path(told) if told else None


def require_data(folder: str | Path | None) -> Path:
    """Return ``folder``; refuse None."""
    expect(
        folder is not None,
        expected="a folder of data",
        got="none",
        remedy="name it, with --data where PATH is a card, or set EO_SSL_DATA",
    )
    assert folder is not None
    return Path(folder)


def describe_machine(data: Path | None) -> tuple[dict[str, str], list[str]]:
    """Return what this machine has, by name, and a sentence for everything missing; ``data``: root of real samples."""
    missing: list[str] = []
    facts = {"python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(f"package {name}: install eo_ssl with its dependencies")
    facts["cores"] = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"
    facts["memory"] = _describe_memory()
    facts["disk here"] = f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB free in {Path.cwd()}"
    facts["GDAL"], absent = _describe_gdal()
    missing += absent
    facts["GPU"] = _describe_gpu()
    found = data is not None and data.is_dir()
    facts["real sample data"] = f"{data} (found)" if found else f"{data or 'none'} (absent; set EO_SSL_DATA)"
    return facts, missing


def _describe_memory() -> str:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    allowed = f", {int(text) / 1e9:.1f} GB allowed by the control group" if text.isdigit() else ""
    return f"{pages * size / 1e9:.1f} GB{allowed}"


def _describe_gdal() -> tuple[str, list[str]]:
    import rasterio
    from rasterio.drivers import raster_driver_extensions
    from rasterio.env import Env

    with Env() as env:
        drivers = env.drivers()
    absent = [
        f"GDAL driver {name} ({what}): install a rasterio wheel that has it"
        for name, what in _DRIVERS.items()
        if name not in drivers
    ]
    present = ", ".join(name for name in _DRIVERS if name in drivers)
    return f"{rasterio.__gdal_version__} with {present} ({len(raster_driver_extensions())} file endings)", absent


def _describe_gpu() -> str:
    if find_spec("torch") is None:
        return "unknown: torch is not installed"
    import torch

    if not torch.cuda.is_available():
        return "none: training runs on the CPU in float32"
    device = torch.cuda.get_device_properties(0)
    return f"{torch.cuda.device_count()} x {device.name}, {device.total_memory / 1e9:.0f} GB"

"""What the tests of the sample archive share: a small archive's specification, and reading its files and its truth."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import rasterio

from eo_ssl.sample import ArchiveSpec, Truth
from eo_ssl.sample.product_plans import plan_archive
from eo_ssl.sample.truth import describe_product, render_product
from eo_ssl.sensors import sensor

SPEC = ArchiveSpec(sites=3, dates=2, size_px=192)  # the third place lies on the southern hemisphere
TINY = ArchiveSpec(sites=1, dates=1, size_px=96, exact_duplicates=0, near_duplicates=0, reprocessed=0)
GSD = {band.name: round(band.gsd_m) for band in sensor("sentinel2_l2a").bands}


def hashes(folder: Path) -> dict[str, str]:
    """Content of every file but the manifest, which tells the time."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read(folder: Path, truth: Truth, product_id: str, name: str) -> np.ndarray:
    with rasterio.open(folder / truth.product(product_id).acquisition.folder / f"{name}.tif") as file:
        return file.read(1)


def of_sensor(truth: Truth, name: str, *, copies: bool = True) -> list[str]:
    plans = [product.acquisition for product in truth.products]
    return [plan.product_id for plan in plans if plan.sensor == name and (copies or not plan.copy)]


def repeat(image: np.ndarray, factor: int) -> np.ndarray:
    return np.kron(image, np.ones((factor, factor), dtype=image.dtype))


def planned_truth(seed: int, spec: ArchiveSpec) -> Truth:
    """The truth of an archive that is not written."""
    return Truth(
        seed,
        spec,
        tuple(describe_product(plan, render_product(seed, spec, plan), spec) for plan in plan_archive(seed, spec)),
    )

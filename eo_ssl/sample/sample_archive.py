"""Writing a sample archive: products first, ``truth.json`` after them, ``manifest.json`` last."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.commits import commit
from eo_ssl.errors import expect
from eo_ssl.fingerprints import compute_sha256, fingerprint
from eo_ssl.landcover import S2_BANDS, UNKNOWN
from eo_ssl.manifest import open_product
from eo_ssl.sample.geotiff import build_transform, encode_geotiff
from eo_ssl.sample.landscape import make_landscape
from eo_ssl.sample.optical import FACTOR, NODATA_DN, QUANTIFICATION, OpticalScene, quantise_band
from eo_ssl.sample.product_plans import PlannedAcquisition, plan_archive
from eo_ssl.sample.radar import POLARISATIONS, RadarScene
from eo_ssl.sample.spec import SITES, ArchiveSpec
from eo_ssl.sample.truth import TRUTH, ProductTruth, Truth, describe_product, render_product

STAGE = "synthetic"  # as manifests name it, also those of generated benchmarks
SIDECAR = "product.json"
DEFAULT_SPEC = ArchiveSpec()


def make_archive(folder: Path, *, seed: int = 0, spec: ArchiveSpec = DEFAULT_SPEC, overwrite: bool = False) -> Truth:
    """Write a small, physically plausible Sentinel-2 L2A and Sentinel-1 RTC archive and return what is true of it.

    Layout: ``s2_l2a/<product id>/{B01..B12,SCL,label}.tif`` and ``s1_rtc/<product id>/{VV,VH,label}.tif``, each with
        its
    ``product.json`` (time, baseline, orbit, offset), and ``truth.json``. The cards ``sample_s2_l2a`` and
    ``sample_s1_rtc`` read it. Equal seed and spec give equal bytes. With the archive already there nothing is done; an
    interrupted one is completed.

    Args:
        folder: where to write; created.
        seed: seed of everything random.
        spec: size and content.
        overwrite: replace an archive that was made with another seed or spec.

    Raises:
        UserError: the folder holds something else, cannot be written, or the disk is full.
    """
    expect(seed >= 0, expected="a seed of 0 or more", got=seed, remedy="choose another")
    folder = Path(folder)
    config = {"seed": seed, "spec": asdict(spec)}
    with open_product(folder, stage=STAGE, config=config, inputs={}, overwrite=overwrite) as archive:
        if archive.done:
            return Truth.load(folder)
        # Copies follow their originals, so that a landscape is drawn once per place.
        plans = sorted(plan_archive(seed, spec), key=lambda plan: plan.site_index)
        products = [write_product(folder, seed, spec, plan) for plan in plans]
        truth = Truth(seed, spec, tuple(sorted(products, key=lambda product: product.product_id)))
        commit(folder / TRUTH, json.dumps(truth.to_json(), indent=1).encode())
        files = {str(path.relative_to(folder)): compute_sha256(path) for path in sorted(folder.glob("s*/*/*"))}
        copies = len(truth.duplicates)
        summary = {"products": len(products), "files": len(files), "shares": truth.shares, "copies": copies}
        archive.sign(fingerprint(files), seed=seed, summary=summary)
    return truth


def write_product(folder: Path, seed: int, spec: ArchiveSpec, plan: PlannedAcquisition) -> ProductTruth:
    """Write one product, its side-car last, and return what is true of it; files that are there already are kept."""
    place, target = SITES[plan.site_index], folder / plan.folder
    scene = render_product(seed, spec, plan)
    labels = make_landscape(seed, spec, plan.site_index).classes.copy()
    files: dict[str, tuple[np.ndarray[Any, Any], int, float | None]] = {}  # name -> image, factor, nodata
    if isinstance(scene, OpticalScene):
        for band in S2_BANDS:
            files[band] = (quantise_band(scene, band, offset=plan.offset), FACTOR[band], NODATA_DN)
        files["SCL"] = (scene.scl, 2, 0)
        labels[np.kron(scene.nodata, np.ones((6, 6), dtype=bool))] = UNKNOWN
    else:
        for band in POLARISATIONS:
            files[band] = (scene.observed[band], 1, float("nan"))
        labels[np.isnan(scene.observed["VV"])] = UNKNOWN
    files["label"] = (labels, 1, UNKNOWN)
    for name, (image, factor, nodata) in files.items():
        path = target / f"{name}.tif"
        if not path.exists():
            transform = build_transform(place, factor=factor)
            commit(
                path, encode_geotiff(image[None], epsg=place.epsg, transform=transform, nodata=nodata, bands=(name,))
            )
    commit(target / SIDECAR, json.dumps(_sidecar(plan, scene, spec), indent=1).encode())
    return describe_product(plan, scene, spec)


def _sidecar(plan: PlannedAcquisition, scene: OpticalScene | RadarScene, spec: ArchiveSpec) -> dict[str, Any]:
    """Return what a real product says of itself; which copies were planted is told in ``truth.json`` alone."""
    common = {key: getattr(plan, key) for key in ("product_id", "sensor", "datetime", "orbit", "site")}
    if isinstance(scene, RadarScene):
        return {**common, "quantity": "gamma0", "looks": spec.looks}
    return {
        **common,
        "quantity": "boa_reflectance",
        "processing_baseline": plan.processing_baseline,
        "offset": plan.offset,
        "scale": 1.0 / QUANTIFICATION,
        "sun_zenith_deg": plan.sun_zenith_deg,
        "sun_azimuth_deg": plan.sun_azimuth_deg,
    }

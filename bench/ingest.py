"""The ingest of one scene against decoding each of its blocks once and writing the pixels once."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from eo_ssl.cards import Card
from eo_ssl.corpus import IngestConfig, ingest
from eo_ssl.scene import products
from eo_ssl.sensors import Quantity

SIDE, BLOCK, BANDS, PAIRS = 2048, 512, ("B02", "B03", "B04", "B08", "B11", "B12"), 5


def scene(root: Path) -> Card:
    """Write one file per band, tiled and deflated as cloud-optimised GeoTIFF has it, and return its card."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
    frequency[0, 0] = 1
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(SIDE, SIDE))) / frequency**1.5, s=(SIDE, SIDE))
    field = (field - field.mean()) / field.std()
    (root / "scene").mkdir()
    for number, band in enumerate(BANDS):
        values = np.clip(1500 + 250 * (1 + number) * field + rng.normal(0, 4, field.shape), 1, 10000).astype(np.uint16)
        profile = {
            "driver": "GTiff",
            "height": SIDE,
            "width": SIDE,
            "count": 1,
            "dtype": "uint16",
            "crs": "EPSG:32632",
            "transform": from_origin(500000, 5000000, 10, 10),
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "compress": "deflate",
            "predictor": 2,
        }
        with rasterio.open(root / "scene" / f"{band}.tif", "w", **profile) as file:
            file.write(values, 1)
    return Card(
        name="bench",
        title="bench",
        sensor="sentinel2_l2a",
        reader="band_folder",
        folder="scene",
        files={band: f"{band}.tif" for band in BANDS},
        bands=BANDS,
        quantity=Quantity.BOA_REFLECTANCE,
        gsd_m=10.0,
        scale=1e-4,
        licence="Apache-2.0",
        attribution="generated",
        source="generated",
    )


def decode_once(root: Path, out: Path) -> None:
    """Read each row of blocks of all bands once and write the numbers once, uncompressed: the limit."""
    files = [rasterio.open(root / "scene" / f"{band}.tif") for band in BANDS]
    with out.open("wb") as target:
        for row in range(0, SIDE, BLOCK):
            for file in files:
                target.write(file.read(1, window=Window(0, row, SIDE, BLOCK)).data)
    for file in files:
        file.close()


def run() -> Iterator[dict[str, Any]]:
    """Yield ``ingest/vs-decode-once``: seconds per scene with one worker."""
    with tempfile.TemporaryDirectory(prefix="eo_ssl-bench-") as home:
        root = Path(home)
        (root / "0").mkdir()
        card = scene(root / "0")
        ours, reference = [], []
        for number in range(PAIRS + 1):
            archive = (root / str(number)).rename(
                root / str(number + 1)
            )  # a new name: no block of it is in GDAL's cache
            begun = time.perf_counter()
            found = products(card, archive).products
            report = ingest(found, out=root / "corpus", config=IngestConfig(codec="lz4"), client="synchronous")
            between = time.perf_counter()
            decode_once(archive, root / "raw.bin")
            if number:  # the first pair warms up
                ours.append(between - begun)
                reference.append(time.perf_counter() - between)
            shutil.rmtree(root / "corpus")
            (root / "raw.bin").unlink()
        yield {
            "name": "ingest/vs-decode-once",
            "value": statistics.median(ours),
            "unit": "s per scene",
            "reference": "decode every block once, write raw once",
            "reference_value": statistics.median(reference),
            "ratio": statistics.median(a / b for a, b in zip(ours, reference, strict=True)),
            "pairs": PAIRS,
            "note": f"{SIDE} x {SIDE} x {len(BANDS)} bands deflate -> {report.tiles} tiles of 64 px lz4 with checksums, index and statistics; one worker",
        }

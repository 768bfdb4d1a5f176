"""The ingest of Sentinel-2 products in SAFE format: against decoding each block once, TorchGeo, one worker, and no statistics."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numcodecs import Blosc
from rasterio.enums import Resampling
from rasterio.windows import Window

from bench.scenes import FULL_PX, jp2_bytes, product_folder
from eo_ssl.cards import load_card
from eo_ssl.corpus import IngestConfig, ingest
from eo_ssl.corpus.statistics import CodeCounter
from eo_ssl.scene import list_products
from eo_ssl.sensors import sensor

PAIRS, SIZE_PX, SMALL_PX, PART_PX = 5, 64, 1098, 3660
"""Pairs of runs, side of a tile, side of the product that warms workers up, side of the product for TorchGeo and statistics."""
CONFIG = IngestConfig(size_px=SIZE_PX, codec="lz4", min_valid=0.0)
BANDS = sensor("sentinel2_l1c").band_names
CODEC = Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE)
FULL = int(os.environ.get("EO_SSL_BENCH_PX", FULL_PX))


def ours(folder: Path, out: Path, client: str = "synchronous") -> int:
    """Ingest the product; return the number of tiles."""
    shutil.rmtree(out, ignore_errors=True)
    found = list_products(load_card("s2_safe_l1c"), folder).products
    return ingest(found, out=out, config=CONFIG, client=client).tiles


def decode_once(folder: Path, out: Path) -> int:
    """Decode each block of each band once, let GDAL interpolate to 10 m, compress each tile as the corpus does, write once: the limit.

    The interpolation makes the bytes that are compressed and written the same in number as the corpus's; repeated pixels would be a quarter fewer.
    """
    names = {band: next(folder.glob(f"*.SAFE/GRANULE/*/IMG_DATA/*_{band}.jp2")) for band in BANDS}
    files = {band: rasterio.open(path) for band, path in names.items()}
    finest = max(file.height for file in files.values())
    tall = SIZE_PX * 48  # 3,072 rows: three rows of blocks of every resolution, 1024, 640 and 192 rows high
    written = 0
    with out.open("wb") as target:
        for top in range(0, finest, tall):
            rows = min(tall, finest - top) // SIZE_PX * SIZE_PX
            strip = np.empty((len(BANDS), rows, finest // SIZE_PX * SIZE_PX), dtype=np.uint16)
            for number, band in enumerate(BANDS):
                factor = finest // files[band].height
                window = Window(0, top // factor, files[band].width, -(-rows // factor))
                size = (window.height * factor, window.width * factor)
                wide = files[band].read(1, window=window, out_shape=size, resampling=Resampling.bilinear)
                strip[number] = wide[:rows, : strip.shape[2]]
            for row in range(0, rows, SIZE_PX):
                for col in range(0, strip.shape[2], SIZE_PX):
                    tile = np.ascontiguousarray(strip[:, row : row + SIZE_PX, col : col + SIZE_PX])
                    written += target.write(CODEC.encode(tile))
        target.flush()
        os.fsync(target.fileno())
    for file in files.values():
        file.close()
    return written


def torchgeo_tiles(folder: Path, out: Path) -> int:
    """Cut the same tiles with TorchGeo's Sentinel2 and a grid sampler, compressed and written as the corpus does."""
    from torchgeo.datasets import Sentinel2
    from torchgeo.samplers import GridGeoSampler

    dataset = Sentinel2(next(folder.glob("*.SAFE")), bands=BANDS, res=(10, 10))
    count = 0
    with out.open("wb") as target:
        for query in GridGeoSampler(dataset, size=SIZE_PX, stride=SIZE_PX):
            tile = dataset[query]["image"].numpy().astype(np.uint16)
            if tile.shape[1:] == (SIZE_PX, SIZE_PX):
                target.write(CODEC.encode(np.ascontiguousarray(tile)))
                count += 1
    return count


@contextmanager
def no_statistics() -> Iterator[None]:
    """Leave the counting of codes out, and nothing else."""
    counted = CodeCounter.add
    CodeCounter.add = lambda self, tiles, *more, **named: None  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        CodeCounter.add = counted  # type: ignore[method-assign]


def cold(folder: Path) -> None:
    """Rename the product, so that no block of it is in GDAL's cache, and read it, so that its bytes are in the page cache on both sides."""
    safe = next(folder.glob("*.SAFE"))
    for path in safe.rglob("*.jp2"):
        path.read_bytes()
    fresh = time.time_ns()
    for path in safe.rglob("*.jp2"):
        os.utime(path, ns=(fresh, fresh))


def pairs(
    folder: Path, first: Callable[[], Any], second: Callable[[], Any]
) -> tuple[list[float], list[float], tuple[Any, Any]]:
    """Return seconds of both in ``PAIRS`` alternating runs, and what they returned last."""
    times: tuple[list[float], list[float]] = ([], [])
    found: list[Any] = [None, None]
    for _ in range(PAIRS):
        for side, action in enumerate((first, second)):
            cold(folder)
            begun = time.perf_counter()
            found[side] = action()
            times[side].append(time.perf_counter() - begun)
    return *times, (found[0], found[1])


def row(name: str, reference: str, measured: tuple[list[float], list[float]], note: str) -> dict[str, Any]:
    """Return a line of the table; the ratio is the median over pairs."""
    mine, theirs = measured
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    return {
        "name": name,
        "value": statistics.median(mine),
        "unit": "s per product",
        "reference": reference,
        "reference_value": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratios": [round(r, 3) for r in ratios],
        "pairs": PAIRS,
        "note": note,
    }


def peak_mb(folder: Path, out: Path) -> float:
    """Return the peak resident memory of an ingest in a process of its own, MB."""
    code = (
        "import sys; from pathlib import Path; from bench.ingest import ours; from bench.memory import peak_bytes; "
        "ours(Path(sys.argv[1]), Path(sys.argv[2])); print(peak_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(out)], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split()[-1]) / 1e6


def against_decoding(home: Path) -> dict[str, Any]:
    """Compare with the limit on a full-size product."""
    corpus, raw, folder = home / "corpus", home / "raw.bin", product_folder(FULL)
    stored, pixels = jp2_bytes(folder)
    memory = peak_mb(folder, corpus)
    *times, (tiles, limit) = pairs(folder, lambda: ours(folder, corpus), lambda: decode_once(folder, raw))
    bytes_out = sum(path.stat().st_size for path in corpus.rglob("*.zarr/c.*"))
    note = (
        f"{FULL} x {FULL} x 13 bands JP2 ({stored / pixels:.2f} bytes/px) -> {tiles} tiles of {SIZE_PX} px, lz4, one worker, peak {memory:.0f} MB; "
        f"{bytes_out / 1e6:.0f} MB of tiles here, {limit / 1e6:.0f} MB there; ours also checks, hashes, indexes and counts"
    )
    return row(
        "ingest/vs-decode-once",
        "decode every block once, compress and write every tile once",
        (times[0], times[1]),
        note,
    )


def against_torchgeo(home: Path, *, threads: str) -> dict[str, Any]:
    """Compare with TorchGeo; ``threads`` of GDAL's decoder on both sides (TorchGeo's default is all cores)."""
    corpus, raw, folder = home / "corpus", home / "raw.bin", product_folder(PART_PX)
    with rasterio.Env(GDAL_NUM_THREADS=threads):
        *times, (tiles, cut) = pairs(folder, lambda: ours(folder, corpus), lambda: torchgeo_tiles(folder, raw))
    note = f"{PART_PX} x {PART_PX} px: {tiles} tiles here, {cut} there, one process each, GDAL_NUM_THREADS={threads}"
    name = "ingest/vs-torchgeo" if threads == "1" else "ingest/vs-torchgeo-all-cores"
    return row(
        name, "TorchGeo Sentinel2 with GridGeoSampler, tiles compressed and written once", (times[0], times[1]), note
    )


def two_workers(home: Path) -> dict[str, Any]:
    """Compare two worker processes of a Dask cluster with one, on one full-size product; the workers are there before."""
    import distributed

    library: Any = distributed
    corpus, folder, small = home / "corpus", product_folder(FULL), product_folder(SMALL_PX)
    local = {"threads_per_worker": 1, "dashboard_address": None}
    with library.LocalCluster(n_workers=2, **local) as two, library.LocalCluster(n_workers=1, **local) as one:
        for cluster in (two, one):
            ours(small, corpus, cluster.scheduler_address)  # imports
        *times, _ = pairs(
            folder,
            lambda: ours(folder, corpus, two.scheduler_address),
            lambda: ours(folder, corpus, one.scheduler_address),
        )
    note = f"{FULL} x {FULL} px, worker processes of dask.distributed with one thread each, on {len(os.sched_getaffinity(0))} cores"
    return row("ingest/two-workers", "one worker", (times[0], times[1]), note)


def counting(home: Path) -> dict[str, Any]:
    """Compare with the same ingest without statistics."""
    corpus, folder = home / "corpus", product_folder(PART_PX)

    def without() -> int:
        with no_statistics():
            return ours(folder, corpus)

    *times, _ = pairs(folder, lambda: ours(folder, corpus), without)
    return row(
        "ingest/statistics",
        "the same without counting codes",
        (times[0], times[1]),
        f"{PART_PX} x {PART_PX} px, one worker",
    )


def run() -> Iterator[dict[str, Any]]:
    """Yield the lines of this group; ``EO_SSL_BENCH_PX`` makes the full-size product smaller (10,980 px)."""
    os.environ.setdefault("GDAL_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="eo_ssl-bench-") as folder:
        home = Path(folder)
        yield against_decoding(home)
        yield against_torchgeo(home, threads="1")
        yield against_torchgeo(home, threads="ALL_CPUS")
        yield two_workers(home)
        yield counting(home)

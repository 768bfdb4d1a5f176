"""Small benchmarks in the layouts of BigEarthNet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.landcover import S2_BANDS
from eo_ssl.sample.fields import average_blocks
from eo_ssl.sensors import sensor
from worlds.benchmarks.pixels import draw_backscatter_db, draw_surface_codes
from worlds.benchmarks.writing import encode_raster, split_numbers, write_benchmark

SIZE_PX = 120
BIGEARTHNET_CLASSES = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)
_TILES = ("T33UUP", "T29UPU", "T34VER")
_SPLITS = ("train", "validation", "test")
_CORINE_LABELS = ("Pastures", "Coniferous forest", "Mixed forest")
_CORINE = 211  # code of the whole reference map: arable land
_FACTOR = {band.name: round(band.gsd_m / 10.0) for band in sensor("sentinel2_l2a").bands}


def make_bigearthnet_v2(folder: Path, *, seed: int = 0, patches: int = 15) -> Path:
    """Write a benchmark in the layout of BigEarthNet v2 and return its root.

    Each patch has 12 GeoTIFFs of Sentinel-2 (uint16, surface reflectance x 10,000; 10, 20 and 60 m bands of 120, 60 and
    20 pixels), two of Sentinel-1 (float32, dB) and a reference map. A patch has the label of its class and that of the
    next but one.

    Args:
        folder: root of the data set; created.
        seed: seed of everything random.
        patches: at least 3, shared 60/20/20; classes follow one another.

    Raises:
        UserError: too few patches, or a folder made with other arguments.
    """
    parts = split_numbers(patches)

    def files() -> Iterator[tuple[str, bytes]]:
        rows = []
        for split, numbers in zip(_SPLITS, parts, strict=True):
            for number in numbers:
                label = number % len(BIGEARTHNET_CLASSES)
                patch, radar = _names(label, number)
                rows.append((patch, radar, list_labels(label), split))
                yield from _patch(patch, radar, seed=seed, label=label, number=number)
        buffer = io.BytesIO()
        columns = ("patch_id", "s1_name", "labels", "split")
        pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), buffer)
        yield "metadata.parquet", buffer.getvalue()

    config = {"layout": "bigearthnet_v2", "patches": patches}
    return write_benchmark(folder, seed=seed, config=config, files=files())


def make_bigearthnet_v1(folder: Path, *, seed: int = 0, patches: int = 10) -> Path:
    """Write a benchmark in the layout of BigEarthNet v1 with Sentinel-1 and return its root.

    Each patch has a folder per sensor with one GeoTIFF per band and a JSON file that names labels out of the 43 of
    CORINE: the pastures or a wood, and airports, which none of the 19 labels holds.

    Args:
        folder: root of the data set; created.
        seed: seed of everything random.
        patches: at least 3, shared 60/20/20.

    Raises:
        UserError: too few patches, or a folder made with other arguments.
    """
    parts = split_numbers(patches)

    def files() -> Iterator[tuple[str, bytes]]:
        for split, numbers in zip(("train", "val", "test"), parts, strict=True):
            lines = []
            for number in numbers:
                day = 13 + number % 2
                patch = f"S2A_MSIL2A_201706{day}T101031_{number}_45"
                radar = f"S1A_IW_GRDH_1SDV_201706{day}T165043_33UUP_{number}_45"
                labels = json.dumps({"labels": [_CORINE_LABELS[number % len(_CORINE_LABELS)], "Airports"]}).encode()
                for folder_name, make in (
                    (f"BigEarthNet-v1.0/{patch}", encode_bands),
                    (f"BigEarthNet-S1-v1.0/{radar}", encode_radar),
                ):
                    yield from make(folder_name, seed=seed, label=number, number=number)
                    yield f"{folder_name}/{folder_name.rpartition('/')[2]}_labels_metadata.json", labels
                lines.append(f"{patch},{radar}\n")
            yield f"bigearthnet-{split}.csv", "".join(lines).encode()

    config = {"layout": "bigearthnet_v1", "patches": patches}
    return write_benchmark(folder, seed=seed, config=config, files=files())


def list_labels(label: int) -> list[str]:
    """Return the labels of a patch of class ``label``: its own and that of the next but one."""
    return [BIGEARTHNET_CLASSES[label], BIGEARTHNET_CLASSES[(label + 2) % len(BIGEARTHNET_CLASSES)]]


def encode_bands(folder: str, *, seed: int, label: int, number: int) -> Iterator[tuple[str, bytes]]:
    """Yield one GeoTIFF per Sentinel-2 band, named after its folder, each at its own resolution."""
    name = folder.rpartition("/")[2]
    for band, codes in draw_surface_codes(seed, label, number, bands=S2_BANDS, size_px=SIZE_PX).items():
        factor = _FACTOR[band]
        plane = np.rint(average_blocks(codes, factor)).astype(np.uint16) if factor > 1 else codes
        yield (
            f"{folder}/{name}_{band}.tif",
            encode_raster(plane[None], bands=(band,), number=number, pixel_m=10.0 * factor),
        )


def encode_radar(folder: str, *, seed: int, label: int, number: int) -> Iterator[tuple[str, bytes]]:
    """Yield one GeoTIFF per polarisation in dB, named after its folder."""
    name = folder.rpartition("/")[2]
    for band, values in draw_backscatter_db(seed, label, number, size_px=SIZE_PX).items():
        yield f"{folder}/{name}_{band}.tif", encode_raster(values[None], bands=(band,), number=number)


def _names(label: int, number: int) -> tuple[str, str]:
    tile = _TILES[number % len(_TILES)]
    row, column = number, label
    patch = f"S2A_MSIL2A_20170613T101031_N9999_R022_{tile}_{row:02d}_{column:02d}"
    return patch, f"S1A_IW_GRDH_1SDV_20170613T165043_{tile[1:]}_{row}_{column}"


def _patch(patch: str, radar: str, *, seed: int, label: int, number: int) -> Iterator[tuple[str, bytes]]:
    product, scene = patch.rsplit("_", 2)[0], radar.rsplit("_", 3)[0]
    yield from encode_bands(f"BigEarthNet-S2/{product}/{patch}", seed=seed, label=label, number=number)
    yield from encode_radar(f"BigEarthNet-S1/{scene}/{radar}", seed=seed, label=label, number=number)
    codes = np.full((1, SIZE_PX, SIZE_PX), _CORINE, dtype=np.uint16)
    path = f"Reference_Maps/{product}/{patch}/{patch}_reference_map.tif"
    yield path, encode_raster(codes, bands=("CLC2018",), number=number)

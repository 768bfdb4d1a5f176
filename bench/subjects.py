"""What the robustness bench damages: generated archives of every kind, each with a victim and a good product beside it."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr
from rasterio.transform import from_origin
from zarr.storage import ZipStore

from eo_ssl.cards import Card, Stac, load_card
from eo_ssl.sample import ArchiveSpec, make_archive
from worlds.safe import S1GrdSpec, S1WvSpec, S2SafeSpec, make_s1_grd_safe, make_s1_wv_safe, make_s2_safe

CROP_PX = 32  # of vignettes and samples, and the side of a tile
SIZE_PX = 120
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


@dataclass(frozen=True)
class Subject:
    """A set of two products of one card."""

    name: str
    card: Card
    root: Path
    victim: str
    "file or folder of the product that is damaged, below root"
    key: str
    "what the victim's product id holds and the other's does not"
    sums: str
    "where checksums of the victim's bytes are stated, empty for nowhere"

    @property
    def path(self) -> Path:
        return self.root / self.victim


def make_subjects(folder: Path, *, seed: int) -> list[Subject]:
    """Make all archives below ``folder``; equal seeds give equal bytes."""
    found: list[Subject] = []
    for make in (_sentinel2, _sentinel1, _wave, _zarr, _geotiff, _stac):
        found += make(folder, seed)
    return found


def _safe(folder: Path, name: str, card: Card, make: Callable[[Path, int], Any], *, zipped: bool) -> Subject:
    root = folder / name
    victim, good = (make(root, number).path for number in (0, 1))
    key = victim.name.removesuffix(".zip").removesuffix(".SAFE")
    if key == good.name.removesuffix(".zip").removesuffix(".SAFE"):
        raise ValueError("the two products need different names")
    sums = "manifest, zip CRC" if zipped else "manifest"
    return Subject(name, card, root, victim.name, key, sums)


def _sentinel2(folder: Path, seed: int) -> list[Subject]:
    cases = {
        "s2-l1c-folder": ("L1C", "02.04", False),
        "s2-l1c-zip": ("L1C", "05.09", True),
        "s2-l2a-folder": ("L2A", "04.00", False),
        "s2-l2a-zip": ("L2A", "03.01", True),
    }
    found = []
    for name, (level, baseline, zipped) in cases.items():

        def make(root: Path, number: int, level: Any = level, baseline: str = baseline, zipped: bool = zipped) -> Any:
            spec = S2SafeSpec(
                level=level,
                baseline=baseline,
                seed=seed + number,
                size_px=SIZE_PX,
                tile=("32TQM", "32TPM")[number],
                complete=False,
            )
            return make_s2_safe(root, spec, zipped=zipped)

        found.append(_safe(folder, name, load_card(f"s2_safe_{level.lower()}"), make, zipped=zipped))
    return found


def _sentinel1(folder: Path, seed: int) -> list[Subject]:
    found = []
    for zipped in (False, True):

        def make(root: Path, number: int, zipped: bool = zipped) -> Any:
            when = ("2021-01-19T03:16:53.799379Z", "2021-01-31T03:16:53.799379Z")[number]
            spec = S1GrdSpec(lines=120, samples=140, border_px=4, seed=seed + number, datetime=when)
            return make_s1_grd_safe(root, spec, zipped=zipped)

        name = f"s1-grd-{'zip' if zipped else 'folder'}"
        found.append(_safe(folder, name, load_card("s1_safe_grd"), make, zipped=zipped))
    return found


def _wave(folder: Path, seed: int) -> list[Subject]:
    card = load_card("s1_safe_wv")
    if card.vignettes is None:
        raise ValueError("the card of wave mode has no vignettes")
    card = replace(card, vignettes=replace(card.vignettes, crop_px=CROP_PX))

    def make(root: Path, number: int) -> Any:
        when = ("2021-07-15T13:05:10.250000Z", "2021-07-27T13:05:10.250000Z")[number]
        return make_s1_wv_safe(root, S1WvSpec(vignettes=2, extent_m=2000.0, seed=seed + number, datetime=when))

    return [_safe(folder, "s1-wv-folder", card, make, zipped=False)]


def _zarr(folder: Path, seed: int) -> list[Subject]:
    """Two files as release 1.1 of SSL4EO-S12 publishes them: Zarr version 2, times chunked apart."""
    card = load_card("ssl4eo_v11_s2l2a")
    if card.samples is None:
        raise ValueError("the card of samples has no samples")
    card = replace(card, samples=replace(card.samples, crop_px=CROP_PX))
    root, names = folder / "ssl4eo-zarr", []
    for number in (0, 1):
        rng = np.random.default_rng([seed, number])
        names.append(f"train/S2L2A/ssl4eos12_train_{number:06d}.zarr.zip")
        (root / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        stamps = np.array(["2020-11-16", "2020-02-01", "2020-05-01", "2020-08-01"], dtype="datetime64[ns]")
        centres = np.arange(CROP_PX) * 10.0 + 5.0
        variables: dict[str, Any] = {
            "bands": (
                ("sample", "time", "band", "y", "x"),
                rng.integers(1100, 6000, (2, 4, 12, CROP_PX, CROP_PX)).astype(np.int16),
            ),
            "cloud_mask": (("sample", "time", "y", "x"), rng.integers(0, 6, (2, 4, CROP_PX, CROP_PX)).astype(np.uint8)),
            "crs": ("sample", np.full(2, 32632)),
            "time_": (("sample", "time"), np.tile(stamps, (2, 1))),
            "x_": (("sample", "x"), np.tile(500_000.0 + centres, (2, 1))),
            "y_": (("sample", "y"), np.tile(5_000_000.0 - centres, (2, 1))),
        }
        coords = {"band": list(S2_BANDS), "sample": [f"{number}00000{k}" for k in range(2)], "time": np.arange(4)}
        encoding = {"bands": {"chunks": (2, 1, 12, CROP_PX, CROP_PX), "_FillValue": None}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the writer, about version 2
            store = ZipStore(root / names[-1], mode="w")
            xr.Dataset(variables, coords=coords).to_zarr(store, zarr_format=2, consolidated=False, encoding=encoding)
            store.close()
        _without_doubles(root / names[-1])
    return [Subject("ssl4eo-zarr", card, root, names[0], Path(names[0]).name.removesuffix(".zarr.zip"), "zip CRC")]


def _without_doubles(path: Path) -> None:
    """Keep the last of the members that xarray's writer puts twice into a zip."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in held.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def _geotiff(folder: Path, seed: int) -> list[Subject]:
    root = folder / "geotiff-json"
    spec = ArchiveSpec(
        sites=2,
        dates=1,
        size_px=SIZE_PX,
        sensors=("sentinel2_l2a",),
        exact_duplicates=0,
        near_duplicates=0,
        reprocessed=0,
    )
    make_archive(root, seed=seed, spec=spec)
    victim = min(path.name for path in (root / "s2_l2a").iterdir())
    return [Subject("geotiff-json", load_card("sample_s2_l2a"), root, f"s2_l2a/{victim}", victim, "")]


def _stac(folder: Path, seed: int) -> list[Subject]:
    card = replace(
        load_card("stac_earth_search_s2_l2a"), stac=Stac(catalog="catalog.json"), bands=("B02", "B05", "B09")
    )
    found = []
    for name, summed in (("stac-cog", False), ("stac-cog-checksum", True)):
        root, links = folder / name, []
        for number in (0, 1):
            title = f"S2A_32TP{'SR'[number]}_20230601_0_L2A"
            _write_item(root / title, np.random.default_rng([seed, number]), title, summed=summed)
            links.append({"rel": "item", "href": f"./{title}/item.json"})
        content = {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "d", "links": links}
        (root / "catalog.json").write_text(json.dumps(content))
        found.append(
            Subject(name, card, root, "S2A_32TPS_20230601_0_L2A", "32TPS", "file:checksum of assets" if summed else "")
        )
    return found


def _write_item(folder: Path, rng: np.random.Generator, title: str, *, summed: bool) -> None:
    """An item of Earth Search with Cloud-Optimized GeoTIFFs of three pixel sizes and a scene classification."""
    left, top, assets = 600000.0, 5100000.0, {}
    folder.mkdir(parents=True)
    for band, key, gsd in (("B02", "blue", 10), ("B05", "rededge1", 20), ("B09", "nir09", 60), ("SCL", "scl", 20)):
        side, classes = SIZE_PX * 10 // gsd, band == "SCL"
        values = rng.integers(1, 12, (side, side)) if classes else rng.integers(1001, 9000, (side, side))
        profile = {
            "driver": "COG",
            "dtype": "uint8" if classes else "uint16",
            "count": 1,
            "height": side,
            "width": side,
        }
        grid = {"crs": "EPSG:32632", "transform": from_origin(left, top, gsd, gsd), "nodata": 0}
        with rasterio.open(folder / f"{band}.tif", "w", **profile, **grid, blocksize=128, compress="deflate") as file:
            file.write(values.astype(profile["dtype"]), 1)
        radiometry = {"raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": -0.1}]}
        digest = hashlib.sha256((folder / f"{band}.tif").read_bytes()).hexdigest()
        assets[key] = {
            "href": f"./{band}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "proj:shape": [side, side],
            "proj:transform": [gsd, 0, left, 0, -gsd, top],
            **({} if classes else radiometry),
            **({"file:checksum": f"1220{digest}"} if summed else {}),
        }
    ring = [[10.2, 45.9], [10.4, 45.9], [10.4, 46.1], [10.2, 46.1], [10.2, 45.9]]
    properties = {
        "datetime": "2023-06-01T10:16:11.024000Z",
        "platform": "sentinel-2a",
        "proj:epsg": 32632,
        "s2:processing_baseline": "05.09",
        "grid:code": f"MGRS-{title[4:9]}",
    }
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": title,
        "collection": "sentinel-2-l2a",
        "bbox": [10.2, 45.9, 10.4, 46.1],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "links": [],
        "assets": assets,
        "properties": properties,
    }
    (folder / "item.json").write_text(json.dumps(item))

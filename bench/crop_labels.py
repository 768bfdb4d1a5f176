"""The land cover of WorldCereal's sites as rasters, which its NetCDF of 10 m are not for images of 20 m, and a card that reads both."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import rasterio
import yaml

CLASSES = {11: "cropland", 13: "grassland"}  # of the WorldCereal legend; bare soil fills no tile
COVERS, IMAGES = "OUTPUT_POLY-110_10m_", "S2_L2A_20m_"


def write_labelled_card(card: Path, data: Path, out: Path) -> Path:
    """Write the rasters of a data folder and the card with labels below ``out``; return the card's path."""
    folder = out / "crop_labels"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(data.glob(f"worldcereal_timeseries/*/{COVERS}*.nc")):
        with netCDF4.Dataset(path) as file:
            cover, system = file["LC"][:].filled(0).astype("u1"), rasterio.CRS.from_wkt(file["spatial_ref"].crs_wkt)
            west, north = float(file["x"][0]) - 5.0, float(file["y"][0]) + 5.0  # from the centre of the first pixel
        place = {"transform": rasterio.Affine(10.0, 0.0, west, 0.0, -10.0, north), "crs": system}
        shape = {"height": cover.shape[0], "width": cover.shape[1], "count": 1, "dtype": "uint8"}
        name = path.stem.replace(COVERS, IMAGES)
        with rasterio.open(folder / f"{name}.tif", "w", driver="GTiff", **shape, **place) as raster:
            raster.write(cover, 1)
    labels = {"source": f"{folder.resolve()}/{{stem}}.tif", "classes": CLASSES, "purity": 0.7}
    labelled = folder / f"{card.stem}.yaml"
    labelled.write_text(yaml.safe_dump({**yaml.safe_load(card.read_text()), "labels": labels}, sort_keys=False))
    return labelled

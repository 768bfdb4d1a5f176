"""The lists of EuroSAT's division by longitude for a generated copy."""

from __future__ import annotations

from pathlib import Path

import rasterio
from rasterio.warp import transform

from eo_ssl.commits import commit
from eo_ssl.errors import expect
from worlds.benchmarks.eurosat import EUROSAT_FOLDER


def add_spatial_lists(root: Path) -> Path:
    """Write eurosat-spatial-{train,val,test}.txt, 60/20/20 of each class from east to west, and return ``root``.

    Raises:
        UserError: no images at ``root``.
    """
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    folders = sorted(path for path in (root / EUROSAT_FOLDER).glob("*") if path.is_dir())
    generated = f"a generated EuroSAT at {root}"
    expect(folders, expected=generated, got="no images", remedy="make it with make_eurosat first")
    for folder in folders:
        paths = sorted(folder.glob("*.tif"), key=lambda path: (-_longitude(path), path.name))
        held = max(1, round(0.2 * len(paths)))
        bounds = {"train": paths[: -2 * held], "val": paths[-2 * held : -held], "test": paths[-held:]}
        for split, part in bounds.items():
            lists[split] += [path.with_suffix(".jpg").name for path in part]  # the lists name the RGB files
    for split, names in lists.items():
        commit(root / f"eurosat-spatial-{split}.txt", "".join(f"{name}\n" for name in names).encode())
    return root


def _longitude(path: Path) -> float:
    """Return the longitude of the centre of an image, degrees."""
    with rasterio.open(path) as file:
        x, y = file.transform * (file.width / 2, file.height / 2)
        return float(transform(file.crs, "EPSG:4326", [x], [y])[0][0])

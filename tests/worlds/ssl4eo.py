"""SSL4EO-S12 v1.0 as published: places in four seasons, a GeoTIFF for each band at its own resolution."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path

import numpy as np
from affine import Affine

from eo_ssl.landcover import CLASS_NAMES, S2_BANDS, WAVELENGTH_UM, compute_greenness, tabulate
from eo_ssl.sample.fields import average_blocks, blur, draw_fractal, draw_parcels
from eo_ssl.sample.geotiff import encode_geotiff

BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
SEASONS = (date(2020, 12, 21), date(2021, 3, 20), date(2021, 6, 21), date(2021, 9, 22))
COARSE = {"B1": 6, "B9": 6, "B10": 6, "B5": 2, "B6": 2, "B7": 2, "B8A": 2, "B11": 2, "B12": 2}
LAND = ("water", "forest", "crop", "grass", "built", "bare")
CIRRUS = 0.002  # reflectance of B10 under a clear sky


def make_ssl4eo(root: Path, places: Iterable[tuple[int, int]], *, side_px: int = 264, seed: int = 0) -> None:
    """Write Level-1C patches below `root`/s2c, one for each place and season.

    Args:
        root: folder of the archive.
        places: metres east and north of the middle of UTM zone 32 at 5,000,000 m.
        side_px: side of a patch at 10 m; a multiple of 6.
        seed: of land and air.
    """
    for number, (east, north) in enumerate(places):
        rng = np.random.default_rng([seed, number])
        kinds = rng.choice(len(LAND), 3, replace=False)
        parcels = draw_parcels(rng, side_px, length_px=24, width_px=12)
        of_parcel = rng.integers(0, 3, int(parcels.max()) + 1)
        classes = np.array([CLASS_NAMES.index(name) for name in LAND], dtype=np.uint8)[kinds[of_parcel[parcels]]]
        shift = (20 * rng.standard_normal(len(of_parcel)))[parcels].astype(np.float32)
        bright = np.exp(0.1 * draw_fractal(rng, side_px, slope=1.2))
        corner = Affine(10, 0, 500_000 + east, 0, -10, 5_000_000 + north)
        for season in SEASONS:
            green = compute_greenness(classes, shift, day=season.timetuple().tm_yday, southern=False)
            light, haze = 1 + 0.05 * rng.standard_normal(), rng.uniform(0.02, 0.05)
            stamp = f"{season:%Y%m%d}T102031"
            folder = root / "s2c" / f"{number:07d}" / f"{stamp}_{stamp}_T32TQM"
            folder.mkdir(parents=True)
            for band in BANDS:
                seen = np.full((side_px, side_px), CIRRUS, dtype=np.float32)
                if band != "B10":
                    index = S2_BANDS.index(band if len(band) > 2 else f"B0{band[1:]}")
                    dormant, full = tabulate("dormant")[:, index], tabulate("green")[:, index]
                    ground = dormant[classes] + green * (full - dormant)[classes]
                    seen = blur(ground * bright * light + haze * (0.49 / WAVELENGTH_UM[index]) ** 4)
                factor = COARSE.get(band, 1)
                values = average_blocks(seen, factor) + 0.001 * rng.standard_normal([side_px // factor] * 2)
                stored = np.clip(np.rint(values * 10_000), 1, 65_535).astype(np.uint16)
                transform = corner * Affine.scale(factor)
                file = encode_geotiff(stored[None], epsg=32632, transform=transform, nodata=None, bands=(band,))
                (folder / f"{band}.tif").write_bytes(file)

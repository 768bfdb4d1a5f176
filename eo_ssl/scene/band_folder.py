"""A folder with one file per band, at one or several resolutions."""

from __future__ import annotations

from pathlib import Path

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.scene.cube import Layers
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.raster import classes
from eo_ssl.scene.rasters import BandFile, RasterImage, common_grid, located, with_own_nodata
from eo_ssl.sensors import sensor


def band_files(card: Card, folder: Path) -> tuple[tuple[str, Path], ...]:
    """Return (band, file) for each of the card's bands; a file that is absent is named all the same and refused on opening.

    Raises:
        UserError: the card gives no file for a band, or a pattern matches several.
    """
    patterns = card.files if isinstance(card.files, dict) else {}
    known = {sensor(card.sensor).resolve(name): pattern for name, pattern in patterns.items()}
    lacking = [band for band in card.bands if band not in known]
    if lacking:
        raise UserError(
            f"expected card {card.name} to give a file for each band, got none for {', '.join(lacking)}; add it to `files`"
        )
    found = []
    for band in card.bands:
        matches = sorted(folder.glob(known[band]))
        if len(matches) > 1:
            raise UserError(
                f"expected one file {known[band]} for {band} in {folder}, got {len(matches)}; make the pattern in card {card.name} narrower"
            )
        found.append((band, matches[0] if matches else folder / known[band]))
    return tuple(found)


def layers(card: Card, parts: dict[str, Path], *, bands: tuple[str, ...], radiometry: Radiometry) -> Layers:
    """Return the bands on the common grid, with mask and labels.

    Raises:
        UserError: a band's file is absent or damaged, holds several bands, or cannot be placed on the grid.
    """
    for band in bands:
        if not parts[band].is_file():
            raise UserError(
                f"expected the file of band {band} as {parts[band]}, found none; fetch it or leave the band out of card {card.name}"
            )
    anchor = None
    if card.grid_from is not None:
        name = sensor(card.sensor).resolve(card.grid_from)
        if name not in parts:
            raise UserError(
                f"expected grid_from of card {card.name} to be one of its bands, got {card.grid_from}; correct it"
            )
        anchor = located(card, parts[name])
    grids = {band: located(card, parts[band], anchor=anchor) for band in bands}
    grid = common_grid(card, list(grids.values()))
    methods = {
        sensor(card.sensor).resolve(name): method for name, method in card.resampling.items() if name != "default"
    }
    needing = [
        band for band in bands if grids[band] != grid and band not in methods and "default" not in card.resampling
    ]
    if needing:
        raise UserError(
            f"expected card {card.name} to name a resampling method for bands on another grid, got none for {', '.join(needing)}; add it or `default`"
        )
    files = tuple(
        BandFile(
            parts[band],
            1,
            grids[band],
            methods.get(band, card.resampling.get("default", "nearest")),
            with_own_nodata(radiometry, parts[band], index=1),
        )
        for band in bands
    )
    image = RasterImage(grid, files, card.dtype_max)
    quality = classes(card, parts["mask"], grid=grid) if "mask" in parts else None
    labels = classes(card, parts["labels"], grid=grid) if "labels" in parts else None
    return Layers(image, quality, labels, has_saturation=card.dtype_max is not None)

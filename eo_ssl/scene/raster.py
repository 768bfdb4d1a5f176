"""A raster with several bands in one file, or one file per polarisation of the same grid."""

from __future__ import annotations

from pathlib import Path

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.scene import handles
from eo_ssl.scene.cube import Layers
from eo_ssl.scene.grid import Grid
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.rasters import BandFile, RasterClasses, RasterImage, check_gsd, located, with_own_nodata


def layers(
    card: Card, parts: dict[str, Path], *, bands: tuple[str, ...], layer: tuple[int, ...], radiometry: Radiometry
) -> Layers:
    """Return the bands of one file (or of one file each, when grouped) with mask and labels.

    Raises:
        UserError: a file is absent or damaged, has another number of bands, pixel size or grid than the card and its group say.
    """
    lacking = [band for band in bands if "pixels" not in parts and band not in parts]
    if lacking:
        here = next(iter(parts.values())).name
        raise UserError(
            f"expected a file of each of {', '.join(bands)} beside {here}, got none of {', '.join(lacking)}; fetch it or correct card {card.name}"
        )
    where = {
        band: (parts["pixels"], _index(card, band, layer)) if "pixels" in parts else (parts[band], 1) for band in bands
    }
    grids = {band: located(card, path) for band, (path, _) in where.items()}
    grid = grids[bands[0]]
    _check(card, where, grids, layer)
    files = tuple(
        BandFile(path, index, grids[band], "nearest", with_own_nodata(radiometry, path, index=index))
        for band, (path, index) in where.items()
    )
    first = where[bands[0]][0]
    return Layers(
        RasterImage(grid, files, card.dtype_max),
        quality=classes(card, parts["mask"], grid=grid, band=_description(first, card)) if "mask" in parts else None,
        labels=classes(card, parts["labels"], grid=grid) if "labels" in parts else None,
        has_saturation=card.dtype_max is not None,
    )


def _index(card: Card, band: str, layer: tuple[int, ...]) -> int:
    position = card.bands.index(band)
    return layer[position] if layer else position + 1


def _check(card: Card, where: dict[str, tuple[Path, int]], grids: dict[str, Grid], layer: tuple[int, ...]) -> None:
    for band, (path, index) in where.items():
        count = int(handles.opened(path).count)
        grouped = len({path for path, _ in where.values()}) > 1
        wanted = 1 if grouped else max(layer, default=len(card.bands))
        extra = 1 if card.mask is not None and not _is_file(card.mask.source) else 0
        if (not layer and count != wanted + extra) or index > count:
            raise UserError(
                f"expected {wanted + extra} bands in {path} as card {card.name} lists, got {count}; correct `bands`, or choose some with `layers`"
            )
        if grids[band] != next(iter(grids.values())):
            raise UserError(
                f"expected all files of a product on one grid, got another in {path}; use the reader band_folder, which resamples"
            )
    check_gsd(card, next(iter(grids.values())), path=next(iter(where.values()))[0])


def _is_file(source: str) -> bool:
    return "." in source or "/" in source


def _description(path: Path, card: Card) -> int:
    """Band of the file that carries the mask, by its description; 1 when the mask is a file of its own."""
    if card.mask is None or _is_file(card.mask.source):
        return 1
    names = handles.opened(path).descriptions
    if card.mask.source not in names:
        raise UserError(
            f"expected a band described as {card.mask.source!r} in {path}, got {', '.join(map(str, names))}; correct mask.source in the card"
        )
    return int(names.index(card.mask.source)) + 1


def classes(card: Card, path: Path, *, grid: Grid, band: int = 1) -> RasterClasses:
    """Return a class raster on ``grid``; a file without georeference must have its shape.

    Raises:
        UserError: the file is absent, damaged, or without georeference and of another shape.
    """
    if not path.is_file():
        raise UserError(
            f"expected the mask or label file {path.name} in {path.parent}, found none; fetch it or correct card {card.name}"
        )
    own = handles.grid_of(path)
    if not own.transform:
        if own.shape != grid.shape:
            raise UserError(
                f"expected {path} without georeference to have the image's {grid.height} x {grid.width} pixels, got {own.height} x {own.width}; georeference it"
            )
        own = grid
    return RasterClasses(grid, path, band, own)

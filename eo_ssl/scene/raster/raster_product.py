"""Products of one raster file with several bands or layers (dates), or of one file per band of the same grid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from odc.geo.geobox import GeoBox

from eo_ssl.cards import Card
from eo_ssl.errors import UserError, expect
from eo_ssl.scene import gdal_files
from eo_ssl.scene.acquisition import read_acquisition
from eo_ssl.scene.band_stack import BandStack, check_gsd, locate_file, open_band
from eo_ssl.scene.class_rasters import open_classes
from eo_ssl.scene.file_patterns import find_extras, list_readable, match_paths, name_product
from eo_ssl.scene.layers import Layers, attach_masks
from eo_ssl.scene.product import Listing, Product
from eo_ssl.scene.product_source import FileSource
from eo_ssl.scene.raster_facts import check_names
from eo_ssl.sensors import sensor


def list_products(card: Card, root: Path) -> Listing:
    """Return a product per file, or per layer of it; with ``group`` in the card, per group of files.

    Raises:
        UserError: no file can be read, or a name does not fit the group's pattern.
    """
    matches = match_paths(root, card.files if isinstance(card.files, str) else "")
    if card.group is not None:
        return list(_list_groups(card, [path for _, path in matches], root)), []
    return list_readable(card, ((name, partial(_list_layers, card, name, path)) for name, path in matches)), []


def _list_layers(card: Card, name: str, path: Path) -> Iterator[Product]:
    acquisition = read_acquisition(card, folder=path.parent, path=path, names={})
    parts, offset = (("pixels", path), *find_extras(card, path, pixels=True)), acquisition.offset or 0.0
    if not card.layers:
        source = RasterSource(card=card, parts=parts, offset=offset)
        yield Product(name_product(card, name), card, "cube", acquisition, source)
    for layer, indices in card.layers.items():
        expect(
            len(indices) == len(card.bands),
            expected=f"{len(card.bands)} file bands in layer {layer!r} of card {card.name}",
            got=len(indices),
            remedy="name one per band",
        )
        source = RasterSource(card=card, parts=parts, offset=offset, share=len(card.layers), layer=tuple(indices))
        yield Product(name_product(card, name, layer), card, "cube", acquisition, source)


def _list_groups(card: Card, paths: list[Path], root: Path) -> Iterator[Product]:
    pattern = re.compile(card.group.pattern if card.group else "")
    if not {"product", "band"} <= set(pattern.groupindex):
        raise UserError(
            f"expected group.pattern of card {card.name} with the named groups product and band, got "
            f"{pattern.pattern!r}; add them"
        )
    groups: dict[str, dict[str, Path]] = {}
    names: dict[str, dict[str, str]] = {}
    for path in paths:
        match = pattern.search(path.relative_to(root).as_posix())
        if match is None:
            raise UserError(
                f"expected the name {path.name} to fit group.pattern of card {card.name}, got no match; correct the "
                "pattern or narrow `files`"
            )
        band = sensor(card.sensor).resolve(match["band"])
        files = groups.setdefault(match["product"], {})
        if band in files:
            raise UserError(
                f"expected one file of {band} for product {match['product']}, got {files[band].name} and {path.name}; "
                "remove one"
            )
        files[band] = path
        named = {key: value for key, value in match.groupdict().items() if value is not None}
        names.setdefault(match["product"], named)
    for name, files in groups.items():
        first = min(files.values())
        acquisition = read_acquisition(card, folder=first.parent, path=first, names=names[name])
        bands = tuple((band, files[band]) for band in card.bands if band in files)
        parts = (*bands, *find_extras(card, first, pixels=False))
        source = RasterSource(card=card, parts=parts, offset=acquisition.offset or 0.0)
        yield Product(name_product(card, name), card, "cube", acquisition, source)


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterSource(FileSource):
    """One file, or a layer of it, or one file per band when grouped."""

    layer: tuple[int, ...] = ()
    "1-based bands of the file, in the order of the card's bands"

    @property
    def place(self) -> Path:
        """The file, or the first in the order of names of a group."""
        return min(path for role, path in self.parts if role == "pixels" or role in self.card.bands)

    def checksum(self) -> str:
        """Return a sha256 (hex) over the bytes of the files and the bands taken from them."""
        return self.hash_parts(layer=self.layer)

    def layers(self, bands: tuple[str, ...]) -> Layers:
        """Return the bands with mask and labels.

        Raises:
            UserError: a file is absent or damaged, has another number of bands, pixel size or grid than the card and
                its group say.
        """
        card, parts = self.card, dict(self.parts)
        lacking = [band for band in bands if "pixels" not in parts and band not in parts]
        if lacking:
            raise UserError(
                f"expected a file of each of {', '.join(bands)} beside {self.name}, got none of {', '.join(lacking)}; "
                f"fetch it or correct card {card.name}"
            )
        where = {
            band: (parts["pixels"], self._index(band)) if "pixels" in parts else (parts[band], 1) for band in bands
        }
        located = {path: locate_file(card, path) for path in dict.fromkeys(path for path, _ in where.values())}
        grids = {band: located[path] for band, (path, _) in where.items()}
        grid = grids[bands[0]]
        self._check(where, grids)
        check_names(card, where)
        files = tuple(
            open_band(card, path, index, grid=grids[band], method="nearest", radiometry=self.radiometry)
            for band, (path, index) in where.items()
        )
        classes = {
            role: open_classes(card, parts[role], grid=grid, band=_find_class_band(where[bands[0]][0], source, card))
            for role, source in self._class_sources().items()
        }
        masks, labels = classes.get("mask"), classes.get("labels")
        image = BandStack(grid, files, card.dtype_max)
        return attach_masks(image, masks, card.mask.classes if card.mask else {}, labels=labels)

    def _index(self, band: str) -> int:
        position = self.card.bands.index(band)
        return self.layer[position] if self.layer else position + 1

    def _class_sources(self) -> dict[str, str]:
        """What the card says of where mask and labels are: a file of their own, or the name of a band of the image."""
        parts, declared = dict(self.parts), {"mask": self.card.mask, "labels": self.card.labels}
        return {role: part.source for role, part in declared.items() if part is not None and role in parts}

    def _check(self, where: dict[str, tuple[Path, int]], grids: dict[str, GeoBox]) -> None:
        card = self.card
        grouped = len({path for path, _ in where.values()}) > 1
        classes = sum(not _is_file(source) for source in self._class_sources().values())
        wanted = (1 if grouped else max(self.layer, default=len(card.bands))) + classes
        for band, (path, index) in where.items():
            file = gdal_files.open_raster(path)
            alpha, counted = gdal_files.find_alpha(file), int(file.count)
            if alpha == index and not card.ignores_masks:
                raise UserError(
                    f"expected {band} in band {index} of {path}, got an alpha band, which says what is valid; leave it "
                    "out of `bands`, or, if it is a measurement, say `mask: {ignore: why}`"
                )
            counted -= alpha > wanted - classes  # beside the card's bands: it is a mask
            if (not self.layer and counted != wanted) or index > int(file.count):
                raise UserError(
                    f"expected {wanted} bands in {path} as card {card.name} lists, got {counted}; correct "
                    "`bands`, or choose some with `layers`"
                )
            expect(
                grids[band] == next(iter(grids.values())),
                expected="all files of a product on one grid",
                got=f"another in {path}",
                remedy="use the reader band_folder, which resamples",
            )
        check_gsd(card, next(iter(grids.values())), path=next(iter(where.values()))[0])


def _is_file(source: str) -> bool:
    return "." in source or "/" in source


def _find_class_band(path: Path, source: str, card: Card) -> int:
    """1-based band of the image's file that carries mask or labels, by its description; 0 for a file of their own."""
    if _is_file(source):
        return 0
    names = gdal_files.open_raster(path).descriptions
    expect(
        source in names,
        expected=f"a band described as {source!r} in {path}",
        got=", ".join(map(str, names)),
        remedy=f"correct mask.source or labels.source of card {card.name}",
    )
    return int(names.index(source)) + 1

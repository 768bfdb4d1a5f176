"""Products of one folder with one file per band, at one or several resolutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.scene.acquisition import read_acquisition
from eo_ssl.scene.band_stack import locate_file, stack_files
from eo_ssl.scene.class_rasters import open_classes
from eo_ssl.scene.file_patterns import find_extras, list_readable, match_paths, name_product
from eo_ssl.scene.layers import Layers, attach_masks
from eo_ssl.scene.product import Listing, Product
from eo_ssl.scene.product_source import FileSource
from eo_ssl.sensors import sensor


def list_products(card: Card, root: Path) -> Listing:
    """Return a product per folder that the card's ``folder`` matches.

    Raises:
        UserError: no folder can be read.
    """
    matches = match_paths(root, card.folder, folders=True)
    return list_readable(card, ((name, partial(_list_folder, card, name, folder)) for name, folder in matches)), []


def _list_folder(card: Card, name: str, folder: Path) -> Iterator[Product]:
    bands = find_band_files(card, folder)
    acquisition = read_acquisition(card, folder=folder, path=bands[0][1], names={})
    parts = (*bands, *find_extras(card, bands[0][1], pixels=False))
    source = BandFolderSource(card=card, parts=parts, offset=acquisition.offset or 0.0, folder=folder)
    yield Product(name_product(card, name), card, "cube", acquisition, source)


def find_band_files(card: Card, folder: Path) -> tuple[tuple[str, Path], ...]:
    """Return (band, file) for each of the card's bands.

    A file that is absent is named all the same and refused on opening.

    Raises:
        UserError: the card gives no file for a band, or a pattern matches several.
    """
    patterns = card.files if isinstance(card.files, dict) else {}
    known = {sensor(card.sensor).resolve(name): pattern for name, pattern in patterns.items()}
    lacking = [band for band in card.bands if band not in known]
    if lacking:
        raise UserError(
            f"expected card {card.name} to give a file for each band, got none for {', '.join(lacking)}; "
            "add it to `files`"
        )
    files = []
    for band in card.bands:
        matches = sorted(folder.glob(known[band]))
        if len(matches) > 1:
            raise UserError(
                f"expected one file {known[band]} for {band} in {folder}, got {len(matches)}; make the pattern in card "
                f"{card.name} narrower"
            )
        files.append((band, matches[0] if matches else folder / known[band]))
    return tuple(files)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandFolderSource(FileSource):
    """The band files of one folder."""

    folder: Path

    @property
    def place(self) -> Path:
        """The folder; the files may lie in folders of it."""
        return self.folder

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.parts[0][1].parent.name

    def layers(self, bands: tuple[str, ...]) -> Layers:
        """Return the bands on the common grid, with mask and labels.

        Raises:
            UserError: a band's file is absent or damaged, holds several bands, or cannot be placed on the grid.
        """
        card, parts = self.card, dict(self.parts)
        for band in bands:
            if not parts[band].is_file():
                raise UserError(
                    f"expected the file of band {band} as {parts[band]}, found none; fetch it or leave the band out of "
                    f"card {card.name}"
                )
        anchor = None
        if card.grid_from is not None:
            name = sensor(card.sensor).resolve(card.grid_from)
            if name not in parts:
                raise UserError(
                    f"expected grid_from of card {card.name} to be one of its bands, got {card.grid_from}; correct it"
                )
            anchor = locate_file(card, parts[name])
        files = {band: parts[band] for band in bands}
        image = stack_files(card, files, radiometry=self.radiometry, anchor=anchor)
        grid = image.grid
        masks = open_classes(card, parts["mask"], grid=grid) if "mask" in parts else None
        labels = open_classes(card, parts["labels"], grid=grid) if "labels" in parts else None
        return attach_masks(image, masks, card.mask.classes if card.mask else {}, labels=labels)

"""A product: one scene, time step or batch of chips, named, dated and ready to be opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import xarray as xr

from eo_ssl.cards import Card
from eo_ssl.errors import expect
from eo_ssl.fingerprints import fingerprint, identify_file
from eo_ssl.scene.acquisition import ACQUISITION, UNKNOWN_ACQUISITION, Acquisition
from eo_ssl.scene.chip import Chip, ChipEntry, UnreadableChip
from eo_ssl.scene.cube import build_cube, check_cube, read_sample
from eo_ssl.scene.product_source import DamagedSource, FileSource, ProductSource
from eo_ssl.scene.radiometry import check_plausible
from eo_ssl.sensors import sensor

_SEEN_PLAUSIBLE: set[str] = set()
"""Of this process: the sample of a product is looked at once, however many strips open it."""


@dataclass(frozen=True, slots=True)
class Product:
    """What one unit of ingestion is. It pickles, holds no pixels and opens its files only when asked."""

    product_id: str
    "card name and place of the product within the set; does not depend on where the root lies"
    card: Card
    kind: Literal["cube", "chips"]
    acquisition: Acquisition
    source: ProductSource
    place: str = ""
    "file or folder of bands relative to the root, as `offset_by_file` names it; empty if the product describes itself"

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the cube, in the sensor's canonical order whatever the order in the file."""
        return tuple(name for name in sensor(self.card.sensor).band_names if name in self.card.bands)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the product, each once, where the card names them."""
        return self.source.paths

    @property
    def entries(self) -> tuple[ChipEntry, ...]:
        """The chips of the product that a manifest lists; readers that must look inside list none."""
        return self.source.entries

    @property
    def is_described_by_card(self) -> bool:
        """Whether the card says what the stored numbers mean; other products say it themselves."""
        return isinstance(self.source, FileSource)

    @property
    def offset(self) -> float:
        """Radiometric offset in stored units that reading adds."""
        return self.acquisition.offset or 0.0

    @property
    def nbytes(self) -> int:
        """Stored bytes: of the files, or of the batch's chips.

        Files that several products share count in equal parts.
        """
        return self.source.nbytes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, rows and columns of the cube (chips: of one crop); reads file headers only."""
        if self.kind == "chips":
            settings = self.card.chips or self.card.vignettes or self.card.samples
            crop = settings.crop_px if settings else 0
            return len(self.bands), crop, crop
        grid = self.source.layers(self.bands).image.grid
        return len(self.bands), grid.height, grid.width

    def with_offset(self, offset: float | None) -> Product:
        """Return the product read with another radiometric offset (stored units), None where it is unknown.

        Of a card's files only.
        """
        source = replace(self.source, offset=offset or 0.0) if isinstance(self.source, FileSource) else self.source
        return replace(self, acquisition=replace(self.acquisition, offset=offset), source=source)

    def checksum(self) -> str:
        """Return a sha256 (hex) over the bytes of the product's files and its place in them.

        Raises:
            UserError: a file is absent.
        """
        return self.source.checksum()

    def open(self, *, plausible: bool = True) -> xr.Dataset:
        """Return the checked, lazy cube of the product; see ``eo_ssl.scene.cube``.

        A window of it is read once per process to refuse values that cannot be of the declared quantity, unless
        ``plausible`` is False.

        Raises:
            UserError: a file is absent, damaged or not as the card says, or the values are not plausible.
        """
        known_labels = tuple(self.card.labels.classes) if self.card.labels else ()
        layers = self.source.layers(self.bands)
        cube = check_cube(
            build_cube(layers, bands=self.bands, attributes=self._attributes(), known_labels=known_labels)
        )
        content = [list(identify_file(path)) for path in self.paths] if self.paths else repr(self.source)
        seen = fingerprint([self.product_id, self.card.to_json(), content])
        if plausible and seen not in _SEEN_PLAUSIBLE:
            check_plausible(read_sample(cube), quantity=self.card.quantity, name=self.product_id)
            _SEEN_PLAUSIBLE.add(seen)
        return cube

    def open_chips(self) -> Iterator[Chip | UnreadableChip]:
        """Yield the chips of the batch in order, centre-cropped, in physical units.

        In place of one that cannot be read alone, why.

        Raises:
            UserError: the product is no batch of chips, or a chip is damaged with what others need.
        """
        expect(
            self.kind == "chips",
            expected="a batch of chips",
            got=f"the {self.kind} {self.product_id}",
            remedy="call open() for it",
        )
        return self.source.open_chips()

    def _attributes(self) -> dict[str, object]:
        card, acquisition = self.card, self.acquisition
        return {
            "sensor": card.sensor,
            "quantity": card.quantity.value,
            "product_id": self.product_id,
            "datetime": acquisition.datetime,
            "processing_baseline": acquisition.processing_baseline,
            "orbit": acquisition.orbit,
            "gsd_m": card.gsd_m,
            "licence": card.licence,
            "attribution": card.attribution,
            "source": self.source.name,
            **{key: getattr(acquisition, key) for key in ACQUISITION},
        }


Dropped = list[tuple[str, str]]
"""(product id or path, reason) of what a listing leaves out."""
Listing = tuple[list[Product], Dropped]
"""What every reader's ``list_products(card, root)`` returns: products, and what was left out."""


def make_damaged_product(
    card: Card, name: str, reason: str, *, file: str = "", kind: Literal["cube", "chips"] = "cube"
) -> Product:
    """Return a product that says when it is opened why it cannot be read.

    Args:
        card: of the set.
        name: place of the product within the set.
        reason: what is wrong with it.
        file: name of its file or folder, by default ``name``.
        kind: what it would be.
    """
    product_id = "/".join(part for part in (card.name, name) if part)
    return Product(product_id, card, kind, UNKNOWN_ACQUISITION, DamagedSource(file or name, reason))

"""A product: one scene, time step or batch of chips, named, dated and ready to be opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NoReturn, Protocol

import xarray as xr

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.manifest import file_sha256, fingerprint
from eo_ssl.scene import arrays, band_folder, chips, raster
from eo_ssl.scene.cube import Layers, build, check_cube, sampled
from eo_ssl.scene.facts import ACQUISITION, Facts
from eo_ssl.scene.handles import stamp
from eo_ssl.scene.radiometry import Radiometry, check_plausible
from eo_ssl.sensors import sensor

_SEEN_PLAUSIBLE: set[str] = (
    set()
)  # of this process: the sample of a product is looked at once, however many strips open it


class Source(Protocol):
    """A product of an archive that describes itself (SAFE, STAC item, sample of a corpus): frozen, picklable, without open handles.

    The card chooses bands, quantity and grid; scale, offset, calibration and masks come from the product's own metadata.
    """

    @property
    def name(self) -> str:
        """Name of the product's file or folder, as it enters the index."""
        ...

    @property
    def nbytes(self) -> int:
        """Stored bytes of what the card wants of the product."""
        ...

    def checksum(self) -> str:
        """Sha256 (hex) over the bytes of the product's files, or over its identity where the files say their own checksums."""
        ...

    def layers(self, bands: tuple[str, ...]) -> Layers:
        """Image (and flags, fields, labels) of canonical ``bands`` in physical units of the card's quantity."""
        ...

    def open_chips(self) -> Iterator[chips.Chip | chips.Refused]:
        """Chips in order, or why one is none, for products of kind ``chips``; refused by the others."""
        ...


@dataclass(frozen=True, slots=True)
class DamagedSource:
    """A product whose metadata cannot be read: it says why when it is opened, so that only this product is left out."""

    name: str
    reason: str

    @property
    def nbytes(self) -> int:
        """Nothing of it is read."""
        return 0

    def checksum(self) -> str:
        """Refuse with the reason."""
        self._refuse()

    def layers(self, bands: tuple[str, ...]) -> Layers:
        """Refuse with the reason."""
        self._refuse()

    def open_chips(self) -> Iterator[chips.Chip]:
        """Refuse with the reason."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(self.reason)


@dataclass(frozen=True, slots=True)
class Product:
    """What one unit of ingestion is. It pickles, holds no pixels and opens its files only when asked."""

    product_id: str
    "card name and place of the product within the set; does not depend on where the root lies"
    card: Card
    kind: Literal["cube", "chips"]
    parts: tuple[tuple[str, Path], ...]
    "(role, file): a band name, ``pixels`` (a file with all bands), ``mask``, ``labels`` or ``metadata``"
    facts: Facts
    layer: tuple[int, ...] = ()
    "raster: 1-based bands of the file, in the order of the card's bands"
    step: int | None = None
    "array: index on the time axis"
    entries: tuple[chips.ChipEntry, ...] = ()
    "chips of the batch"
    share: int = 1
    "products that share these files"
    source: Source | None = None
    "of a product that describes itself; it has no parts"

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the cube, in the sensor's canonical order whatever the order in the file."""
        return tuple(name for name in sensor(self.card.sensor).band_names if name in self.card.bands)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the product, each once."""
        return tuple(dict.fromkeys(path for _, path in self.parts))

    @property
    def offset(self) -> float:
        """Radiometric offset in stored units that reading adds."""
        return self.facts.offset or 0.0

    @property
    def nbytes(self) -> int:
        """Stored bytes: of the files, or of the batch's chips; files that several products share count in equal parts."""
        if self.source is not None:
            return self.source.nbytes
        if self.kind == "chips":
            return sum(entry.size for entry in self.entries)
        return sum(stamp(path)[2] for path in self.paths) // self.share

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, rows and columns of the cube (chips: of one crop); reads file headers only."""
        if self.kind == "chips":
            settings = self.card.chips or self.card.vignettes or self.card.samples
            crop = settings.crop_px if settings else 0
            return len(self.bands), crop, crop
        grid = self._layers().image.grid
        return len(self.bands), grid.height, grid.width

    def checksum(self) -> str:
        """Return a sha256 (hex) over the bytes of the product's files and its place in them.

        Raises:
            UserError: a file is absent.
        """
        if self.source is not None:
            return self.source.checksum()
        if self.kind == "chips":
            digests = chips.digests(self.parts[0][1], self.entries)
            return fingerprint(
                [
                    [entry.name, digest, entry.label_name, entry.split]
                    for entry, digest in zip(self.entries, digests, strict=True)
                ]
            )
        files = {role: _sha256(stamp(path)) for role, path in self.parts}
        return fingerprint({"files": files, "layer": list(self.layer), "step": self.step})

    def open(self, *, plausible: bool = True) -> xr.Dataset:
        """Return the checked, lazy cube of the product; see ``eo_ssl.scene.cube``.

        A window of it is read once per process to refuse values that cannot be of the declared quantity, unless ``plausible`` is False.

        Raises:
            UserError: a file is absent, damaged or not as the card says, or the values are not plausible.
        """
        card, layers = self.card, self._layers()
        quality = {str(meaning): values for meaning, values in card.mask.classes.items()} if card.mask else {}
        known_labels = tuple(card.labels.classes) if card.labels else ()
        cube = check_cube(
            build(layers, bands=self.bands, attributes=self._attributes(), quality=quality, known_labels=known_labels)
        )
        content = [list(stamp(path)) for path in self.paths] if self.source is None else repr(self.source)
        seen = fingerprint([self.product_id, self.card.to_json(), content])
        if plausible and seen not in _SEEN_PLAUSIBLE:
            check_plausible(sampled(cube), quantity=self.card.quantity, name=self.product_id)
            _SEEN_PLAUSIBLE.add(seen)
        return cube

    def open_chips(self) -> Iterator[chips.Chip | chips.Refused]:
        """Yield the chips of the batch in order, centre-cropped, in physical units; in place of one that cannot be read alone, why.

        Raises:
            UserError: the product is no batch of chips, or a chip is damaged with what others need.
        """
        if self.kind != "chips":
            raise UserError(f"expected a batch of chips, got the {self.kind} {self.product_id}; call open() for it")
        if self.source is not None:
            return self.source.open_chips()
        return chips.decode(self.card, self.parts[0][1], entries=self.entries, radiometry=self._radiometry())

    def _radiometry(self) -> Radiometry:
        nodata = () if self.card.nodata is None else (self.card.nodata,)
        return Radiometry(self.card.quantity, self.card.scale, self.offset, nodata)

    def _layers(self) -> Layers:
        parts, card = dict(self.parts), self.card
        if self.source is not None:
            return self.source.layers(self.bands)
        if card.reader == "band_folder":
            return band_folder.layers(card, parts, bands=self.bands, radiometry=self._radiometry())
        if card.reader == "raster":
            return raster.layers(card, parts, bands=self.bands, layer=self.layer, radiometry=self._radiometry())
        if card.reader == "array":
            return arrays.layers(card, parts["pixels"], bands=self.bands, step=self.step, offset=self.offset)
        raise UserError(
            f"expected a product with a cube, got {self.product_id} of reader {card.reader}; use open_chips() or the card's loader"
        )

    def _attributes(self) -> dict[str, object]:
        card, facts = self.card, self.facts
        first = self.parts[0][1] if self.parts else Path()
        name = self.source.name if self.source else (first.parent if card.reader == "band_folder" else first).name
        return {
            "sensor": card.sensor, "quantity": card.quantity.value, "product_id": self.product_id, "datetime": facts.datetime,
            "processing_baseline": facts.processing_baseline, "orbit": facts.orbit, "gsd_m": card.gsd_m,
            "licence": card.licence, "attribution": card.attribution, "source": name,
            **{key: getattr(facts, key) for key in ACQUISITION},
        }  # fmt: skip


@lru_cache(maxsize=4096)
def _sha256(content: tuple[str, int, int]) -> str:
    return file_sha256(Path(content[0]))

"""Sources of a product's pixels: what a reader implements, and the base for files whose card says what they mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import fingerprint, hash_file, identify_file
from eo_ssl.scene.chip import Chip, ChipEntry, UnreadableChip
from eo_ssl.scene.gdal_files import find_mask_file
from eo_ssl.scene.layers import Layers
from eo_ssl.scene.radiometry import Radiometry


class ProductSource(ABC):
    """The stored pixels of one product. Frozen, picklable, without open handles.

    The card chooses bands, quantity and grid; scale, offset, calibration and masks come from the product's own
    metadata. A reader implements ``layers`` for products that are one image, ``open_chips`` for batches of small ones.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the product's file or folder, as it enters the index."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Stored bytes of what the card wants of the product."""

    @abstractmethod
    def checksum(self) -> str:
        """Return a sha256 (hex) over the bytes of the product's files, or over checksums that stand for them."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the product, each once, where the card names them."""
        return ()

    @property
    def entries(self) -> tuple[ChipEntry, ...]:
        """The chips of the product that a manifest lists."""
        return ()

    def layers(self, bands: tuple[str, ...]) -> Layers:
        """Return the image (and flags, fields, labels) of canonical ``bands`` in physical units of the card's quantity.

        Raises:
            UserError: the product is a batch of chips.
        """
        raise UserError(f"expected a product with a cube, got the batch of chips {self.name}; call open_chips() for it")

    def open_chips(self) -> Iterator[Chip | UnreadableChip]:
        """Yield the chips in order, or why one is none.

        Raises:
            UserError: the product is one image.
        """
        raise UserError(f"expected a product of chips, got the image {self.name}; call open() for it")


@dataclass(frozen=True, slots=True)
class DamagedSource(ProductSource):
    """A product whose metadata cannot be read: it says why when it is opened, so that only this product is left out."""

    file: str
    "or folder, without its path"
    reason: str

    @property
    def name(self) -> str:
        """Name of the file or folder."""
        return self.file

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

    def open_chips(self) -> Iterator[Chip | UnreadableChip]:
        """Refuse with the reason."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource(ProductSource):
    """Files of which the card says what their numbers mean."""

    card: Card
    parts: tuple[tuple[str, Path], ...]
    "(role, file): a band name, ``pixels`` (a file with all bands), ``mask``, ``labels`` or ``metadata``"
    offset: float
    "radiometric offset in stored units that reading adds"
    share: int = 1
    "products that share these files"

    @property
    def name(self) -> str:
        """Name of the first file."""
        return self.parts[0][1].name

    @property
    def place(self) -> Path:
        """The file, or folder of bands, that stands for the product in ``offset_by_file``."""
        return self.parts[0][1]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the product, each once."""
        return tuple(dict.fromkeys(path for _, path in self.parts))

    @property
    def nbytes(self) -> int:
        """Stored bytes; files that several products share count in equal parts."""
        return sum(identify_file(path)[2] for path in self.paths) // self.share

    @property
    def radiometry(self) -> Radiometry:
        """How stored numbers become the card's quantity."""
        nodata = () if self.card.nodata is None else (self.card.nodata,)
        return Radiometry(self.card.quantity, self.card.scale, self.offset, nodata)

    def checksum(self) -> str:
        """Return a sha256 (hex) over the bytes of the product's files and its place in them.

        Raises:
            UserError: a file is absent.
        """
        return self.hash_parts()

    def hash_parts(self, *, layer: tuple[int, ...] = (), step: int | None = None) -> str:
        """Return a sha256 (hex) over the files' bytes, the bands taken from them, and the step on the axis of time."""
        files = {role: hash_file(path) for role, path in self.parts}
        masks = {role: hash_file(mask) for role, path in self.parts if (mask := find_mask_file(path))}
        said = {"files": files, "layer": list(layer), "step": step}
        return fingerprint(said | {"masks": masks} if masks else said)

"""Products of up to 256 chips of one archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eo_ssl.cards import Card
from eo_ssl.fingerprints import fingerprint
from eo_ssl.scene.acquisition import read_acquisition
from eo_ssl.scene.chip import Chip, ChipEntry, UnreadableChip
from eo_ssl.scene.chips.chip_archive import decode_chips, hash_chips, list_entries
from eo_ssl.scene.file_patterns import name_product
from eo_ssl.scene.product import Listing, Product
from eo_ssl.scene.product_source import FileSource

BATCH = 256  # chips per product: enough rows for one shard, little enough to repeat after an interruption


def list_products(card: Card, root: Path) -> Listing:
    """Return batches of chips, sorted by path, and the chips left out with the reason.

    Raises:
        UserError: see :func:`.chip_archive.list_entries`.
    """
    archive, entries, dropped = list_entries(card, root)
    acquisition = read_acquisition(card, folder=archive.parent, path=archive, names={})
    batches = [entries[start : start + BATCH] for start in range(0, len(entries), BATCH)]
    products = []
    for number, batch in enumerate(batches):
        source = ChipBatch(
            card=card,
            parts=(("pixels", archive),),
            offset=acquisition.offset or 0.0,
            share=len(batches),
            chips=batch,
        )
        products.append(Product(name_product(card, f"{number:05d}"), card, "chips", acquisition, source))
    return products, list(dropped)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipBatch(FileSource):
    """A run of chips of one tar file or folder."""

    chips: tuple[ChipEntry, ...]

    @property
    def entries(self) -> tuple[ChipEntry, ...]:
        """The chips of the batch."""
        return self.chips

    @property
    def nbytes(self) -> int:
        """Stored bytes of the chips."""
        return sum(entry.size for entry in self.entries)

    def checksum(self) -> str:
        """Return a sha256 (hex) over names, bytes, labels and splits of the chips."""
        digests = hash_chips(self.parts[0][1], self.entries)
        entries = zip(self.entries, digests, strict=True)
        return fingerprint([[entry.name, digest, entry.label_name, entry.split] for entry, digest in entries])

    def open_chips(self) -> Iterator[Chip | UnreadableChip]:
        """Yield the chips in order, centre-cropped, in physical units.

        Raises:
            UserError: a chip is damaged or has another number of channels than the card has bands.
        """
        return decode_chips(self.card, self.parts[0][1], entries=self.entries, radiometry=self.radiometry)

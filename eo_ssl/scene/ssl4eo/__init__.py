"""SSL4EO-S12 as others publish it, imported as chips: folders of bands (v1.0), zarr.zip (v1.1), LMDB.

A product is a batch of places, each in up to four seasons in the order of time; a chip is one place in one season.
These corpora do not describe themselves: quantity, scale and radiometric offset (-1000 in v1.1, none in v1.0) stand in
the card, are applied once and end in the manifest of the corpus.
"""

from pathlib import Path

from eo_ssl.cards import Card
from eo_ssl.scene.product import Listing
from eo_ssl.scene.ssl4eo.lmdb_records import list_records
from eo_ssl.scene.ssl4eo.scene_folders import list_folders
from eo_ssl.scene.ssl4eo.zarr_stacks import list_stacks


def list_products(card: Card, root: Path) -> Listing:
    """Return the batches of the card's layout below ``root``, and what was left out with the reason."""
    listing = {"ssl4eo_folders": list_folders, "ssl4eo_zarr": list_stacks, "ssl4eo_lmdb": list_records}
    return listing[card.reader](card, root)


__all__ = ["list_products"]

"""SSL4EO-S12 as others publish it, imported as chips: folders of bands (v1.0), zarr.zip (v1.1), LMDB.

A product is a batch of places, each in up to four seasons in the order of time; a chip is one place in one season. These corpora do not
describe themselves: quantity, scale and radiometric offset (-1000 in v1.1, none in v1.0) stand in the card, are applied once and end in
the manifest of the corpus.
"""

from eo_ssl.scene.ssl4eo.folders import listing as folder_listing
from eo_ssl.scene.ssl4eo.records import listing as record_listing
from eo_ssl.scene.ssl4eo.stacks import listing as stack_listing

__all__ = ["folder_listing", "record_listing", "stack_listing"]

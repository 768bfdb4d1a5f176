"""Readers: one product of an archive -> one lazy cube in physical units, named bands, NaN where invalid.

Offset and scale are applied here and only here, exactly once. ``list_products(card, root)`` lists what there is without
reading pixels, ``Product.open()`` gives a checked ``xr.Dataset`` that reads windows on demand, ``Product.open_chips()``
yields decoded chips.

A reader is a package with ``list_products(card, root)`` and a :class:`ProductSource` per kind of product, named in
:data:`eo_ssl.scene.readers.READERS` and, with what a card must say for it, in :data:`eo_ssl.cards.READERS`.
"""

from eo_ssl.scene.acquisition import Acquisition, is_same_acquisition
from eo_ssl.scene.chip import Chip, ChipEntry, UnreadableChip
from eo_ssl.scene.cube import check_cube
from eo_ssl.scene.gdal_files import find_masked, find_unmeasured, list_measured, open_unshared
from eo_ssl.scene.layers import FIELDS, FLAGS
from eo_ssl.scene.product import Product
from eo_ssl.scene.product_source import ProductSource
from eo_ssl.scene.readers import ProductList, assign_offsets, list_products
from eo_ssl.scene.resampling import compute_taps, resample
from eo_ssl.scene.stac.access import is_link, read_document

__all__ = [
    "Acquisition",
    "Chip",
    "ChipEntry",
    "FIELDS",
    "FLAGS",
    "Product",
    "ProductList",
    "ProductSource",
    "UnreadableChip",
    "assign_offsets",
    "check_cube",
    "compute_taps",
    "find_masked",
    "find_unmeasured",
    "is_link",
    "is_same_acquisition",
    "list_measured",
    "list_products",
    "open_unshared",
    "read_document",
    "resample",
]

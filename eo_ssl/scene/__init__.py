"""Readers: one product of an archive -> one lazy cube in physical units, named bands, NaN where invalid.

Offset and scale are applied here and only here, exactly once. ``products(card, root)`` lists what there is without reading pixels,
``Product.open()`` gives a checked ``xr.Dataset`` that reads windows on demand, ``Product.open_chips()`` yields decoded chips.
"""

from eo_ssl.scene.chips import Chip, ChipEntry, Refused
from eo_ssl.scene.cube import check_cube
from eo_ssl.scene.facts import Facts
from eo_ssl.scene.listing import ProductList, products
from eo_ssl.scene.product import Product

__all__ = ["Chip", "ChipEntry", "Facts", "Product", "ProductList", "Refused", "check_cube", "products"]

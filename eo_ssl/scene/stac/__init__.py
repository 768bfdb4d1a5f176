"""STAC items, radiometric offset applied exactly once.

:mod:`~eo_ssl.scene.stac.catalog` lists the items of a static catalogue or an API, :mod:`~eo_ssl.scene.stac.conventions`
says what the catalogues of Earth Search and Planetary Computer mean, :mod:`~eo_ssl.scene.stac.item_product` is one
product.
"""

from eo_ssl.scene.stac.catalog import list_products

__all__ = ["list_products"]

"""Sentinel-2 SAFE products of Level 1C and 2A."""

from eo_ssl.scene.sentinel2.tile_product import list_products

__all__ = ["list_products"]

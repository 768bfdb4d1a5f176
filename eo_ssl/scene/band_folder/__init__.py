"""Folders with one file per band, at one or several resolutions."""

from eo_ssl.scene.band_folder.band_folder_product import list_products

__all__ = ["list_products"]

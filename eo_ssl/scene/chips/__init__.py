"""Small images in a tar file or a folder, listed by a manifest in CSV."""

from eo_ssl.scene.chips.chip_batch import list_products

__all__ = ["list_products"]

"""Sentinel-1 SAFE products: annotation, calibration, noise, geocoding, wave-mode vignettes."""

from pathlib import Path

from eo_ssl.cards import Card
from eo_ssl.scene.product import Listing
from eo_ssl.scene.sentinel1.grd_product import list_grd_products
from eo_ssl.scene.sentinel1.wave_product import list_wave_products


def list_products(card: Card, root: Path) -> Listing:
    """Return the products of the card's reader below ``root``, and what was left out with the reason."""
    listing = {"sentinel1_grd_safe": list_grd_products, "sentinel1_wv_safe": list_wave_products}
    return listing[card.reader](card, root)


__all__ = ["list_products"]

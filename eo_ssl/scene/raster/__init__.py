"""GeoTIFF and other rasters with all bands in one file, or one file per band of the same grid."""

from eo_ssl.scene.raster.raster_product import list_products

__all__ = ["list_products"]

"""npy, npz, NetCDF and HDF5 arrays whose layout a card declares."""

from eo_ssl.scene.array.array_product import list_products

__all__ = ["list_products"]

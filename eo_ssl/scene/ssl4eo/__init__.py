"""SSL4EO-S12 as others publish it: folders of bands, zarr.zip, LMDB."""

"""What is wrong with the numbers of a set: offsets, units, band order, nodata; from pixels and metadata, with how sure it is."""

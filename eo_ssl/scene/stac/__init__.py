"""STAC items read with odc-stac, radiometric offset applied exactly once."""

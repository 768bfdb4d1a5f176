"""Sentinel-2 SAFE products of Level 1C and 2A."""

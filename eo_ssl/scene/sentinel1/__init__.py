"""Sentinel-1 SAFE products: annotation, calibration, noise, geocoding, wave-mode vignettes."""

"""Sentinel products in SAFE format whose true reflectance and backscatter are known."""

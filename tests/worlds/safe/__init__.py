"""Sentinel products in SAFE format whose true reflectance and backscatter are known."""

from worlds.safe.s1_grd import S1GrdTruth, make_s1_grd_safe
from worlds.safe.s1_real import S1RealTruth, make_s1_grd_from_annotation
from worlds.safe.s1_spec import S1GrdSpec
from worlds.safe.s1_wave import S1WvSpec, S1WvTruth, Vignette, make_s1_wv_safe
from worlds.safe.s2_product import S2SafeTruth, make_s2_safe
from worlds.safe.s2_spec import S2SafeSpec

__all__ = [
    "S1GrdSpec",
    "S1GrdTruth",
    "S1RealTruth",
    "S1WvSpec",
    "S1WvTruth",
    "S2SafeSpec",
    "S2SafeTruth",
    "Vignette",
    "make_s1_grd_from_annotation",
    "make_s1_grd_safe",
    "make_s1_wv_safe",
    "make_s2_safe",
]

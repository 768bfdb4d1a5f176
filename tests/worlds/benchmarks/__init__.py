"""Small benchmarks in the file layouts of the published ones, so that the loaders of the real ones open them.

Pixels are invented but physically plausible, seeded, and the same whatever the layout: a permuted band or a wrong scale
shows.
"""

from worlds.benchmarks.aerial import make_resisc45, make_sat6, make_treesatai, make_ucmerced
from worlds.benchmarks.bigearthnet import make_bigearthnet_v1, make_bigearthnet_v2
from worlds.benchmarks.eurosat import EUROSAT_BANDS, EUROSAT_CLASSES, make_eurosat
from worlds.benchmarks.eurosat_derived import make_eurosat_sar, make_m_eurosat
from worlds.benchmarks.eurosat_spatial import add_spatial_lists
from worlds.benchmarks.floods import make_sen1floods11
from worlds.benchmarks.so2sat import make_so2sat

__all__ = [
    "EUROSAT_BANDS",
    "EUROSAT_CLASSES",
    "add_spatial_lists",
    "make_bigearthnet_v1",
    "make_bigearthnet_v2",
    "make_eurosat",
    "make_eurosat_sar",
    "make_m_eurosat",
    "make_resisc45",
    "make_sat6",
    "make_sen1floods11",
    "make_so2sat",
    "make_treesatai",
    "make_ucmerced",
]

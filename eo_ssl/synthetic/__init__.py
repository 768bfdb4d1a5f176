"""The embedded sample archive: a small, seeded, physically plausible Sentinel-1/2 archive whose truth is known.

A public testing API: ``make_archive`` writes raw products as an archive delivers them, ``Truth`` says what is in them, and
``make_eurosat`` writes a benchmark in the layout of EuroSAT. :mod:`eo_ssl.synthetic.safe` writes the same land as products in SAFE
format: ``make_s2_safe`` (Level-1C and Level-2A), ``make_s1_grd_safe`` and ``make_s1_wv_safe``.
"""

from eo_ssl.synthetic.archive import make_archive
from eo_ssl.synthetic.eurosat import EUROSAT_BANDS, EUROSAT_CLASSES, make_eurosat
from eo_ssl.synthetic.landcover import CLASS_NAMES, CLASSES
from eo_ssl.synthetic.spec import SITES, ArchiveSpec
from eo_ssl.synthetic.truth import Duplicate, ProductTruth, Truth

__all__ = [
    "ArchiveSpec",
    "CLASSES",
    "CLASS_NAMES",
    "Duplicate",
    "EUROSAT_BANDS",
    "EUROSAT_CLASSES",
    "ProductTruth",
    "SITES",
    "Truth",
    "make_archive",
    "make_eurosat",
]

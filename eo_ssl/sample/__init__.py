"""The embedded sample archive: a small, seeded, physically plausible Sentinel-1/2 archive whose truth is known.

A public testing API: ``make_archive`` writes raw products as an archive delivers them, and ``Truth`` says what is in
them: land cover, reflectance, backscatter, clouds, saturated pixels and planted duplicates.
"""

from eo_ssl.sample.product_plans import PlannedAcquisition
from eo_ssl.sample.sample_archive import make_archive
from eo_ssl.sample.spec import SITES, ArchiveSpec
from eo_ssl.sample.truth import Duplicate, ProductTruth, Truth

__all__ = ["SITES", "ArchiveSpec", "Duplicate", "PlannedAcquisition", "ProductTruth", "Truth", "make_archive"]

"""What is wrong with the numbers of a set: offsets, units, band order, nodata; from pixels and metadata, with how sure it is."""

from eo_ssl.diagnosis.examination import Examination, examine, examine_corpus, examine_products
from eo_ssl.diagnosis.findings import Finding
from eo_ssl.diagnosis.samples import Sample, sample_corpus, sample_product

__all__ = [
    "Examination",
    "Finding",
    "Sample",
    "examine",
    "examine_corpus",
    "examine_products",
    "sample_corpus",
    "sample_product",
]

"""The doctor: mistakes in the numbers of a set (offset, unit, band order, nodata) told from pixels, with confidence."""

from eo_ssl.diagnosis.cardcheck import check_card, is_generated
from eo_ssl.diagnosis.examination import Examination, collect_offsets, examine, examine_corpus, examine_products
from eo_ssl.diagnosis.findings import Finding
from eo_ssl.diagnosis.machine import describe_machine, find_data, require_data
from eo_ssl.diagnosis.sampled_windows import Sample, find_products, list_products, sample_corpus, sample_product

__all__ = [
    "Examination",
    "Finding",
    "Sample",
    "check_card",
    "collect_offsets",
    "describe_machine",
    "find_data",
    "require_data",
    "examine",
    "examine_corpus",
    "examine_products",
    "find_products",
    "is_generated",
    "list_products",
    "sample_corpus",
    "sample_product",
]

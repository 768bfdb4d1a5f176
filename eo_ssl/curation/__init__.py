"""Data curation: embeddings in, the rows worth training on and a report out. Numpy and faiss; no torch."""

from eo_ssl.curation.cluster_selectors import Hierarchical, Tempered
from eo_ssl.curation.dedup import Repeats
from eo_ssl.curation.density import Density
from eo_ssl.curation.embeddings import choose_scaling
from eo_ssl.curation.farthest_points import KCenter
from eo_ssl.curation.leakage import find_rows_alike, find_rows_near
from eo_ssl.curation.mapped_rows import allocate_mapped, release_pages, take_rows
from eo_ssl.curation.near_duplicates import SemDedup
from eo_ssl.curation.nuisances import measure_brightness
from eo_ssl.curation.prototypicality import D4, Prototypes
from eo_ssl.curation.ranking import Ranked
from eo_ssl.curation.readiness import Readiness
from eo_ssl.curation.repeats import RepeatConfig, find_repeats
from eo_ssl.curation.report import Balance, Cost, CurationReport, Examples, Gate, to_plain
from eo_ssl.curation.report_builder import Context
from eo_ssl.curation.schedule import DynamicConfig, DynamicSchedule
from eo_ssl.curation.selectors import Candidates, Selector, SelectorResult
from eo_ssl.curation.strata import Stratified, thin_strata
from eo_ssl.curation.subset import FILES as SUBSET_FILES
from eo_ssl.curation.subset import read_subset, write_subset
from eo_ssl.curation.subset_selection import Selection, curate, resolve_keep, tabulate_selection
from eo_ssl.curation.towards_targets import SimCore
from eo_ssl.curation.uniform import Random
from eo_ssl.curation.weights import check_weights, draw_systematically

__all__ = [
    "Balance",
    "Candidates",
    "Context",
    "Cost",
    "CurationReport",
    "D4",
    "Density",
    "DynamicConfig",
    "DynamicSchedule",
    "Examples",
    "Gate",
    "Hierarchical",
    "KCenter",
    "Prototypes",
    "Random",
    "Ranked",
    "Readiness",
    "RepeatConfig",
    "Repeats",
    "SUBSET_FILES",
    "SemDedup",
    "Selection",
    "Selector",
    "SelectorResult",
    "SimCore",
    "Stratified",
    "Tempered",
    "allocate_mapped",
    "find_rows_alike",
    "find_rows_near",
    "take_rows",
    "measure_brightness",
    "thin_strata",
    "check_weights",
    "choose_scaling",
    "curate",
    "draw_systematically",
    "find_repeats",
    "read_subset",
    "release_pages",
    "resolve_keep",
    "tabulate_selection",
    "to_plain",
    "write_subset",
]

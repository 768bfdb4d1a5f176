"""Data curation: embeddings in, the rows worth training on and a report out. Numpy and faiss; no torch."""

from eo_ssl.curation.cluster_selectors import Hierarchical, Tempered
from eo_ssl.curation.dedup import Repeats
from eo_ssl.curation.density import Density
from eo_ssl.curation.readiness import Readiness
from eo_ssl.curation.repeats import RepeatConfig, find_repeats
from eo_ssl.curation.report import Balance, Cost, CurationReport, Examples, Gate, to_plain
from eo_ssl.curation.report_builder import Context
from eo_ssl.curation.schedule import DynamicConfig, DynamicSchedule
from eo_ssl.curation.selectors import Candidates, Selector, SelectorResult
from eo_ssl.curation.subset import FILES as SUBSET_FILES
from eo_ssl.curation.subset import read_subset, write_subset
from eo_ssl.curation.subset_selection import Selection, curate, resolve_keep, tabulate_selection
from eo_ssl.curation.uniform import Random
from eo_ssl.curation.weights import check_weights, draw_systematically

__all__ = [
    "Balance",
    "Candidates",
    "Context",
    "Cost",
    "CurationReport",
    "Density",
    "DynamicConfig",
    "DynamicSchedule",
    "Examples",
    "Gate",
    "Hierarchical",
    "Random",
    "Readiness",
    "RepeatConfig",
    "Repeats",
    "SUBSET_FILES",
    "Selection",
    "Selector",
    "SelectorResult",
    "Tempered",
    "check_weights",
    "curate",
    "draw_systematically",
    "find_repeats",
    "read_subset",
    "resolve_keep",
    "tabulate_selection",
    "to_plain",
    "write_subset",
]

"""Which tiles to keep: embeddings in, rows and a report out. Numpy and faiss; no torch."""

from eo_ssl.curation.readiness import Readiness
from eo_ssl.curation.report import Balance, Cost, CurationReport, Examples, Gate
from eo_ssl.curation.schedule import DynamicConfig, DynamicSchedule
from eo_ssl.curation.selection import Context, Selection, curate, select, selection_table
from eo_ssl.curation.selectors import Hierarchical, Random, Selector

__all__ = [
    "Balance",
    "Context",
    "Cost",
    "CurationReport",
    "DynamicConfig",
    "DynamicSchedule",
    "Examples",
    "Gate",
    "Hierarchical",
    "Random",
    "Readiness",
    "Selection",
    "Selector",
    "curate",
    "select",
    "selection_table",
]

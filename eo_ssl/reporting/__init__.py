"""Results and manifests as pages to read: the report of a run, leaderboards with figures, pages of searches."""

from eo_ssl.reporting.formatting import MISSING, trim_middle
from eo_ssl.reporting.leaderboard import render_leaderboard
from eo_ssl.reporting.products import FinishedProduct, find_products
from eo_ssl.reporting.report_page import DEFAULT_TITLE, Report, collect_report, render_report
from eo_ssl.reporting.search_page import HIT_COLUMNS, render_search
from eo_ssl.reporting.terminal import print_results

__all__ = [
    "DEFAULT_TITLE",
    "HIT_COLUMNS",
    "MISSING",
    "FinishedProduct",
    "Report",
    "collect_report",
    "find_products",
    "print_results",
    "render_leaderboard",
    "render_report",
    "render_search",
    "trim_middle",
]

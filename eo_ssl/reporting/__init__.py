"""Results and manifests of a run as one self-contained HTML page that a person can read."""

from eo_ssl.reporting.artefacts import Product, find
from eo_ssl.reporting.leaderboard import render_leaderboard
from eo_ssl.reporting.page import DEFAULT_TITLE, Report, collect, render_page
from eo_ssl.reporting.terminal import print_results

__all__ = [
    "DEFAULT_TITLE",
    "Product",
    "Report",
    "collect",
    "find",
    "print_results",
    "render_leaderboard",
    "render_page",
]

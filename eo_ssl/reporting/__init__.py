"""Results and manifests of a run as one self-contained HTML page that a person can read."""

from eo_ssl.reporting.artefacts import Product, find
from eo_ssl.reporting.page import DEFAULT_TITLE, Report, collect, render_page

__all__ = ["DEFAULT_TITLE", "Product", "Report", "collect", "find", "render_page"]

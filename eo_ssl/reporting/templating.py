"""Pages from the templates in `templates/`: each one HTML text that needs nothing beside itself."""

from __future__ import annotations

from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from eo_ssl import __version__
from eo_ssl.printable import show_controls
from eo_ssl.reporting.formatting import format_count, format_fingerprint, format_number, format_share, format_title


def render_template(template: str, **values: object) -> str:
    """The page of a template. Every text in ``values`` is escaped; only drawings made here pass as markup.

    Control characters and controls of direction are shown.
    """
    folder = resources.files("eo_ssl.reporting") / "templates"
    files = {file.name: file.read_text("utf-8") for file in folder.iterdir() if file.is_file()}
    environment = Environment(
        loader=DictLoader(files), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=format_number, short=format_fingerprint, count=format_count, share=format_share, title_of=format_title
    )
    page = environment.get_template(template).render(
        style=Markup(files["style.css"]),  # our own files, no data in them
        script=Markup(files["script.js"]),
        version=__version__,
        **values,
    )
    return show_controls(page, keep_lines=True)

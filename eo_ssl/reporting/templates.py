"""Pages from the templates beside this file: one HTML text that needs nothing beside itself."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from eo_ssl import __version__
from eo_ssl.reporting import wording


def rendered(template: str, **values: object) -> str:
    """The page of a template. Every text in ``values`` is escaped; only drawings made here pass as markup."""
    files = {
        file.name: file.read_text("utf-8") for file in resources.files("eo_ssl.reporting").iterdir() if file.is_file()
    }
    pages = {name: text for name, text in files.items() if name.endswith(".html")}
    environment = Environment(
        loader=DictLoader(pages), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=wording.number, short=wording.short, count=wording.count, share=wording.share, title_of=wording.title_of
    )
    return environment.get_template(template).render(
        style=Markup(files["style.css"]),  # our own files, no data in them
        script=Markup(files["script.js"]),
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **values,
    )

"""The metadata files of SAFE products: templates in the folder beside this file, filled with the truth of a product."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined


def fill_template(name: str, **values: Any) -> str:
    """Return the text of a metadata file: template ``name`` with ``values`` filled in; a value it lacks is an error."""
    return _ENVIRONMENT.get_template(f"{name}.xml.j2").render(**values)


def format_numbers(values: npt.ArrayLike, form: str = "{:.6e}") -> str:
    """Return numbers separated by blanks, as the annotations of both missions write them."""
    return " ".join(form.format(value) for value in np.asarray(values).ravel().tolist())


def _format_utc(when: datetime, precision: str = "microseconds") -> str:
    """Return a time as both missions write it, but for the Z that Sentinel-2 appends."""
    return when.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=precision)


def _join_lines(text: str) -> str:
    """Return an element that the template shows in lines as it stands in real manifests: in one line."""
    return re.sub(r"\n\s*", "", text.strip())


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {
    "double": lambda value: f"{value:.15e}",
    "single": lambda value: f"{value:.6e}",
    "numbers": format_numbers,
    "utc": _format_utc,
    "join_lines": _join_lines,
}

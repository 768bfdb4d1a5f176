"""Acquisition of a product: date, baseline, orbit, angles and radiometric offset, each from where the card says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from eo_ssl.cards import Card
from eo_ssl.errors import UserError

ACQUISITION = (
    "platform",
    "mode",
    "relative_orbit",
    "sun_zenith_deg",
    "sun_azimuth_deg",
    "view_zenith_deg",
    "view_azimuth_deg",
    "incidence_deg",
    "remarks",
)
"what archives state and plain files mostly do not; they become attributes of the cube"


@dataclass(frozen=True, slots=True)
class Acquisition:
    """When, by what and how one product was acquired; strings empty where unknown."""

    datetime: str
    "ISO 8601, UTC; a date alone where the time is unknown"
    processing_baseline: str
    orbit: str
    offset: float | None
    "radiometric offset in stored units; None where nothing tells, or the card lists offsets by file and not this one"
    platform: str = ""
    "satellite as the product spells it, e.g. S2A; never enumerated"
    mode: str = ""
    "radar acquisition mode: IW, EW, S1 ... S6, WV"
    relative_orbit: int | None = None
    sun_zenith_deg: float | None = None
    sun_azimuth_deg: float | None = None
    view_zenith_deg: float | None = None
    "mean over bands and detectors"
    view_azimuth_deg: float | None = None
    incidence_deg: float | None = None
    "radar incidence angle at the centre of the scene"
    remarks: str = ""
    "what a user of the pixels must know that other products do not have: a mask that is absent, uncalibrated data"
    key: str = ""
    "`name_acquisition` of it, of products whose own metadata tell; empty of others"


APART = timedelta(seconds=2)
"""Less than this lies between the times that two processors state for one image."""
UNKNOWN_ACQUISITION = Acquisition("", "", "", 0.0)
"""Of a product whose metadata cannot be read."""


def name_acquisition(what: Iterable[object], *, start: str, stop: str) -> str:
    """Return what products of one acquisition share, whatever their names, processors and forms.

    Args:
        what: platform, orbit, place ...; equal for all of them.
        start: of the image, ISO 8601, UTC; processors cut it up to two seconds apart.
        stop: of the image.
    """
    times = [datetime.fromisoformat(text).replace(tzinfo=None).isoformat() for text in (start, stop)]
    return " ".join(["/".join(str(part) for part in what), *times])


def is_same_acquisition(one: str, other: str) -> bool:
    """Return whether two keys of `name_acquisition` are of one acquisition; empty ones are of none."""
    if not one or one.split(" ")[:-2] != other.split(" ")[:-2]:
        return False
    pairs = zip(one.split(" ")[-2:], other.split(" ")[-2:], strict=True)
    return all(abs(datetime.fromisoformat(a) - datetime.fromisoformat(b)) < APART for a, b in pairs)


def read_acquisition(card: Card, *, folder: Path, path: Path, names: dict[str, str]) -> Acquisition:
    """Return the acquisition of a product; a JSON file goes before the file name, the file name before the card.

    Args:
        card: where to look.
        folder: the product's folder, where its JSON file lies.
        path: a file of the product, for ``datetime_pattern``.
        names: what the group pattern found in the file names (``datetime``, ``orbit``).

    Raises:
        UserError: a JSON file or key that the card names is absent, or a date does not parse.
    """
    stated = _stated(card, folder, path)
    when = stated.get("datetime") or _named_datetime(card, path, names) or card.datetime
    offset = _number(stated["offset"], folder, card) if "offset" in stated else card.offset
    return Acquisition(
        datetime=format_iso(when) if when else "",
        processing_baseline=stated.get("processing_baseline") or card.processing_baseline,
        orbit=names.get("orbit") or stated.get("orbit") or card.orbit,
        offset=offset,
    )


def find_metadata_file(card: Card, folder: Path, *, stem: str) -> Path | None:
    """Return the product's JSON file, or None when the card names none.

    Raises:
        UserError: not exactly one file matches.
    """
    if card.metadata is None:
        return None
    pattern = card.metadata.file.replace("{stem}", stem)
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    if len(files) != 1:
        raise UserError(
            f"expected one metadata file {pattern} in {folder}, got {len(files)}; fetch it or correct metadata.file of "
            f"card {card.name}"
        )
    return files[0]


def _stated(card: Card, folder: Path, path: Path) -> dict[str, str]:
    file = find_metadata_file(card, folder, stem=path.stem)
    if file is None or card.metadata is None:
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"expected JSON in {file}, got: {error}; the file is damaged, fetch it again") from error
    wanted = {name: getattr(card.metadata, name) for name in ("datetime", "processing_baseline", "orbit", "offset")}
    return {name: str(_at(content, key, file)) for name, key in wanted.items() if key}


def _at(content: Any, key: str, file: Path) -> Any:
    value = content
    for part in key.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise UserError(f"expected the key {key!r} in {file}, found no {part!r}; correct `metadata` in the card")
    return value


def _number(text: str, folder: Path, card: Card) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(
            f"expected a number as radiometric offset in the metadata of {folder}, got {text!r}; correct "
            f"metadata.offset of {card.name}"
        ) from None


def _named_datetime(card: Card, path: Path, names: dict[str, str]) -> str:
    if "datetime" in names:
        return _parsed(names["datetime"], card.group.datetime_format if card.group else None, path)
    if card.datetime_pattern is None:
        return ""
    match = re.search(card.datetime_pattern, path.as_posix())
    if match is None:
        raise UserError(
            f"expected a date as {card.datetime_pattern!r} in the name {path}, found none; correct datetime_pattern of "
            f"card {card.name}"
        )
    return _parsed(match["datetime"], card.datetime_format, path)


def _parsed(text: str, form: str | None, path: Path) -> str:
    if form is None:
        return format_iso(text)
    try:
        moment = datetime.strptime(text, form)
    except ValueError:
        raise UserError(
            f"expected a date of the form {form} in the name {path}, got {text!r}; correct the format in the card"
        ) from None
    return moment.date().isoformat() if "%H" not in form else _utc(moment)


def format_iso(text: str) -> str:
    """Return a date or time in one spelling: ``2020-02-19`` or ``2020-02-19T11:34:25Z`` (UTC, whole seconds).

    Raises:
        UserError: the text is no ISO 8601 date.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"expected an ISO 8601 date such as 2020-02-19T11:34:25Z, got {text!r}; correct the date in the card or "
            "metadata"
        ) from None
    return moment.date().isoformat() if len(text) <= len("2020-02-19") else _utc(moment)


def _utc(moment: datetime) -> str:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.replace(microsecond=0).isoformat().replace("+00:00", "Z")

"""Which items a card takes: its filters, and of each sensing the newest processing.

The filters are applied here to every item, also to those an API already filtered: whether a server honours a filter is
not taken on trust. The operators are those of the STAC API query extension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any

from eo_ssl.errors import UserError
from eo_ssl.layouts import Stac
from eo_ssl.scene.stac.conventions import (
    Json,
    identify_datastrip,
    identify_sensing,
    rank_processing,
    read_baseline,
    read_datetime,
)

Box = tuple[float, float, float, float]
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, wanted: bool(value == wanted),
    "neq": lambda value, wanted: bool(value != wanted),
    "lt": lambda value, wanted: bool(value < wanted),
    "lte": lambda value, wanted: bool(value <= wanted),
    "gt": lambda value, wanted: bool(value > wanted),
    "gte": lambda value, wanted: bool(value >= wanted),
    "startsWith": lambda value, wanted: str(value).startswith(str(wanted)),
    "endsWith": lambda value, wanted: str(value).endswith(str(wanted)),
    "contains": lambda value, wanted: str(wanted) in str(value),
}


@dataclass(frozen=True, slots=True)
class ListedItem:
    """An item and the document that holds it."""

    item: Json
    base: str

    @property
    def place(self) -> str:
        """Collection and id, the item's place within the set."""
        return "/".join(part for part in (str(self.item.get("collection") or ""), str(self.item["id"])) if part)


def match_item(item: Json, wanted: Stac) -> bool:
    """Return whether an item passes all filters of a card.

    Raises:
        UserError: a filter is malformed.
    """
    if wanted.collections and item.get("collection") not in wanted.collections:
        return False
    if wanted.bbox is not None and not _touches(item, wanted.bbox):
        return False
    if wanted.datetime:
        start, end = _interval(wanted.datetime)
        properties = item["properties"]
        first = _instant(str(properties.get("datetime") or properties.get("start_datetime")))
        last = (
            first
            if properties.get("datetime")
            else _instant(str(properties.get("end_datetime") or read_datetime(item)))
        )
        if last < start or first > end:
            return False
    return all(
        _holds(item["properties"].get(key), operator, value)
        for key, conditions in wanted.query.items()
        for operator, value in conditions.items()
    )


def _holds(value: Any, operator: str, wanted: float | str) -> bool:
    if operator not in _OPERATORS:
        raise UserError(
            f"expected an operator out of {', '.join(_OPERATORS)} in stac.query, got {operator!r}; correct it"
        )
    try:
        return value is not None and _OPERATORS[operator](value, wanted)
    except TypeError:  # a text compared with a number
        return False


def _touches(item: Json, wanted: Box) -> bool:
    stated = item.get("bbox")
    if not stated:
        return False
    half = len(stated) // 2  # a box with heights has six numbers
    box = (stated[0], stated[1], stated[half], stated[half + 1])
    if box[1] > wanted[3] or box[3] < wanted[1]:
        return False
    return any(a[0] <= b[1] and b[0] <= a[1] for a in _spans(box) for b in _spans(wanted))


def _spans(box: Box) -> list[tuple[float, float]]:
    """Longitudes of a box; two spans where it crosses 180 degrees."""
    return [(box[0], box[2])] if box[0] <= box[2] else [(box[0], 180.0), (-180.0, box[2])]


def _interval(text: str) -> tuple[datetime, datetime]:
    """``2020-01-01/2020-12-31``, an open end ``..``, or one instant or day; a day without time includes its evening."""
    start, slash, end = text.partition("/")
    if not slash:
        end = start
    first = datetime.min.replace(tzinfo=UTC) if start in ("", "..") else _instant(start)
    last = datetime.max.replace(tzinfo=UTC) if end in ("", "..") else _instant(end)
    if len(end) == len("2020-12-31"):
        last = datetime.combine(last.date(), time.max, tzinfo=UTC)
    return first, last


def _instant(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"expected an ISO 8601 date or an interval of two, such as 2020-01-01/2020-12-31, got {text!r}; correct it"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def keep_newest(listed: Iterable[ListedItem]) -> tuple[list[ListedItem], list[tuple[str, str]]]:
    """Return the items to take, ordered by date and id, and the (place, reason) of those left out.

    Of each Sentinel-2 sensing of a tile the newest processing baseline stays, of that the product generated last. A
    tile that a datatake covers in two datastrips comes as two products of entry baseline, each with a part of it: both
    stay.
    """
    groups: dict[tuple[str, ...], list[ListedItem]] = {}
    for entry in listed:
        groups.setdefault(identify_sensing(entry.item), []).append(entry)
    kept: dict[str, ListedItem] = {}
    dropped: list[tuple[str, str]] = []
    for group in groups.values():
        group.sort(key=lambda entry: (*rank_processing(entry.item), entry.place), reverse=True)
        parts: dict[str, ListedItem] = {}
        for entry in group:
            current = read_baseline(entry.item) == read_baseline(group[0].item)
            better = parts.setdefault(identify_datastrip(entry.item), entry) if current else group[0]
            if better is not entry:
                dropped.append((entry.place, _explain_older(entry, better)))
        for entry in parts.values():
            if entry.place in kept:
                dropped.append((entry.place, "a second item of this collection and id"))
            else:
                kept[entry.place] = entry
    return sorted(kept.values(), key=lambda entry: (read_datetime(entry.item), entry.item["id"], entry.place)), dropped


def _explain_older(entry: ListedItem, better: ListedItem) -> str:
    mine, its = rank_processing(entry.item), rank_processing(better.item)
    if entry.place == better.place and mine == its:
        return "listed twice"
    if mine[0] != its[0]:
        return f"processing baseline {mine[0] or 'unknown'} of a sensing that {better.place} has in {its[0]}"
    return (
        f"generated {mine[1] or 'at an unknown time'}, and {better.place} of the same sensing and baseline "
        f"{its[1] or 'as well'}"
    )

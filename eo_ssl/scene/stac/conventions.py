"""What the STAC catalogues write about Sentinel products, and what it means for the numbers in the files.

Sources: items of Earth Search v0 (``sentinel-s2-l2a-cogs``: ``sentinel:processing_baseline``,
``sentinel:boa_offset_applied``, ``sentinel:product_id``) and v1 (``sentinel-2-l2a``, ``sentinel-2-c1-l2a``:
``s2:processing_baseline``, ``earthsearch:boa_offset_applied``, ``s2:product_uri``, ``raster:bands``), of Planetary
Computer (``sentinel-2-l2a``: ``s2:processing_baseline`` and nothing of offsets; ``sentinel-1-rtc``: linear gamma0,
-32768 where there is none) and of the Copernicus Data Space (``processing:version``, ``raster:scale``). ESA, Sentinel-2
Products Specification Document, issue 14.9: L2A reflectance is (DN + BOA_ADD_OFFSET) / QUANTIFICATION_VALUE since
processing baseline 04.00, with -1000 and 10000 in every product so far.

Whether an offset is still in the pixels is decided by the catalogue's flag first, then by the baseline, never by the
date; see :func:`decide_offset_dn`. The flag itself is known to be wrong for some items of ``sentinel-2-l2a``
(Element84/earth-search issues 66 and 71: false though the offset was removed). Nothing in such an item tells; only its
pixels do.
"""

from __future__ import annotations

import math
import re
from typing import Any

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.scene.acquisition import Acquisition, format_iso
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.sensors import Quantity

Json = dict[str, Any]

_QUANTITY = {
    "sentinel2_l2a": Quantity.BOA_REFLECTANCE,
    "sentinel2_l1c": Quantity.TOA_REFLECTANCE,
    "sentinel1_rtc": Quantity.GAMMA0,
}
_NODATA = {"sentinel2_l2a": 0.0, "sentinel2_l1c": 0.0, "sentinel1_rtc": -32768.0}
_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_BASELINE = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version", "processing:baseline")
_NAME = ("s2:product_uri", "sentinel:product_id")
_SHIFTED_SINCE = (4, 0)
_USERS_SINCE = (99, 0)  # Sen2Cor run by a user, whose input may have had an offset or not
_OFFSET_DN = -1000.0
_SENSIBLE = {"scale": (1e-9, 1.0), "offset": (-1.0, 1.0)}  # of a reflectance, per stored unit
_SATURATED_DN = 65535.0  # special value of both levels: not a measurement
_SCALE = 1e-4
_PRODUCT = re.compile(
    r"(?P<platform>S2\w)_MSI(?P<level>L1C|L2A)_(?P<datatake>\d{8}T\d{6})(?:_N(?P<major>\d\d)(?P<minor>\d\d))?"
    r"_R(?P<orbit>\d{3})_T(?P<tile>\w{5})(?:_(?P<made>\d{8}T\d{6}))?"
)


def check_card(card: Card) -> None:
    """Refuse a card of another sensor or quantity than these conventions know, or that repeats what items say.

    Raises:
        UserError: naming what to change.
    """
    if card.sensor not in _QUANTITY:
        raise UserError(
            f"expected a STAC card of {', '.join(_QUANTITY)}, got {card.sensor} in {card.name}; items of it do not say "
            "what their pixels mean"
        )
    if card.quantity != _QUANTITY[card.sensor]:
        raise UserError(
            f"expected the quantity {_QUANTITY[card.sensor].value} in card {card.name}, got {card.quantity.value}; "
            f"that is what {card.sensor} items hold"
        )
    given = card.list_stated(
        "scale",
        "offset",
        "offset_by_file",
        "nodata",
        "dtype_max",
        "labels",
        "metadata",
        "grid_from",
        "datetime",
        "processing_baseline",
        "orbit",
    )
    given += ["mask.source"] if card.mask is not None and card.mask.source else []
    if given:
        raise UserError(
            f"expected card {card.name} to leave {', '.join(given)} to its STAC items, got values; remove them from "
            "the card"
        )


def parse_product_name(item: Json) -> re.Match[str] | None:
    """Return the parts of the ESA product name that the item states, None where it states none."""
    named = [str(item["properties"].get(key, "")) for key in _NAME]
    return next((match for text in (*named, str(item["id"])) if (match := _PRODUCT.search(text))), None)


def read_baseline(item: Json) -> str:
    """Return the Sentinel-2 processing baseline as ``05.09``.

    Empty where neither a property nor the product name states it.
    """
    for key in _BASELINE:
        match = re.fullmatch(r"(\d{1,2})\.(\d{1,2})", str(item["properties"].get(key, "")))
        if match:
            return f"{int(match[1]):02d}.{match[2].ljust(2, '0')}"
    name = parse_product_name(item)
    return f"{name['major']}.{name['minor']}" if name and name["major"] else ""


def list_objects(content: Json, key: str) -> list[Json]:
    """Return the objects that a field lists; none where it is absent or holds something else."""
    value = content.get(key)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _band_field(asset: Json, field: str) -> Any:
    """``raster:bands`` (STAC 1.0), or the same field on the asset or its only band (STAC 1.1)."""
    old, new = ((list_objects(asset, key) or [{}])[0] for key in ("raster:bands", "bands"))
    for place, key in ((old, field), (asset, f"raster:{field}"), (new, f"raster:{field}"), (new, field)):
        if place.get(key) is not None:
            return place[key]
    return asset.get(field) if field == "nodata" else None


def _band_number(asset: Json, field: str, default: float) -> float:
    value = _band_field(asset, field)
    try:
        number = default if value is None else float(value)
    except (TypeError, ValueError):
        number = math.inf
    least, most = _SENSIBLE.get(field, (-math.inf, math.inf))
    if math.isinf(number) or not (field == "nodata" or least <= number <= most):
        raise UserError(
            f"expected a sensible number as {field} of the asset {asset.get('href')}, got {value!r}; correct the item"
        )
    return number


def decide_offset_dn(item: Json, asset: Json) -> float | None:
    """Return what to add to the stored numbers of a Sentinel-2 asset; None where nothing tells.

    In this order: the catalogue says it removed the offset: 0, whatever ``raster:bands`` says. Else, by the processing
    baseline: before 04.00: 0; since 04.00: the offset that ``raster:bands`` states (in reflectance, so divided by its
    scale), or -1000 where it states none or zero. No baseline, or that of a user's own processing (99.xx) without a
    stated offset: None.
    """
    if any(item["properties"].get(key) is True for key in _APPLIED):
        return 0.0
    baseline = read_baseline(item)
    if not baseline:
        return None
    number = tuple(map(int, baseline.split(".")))
    if number < _SHIFTED_SINCE:
        return 0.0
    stated = _band_number(asset, "offset", 0.0)
    if number >= _USERS_SINCE and not stated:
        return None
    return round(stated / _band_number(asset, "scale", _SCALE), 6) if stated else _OFFSET_DN


def decide_radiometry(card: Card, item: Json, asset: Json, *, file_nodata: float | None) -> Radiometry:
    """Return how the stored numbers of an asset become the card's quantity.

    Raises:
        UserError: the offset is unknown, the item is of another processing level, or a radar asset states a scale or
            offset.
    """
    stated = _band_number(asset, "nodata", math.nan)
    nodata = {_NODATA[card.sensor], stated, math.nan if file_nodata is None else file_nodata}
    values = tuple(sorted(value for value in nodata if math.isfinite(value)))
    if card.sensor == "sentinel1_rtc":
        scale, offset = _band_number(asset, "scale", 1.0), _band_number(asset, "offset", 0.0)
        if (scale, offset) != (1.0, 0.0):
            raise UserError(
                f"expected linear gamma0 without scale and offset in item {item['id']}, got {scale:g} and {offset:g}; "
                "these are no RTC powers"
            )
        return Radiometry(card.quantity, 1.0, 0.0, values)
    _check_level(card, item)
    added = decide_offset_dn(item, asset)
    if added is None:
        raise UserError(
            f"expected a processing baseline in item {item['id']}, got none; its radiometric offset cannot be known: "
            "leave the item out"
        )
    return Radiometry(card.quantity, _band_number(asset, "scale", _SCALE), added, (*values, _SATURATED_DN))


def _check_level(card: Card, item: Json) -> None:
    """``S2MSI2A`` or ``S2MSI1C``, or the level in the product's name; an item that states neither passes."""
    name = parse_product_name(item)
    stated = str(item["properties"].get("s2:product_type") or (f"S2MSI{name['level'][1:]}" if name else ""))
    wanted = "S2MSI2A" if card.sensor == "sentinel2_l2a" else "S2MSI1C"
    if stated and stated != wanted:
        raise UserError(
            f"expected {wanted} in item {item['id']} for card {card.name}, got {stated}; correct sensor or collections "
            "of the card"
        )


def identify_sensing(item: Json) -> tuple[str, ...]:
    """Return what all processings of one Sentinel-2 sensing of a tile share, else collection and id of the item."""
    name = parse_product_name(item)
    if name is None:
        return str(item.get("collection") or ""), str(item["id"])
    return name["level"], name["platform"], name["datatake"], name["tile"]


def identify_datastrip(item: Json) -> str:
    """Return which part of the tile a product holds: sensing start of its datastrip, else of the tile."""
    strip = re.search(r"_S(\d{8}T\d{6})_", str(item["properties"].get("s2:datastrip_id", "")))
    return strip[1] if strip else read_datetime(item)


def rank_processing(item: Json) -> tuple[str, str]:
    """Return processing baseline and time of processing, by which the newest of one sensing is chosen."""
    name = parse_product_name(item)
    when = str(item["properties"].get("s2:generation_time") or "")
    return read_baseline(item), re.sub(r"[-:]", "", when)[:15] or (name["made"] if name and name["made"] else "")


def read_datetime(item: Json) -> str:
    """Return the date and time of acquisition, ISO 8601 UTC to the second.

    Raises:
        UserError: the item has none.
    """
    properties = item["properties"]
    return format_iso(str(properties.get("datetime") or properties.get("start_datetime") or "no datetime"))


def read_acquisition(card: Card, item: Json) -> Acquisition:
    """Return what the item says besides its pixels; ``offset`` is None where nothing tells the radiometric offset."""
    properties, name = item["properties"], parse_product_name(item)
    optical = card.sensor != "sentinel1_rtc"
    sun_elevation, incidence = _number(properties, "view:sun_elevation"), _number(properties, "view:incidence_angle")
    relative = _number(properties, "sat:relative_orbit")
    if relative is None and name:
        relative = float(name["orbit"])
    zenith = _number(properties, "s2:mean_solar_zenith") if sun_elevation is None else 90.0 - sun_elevation
    return Acquisition(
        datetime=read_datetime(item),
        processing_baseline=read_baseline(item) if optical else "",
        orbit=str(properties.get("sat:orbit_state") or "").lower(),
        offset=None if optical and decide_offset_dn(item, {}) is None else 0.0,
        platform=re.sub(r"^SENTINEL-?(?=\d)", "S", str(properties.get("platform") or "").upper()),
        mode=str(properties.get("sar:instrument_mode") or ""),
        relative_orbit=None if relative is None else int(relative),
        sun_zenith_deg=zenith if optical else None,
        sun_azimuth_deg=_first(properties, "view:sun_azimuth", "s2:mean_solar_azimuth") if optical else None,
        view_zenith_deg=incidence if optical else None,
        view_azimuth_deg=_number(properties, "view:azimuth") if optical else None,
        incidence_deg=None if optical else incidence,
    )


def _number(properties: Json, key: str) -> float | None:
    value = properties.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _first(properties: Json, *keys: str) -> float | None:
    return next((value for key in keys if (value := _number(properties, key)) is not None), None)

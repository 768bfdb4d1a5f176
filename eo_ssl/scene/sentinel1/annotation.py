"""The annotation of one Sentinel-1 image: size, times, geolocation grid, orbit, ground to slant range.

Names and units follow the Sentinel-1 Product Specification (S1-RS-MDA-52-7441), section 6.3 "Level-1 product annotation
data set". Lines and pixels count from 0 and stand for pixel centres.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError

Array = npt.NDArray[np.float64]
Times = npt.NDArray[np.datetime64]


@dataclass(frozen=True, slots=True, eq=False)
class GeolocationGrid:
    """Where on the ground grid points of the image lie: ``n`` lines by ``m`` pixels."""

    lines: Array
    "[n] image line, ascending"
    pixels: Array
    "[m] image sample, ascending"
    latitude: Array
    "[n, m] degrees, WGS 84"
    longitude: Array
    "[n, m] degrees, WGS 84"
    height: Array
    "[n, m] metres above the ellipsoid of the terrain model that the processor used"
    incidence_deg: Array
    "[n, m] angle between the line of sight and the ellipsoid's normal"
    elevation_deg: Array
    "[n, m] angle between the line of sight and the nadir, at the antenna"
    slant_range_time_s: Array
    "[n, m] two-way"
    azimuth_time: Times
    "[n, m] zero-Doppler time, nanoseconds"


@dataclass(frozen=True, slots=True, eq=False)
class Orbit:
    """State vectors of the satellite in the Earth-fixed frame, ``k`` of them."""

    time: Times
    "[k] nanoseconds, UTC"
    position_m: Array
    "[k, 3]"
    velocity_m_s: Array
    "[k, 3]"


@dataclass(frozen=True, slots=True, eq=False)
class RangeConversion:
    """One coordinate conversion record: polynomials between slant range and ground range, valid at its azimuth time."""

    azimuth_time: np.datetime64
    slant_range_time_s: float
    slant_origin_m: float
    "sr0: ground = sum srgr[i] * (slant - sr0)**i"
    slant_to_ground: Array
    ground_origin_m: float
    "gr0: slant = sum grsr[i] * (ground - gr0)**i"
    ground_to_slant: Array


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """What one annotation file says of its image."""

    platform: str
    product_type: str
    mode: str
    swath: str
    polarisation: str
    orbit_pass: str
    "ascending or descending"
    absolute_orbit: int
    start: str
    "ISO 8601 with microseconds, as spelt in the file"
    stop: str
    heading_deg: float
    lines: int
    samples: int
    range_spacing_m: float
    "on the ground for detected images, in slant range for complex ones"
    azimuth_spacing_m: float
    first_line_time: np.datetime64
    line_interval_s: float
    slant_range_time_s: float
    "two-way time to the first sample"
    range_sampling_hz: float
    radar_frequency_hz: float
    incidence_mid_deg: float
    detected: bool
    "amplitudes (GRD) and not complex samples (SLC)"
    noise_removed: bool
    "the processor has already subtracted thermal noise"
    grid: GeolocationGrid
    orbit: Orbit
    conversions: tuple[RangeConversion, ...]
    "empty for images in slant range"


def read_annotation(root: Element, *, name: str) -> Annotation:
    """Return the annotation in the XML element ``root`` of file ``name``.

    Raises:
        UserError: an element is missing, is no number, or the geolocation grid is no full grid.
    """
    header, info = find_element(root, "adsHeader", name), find_element(root, "imageAnnotation/imageInformation", name)
    product = find_element(root, "generalAnnotation/productInformation", name)
    conversions = root.find("coordinateConversion/coordinateConversionList")
    return Annotation(
        platform=read_text(header, "missionId", name),
        product_type=read_text(header, "productType", name),
        mode=read_text(header, "mode", name),
        swath=read_text(header, "swath", name),
        polarisation=read_text(header, "polarisation", name),
        orbit_pass=read_text(product, "pass", name).lower(),
        absolute_orbit=int(read_number(header, "absoluteOrbitNumber", name)),
        start=read_text(header, "startTime", name),
        stop=read_text(header, "stopTime", name),
        heading_deg=read_number(product, "platformHeading", name),
        lines=int(read_number(info, "numberOfLines", name)),
        samples=int(read_number(info, "numberOfSamples", name)),
        range_spacing_m=read_number(info, "rangePixelSpacing", name),
        azimuth_spacing_m=read_number(info, "azimuthPixelSpacing", name),
        first_line_time=read_time(info, "productFirstLineUtcTime", name),
        line_interval_s=read_number(info, "azimuthTimeInterval", name),
        slant_range_time_s=read_number(info, "slantRangeTime", name),
        range_sampling_hz=read_number(product, "rangeSamplingRate", name),
        radar_frequency_hz=read_number(product, "radarFrequency", name),
        incidence_mid_deg=read_number(info, "incidenceAngleMidSwath", name),
        detected=read_text(info, "pixelValue", name) == "Detected",
        noise_removed=read_text(root, "imageAnnotation/processingInformation/thermalNoiseCorrectionPerformed", name)
        == "true",
        grid=_grid(root, name),
        orbit=_orbit(root, name),
        conversions=() if conversions is None else tuple(_conversion(item, name) for item in conversions),
    )


def _grid(root: Element, name: str) -> GeolocationGrid:
    points = list_children(find_element(root, "geolocationGrid/geolocationGridPointList", name), name)
    lines = np.array([read_number(point, "line", name) for point in points])
    pixels = np.array([read_number(point, "pixel", name) for point in points])
    line_axis, pixel_axis = np.unique(lines), np.unique(pixels)
    shape = len(line_axis), len(pixel_axis)
    order = np.lexsort((pixels, lines))
    stated = np.stack([lines[order], pixels[order]])
    full = np.stack([np.repeat(line_axis, shape[1]), np.tile(pixel_axis, shape[0])])
    if min(shape) < 2 or not np.array_equal(stated, full):
        raise UserError(
            f"expected a full geolocation grid of lines by pixels in {name}, got {len(points)} points on {shape[0]} "
            f"lines and {shape[1]} pixels; "
            "the annotation is incomplete, fetch the product again"
        )

    def field(tag: str) -> Array:
        return np.array([read_number(points[i], tag, name) for i in order]).reshape(shape)

    return GeolocationGrid(
        lines=line_axis,
        pixels=pixel_axis,
        latitude=field("latitude"),
        longitude=field("longitude"),
        height=field("height"),
        incidence_deg=field("incidenceAngle"),
        elevation_deg=field("elevationAngle"),
        slant_range_time_s=field("slantRangeTime"),
        azimuth_time=np.array([read_time(points[i], "azimuthTime", name) for i in order]).reshape(shape),
    )


def _orbit(root: Element, name: str) -> Orbit:
    vectors = list_children(find_element(root, "generalAnnotation/orbitList", name), name)

    def triples(tag: str) -> Array:
        return np.array([[read_number(vector, f"{tag}/{axis}", name) for axis in "xyz"] for vector in vectors])

    return Orbit(
        np.array([read_time(vector, "time", name) for vector in vectors]), triples("position"), triples("velocity")
    )


def _conversion(item: Element, name: str) -> RangeConversion:
    return RangeConversion(
        azimuth_time=read_time(item, "azimuthTime", name),
        slant_range_time_s=read_number(item, "slantRangeTime", name),
        slant_origin_m=read_number(item, "sr0", name),
        slant_to_ground=read_numbers(item, "srgrCoefficients", name),
        ground_origin_m=read_number(item, "gr0", name),
        ground_to_slant=read_numbers(item, "grsrCoefficients", name),
    )


def find_element(parent: Element, tag: str, name: str) -> Element:
    """Return the first element at path ``tag`` below ``parent``.

    Raises:
        UserError: there is none; ``name`` is the file named in the error.
    """
    element = parent.find(tag)
    if element is None:
        raise UserError(
            f"expected the element {tag} below {parent.tag} in {name}, found none; the file is incomplete, fetch it "
            "again"
        )
    return element


def read_text(parent: Element, tag: str, name: str) -> str:
    """Return the text of an element; refused when it is absent or empty."""
    text = (find_element(parent, tag, name).text or "").strip()
    if not text:
        raise UserError(f"expected text in {tag} of {name}, got none; the file is damaged, fetch it again")
    return text


def read_number(parent: Element, tag: str, name: str) -> float:
    """Return the finite number in an element."""
    return float(_floats([read_text(parent, tag, name)], tag, name)[0])


def read_numbers(parent: Element, tag: str, name: str) -> Array:
    """Return the numbers of a list element [n], as many as its ``count`` attribute says.

    Raises:
        UserError: another number of values than stated, or a value that is no finite number.
    """
    element = find_element(parent, tag, name)
    values = (element.text or "").split()
    if element.get("count", str(len(values))) != str(len(values)):
        raise UserError(
            f"expected {element.get('count')} values in {tag} of {name}, got {len(values)}; the file is damaged, fetch "
            "it again"
        )
    return _floats(values, tag, name)


def list_children(parent: Element, name: str) -> list[Element]:
    """Return the children of a list element, as many as its ``count`` attribute says and at least one."""
    children = list(parent)
    if not children or parent.get("count", str(len(children))) != str(len(children)):
        raise UserError(
            f"expected {parent.get('count', 'some')} entries in {parent.tag} of {name}, got {len(children)}; the file "
            "is damaged, fetch it again"
        )
    return children


def read_time(parent: Element, tag: str, name: str) -> np.datetime64:
    """Return the UTC time in an element, nanoseconds."""
    stated = read_text(parent, tag, name)
    try:
        return np.datetime64(stated.removesuffix("Z"), "ns")
    except ValueError:
        raise UserError(
            f"expected an ISO 8601 time in {tag} of {name}, got {stated!r}; the file is damaged, fetch it again"
        ) from None


def _floats(values: list[str], tag: str, name: str) -> Array:
    try:
        numbers: npt.NDArray[Any] = np.array(values, dtype=np.float64)
    except ValueError:
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all():
        raise UserError(
            f"expected finite numbers in {tag} of {name}, got {' '.join(values)[:60]!r}; the file is damaged, fetch it "
            "again"
        )
    return numbers


def list_entries(root: Element, tag: str, name: str) -> Iterator[Element]:
    """Yield the entries of the list at path ``tag``; none when the list is absent or empty."""
    entries = root.find(tag)
    if entries is not None and (len(entries) or entries.get("count", "0") != "0"):
        yield from list_children(entries, name)

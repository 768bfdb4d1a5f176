"""Plans of the products of an archive, no pixels: place, date, baseline, orbit, sun, and what is a copy of what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
from rasterio.warp import transform

from eo_ssl.sample.spec import PIXEL_M, SITES, ArchiveSpec, Site, get_baseline_offset

Copy = Literal["", "exact", "near", "reprocessed"]
LATER_BASELINE = "05.11"  # of a reprocessed product when the archive has no later baseline of its own
_STREAM = 2  # of the seed: plans
_ORBITS = {False: (65, 108), True: (22, 80)}  # relative orbit numbers by hemisphere, Sentinel-2 and Sentinel-1
FOLDERS = {"sentinel2_l2a": "s2_l2a", "sentinel1_rtc": "s1_rtc"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAcquisition:
    """One product as planned."""

    product_id: str
    sensor: str
    site: str
    site_index: int
    date_index: int
    datetime: str
    "ISO 8601, UTC"
    processing_baseline: str
    "Sentinel-2 only, else empty"
    orbit: str
    "relative orbit and direction, e.g. R065-descending"
    sun_zenith_deg: float
    sun_azimuth_deg: float
    "from north over east"
    cloud_cover: float
    "share of the scene to be put under cloud"
    edge: bool
    "whether the edge of the swath cuts the product"
    copy: Copy = ""
    "how this product relates to `original`"
    original: str = ""
    "product id of what it is a copy of"

    @property
    def folder(self) -> str:
        """Where the product lies, relative to the archive."""
        return f"{FOLDERS[self.sensor]}/{self.product_id}"

    @property
    def offset(self) -> int:
        """What to add to a stored number before scaling."""
        return get_baseline_offset(self.processing_baseline) if self.processing_baseline else 0

    @property
    def day(self) -> int:
        """Day of the year of the scene; a near duplicate keeps the season of its original."""
        return datetime.fromisoformat(self.datetime).timetuple().tm_yday


def plan_archive(seed: int, spec: ArchiveSpec) -> tuple[PlannedAcquisition, ...]:
    """Return all products of an archive, sorted by product id."""
    planned: list[PlannedAcquisition] = []
    for number, name in enumerate(spec.sensors):
        rng = np.random.default_rng([seed, _STREAM, number])
        make = _optical if name == "sentinel2_l2a" else _radar
        originals = [make(rng, spec, site, date) for site in range(spec.sites) for date in range(spec.dates)]
        planned += _with_copies(rng, spec, originals)
    return tuple(sorted(planned, key=lambda product: product.product_id))


def _moment(spec: ArchiveSpec, site_index: int, date_index: int, *, year: int, local_hour: float) -> datetime:
    """Return the UTC time of a date: spread evenly over the year, a week later from place to place, at a solar time."""
    day = (20.0 + 7 * site_index + 365.0 * (date_index + 0.5) / spec.dates) % 365.0
    longitude, _ = locate_centre(SITES[site_index], spec.size_px)
    noon = datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=int(day))
    return noon + timedelta(minutes=round(60 * (local_hour - longitude / 15.0)))


def _optical(rng: np.random.Generator, spec: ArchiveSpec, site_index: int, date_index: int) -> PlannedAcquisition:
    site = SITES[site_index]
    baseline = spec.baselines[(site_index + date_index) % len(spec.baselines)]
    year = 2023 if get_baseline_offset(baseline) else 2021
    when = _moment(spec, site_index, date_index, year=year, local_hour=10.5)
    orbit = _ORBITS[site.southern][0] + 3 * site_index
    zenith, azimuth = locate_sun(when, *locate_centre(site, spec.size_px))
    # Skies are either fairly clear or fairly full: a U-shaped draw with the mean asked for.
    cover = rng.beta(0.6, 0.6 * (1 / spec.cloud_cover - 1)) if spec.cloud_cover else 0.0
    return PlannedAcquisition(
        product_id=_optical_id(site.name, when, baseline, orbit, 1),
        sensor="sentinel2_l2a",
        site=site.name,
        site_index=site_index,
        date_index=date_index,
        datetime=when.isoformat(),
        processing_baseline=baseline,
        orbit=f"R{orbit:03d}-descending",
        sun_zenith_deg=zenith,
        sun_azimuth_deg=azimuth,
        cloud_cover=round(min(float(cover), 0.95), 4),
        edge=bool(rng.random() < spec.edge_share),
    )


def _optical_id(site: str, when: datetime, baseline: str, orbit: int, version: int) -> str:
    return f"S2_L2A_{site}_{when:%Y%m%dT%H%M%S}_N{baseline.replace('.', '')}_R{orbit:03d}_V{version}"


def _radar(rng: np.random.Generator, spec: ArchiveSpec, site_index: int, date_index: int) -> PlannedAcquisition:
    site = SITES[site_index]
    ascending = (date_index + site_index // 2) % 2 == 0
    year = 2021 + 2 * ((site_index + date_index) % 2)
    when = _moment(spec, site_index, date_index, year=year, local_hour=18.0 if ascending else 6.0) + timedelta(days=1)
    orbit = _ORBITS[site.southern][1] + 7 * ascending
    return PlannedAcquisition(
        product_id=f"S1_RTC_{site.name}_{when:%Y%m%dT%H%M%S}_R{orbit:03d}{'A' if ascending else 'D'}_V1",
        sensor="sentinel1_rtc",
        site=site.name,
        site_index=site_index,
        date_index=date_index,
        datetime=when.isoformat(),
        processing_baseline="",
        orbit=f"R{orbit:03d}-{'ascending' if ascending else 'descending'}",
        sun_zenith_deg=0.0,
        sun_azimuth_deg=0.0,
        cloud_cover=0.0,
        edge=bool(rng.random() < spec.edge_share),
    )


def _with_copies(
    rng: np.random.Generator, spec: ArchiveSpec, originals: list[PlannedAcquisition]
) -> list[PlannedAcquisition]:
    """Return ``originals`` and their copies; what is copied is clear enough to survive a cloud filter."""
    optical = originals[0].sensor == "sentinel2_l2a"
    order = [int(index) for index in rng.permutation(len(originals))]
    # Only products from before the offset can be reprocessed to one with it, so they choose first.
    early = [index for index in order if originals[index].offset == 0]
    chosen: dict[int, Copy] = dict.fromkeys(early[: spec.reprocessed] if optical else (), "reprocessed")
    rest = [index for index in order if index not in chosen]
    chosen |= dict.fromkeys(rest[: spec.exact_duplicates], "exact")
    chosen |= dict.fromkeys(rest[spec.exact_duplicates :][: spec.near_duplicates], "near")
    result = list(originals)
    for index, copy in chosen.items():
        original = originals[index]
        cover = 0.0 if copy == "near" else min(original.cloud_cover, 0.1)
        result[index] = replace(original, cloud_cover=cover)
        result.append(_copy(result[index], copy, spec))
    return result


def _copy(original: PlannedAcquisition, copy: Copy, spec: ArchiveSpec) -> PlannedAcquisition:
    identifier = f"{original.product_id[:-1]}2"  # the version at the end
    if copy == "reprocessed":
        later = next(
            (baseline for baseline in reversed(spec.baselines) if get_baseline_offset(baseline)), LATER_BASELINE
        )
        old, new = (f"_N{baseline.replace('.', '')}_" for baseline in (original.processing_baseline, later))
        changed = replace(original, product_id=identifier.replace(old, new), processing_baseline=later)
    elif copy == "near":
        # Sentinel-2: the twin satellite five days later on the same orbit; Sentinel-1: the overlapping next slice.
        after = timedelta(days=5) if original.sensor == "sentinel2_l2a" else timedelta(seconds=12)
        old_time = datetime.fromisoformat(original.datetime)
        new_time = old_time + after
        identifier = original.product_id.replace(f"{old_time:%Y%m%dT%H%M%S}", f"{new_time:%Y%m%dT%H%M%S}")
        changed = replace(original, product_id=identifier, datetime=new_time.isoformat())
    else:
        changed = replace(original, product_id=identifier)
    return replace(changed, copy=copy, original=original.product_id)


def locate_centre(site: Site, size_px: int) -> tuple[float, float]:
    """Return longitude and latitude of the middle of a place, degrees."""
    half = size_px * PIXEL_M / 2
    longitudes, latitudes = transform(f"EPSG:{site.epsg}", "EPSG:4326", [site.left_m + half], [site.top_m - half])[:2]
    return float(longitudes[0]), float(latitudes[0])


def locate_sun(when: datetime, longitude: float, latitude: float) -> tuple[float, float]:
    """Return zenith and azimuth of the sun in degrees, to a degree or two (circular orbit, no equation of time).

    Declination -23.44 deg cos(2 pi (day + 10) / 365); spherical triangle pole, zenith, sun (e.g. Iqbal 1983, section
    1.5).
    """
    day = when.timetuple().tm_yday
    declination = np.radians(-23.44 * np.cos(2 * np.pi * (day + 10) / 365.0))
    solar_hour = when.hour + when.minute / 60.0 + longitude / 15.0
    hour_angle, phi = np.radians(15.0 * (solar_hour - 12.0)), np.radians(latitude)
    cosine = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour_angle)
    azimuth = (
        np.arctan2(np.sin(hour_angle), np.cos(hour_angle) * np.sin(phi) - np.tan(declination) * np.cos(phi)) + np.pi
    )
    return round(float(np.degrees(np.arccos(cosine))), 3), round(float(np.degrees(azimuth)) % 360.0, 3)

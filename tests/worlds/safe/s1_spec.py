"""What a Sentinel-1 SAFE product is to contain, what it is called and how its times run."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from datetime import datetime as Moment
from typing import Literal

from eo_ssl.errors import expect

_ORBIT = timedelta(days=12) / 175  # 175 revolutions in twelve days
_REFERENCE = (
    36201,
    datetime(2021, 1, 19, 2, 22, 31, 388113, tzinfo=UTC),
)  # an orbit of Sentinel-1A and its ascending node
_REFERENCES = {  # of later satellites, to some minutes: descending products over Korea, names in public listings
    "S1C": (3550, datetime(2025, 8, 6, 8, 41, tzinfo=UTC)),
    "S1D": (3945, datetime(2026, 8, 2, 8, 41, tzinfo=UTC)),
}
NEW_NOISE_SINCE = (2, 90)  # processor version that brought noise vectors along the azimuth
SWATHS = {"IW": ("IW1", "IW2", "IW3"), "EW": ("EW1", "EW2", "EW3", "EW4", "EW5")}
NEAR_INCIDENCE_DEG = {
    "IW": 30.5,
    "EW": 19.2,
    "S1": 18.5,
    "S2": 21.5,
    "S3": 27.0,
    "S4": 31.5,
    "S5": 36.5,
    "S6": 42.0,
}
SPACING_M = {"IW": 10.0, "EW": 40.0}  # GRDH and GRDM; SM: 10 m


@dataclass(frozen=True, slots=True, kw_only=True)
class S1GrdSpec:
    """Content of one ground-range product."""

    mode: str = "IW"
    "IW, EW or a strip S1 ... S6"
    polarisations: tuple[str, ...] = ("VV", "VH")
    lines: int = 480
    samples: int = 640
    ipf: str = "003.31"
    "version of the instrument processing facility"
    noise: Literal["range", "range_azimuth", "zero", "none"] = "range_azimuth"
    "vectors along the range (before version 002.90), along range and azimuth (since), all zero as in 2015, or no file"
    ascending: bool = False
    centre: tuple[float, float] = (44.0, 11.0)
    "latitude and longitude of the middle, degrees"
    height_m: float = 0.0
    "height of the ground above the ellipsoid, the same everywhere"
    datetime: str = "2021-01-19T03:16:53.799379Z"
    "UTC of the first line"
    platform: str = "S1A"
    border_px: int = 12
    "width of the border noise at each side; 0 for none"
    looks: float | None = 4.4
    "equivalent number of looks of the speckle; None for no speckle"
    lut_step: tuple[int, int] = (100, 40)
    "lines and pixels between the values of the tables"
    seed: int = 0
    cog: bool = field(default=False, repr=False)
    "the cloud-optimised form that the Copernicus Data Space makes of a product: other file names and image layout"

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        modes, pairs = ", ".join(NEAR_INCIDENCE_DEG), (("VV",), ("HH",), ("VV", "VH"), ("HH", "HV"))
        expect(self.mode in NEAR_INCIDENCE_DEG, expected=f"a mode out of {modes}", got=self.mode, remedy="choose one")
        expect(
            self.polarisations in pairs,
            expected="VV, VV and VH, HH, or HH and HV",
            got=self.polarisations,
            remedy="one satellite pass transmits one polarisation",
        )
        shape, side = (self.lines, self.samples), min(self.lines, self.samples)
        expect(side >= 64, expected="at least 64 lines and samples", got=shape, remedy="ask for more")
        inside = 0 <= 2 * self.border_px < side
        expect(inside, expected=f"a border of less than half of {shape}", got=self.border_px, remedy="choose less")
        latitude = self.centre[0]
        expect(abs(latitude) <= 75.0, expected="a latitude within 75 degrees", got=latitude, remedy="move the product")
        expect(self.looks is None or self.looks > 0, expected="looks > 0", got=self.looks, remedy="None is no speckle")
        expect(min(self.lut_step) >= 2, expected="steps of 2 or more", got=self.lut_step, remedy="choose larger ones")
        spelled = re.fullmatch(r"\d{3}\.\d{2}", self.ipf)
        expect(spelled, expected="a version such as 003.31", got=self.ipf, remedy="correct `ipf`")
        known = re.fullmatch(r"S1[A-Z]", self.platform)
        expect(known, expected="a platform such as S1A", got=self.platform, remedy="correct `platform`")
        expect(
            self.noise in ("zero", "none") or (self.noise == "range_azimuth") == self.new_format,
            expected="noise vectors along the azimuth from version 002.90 on",
            got=f"{self.noise} with {self.ipf}",
            remedy="change one of them",
        )

    @property
    def new_format(self) -> bool:
        """Whether noise has vectors along the azimuth, and the border is set to 0 rather than left as low values."""
        return parse_version(self.ipf) >= NEW_NOISE_SINCE

    @property
    def start(self) -> Moment:
        """Time of the first line."""
        return datetime.fromisoformat(self.datetime).astimezone(UTC)

    @property
    def swaths(self) -> tuple[str, ...]:
        """Swaths merged in the image."""
        return SWATHS.get(self.mode, (self.mode,))

    @property
    def spacing_m(self) -> float:
        """Distance of pixels and lines on the ground."""
        return SPACING_M.get(self.mode, 10.0)

    @property
    def product_type(self) -> str:
        """``IW_GRDH`` and the like."""
        return f"{self.mode}_GRD{'M' if self.mode == 'EW' else 'H'}"

    @property
    def polarisation_code(self) -> str:
        """SV, SH, DV or DH."""
        return ("D" if len(self.polarisations) == 2 else "S") + self.polarisations[0][0]


def parse_version(ipf: str) -> tuple[int, int]:
    """Return a processor version as numbers."""
    major, _, minor = ipf.partition(".")
    return int(major), int(minor)


def count_orbits(when: datetime, platform: str = "S1A") -> int:
    """Return the number of the revolution of a satellite at a time, to one or two."""
    number, node = _REFERENCES.get(platform, _REFERENCE)
    return max(1, number + (when - node) // _ORBIT)


def number_relative_orbit(absolute: int, platform: str) -> int:
    """Return the relative orbit, 1-175: (absolute - 73) modulo 175 + 1 for Sentinel-1A, 27 for 1B, 172 for 1C, 42 for 1D."""
    return (absolute - {"S1A": 73, "S1B": 27, "S1C": 172, "S1D": 42}.get(platform, 73)) % 175 + 1


def name_product(
    prefix: str, start: datetime, stop: datetime, *, platform: str, spec: object, cog: bool = False
) -> str:
    """Return the name of a product with ``.SAFE``; its last four characters tell products of the same data apart."""
    absolute, form = count_orbits(start, platform), "_COG" if cog else ""
    unique = hashlib.md5(f"{spec!r}{form}".encode(), usedforsecurity=False).hexdigest()[:4].upper()
    times = f"{start:%Y%m%dT%H%M%S}_{stop:%Y%m%dT%H%M%S}"
    return f"{platform}_{prefix}_{times}_{absolute:06d}_{number_data_take(absolute):06X}_{unique}{form}.SAFE"


def number_data_take(absolute: int) -> int:
    """Return an identifier of the data take."""
    return absolute * 7 + 25_000

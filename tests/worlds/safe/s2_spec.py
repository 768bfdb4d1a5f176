"""What a Sentinel-2 SAFE product is to contain, what it is called and where it lies."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import datetime as Moment
from typing import Literal

from affine import Affine
from rasterio.warp import transform

from eo_ssl.errors import UserError, expect
from eo_ssl.sample.spec import COARSEST, PIXEL_M, get_baseline_offset
from eo_ssl.sensors import sensor

SMALLEST_PX, FULL_PX = 96, 10_980  # side in 10 m pixels: what the landscape can fill, what a real tile has
L1C_BANDS = sensor("sentinel2_l1c").band_names
"B01 ... B12 in the order of bandId 0 ... 12: B8A is 8, B09 is 9"
GSD_M = {band.name: round(band.gsd_m) for band in sensor("sentinel2_l1c").bands}
_COLUMNS = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")  # of the 100 km squares, by zone modulo 3
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_LATITUDES = "CDEFGHJKLMNPQRSTUVWX"  # 8 degrees each from 80 S on
_CYCLE = timedelta(days=10) / 143  # the orbit repeats after 143 revolutions in ten days
_EPOCHS = {  # absolute orbit and time of one real acquisition, and the absolute orbit of a relative orbit 1
    "S2A": (26481, datetime(2020, 7, 17, 22, 19, 41, tzinfo=UTC), -2),
    "S2B": (33753, datetime(2023, 8, 23, 9, 55, 59, tzinfo=UTC), 27),
    "S2C": (6470, datetime(2025, 12, 1, 10, 24, 11, tzinfo=UTC), -29),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class S2SafeSpec:
    """Content of one product; equal seeds give equal reflectance, whatever level, baseline or blocks are chosen."""

    level: Literal["L1C", "L2A"] = "L2A"
    baseline: str = "04.00"
    "processing baseline; from 04.00 on stored numbers carry the radiometric offset"
    seed: int = 0
    size_px: int = 336
    "side in 10 m pixels, a multiple of 6; 10980 is a real tile"
    tile: str = "32TQM"
    "square of the Military Grid Reference System; fixes the projection and the upper left corner"
    datetime: str = "2022-07-15T10:10:31Z"
    "start of the datatake, UTC"
    generated: str = "2022-07-15T12:34:56Z"
    "when the product was made, UTC: the last part of its name"
    platform: str = "S2A"
    relative_orbit: int = 22
    ascending: bool = False
    cloud_cover: float = 0.2
    "share under opaque cloud"
    cirrus: bool = True
    "whether a veil of cirrus lies over a part"
    edge: bool = True
    "whether the edge of the swath cuts a wedge without data"
    saturated: int = 12
    "number of saturated 20 m areas (blue to near infrared at 10 m) in each part of at most 1098 pixels"
    block_px: int = 1024
    "side of a JPEG 2000 tile at 10 m; 5/8 of it at 20 m and 3/16 at 60 m, as in real products"
    complete: bool = True
    "whether there is a true-colour image and, in L2A, AOT, WVP and copies of bands at coarser resolution"
    pilot: bool = False
    "Level-2A as ESA made it in 2017 (Level-2Ap, issue 14.2): other element names, the granule once per resolution"
    image_format: Literal["JPEG2000", "GeoTIFF"] = "JPEG2000"
    "GeoTIFF: the images as the Planetary Computer stores them"
    stated_saturated: int = 65535
    "special value SATURATED of the metadata; those of Level-2A said 6 in 2017 and 2018, and 65535 was stored"

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        expect(
            self.level in ("L1C", "L2A"), expected="the level L1C or L2A", got=self.level, remedy="choose one of them"
        )
        sides = f"size_px to be a multiple of {COARSEST} in {SMALLEST_PX}-{FULL_PX}"
        fits = self.size_px % COARSEST == 0 and SMALLEST_PX <= self.size_px <= FULL_PX
        expect(fits, expected=sides, got=self.size_px, remedy="try 336")
        blocks = "block_px to be a multiple of 128 of at least 256"
        whole = self.block_px >= 256 and self.block_px % 128 == 0
        expect(whole, expected=blocks, got=self.block_px, remedy="real products have 1024")
        known = re.fullmatch(r"S2[A-Z]", self.platform)
        expect(known, expected="a platform such as S2A", got=self.platform, remedy="correct `platform`")
        orbit, cover = self.relative_orbit, self.cloud_cover
        expect(1 <= orbit <= 143, expected="a relative orbit in 1-143", got=orbit, remedy="correct `relative_orbit`")
        expect(self.seed >= 0, expected="a seed of 0 or more", got=self.seed, remedy="choose another")
        expect(0.0 <= cover <= 0.6, expected="cloud_cover in 0-0.6", got=cover, remedy="choose a share in between")
        expect(self.saturated >= 0, expected="saturated >= 0", got=self.saturated, remedy="give the number of areas")
        early = self.level == "L2A" and get_baseline_offset(self.baseline) == 0
        expect(early or not self.pilot, expected="a pilot of L2A before 04.00", got=self.baseline, remedy="try 02.05")
        locate_corner(self.tile)

    @property
    def offset(self) -> int:
        """What the product says to add to a stored number: -1000 from baseline 04.00 on, else 0."""
        return get_baseline_offset(self.baseline)

    @property
    def start(self) -> Moment:
        """Start of the datatake."""
        return datetime.fromisoformat(self.datetime).astimezone(UTC)

    @property
    def stamped_start(self) -> Moment:
        """Start of the datatake, with the 24 milliseconds that the metadata add to the name."""
        return self.start.replace(microsecond=24000)

    @property
    def made(self) -> Moment:
        """When the product was made."""
        return datetime.fromisoformat(self.generated)

    @property
    def direction(self) -> str:
        """Ascending or descending, in lower case."""
        return "ascending" if self.ascending else "descending"

    @property
    def sensing_time(self) -> Moment:
        """When the tile was seen: the datatake had begun minutes before (the metadata of the tile have this time)."""
        return self.start + timedelta(seconds=247, microseconds=271949)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the product: L2A has no B10."""
        return tuple(band for band in L1C_BANDS if self.level == "L1C" or band != "B10")

    @property
    def orbit(self) -> int:
        """Absolute orbit number that agrees with the time and the relative orbit."""
        number, when, first = _EPOCHS.get(self.platform, _EPOCHS["S2A"])
        near = number + round((self.start - when) / _CYCLE)
        return near + (self.relative_orbit - 1 - (near - first) + 71) % 143 - 71

    @property
    def name(self) -> str:
        """``S2A_MSIL1C_<datatake>_N<baseline>_R<orbit>_T<tile>_<generated>.SAFE``."""
        number = self.baseline.replace(".", "")
        return (
            f"{self.platform}_MSI{self.level}_{self.start:%Y%m%dT%H%M%S}_N{number}_R{self.relative_orbit:03d}"
            f"_T{self.tile}_{self.made:%Y%m%dT%H%M%S}.SAFE"
        )

    @property
    def granule(self) -> str:
        """Name of the folder of the one granule."""
        strip = self.start + timedelta(seconds=3)
        return f"{self.level}_T{self.tile}_A{self.orbit:06d}_{strip:%Y%m%dT%H%M%S}"

    @property
    def datastrip(self) -> str:
        """Name of the folder of the datastrip."""
        strip = self.start + timedelta(seconds=3)
        return f"DS_{self.station}_{self.made:%Y%m%dT%H%M%S}_S{strip:%Y%m%dT%H%M%S}"

    @property
    def datastrip_id(self) -> str:
        """Identifier of the datastrip, as both metadata files have it."""
        return f"{self.platform}_OPER_MSI_{self.level}_{self.datastrip}_N{self.baseline}"

    @property
    def tile_id(self) -> str:
        """Identifier of the granule, as TILE_ID and the list of granules have it."""
        made = f"{self.station}_{self.made:%Y%m%dT%H%M%S}"
        return f"{self.platform}_OPER_MSI_{self.level}_TL_{made}_A{self.orbit:06d}_T{self.tile}_N{self.baseline}"

    @property
    def station(self) -> str:
        """Processing centre in identifiers; four characters."""
        return f"{self.platform[1:]}PS" if self.offset else "VGS4"

    @property
    def stem(self) -> str:
        """What the names of the images begin with."""
        return f"{'L2A_' if self.pilot else ''}T{self.tile}_{self.start:%Y%m%dT%H%M%S}"

    @property
    def suffix(self) -> str:
        """What the names of the images end in."""
        return ".jp2" if self.image_format == "JPEG2000" else ".tif"

    def transform(self, gsd_m: int) -> Affine:
        """Return the transform of the grid of ``gsd_m`` metres; all grids share the upper left corner."""
        _, left, top = locate_corner(self.tile)
        return Affine(gsd_m, 0.0, left, 0.0, -gsd_m, top)

    @property
    def epsg(self) -> int:
        """UTM zone on WGS 84."""
        return locate_corner(self.tile)[0]

    def position(self, column_m: float, row_m: float) -> tuple[float, float]:
        """Return longitude and latitude of a place so many metres to the right of and below the corner, degrees."""
        _, left, top = locate_corner(self.tile)
        longitude, latitude = transform(f"EPSG:{self.epsg}", "EPSG:4326", [left + column_m], [top - row_m])[:2]
        return float(longitude[0]), float(latitude[0])

    @property
    def extent_m(self) -> float:
        """Side of the product."""
        return self.size_px * PIXEL_M


def locate_corner(tile: str) -> tuple[int, int, int]:
    """Return EPSG code, easting and northing of the upper left corner of a Sentinel-2 tile.

    The 100 km square of the grid reference is widened to multiples of 60 m (DMA TM 8358.1, section 3; checked against
    the metadata of real products: 46RER 499980 3100020, 34UCF 300000 6100020).

    Raises:
        UserError: no such square.
    """
    match = re.fullmatch(rf"(\d\d)([{_LATITUDES}])([A-HJ-NP-Z])([{_ROWS}])", tile)
    if match is None or not 1 <= int(match[1]) <= 60 or match[3] not in _COLUMNS[(int(match[1]) - 1) % 3]:
        raise UserError(f"expected a tile such as 32TQM, got {tile!r}; give zone, latitude band, column and row")
    zone = int(match[1])
    east = 100_000 * (1 + _COLUMNS[(zone - 1) % 3].index(match[3]))
    band = _LATITUDES.index(match[2])
    epsg = (32600 if band >= 10 else 32700) + zone
    _, south = transform("EPSG:4326", f"EPSG:{epsg}", [6.0 * zone - 183.0], [8.0 * band - 80.0])[:2]
    row = (_ROWS.index(match[4]) - (0 if zone % 2 else 5)) % 20
    north = 100_000 * row
    while north < south[0] - 100_000:
        north += 2_000_000
    return epsg, east // 60 * 60, math.ceil((north + 100_000) / 60) * 60

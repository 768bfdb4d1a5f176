"""What the metadata of a Sentinel-2 product say: level, baseline, radiometry, angles, grids, files.

Read are ``MTD_MSIL1C.xml`` or ``MTD_MSIL2A.xml`` and the granule's ``MTD_TL.xml`` (Sentinel-2 Products Specification
Document, S2-PDGS-TAS-DI-PSD, issues 14.2 to 15.0). Issue 14.2, of the pilot products of 2017 (Level-2Ap), wrote
``IMAGE_FILE_2A``, ``TILE_ID_2A`` and ``L2A_BOA_QUANTIFICATION_VALUE`` in Level-2A and listed the granule once per
resolution; both spellings are read. Nothing is taken from a product's name or date.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from xml.etree.ElementTree import Element

from odc.geo.geobox import GeoBox

from eo_ssl.errors import UserError
from eo_ssl.scene.acquisition import Acquisition, format_iso
from eo_ssl.scene.grids import make_grid
from eo_ssl.scene.safe_container import Container
from eo_ssl.sensors import sensor

BAND_IDS = sensor("sentinel2_l1c").band_names
"""Band of each ``band_id`` 0 ... 12: B01 ... B08, B8A, B09 ... B12."""
_OFFSETS = {
    "L1C": ("Radiometric_Offset_List", "RADIO_ADD_OFFSET"),
    "L2A": ("BOA_ADD_OFFSET_VALUES_LIST", "BOA_ADD_OFFSET"),
}
_QUANTIFICATION = {
    "L1C": ("QUANTIFICATION_VALUE",),
    "L2A": ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE"),
}
_FIRST_WITH_OFFSETS = "04.00"  # processing baseline since which offsets are part of the product (25 January 2022)
USER_BASELINE = "99.00"  # Sen2Cor run by a user writes 99.xx (in names N9999), whatever its input was
_IMAGE = re.compile(r"_(B\d[\dA]|SCL|CLD)(?:_(\d+)m)?$")
_IMAGE_TAGS = ("IMAGE_FILE", "IMAGE_FILE_2A")
_SUFFIXES = {"JPEG2000": (".jp2", ".tif"), "GeoTIFF": (".tif", ".jp2")}
"imageFormat of the granule -> what its images end in, and what they end in once others have stored them anew"
_SATURATED = 65535.0
_SATURATED_MISTAKEN = 6.0  # the Level-2A metadata of 2017 and 2018 (baselines 02.05 to 02.08) state it; 6 is dark water


@dataclass(frozen=True, slots=True)
class TileMetadata:
    """What is needed of a product's XML. Pickles."""

    level: Literal["L1C", "L2A"]
    baseline: str
    "processing baseline, two digits each: ``05.09``"
    generated: str
    "GENERATION_TIME of the product, as it is written (ISO 8601)"
    sensing_start: str
    "DATATAKE_SENSING_START, ISO 8601, UTC, whole seconds"
    datastrip: str
    "sensing start in the datastrip's identifier; two products of one datatake and tile may be of two datastrips"
    tile: str
    "MGRS tile, e.g. 32TQM"
    granule: str
    "folder of the granule, relative to the product"
    acquisition: Acquisition
    quantification: float
    "stored units of a reflectance of 1"
    offsets: tuple[tuple[str, float], ...]
    "(band, stored units to add); empty when the product, of a baseline before 04.00, states none: zero for all bands"
    nodata: float
    saturated: float
    images: tuple[tuple[str, int | None, str], ...]
    "(band, SCL or CLD, metres where the file says, file relative to the product)"
    grids: tuple[tuple[int, GeoBox], ...]
    "(metres, grid) of the tile"
    masks: tuple[tuple[str, str], ...]
    "(type, file name) of the granule's quality masks, e.g. MSK_CLOUDS"

    def offset(self, band: str) -> float:
        """Return the radiometric offset of a band in stored units.

        Raises:
            UserError: the product states offsets, but not that of this band.
        """
        if not self.offsets:
            return 0.0
        known = dict(self.offsets)
        if band not in known:
            raise UserError(
                f"expected a radiometric offset of {band}, got only those of {', '.join(known)}; the product is "
                "incomplete, fetch it again"
            )
        return known[band]


def read_metadata(safe: Container) -> TileMetadata:
    """Return the metadata of a product; its XML is compared with the manifest's checksums.

    Raises:
        UserError: the product has several tiles, or a file or value is absent or cannot be.
    """
    names = safe.names()
    main = [name for name in ("MTD_MSIL1C.xml", "MTD_MSIL2A.xml") if name in names]
    if len(main) != 1:
        raise UserError(
            f"expected MTD_MSIL1C.xml or MTD_MSIL2A.xml in {safe.file('')}, got {' and '.join(main) or 'neither'}; the "
            "product is incomplete, fetch it again"
        )
    product = _Document(safe, main[0])
    granule, images, datastrip = _images(product, names)
    tile = _Document(safe, f"{granule}/MTD_TL.xml")
    level, baseline = (
        _level(product),
        _matched(product, "PROCESSING_BASELINE", pattern=r"(\d\d\.\d\d)$", example="05.09"),
    )
    special = _special_values(product)
    return TileMetadata(
        level=level,
        baseline=baseline,
        generated=format_iso(product.text("GENERATION_TIME")),
        sensing_start=format_iso(product.text("DATATAKE_SENSING_START")),
        datastrip=datastrip,
        tile=_matched(tile, "TILE_ID", "TILE_ID_2A", pattern=r".*_T(\d\d[A-Z]{3})(?:_|$)", example="..._T32TQM_N05.09"),
        granule=granule,
        acquisition=_read_acquisition(product, tile, baseline),
        quantification=_quantification(product, level),
        offsets=_offsets(product, level, baseline),
        nodata=special["NODATA"],
        saturated=_SATURATED if special["SATURATED"] == _SATURATED_MISTAKEN else special["SATURATED"],
        images=images,
        grids=_grids(tile),
        masks=tuple(
            (mask.get("type", ""), PurePosixPath((mask.text or "").strip()).name) for mask in tile.all("MASK_FILENAME")
        ),
    )


def is_multi_tile(safe: Container) -> bool:
    """Return whether a product is in the format before November 2016, with several tiles and long file names."""
    return any(re.fullmatch(r"S2._(OPER|USER)_MTD_SAFL\d[A-Z].*\.xml", name) for name in safe.names())


class _Document:
    """An XML file whose elements are looked up by local name: issues differ in namespace and depth."""

    def __init__(self, safe: Container, name: str) -> None:
        self.where = safe.file(name)
        self._elements: dict[str, list[Element]] = {}
        for item in safe.xml(name).iter():
            self._elements.setdefault(str(item.tag).rpartition("}")[2], []).append(item)

    def all(self, *names: str) -> list[Element]:
        """Return the elements called one of ``names``."""
        return [item for name in names for item in self._elements.get(name, ())]

    def text(self, *names: str) -> str:
        """Return the text of the first element called one of ``names``."""
        elements = self.all(*names)
        text = (elements[0].text or "").strip() if elements else ""
        if not text:
            raise UserError(f"expected {names[0]} in {self.where}, got none; the product is incomplete, fetch it again")
        return text

    def number(self, text: str | None, what: str) -> float:
        """Return a finite number, or say of what none was found."""
        try:
            value = float(text or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(
                f"expected a number as {what} in {self.where}, got {text!r}; the file is damaged, fetch it again"
            )
        return value


def _matched(document: _Document, *names: str, pattern: str, example: str) -> str:
    stated = document.text(*names)
    match = re.match(pattern, stated)
    if match is None:
        raise UserError(
            f"expected {names[0]} such as {example} in {document.where}, got {stated!r}; the file is damaged, fetch it "
            "again"
        )
    return match[1]


def _level(product: _Document) -> Literal["L1C", "L2A"]:
    stated = product.text("PROCESSING_LEVEL")
    if stated.startswith("Level-1C"):
        return "L1C"
    if stated.startswith("Level-2A"):
        return "L2A"
    raise UserError(
        f"expected PROCESSING_LEVEL Level-1C or Level-2A in {product.where}, got {stated!r}; leave the product out"
    )


def _images(product: _Document, names: frozenset[str]) -> tuple[str, tuple[tuple[str, int | None, str], ...], str]:
    """Return the granule's folder, its images, and the sensing start in its datastrip's identifier.

    ``names`` are those of the files there are: an image stored anew as GeoTIFF stands for that in JPEG 2000.
    """
    granules: dict[str, list[Element]] = {}
    for item in product.all("Granule", "Granules"):
        granules.setdefault(item.get("granuleIdentifier", ""), []).append(item)  # once per resolution in issue 14.2
    if len(granules) != 1:
        raise UserError(
            f"expected one tile in {product.where}, got {len(granules)}; fetch the product in today's format, one tile "
            "each"
        )
    (entries,) = granules.values()
    suffixes = _SUFFIXES.get(entries[0].get("imageFormat", ""), _SUFFIXES["JPEG2000"])
    images, folders = [], set()
    for item in (file for entry in entries for tag in _IMAGE_TAGS for file in entry.findall(tag)):
        path = PurePosixPath((item.text or "").strip().removesuffix(".jp2").removesuffix(".tif"))
        folders.add("/".join(path.parts[:2]))
        if ".." in path.parts or path.parts[:1] != ("GRANULE",):
            raise UserError(
                f"expected images below GRANULE in {product.where}, got {str(path)!r}; do not trust this product"
            )
        match = _IMAGE.search(path.name)
        if match is not None:
            files = [f"{path.as_posix()}{suffix}" for suffix in suffixes]
            file = next((name for name in files if name in names), files[0])
            images.append((match[1], int(match[2]) if match[2] else None, file))
    if len(folders) != 1 or not images:
        raise UserError(
            f"expected the IMAGE_FILE paths of one granule in {product.where}, got {len(images)} in {len(folders)} "
            "folders; fetch the product again"
        )
    start = re.search(r"_S(\d{8}T\d{6})(?:_|$)", entries[0].get("datastripIdentifier", ""))
    return folders.pop(), tuple(images), start[1] if start else ""


def _special_values(product: _Document) -> dict[str, float]:
    values = {}
    for item in product.all("Special_Values"):
        name = (item.findtext("SPECIAL_VALUE_TEXT") or "").strip()
        values[name] = product.number(item.findtext("SPECIAL_VALUE_INDEX"), f"special value {name}")
    if not {"NODATA", "SATURATED"} <= set(values):
        raise UserError(
            f"expected the special values NODATA and SATURATED in {product.where}, got {', '.join(values) or 'none'}; "
            "fetch the product again"
        )
    return values


def _quantification(product: _Document, level: str) -> float:
    names = _QUANTIFICATION[level]
    value = product.number(product.text(*names), names[0])
    if value <= 0:
        raise UserError(
            f"expected {names[0]} above 0 in {product.where}, got {value:g}; the file is damaged, fetch it again"
        )
    return value


def _offsets(product: _Document, level: str, baseline: str) -> tuple[tuple[str, float], ...]:
    """Return the offset of each band; no list before baseline 04.00 means zero, none since then is an error.

    A user's own Sen2Cor states the list where its Level-1C input had offsets, under a baseline that does not tell:
    there none means zero.
    """
    group, tag = _OFFSETS[level]
    if not product.all(group) and (baseline < _FIRST_WITH_OFFSETS or baseline >= USER_BASELINE):
        return ()
    offsets: dict[str, float] = {}
    for item in product.all(tag):
        number = item.get("band_id", "")
        band = BAND_IDS[int(number)] if number.isdecimal() and int(number) < len(BAND_IDS) else None
        if band is None or band in offsets:
            raise UserError(
                f"expected {tag} once for each band_id from 0 to {len(BAND_IDS) - 1} in {product.where}, got "
                f"{number!r}; the file is damaged, fetch it again"
            )
        offsets[band] = product.number(item.text, f"{tag} of {band}")
    if not offsets:
        raise UserError(
            f"expected {tag} of each band in {product.where}, of baseline {baseline}, got none; reflectance would be "
            "off by 0.1: fetch the product again"
        )
    return tuple(offsets.items())


def _read_acquisition(product: _Document, tile: _Document, baseline: str) -> Acquisition:
    sun, view = _angles(tile, "Mean_Sun_Angle"), _angles(tile, "Mean_Viewing_Incidence_Angle")
    return Acquisition(
        datetime=format_iso(tile.text("SENSING_TIME")),
        processing_baseline=baseline,
        orbit=product.text("SENSING_ORBIT_DIRECTION").lower(),
        offset=0.0,
        platform=re.sub("^Sentinel-", "S", product.text("SPACECRAFT_NAME")),
        relative_orbit=int(product.number(product.text("SENSING_ORBIT_NUMBER"), "SENSING_ORBIT_NUMBER")),
        sun_zenith_deg=sun[0] if sun else None,
        sun_azimuth_deg=sun[1] if sun else None,
        view_zenith_deg=view[0] if view else None,
        view_azimuth_deg=view[1] if view else None,
    )


def _angles(tile: _Document, name: str) -> tuple[float, float] | None:
    """Return zenith and azimuth in degrees, averaged over the bands that have them.

    Azimuths as directions (359 and 1 give 0).
    """
    pairs = []
    for item in tile.all(name):
        zenith, azimuth = item.findtext("ZENITH_ANGLE") or "nan", item.findtext("AZIMUTH_ANGLE") or "nan"
        if "nan" not in (zenith.lower(), azimuth.lower()):  # bands that do not see a tile at the edge of the swath
            pairs.append(
                (tile.number(zenith, f"ZENITH_ANGLE of {name}"), tile.number(azimuth, f"AZIMUTH_ANGLE of {name}"))
            )
    if not pairs:
        return None
    east = math.fsum(math.sin(math.radians(azimuth)) for _, azimuth in pairs)
    north = math.fsum(math.cos(math.radians(azimuth)) for _, azimuth in pairs)
    return math.fsum(zenith for zenith, _ in pairs) / len(pairs), math.degrees(math.atan2(east, north)) % 360.0


def _grids(tile: _Document) -> tuple[tuple[int, GeoBox], ...]:
    """Return the tile's grids out of ``Tile_Geocoding``: upper left corner, pixel and size at each resolution."""
    crs = tile.text("HORIZONTAL_CS_CODE").upper()
    sizes = {item.get("resolution"): item for item in tile.all("Size")}
    grids = []
    for item in tile.all("Geoposition"):
        metres = item.get("resolution", "")
        size = sizes.get(metres)
        if size is None or not metres.isdecimal():
            continue
        x, y, dx, dy = (tile.number(item.findtext(key), key) for key in ("ULX", "ULY", "XDIM", "YDIM"))
        rows, columns = (int(tile.number(size.findtext(key), key)) for key in ("NROWS", "NCOLS"))
        if rows < 1 or columns < 1 or dx <= 0 or dy >= 0:
            raise UserError(
                f"expected a north-up grid at {metres} m in {tile.where}, got {rows} x {columns} pixels of {dx:g} x "
                f"{dy:g} m; fetch the product again"
            )
        grids.append((int(metres), make_grid(rows, columns, (dx, 0.0, x, 0.0, dy, y), crs)))
    if {metres for metres, _ in grids} != {10, 20, 60}:
        raise UserError(
            f"expected Size and Geoposition of the tile at 10, 20 and 60 m in {tile.where}, got {len(grids)} of them; "
            "fetch the product again"
        )
    return tuple(grids)

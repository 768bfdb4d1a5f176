"""Which asset of an item holds a band, where it lies, and whether the file is what the item says.

A band is found by the asset's key (``blue``, ``B02``, ``nir08``, ``vv``; ``B02_10m`` and ``blue-jp2`` without their
ending) or, where the key says nothing, by name or common name of its only band (``eo:bands``, STAC 1.1 ``bands``). Of
several assets of one band the key goes before the band's description, a Cloud-Optimized GeoTIFF before other files
(JPEG 2000 twins are left aside), and the finest pixels before coarser ones; assets that are still equal are refused,
and those whose key and name contradict each other.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS

from eo_ssl.cards import Card
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import hash_file, identify_file
from eo_ssl.scene.grids import measure_gsd, read_crs, read_transform
from eo_ssl.scene.stac import access
from eo_ssl.scene.stac.access import Header
from eo_ssl.scene.stac.conventions import Json, list_objects
from eo_ssl.sensors import sensor

_PICTURES = {"thumbnail", "overview", "metadata"}
_KEY_ENDING = re.compile(r"([-_]jp2|_\d+m)$", re.IGNORECASE)
_TOLERANCE_PX = 0.01  # catalogues write coordinates with a few decimals
_LARGEST = 1e12  # metres or pixels; JSON has no largest number
_HASHES = {0x11: "sha1", 0x12: "sha256", 0x13: "sha512", 0x14: "sha3_512", 0x16: "sha3_256", 0xD5: "md5"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of an item."""

    place: str
    "link (unsigned) or absolute path"
    item: Json
    content: Json
    "the asset's own entry in the item"
    sign: str

    def nbytes(self) -> int:
        """Return the stored bytes: as stated (``file:size``), else of the file or link.

        Raises:
            UserError: the file is absent or the server does not answer.
        """
        stated = self.content.get("file:size")
        if isinstance(stated, int) and access.is_link(self.place):
            return stated
        return self._remote().size if access.is_link(self.place) else identify_file(Path(self.place))[2]

    def identity(self) -> list[str]:
        """Return what tells the content: ``file:checksum``, else sha256 of a local file, or size and tag of a link.

        A stated checksum is compared with the bytes of a local file.

        Raises:
            UserError: the file is absent, or its bytes are not those of the checksum.
        """
        stated = str(self.content.get("file:checksum") or "").lower()
        if access.is_link(self.place):
            return [stated] if stated else [str(self._remote().size), self._remote().tag]
        if not stated:
            return [hash_file(Path(self.place))]
        name, digest = parse_multihash(stated, place=self.place)
        actual = hash_file(Path(self.place)) if name == "sha256" else _digest(Path(self.place), name)
        if actual != digest:
            raise UserError(
                f"expected {self.place} to have the {name} {digest[:12]}... that its item states, got "
                f"{actual[:12]}...; "
                "it is damaged, fetch it again"
            )
        return [stated]

    def header(self) -> Header:
        """Return what the file says of itself, after comparing it with ``proj:*`` of the item.

        An item that states none of them leaves nothing to compare; the file's own header counts.

        Raises:
            UserError: the file is absent or damaged, or another grid than the item says: a decimated or moved copy.
        """
        header = access.read_header(self.place, sign=self.sign)
        grid = header.grid
        shape, transform, code = self._stated("proj:shape"), self._stated("proj:transform"), self._code()
        differences = []
        if shape and tuple(shape) != grid.shape.yx:
            differences.append(f"{grid.height} x {grid.width} pixels, not {' x '.join(map(str, shape))}")
        if transform and not _same(tuple(transform)[:6], grid):
            differences.append(f"transform {_short(read_transform(grid))}, not {_short(transform[:6])}")
        if code and not _same_reference(code, read_crs(grid)):
            differences.append(f"{read_crs(grid)}, not {code}")
        if differences:
            raise UserError(
                f"expected {self.place} to have the grid that item {self.item['id']} states, got "
                f"{'; '.join(differences)}; "
                "it is a decimated or moved copy: fetch the original, or correct proj:* of the item"
            )
        return header

    def _remote(self) -> access.RemoteFile:
        return access.query_file(self.place, sign=self.sign)

    def _stated(self, key: str) -> list[float]:
        value = self.content.get(key, self.item["properties"].get(key)) or []
        if not isinstance(value, list) or not all(
            isinstance(number, int | float) and abs(number) < _LARGEST for number in value
        ):
            raise UserError(f"expected numbers as {key} in item {self.item['id']}, got {value!r}; correct the item")
        return value

    def _code(self) -> str:
        for place in (self.content, self.item["properties"]):
            if place.get("proj:code") or place.get("proj:epsg"):
                return str(place.get("proj:code") or f"EPSG:{place['proj:epsg']}")
        return ""


def _same(transform: tuple[float, ...], grid: GeoBox) -> bool:
    """Whether two transforms place every pixel of a grid within a hundredth of a pixel."""
    if len(transform) != 6:
        return False
    corners = np.array([[0, 0, 1], [grid.width, 0, 1], [0, grid.height, 1]], dtype=np.float64)
    apart = np.asarray(transform, dtype=np.float64) - read_transform(grid)
    with np.errstate(over="ignore"):  # an absurd number is far apart
        return bool(np.abs(corners @ apart.reshape(2, 3).T).max() <= _TOLERANCE_PX * measure_gsd(grid))


def _same_reference(code: str, crs: str) -> bool:
    try:  # GDAL would take a code that is a link for the address of one, and ask there
        stated, own = (CRS.from_wkt(pyproj.CRS.from_user_input(text).to_wkt()) for text in (code, crs))
        return bool(stated == own)
    except (pyproj.exceptions.CRSError, ValueError) as error:
        raise UserError(
            f"expected a reference system such as EPSG:32632 in proj:code, got {code!r}; correct the item"
        ) from error


def _short(transform: object) -> str:
    return "(" + ", ".join(f"{value:.10g}" for value in transform) + ")" if isinstance(transform, list | tuple) else ""


def find_asset(card: Card, item: Json, base: str, *, band: str, root: str = "") -> Asset:
    """Return the asset of a canonical band; a local one has to lie below ``root`` unless that is empty.

    Raises:
        UserError: the item has none, several that nothing tells apart, one that lies nowhere this reader goes, or one
            whose only described band is another than its key names.
    """
    ranked: dict[tuple[int, bool, float], list[str]] = {}
    for key, content in item["assets"].items():
        by_key = _spelled(card, _KEY_ENDING.sub("", _KEY_ENDING.sub("", key)))
        if not _is_picture(content) and (by_key or _described(card, content)) == band:
            rank = (0 if by_key else 1, not _is_cog(content), _pixel_size(content))
            ranked.setdefault(rank, []).append(key)
    if not ranked:
        raise UserError(
            f"expected an asset of {band} in item {item['id']}, got {', '.join(item['assets']) or 'none'}; leave the "
            f"band out of card {card.name}"
        )
    keys = ranked[min(ranked)]
    if len(keys) > 1:
        raise UserError(
            f"expected one asset of {band} in item {item['id']}, got {', '.join(sorted(keys))} alike; name one in the "
            "item only"
        )
    described = _describe(item["assets"][keys[0]])
    named = _spelled(card, str(described.get("name")))  # a common name may be that of several bands
    expect(
        named in ("", band),
        expected=f"the asset {keys[0]} of item {item['id']} to hold {band}, as its key says",
        got=f"a description that names {named}",
        remedy="correct the item",
    )
    return _asset(card, item, base, keys[0], root=root)


def find_scene_classes(card: Card, item: Json, base: str, *, root: str = "") -> Asset | None:
    """Return the scene classification of a Level-2A item, None where it has none; its JPEG 2000 twin is left aside."""
    if card.sensor != "sentinel2_l2a":
        return None
    keys = sorted(item["assets"], key=lambda key: (not _is_cog(item["assets"][key]), key))
    classes = [key for key in keys if _KEY_ENDING.sub("", _KEY_ENDING.sub("", key)).lower() == "scl"]
    return _asset(card, item, base, classes[0], root=root) if classes else None


def _asset(card: Card, item: Json, base: str, key: str, *, root: str) -> Asset:
    content = item["assets"][key]
    place = access.resolve(str(content["href"]), base=base, root=root)
    return Asset(place, item, content, card.stac.sign if card.stac else "")


def _spelled(card: Card, name: str) -> str:
    """The canonical band that a name spells, empty where it spells none."""
    try:
        return sensor(card.sensor).resolve(name)
    except UserError:
        return ""


def _described(card: Card, content: Json) -> str:
    """The band an asset says it holds; empty where it holds several, as pictures do."""
    said = _describe(content)
    names = (said.get("name"), said.get("eo:common_name"), said.get("common_name"))
    return next((band for name in names if name and (band := _spelled(card, str(name)))), "")


def _describe(content: Json) -> Json:
    """What an asset says of its only band; nothing where it has several."""
    bands = list_objects(content, "eo:bands") or list_objects(content, "bands")
    return bands[0] if len(bands) == 1 else {}


def _is_picture(content: Json) -> bool:
    roles = content.get("roles")
    return isinstance(roles, list) and any(role in _PICTURES for role in roles if isinstance(role, str))


def _is_cog(content: Json) -> bool:
    return "profile=cloud-optimized" in str(content.get("type") or "")


def _pixel_size(content: Json) -> float:
    transform = content.get("proj:transform")
    size = transform[0] if isinstance(transform, list) and transform else content.get("gsd")
    return abs(float(size)) if isinstance(size, int | float) else 0.0


def parse_multihash(text: str, *, place: str) -> tuple[str, str]:
    """Return name and digest (hex) of a multihash in hex: two varints (function, length), then the digest.

    Raises:
        UserError: no parse_multihash, or of a function this reader cannot compute.
    """
    try:
        data = bytes.fromhex(text)
        code, rest = _varint(data)
        length, digest = _varint(rest)
    except (ValueError, IndexError):
        code, length, digest = 0, 0, b""
    if code not in _HASHES or length != len(digest):
        raise UserError(
            f"expected a multihash of {', '.join(_HASHES.values())} as file:checksum of {place}, got "
            f"{text[:24]!r}; correct the item"
        )
    return _HASHES[code], digest.hex()


def _varint(data: bytes) -> tuple[int, bytes]:
    """Unsigned LEB128: seven bits a byte, least first (multiformats/unsigned-varint)."""
    value, used = 0, 0
    while True:
        value |= (data[used] & 0x7F) << (7 * used)
        used += 1
        if not data[used - 1] & 0x80:
            return value, data[used:]


def _digest(path: Path, name: str) -> str:
    identify_file(path)  # an absent file is said in words
    with path.open("rb") as file:
        return hashlib.file_digest(file, name).hexdigest()

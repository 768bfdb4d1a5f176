"""Documents, files and links of a STAC catalogue: resolved, signed, measured, and read by GDAL with bounded patience.

Places are files of this machine or ``http(s)`` links. A document that came over the network may only name links. Other
stores (``s3://``) are refused in words: the catalogues this reader knows offer the same files over https.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import rasterio
import requests
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene.gdal_files import describe_error, read_dataset_grid

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # a link has no neighbours to list
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",  # the header of a COG in one request
    "GDAL_HTTP_MAX_RETRY": "2",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "8",
    "GDAL_HTTP_LOW_SPEED_TIME": "8",  # seconds without a byte: slow is allowed, stalled is not
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
}
TIMEOUT = (8.0, 20.0)  # seconds to connect, and between bytes
_DRIVERS = ("GTiff", "JP2OpenJPEG")  # what the catalogues store; a VRT could name any file of this machine
_DOCUMENT_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class Header:
    """What a raster says of itself before any pixel is read."""

    grid: GeoBox
    dtype: str
    nodata: float | None
    block_rows: int


def is_link(place: str) -> bool:
    """Return whether a place is reached over the network."""
    return place.startswith(("http://", "https://"))


def resolve(href: str, *, base: str) -> str:
    """Return the link or absolute path that ``href`` names in the document at ``base``.

    Raises:
        UserError: neither a file nor ``http(s)``, or a local file named by a document from the network.
    """
    place = urljoin(base, href) if is_link(base) else href
    scheme = urlsplit(place).scheme
    if is_link(place):
        return place
    if scheme == "file" and not is_link(base):
        place = url2pathname(urlsplit(place).path)
    elif "://" in place or not base or is_link(base):
        raise UserError(
            f"expected a file or an http(s) link in {base or 'the item of an API'}, got {href!r}; use a catalogue that "
            "offers https"
        )
    return str((Path(base).parent / place).resolve())


def sign_link(place: str, *, sign: str) -> str:
    """Return a link with the signature its store asks for; a file as it is.

    Raises:
        UserError: the package that signs is not installed.
    """
    if not sign or not is_link(place):
        return place
    try:
        import planetary_computer
    except ImportError as error:
        raise UserError(
            "expected the package planetary-computer to sign links, found none; pip install "
            "'eo_ssl[planetary-computer]'"
        ) from error
    return str(planetary_computer.sign_url(place))


def read_document(place: str) -> dict[str, Any]:
    """Return the JSON object at a link or path.

    Raises:
        UserError: absent, unreachable, larger than 256 MB, or no JSON object.
    """
    try:
        if is_link(place):
            with requests.get(place, timeout=TIMEOUT, stream=True) as answer:
                answer.raise_for_status()
                data = answer.raw.read(_DOCUMENT_BYTES + 1, decode_content=True)
        else:
            with Path(place).open("rb") as file:
                data = file.read(_DOCUMENT_BYTES + 1)
        if len(data) > _DOCUMENT_BYTES:
            raise ValueError(f"more than {_DOCUMENT_BYTES:,} bytes")
        value = json.loads(data, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError, requests.RequestException) as error:
        raise UserError(
            f"expected a STAC document in {place}, got: {describe_error(error)}; correct the link or fetch the file "
            "again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"expected a STAC document in {place}, got a {type(value).__name__}; correct the link")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no JSON")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a server says of a file without sending it."""

    size: int
    tag: str
    "ETag, or the time of the last change"


@lru_cache(maxsize=4096)
def query_file(place: str, *, sign: str) -> RemoteFile:
    """Return size and tag of a link by one HEAD request; asked once per process.

    Raises:
        UserError: the server cannot be reached, has no such file, or says no size.
    """
    try:
        answer = requests.head(sign_link(place, sign=sign), timeout=TIMEOUT, allow_redirects=True)
        answer.raise_for_status()
        size = int(answer.headers["Content-Length"])
    except (requests.RequestException, KeyError, ValueError) as error:
        raise UserError(
            f"expected size and tag of {place}, got: {describe_error(error)}; correct the link, or try again later"
        ) from error
    return RemoteFile(size, answer.headers.get("ETag") or answer.headers.get("Last-Modified", ""))


def read_header(place: str, *, sign: str) -> Header:
    """Return what the raster at a place says of itself; read once per process and content.

    Raises:
        UserError: absent, unreachable, no GeoTIFF or JPEG 2000, several bands in one file, or no georeference.
    """
    return _header(place, sign, identify_content(place))


def identify_content(place: str) -> FileIdentity:
    """Return what identifies the present content of a file.

    Of a link its name alone, trusted for the life of the process.
    """
    return (place, 0, 0) if is_link(place) else identify_file(Path(place))


@lru_cache(maxsize=4096)
def _header(place: str, sign: str, stamped: FileIdentity) -> Header:
    with configure_gdal(place), rasterio.open(sign_link(place, sign=sign), sharing=False) as file:
        if file.driver not in _DRIVERS:
            raise UserError(
                f"expected {' or '.join(_DRIVERS)} in {place}, got {file.driver}; catalogues store no other images"
            )
        grid = read_dataset_grid(file)
        if file.count != 1 or grid.crs is None:
            found = f"{file.count} bands" if file.count != 1 else "no georeference"
            raise UserError(f"expected one georeferenced band in {place}, got {found}; such assets cannot be read")
        return Header(grid, str(file.dtypes[0]), file.nodatavals[0], int(file.block_shapes[0][0]))


@contextmanager
def configure_gdal(place: str) -> Iterator[None]:
    """Apply GDAL's options for reading links, and say its errors in words.

    Raises:
        UserError: GDAL could not open or read the file.
    """
    try:
        with rasterio.Env(**GDAL_OPTIONS):
            yield
    except RasterioError as error:
        raise UserError(
            f"expected a readable raster in {place}, got: {describe_error(error)}; it is absent, unreachable or "
            "damaged: fetch or try it again"
        ) from error

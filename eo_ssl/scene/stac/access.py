"""Documents, files and links of a STAC catalogue: resolved, signed, measured, and read by GDAL with bounded patience.

Places are files of this machine or ``http(s)`` links. A document that came over the network may only name links. Other
stores (``s3://``) are refused in words: the catalogues this reader knows offer the same files over https.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import rasterio
import requests
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene import gdal_files
from eo_ssl.scene.gdal_files import describe_error

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # a link has no neighbours to list
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",  # the header of a COG in one request
    "GDAL_HTTP_MAX_RETRY": "2",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "8",
    "GDAL_HTTP_LOW_SPEED_TIME": "8",  # seconds without a byte: slow is allowed, stalled is not
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_TIMEOUT": "120",  # seconds for one request: a byte now and then is no answer
}
DEADLINE = 120.0  # seconds for a whole document or page of a search
TIMEOUT = (8.0, 20.0)  # seconds to connect, and between bytes
_DRIVERS = ("GTiff", "JP2OpenJPEG")  # what the catalogues store; a VRT or WMS could name any file or address
_DOCUMENT_BYTES = 256_000_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Header:
    """What a raster says of itself before any pixel is read."""

    grid: GeoBox
    dtype: str
    nodata: float | None
    block_rows: int
    masks: tuple[gdal_files.MaskBand, ...] = ()
    "masks and an alpha band that say which pixels are valid, beside the nodata value"
    description: str = field(default="", compare=False)
    "what the file calls its band"


def is_link(place: str) -> bool:
    """Return whether a place is reached over the network."""
    return place.startswith(("http://", "https://"))


def resolve(href: str, *, base: str, root: str = "") -> str:
    """Return the link or absolute path that ``href`` names in the document at ``base``.

    Args:
        href: relative to the document, or a link or path.
        base: link or path of the document; empty for an item of an API.
        root: folder that local files have to lie in, symbolic links followed; empty for anywhere.

    Raises:
        UserError: neither a file nor ``http(s)``, a local file named by a document from the network, or one outside
            ``root``.
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
    path = (Path(base).parent / place).resolve()
    expect(
        not root or path.is_relative_to(root),
        expected=f"files below {root} in {base}",
        got=repr(href),
        remedy="move them there, or, if you trust the catalogue, say so with --allow_outside true",
    )
    return str(path)


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
        data = bound_time(lambda: _fetch(place)) if is_link(place) else _load(Path(place))
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


def _fetch(link: str) -> bytes:
    with requests.get(link, timeout=TIMEOUT, stream=True) as answer:
        answer.raise_for_status()
        return bytes(answer.raw.read(_DOCUMENT_BYTES + 1, decode_content=True))


def _load(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise OSError("a folder, pipe or device")
    with path.open("rb") as file:
        return file.read(_DOCUMENT_BYTES + 1)


def bound_time(ask: Callable[[], T], *, seconds: float | None = None) -> T:
    """Return what ``ask`` returns, or give up: a server that sends a byte now and then keeps every other bound.

    The thread that asks is left to itself then, and ends with the process.

    Args:
        ask: whatever speaks to a server.
        seconds: to wait at most, by default ``DEADLINE``.

    Raises:
        TimeoutError: it did not return in time.
    """
    limit, outcome = DEADLINE if seconds is None else seconds, Future[T]()

    def run() -> None:
        try:
            outcome.set_result(ask())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return outcome.result(limit)
    except TimeoutError as error:
        raise (error if outcome.done() else TimeoutError(f"no whole answer within {limit:g} seconds")) from None


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
        answer = bound_time(lambda: requests.head(sign_link(place, sign=sign), timeout=TIMEOUT, allow_redirects=True))
        answer.raise_for_status()
        size = int(answer.headers["Content-Length"])
    except (OSError, KeyError, ValueError) as error:  # requests' own errors are OSErrors
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
    with open_place(place, sign=sign) as file:
        grid = gdal_files.read_dataset_grid(file, name=place)
        count = int(file.count) - (gdal_files.find_alpha(file) > 0)
        if count != 1 or grid.crs is None:
            found = f"{count} bands" if count != 1 else "no georeference"
            raise UserError(f"expected one georeferenced band in {place}, got {found}; such assets cannot be read")
        masks, rows = gdal_files.find_masks(file, 1), int(file.block_shapes[0][0])
        return Header(grid, str(file.dtypes[0]), file.nodatavals[0], rows, masks, file.descriptions[0] or "")


@contextmanager
def open_place(place: str, *, sign: str) -> Iterator[Any]:
    """Yield the open rasterio dataset of a link or file, with GDAL's errors in words.

    Raises:
        UserError: absent, unreachable, damaged, or neither GeoTIFF nor JPEG 2000.
    """
    if not is_link(place):
        gdal_files.check_sidecars(Path(place))
    try:
        with (
            rasterio.Env(**(GDAL_OPTIONS if is_link(place) else {})),
            gdal_files.open_dataset(sign_link(place, sign=sign), drivers=_DRIVERS) as file,
        ):
            yield file
    except RasterioError as error:
        raise UserError(
            f"expected a readable raster in {place}, got: {describe_error(error)}; it is absent, "
            f"unreachable or damaged, or no {' or '.join(_DRIVERS)}: fetch or try it again"
        ) from error

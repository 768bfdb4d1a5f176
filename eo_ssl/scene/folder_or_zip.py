"""Products that are a folder or a zip file: named members, read in place; and the one guarded way to read XML.

A zip is never unpacked. Its members have virtual paths *through* the zip file (``product.zip/S2A.SAFE/MTD.xml``), which
:mod:`eo_ssl.scene.gdal_files` gives to GDAL as ``/vsizip/``. Metadata come from strangers: member names that leave the
archive, members larger than their purpose, document types and entities are refused before anything is parsed.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, identify_file

_CHUNK = 4 * 2**20  # bytes
XML_BYTES = 64_000_000  # the largest annotation of a Sentinel product has about 8 MB


@dataclass(frozen=True, slots=True)
class Archive:
    """A product's folder, or the zip file that holds it. Pickles as its path."""

    path: Path
    "the folder or the zip file"

    @property
    def is_zip(self) -> bool:
        """Whether the members lie in a zip file."""
        return self.path.is_file()

    def names(self) -> tuple[str, ...]:
        """Return the names of all files in it, sorted, with ``/`` between folders, relative to the archive.

        Raises:
            UserError: the zip is damaged, or a member's name would leave it.
        """
        if self.is_zip:
            return tuple(sorted(_members(identify_file(self.path))))
        return tuple(sorted(path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()))

    def file(self, name: str) -> Path:
        """Return the path of a member; through the zip file when it is one."""
        return self.path / name

    def size(self, name: str) -> int:
        """Return the bytes of a member once unpacked.

        Raises:
            UserError: there is no such member.
        """
        if not self.is_zip:
            return identify_file(self.path / name)[2]
        members = _members(identify_file(self.path))
        if name not in members:
            raise UserError(f"expected {name} in {self.path}, found none; the product is incomplete, fetch it again")
        return members[name]

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a member in pieces; a zip's CRC is checked at its end.

        Raises:
            UserError: the member is absent or damaged.
        """
        self.size(name)  # refuses an absent member in words
        try:
            if not self.is_zip:
                with self.file(name).open("rb") as file:
                    while part := file.read(_CHUNK):
                        yield part
                return
            with zipfile.ZipFile(self.path) as archive, archive.open(name) as member:
                while part := member.read(_CHUNK):
                    yield part
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"expected {self.file(name)} to be readable, got: {str(error) or type(error).__name__}; it is damaged, "
                "fetch the product again"
            ) from error

    def read(self, name: str, *, limit: int = XML_BYTES) -> bytes:
        """Return the bytes of a (small) member.

        Raises:
            UserError: the member is absent, larger than ``limit`` bytes, or damaged.
        """
        stated, data = self.size(name), bytearray()
        for part in self.chunks(name) if stated <= limit else ():
            data += part
            if len(data) > limit:
                break
        if max(stated, len(data)) > limit:
            raise UserError(
                f"expected at most {limit:,} bytes in {name} of {self.path}, got {max(stated, len(data)):,}; this is "
                "no metadata file, fetch the product again"
            )
        return bytes(data)

    def xml(self, name: str) -> Element:
        """Return the root element of a member that is XML.

        Raises:
            UserError: the member is absent or damaged, or declares a document type or entities.
        """
        return parse_xml(self.read(name), name=f"{self.path}/{name}")


def parse_xml(data: bytes, *, name: str) -> Element:
    """Return the root element of ``data``.

    Raises:
        UserError: no well-formed XML, or one with a document type, entities or external references.
    """
    try:
        root: Element = defusedxml.ElementTree.fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise UserError(
            f"expected plain XML in {name}, got a document type or entities ({type(error).__name__}); Sentinel "
            "metadata have none, do not trust this file"
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise UserError(f"expected XML in {name}, got: {error}; the file is damaged, fetch it again") from error
    return root


@lru_cache(maxsize=64)
def _members(content: FileIdentity) -> dict[str, int]:
    """Files of a zip: name -> unpacked bytes; read once per process."""
    path = Path(content[0])
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(
            f"expected a zip file in {path}, got: {error}; it is damaged or cut short, fetch it again"
        ) from error
    members: dict[str, int] = {}
    for info in infos:
        parts = PurePosixPath(info.filename)
        if parts.is_absolute() or ".." in parts.parts or "\\" in info.filename or info.filename in members:
            raise UserError(
                f"expected names inside the archive, each once, in {path}, got {info.filename!r}; do not trust this "
                "file"
            )
        if not info.is_dir():
            members[info.filename] = info.file_size
    return members

"""A SAFE product on disk (folder, or folder inside a zip), and the checksums that its manifest states.

``manifest.safe`` lists each file with an MD5 (products until 2018) or SHA3-256 checksum, in hexadecimal digits of either case
(Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD, manifest file; XFDU ``byteStream/checksum``).
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from eo_ssl.errors import UserError
from eo_ssl.scene.archive import Archive, parse_xml
from eo_ssl.scene.handles import stamp

MANIFEST = "manifest.safe"
_CHUNK = 4 * 2**20  # bytes
_ALGORITHMS = {"MD5": "md5", "SHA3-256": "sha3_256", "SHA-256": "sha256"}


@dataclass(frozen=True, slots=True)
class Safe:
    """One SAFE product. Names of its files count from the product's own folder, whatever it is packed in."""

    archive: Archive
    prefix: str
    "of the names inside the archive: empty, or ``S2A_... .SAFE/``"
    name: str
    "of the product, without .SAFE"

    def names(self) -> frozenset[str]:
        """Return the names of all files."""
        start = len(self.prefix)
        return frozenset(name[start:] for name in self.archive.names() if name.startswith(self.prefix))

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return self.prefix + name in self.archive.names() if self.archive.is_zip else self.file(name).is_file()

    def file(self, name: str) -> Path:
        """Return the path of a file, through the zip if there is one."""
        return self.archive.file(self.prefix + name)

    def size(self, name: str) -> int:
        """Return the unpacked bytes of a file."""
        return self.archive.size(self.prefix + name)

    def xml(self, name: str) -> Element:
        """Return the root of an XML file whose bytes are those that the manifest states.

        Raises:
            UserError: the file is absent, damaged, hostile or not the one the manifest lists.
        """
        data = self.archive.read(self.prefix + name)
        stated = self.stated().get(name)
        if stated is not None:
            algorithm, expected = stated
            _compare(self.file(name), hashlib.new(algorithm, data, usedforsecurity=False).hexdigest(), expected)
        return parse_xml(data, name=str(self.file(name)))

    def stated(self) -> dict[str, tuple[str, str]]:
        """Return name -> (hashlib's name of the algorithm, lower-case digest) out of the manifest; empty when there is none.

        Raises:
            UserError: the manifest is damaged, or names an algorithm that is not known.
        """
        if not self.has(MANIFEST):
            return {}
        return _stated(stamp(self.file(MANIFEST)), self)

    def sha256(self, name: str) -> str:
        """Return the sha256 of a file, read once per process in pieces and compared with the manifest's checksum on the way.

        Quality masks that a manifest leaves out are taken as they are; an image or metadata file it leaves out is refused, because
        then the manifest is not that of these files.

        Raises:
            UserError: the file is absent or damaged, or is not the one the manifest lists.
        """
        stated = self.stated()
        expected = stated.get(name)
        if expected is None and stated and name != MANIFEST and "/QI_DATA/" not in name:
            raise UserError(
                f"expected a checksum of {name} in {self.file(MANIFEST)}, found none; the manifest is damaged or of another product, fetch the product again"
            )
        return _sha256(stamp(self.file(name)), self.archive, self.prefix + name, expected)


def safes(path: Path) -> list[Safe]:
    """Return the SAFE products that ``path`` is or directly holds: a ``.SAFE`` folder, a folder or a zip file around some.

    Anything that has a ``GRANULE`` folder counts, so that a product that lost its metadata is found and can be refused by name.

    Raises:
        UserError: the zip file is damaged or hostile.
    """
    archive = Archive(path)
    if not archive.is_zip:
        inner = [path] if _is_safe(path) else sorted(item for item in path.iterdir() if _is_safe(item))
        return [Safe(Archive(item), "", product_name(item.name)) for item in inner]
    found = set()
    for name in archive.names():
        parts = PurePosixPath(name).parts
        if "GRANULE" in parts[:-1]:
            found.add("".join(f"{part}/" for part in parts[: parts.index("GRANULE")]))
    return [Safe(archive, prefix, product_name(PurePosixPath(prefix).name or path.name)) for prefix in sorted(found)]


def _is_safe(path: Path) -> bool:
    return (path / "GRANULE").is_dir()


def product_name(name: str) -> str:
    """Return the name of a file or folder without .zip and .SAFE."""
    for suffix in (".zip", ".safe"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


@lru_cache(maxsize=256)
def _stated(_content: tuple[str, int, int], safe: Safe) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for stream in safe.archive.xml(safe.prefix + MANIFEST).iter("byteStream"):
        place, checksum = stream.find("fileLocation"), stream.find("checksum")
        if place is None or checksum is None:
            continue
        called = checksum.get("checksumName", "").upper()
        if called not in _ALGORITHMS:
            raise UserError(
                f"expected checksums out of {', '.join(_ALGORITHMS)} in {safe.file(MANIFEST)}, got {called!r}; the manifest is damaged, fetch the product again"
            )
        name = place.get("href", "").replace("\\", "/").removeprefix("./")
        found[name] = (_ALGORITHMS[called], (checksum.text or "").strip().lower())
    return found


@lru_cache(maxsize=8192)
def _sha256(_content: tuple[str, int, int], archive: Archive, name: str, expected: tuple[str, str] | None) -> str:
    digest = hashlib.sha256()
    own = hashlib.new(expected[0], usedforsecurity=False) if expected else None
    for chunk in _chunks(archive, name):
        digest.update(chunk)
        if own is not None:
            own.update(chunk)
    if expected is not None and own is not None:
        _compare(archive.file(name), own.hexdigest(), expected[1])
    return digest.hexdigest()


def _chunks(archive: Archive, name: str) -> Iterator[bytes]:
    archive.size(name)  # refuses an absent file in words
    try:
        if not archive.is_zip:
            with archive.file(name).open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
            return
        with zipfile.ZipFile(archive.path) as opened, opened.open(name) as member:  # compares the CRC at its end
            while chunk := member.read(_CHUNK):
                yield chunk
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"expected {archive.file(name)} to be readable, got: {str(error) or type(error).__name__}; it is damaged, fetch the product again"
        ) from error


def _compare(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise UserError(
            f"expected {path} to have the checksum {expected[:16]}... of its manifest, got {found[:16]}...; the file is damaged, fetch the product again"
        )

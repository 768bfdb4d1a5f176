"""SAFE products on disk (a folder, or a folder inside a zip), and the checksums that their manifests state.

``manifest.safe`` lists each file with an MD5 or SHA3-256 checksum in hexadecimal digits of either case (XFDU
``byteStream/checksum``; Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD, manifest file; SAFE for
Sentinel-1, S1-RS-MDA-52-7441, section 3.4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene.folder_or_zip import Archive, parse_xml

MANIFEST = "manifest.safe"
_ALGORITHMS = {"MD5": "md5", "SHA3-256": "sha3_256", "SHA-256": "sha256"}


@dataclass(frozen=True, slots=True)
class DataObject:
    """A file that a manifest lists."""

    identifier: str
    representation: str
    "what kind of file it is; Sentinel-2 says none"
    algorithm: str
    "as hashlib calls it"
    digest: str
    "lower-case hexadecimal"
    nbytes: int | None
    "as stated; None where the manifest does not say"


@dataclass(frozen=True, slots=True)
class Container:
    """One SAFE product. Names of its files count from the product's own folder, whatever it is packed in.

    Pickles as its path.
    """

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
        listed = self.objects().get(name)
        if listed is not None:
            _compare(self.file(name), hashlib.new(listed.algorithm, data, usedforsecurity=False).hexdigest(), listed)
        return parse_xml(data, name=str(self.file(name)))

    def objects(self) -> dict[str, DataObject]:
        """Return the files that the manifest lists with a checksum, by name; none when there is no manifest.

        Raises:
            UserError: the manifest is damaged, leads out of the product, or names an algorithm that is not known.
        """
        return _objects(identify_file(self.file(MANIFEST)), self) if self.has(MANIFEST) else {}

    def sha256(self, name: str) -> str:
        """Return the sha256 of a file, read once per process and compared with the manifest's checksum on the way.

        Quality masks that a manifest leaves out are taken as they are, and images that others stored anew as GeoTIFF;
        another image or metadata file it leaves out is refused, because then the manifest is not that of these files.

        Raises:
            UserError: the file is absent or damaged, or is not the one the manifest lists.
        """
        listed = self.objects()
        taken = name == MANIFEST or "/QI_DATA/" in name or name.endswith(".tif")
        if name not in listed and listed and not taken:
            raise UserError(
                f"expected a checksum of {name} in {self.file(MANIFEST)}, found none; the manifest is damaged or of "
                "another product, fetch the product again"
            )
        return _sha256(identify_file(self.file(name)), self.archive, self.prefix + name, listed.get(name))


def list_containers(path: Path, *, mark: str) -> list[Container]:
    """Return the SAFE products that ``path`` is or directly holds: a ``.SAFE`` folder, a folder or zip around some.

    Args:
        path: folder or zip file.
        mark: file or folder that a product of the wanted kind has at its top.

    Raises:
        UserError: the zip file is damaged or hostile.
    """
    archive = Archive(path)
    if not archive.is_zip:
        inner = [path] if (path / mark).exists() else sorted(item for item in path.iterdir() if (item / mark).exists())
        return [Container(Archive(item), "", trim_name(item.name)) for item in inner]
    prefixes = set()
    for name in archive.names():
        parts = PurePosixPath(name).parts
        if mark in parts:
            prefixes.add("".join(f"{part}/" for part in parts[: parts.index(mark)]))
    return [
        Container(archive, prefix, trim_name(PurePosixPath(prefix).name or path.name)) for prefix in sorted(prefixes)
    ]


def list_containers_below(
    card: Card, root: Path, *, mark: str
) -> tuple[list[Container], dict[str, str], list[tuple[str, str]]]:
    """Return a card's products, the unreadable ones (name -> reason), and (path, reason) of what is no product."""
    containers: list[Container] = []
    damaged: dict[str, str] = {}
    dropped: list[tuple[str, str]] = []
    for path in _candidates(card, root):
        try:
            here = list_containers(path, mark=mark)
        except UserError as error:
            damaged[trim_name(path.name)] = str(error)
            continue
        containers += here
        if not here:
            dropped.append((path.relative_to(root).as_posix(), f"no product of this kind: it holds no {mark}"))
    return containers, damaged, dropped


def trim_name(name: str) -> str:
    """Return the name of a file or folder without .zip and .SAFE."""
    for suffix in (".zip", ".safe"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


def _candidates(card: Card, root: Path) -> Iterator[Path]:
    """Folders and zip files that the pattern names, none inside another."""
    pattern = str(card.files)
    if Path(pattern).is_absolute():
        raise UserError(
            f"expected a pattern relative to {root} in card {card.name}, got {pattern!r}; give the folder as the root"
        )
    taken: set[Path] = set()
    for path in [root] if pattern in (".", "") else sorted(root.glob(pattern)):
        if (path.is_dir() or path.suffix.lower() == ".zip") and not taken & set(path.parents):
            taken.add(path)
            yield path


@lru_cache(maxsize=256)
def _objects(_content: FileIdentity, container: Container) -> dict[str, DataObject]:
    objects: dict[str, DataObject] = {}
    manifest = container.file(MANIFEST)
    for item in container.archive.xml(container.prefix + MANIFEST).iter("dataObject"):
        place, checksum = item.find("byteStream/fileLocation"), item.find("byteStream/checksum")
        if place is None or checksum is None:
            continue
        called, href = checksum.get("checksumName", "").upper(), place.get("href", "").replace("\\", "/")
        path = PurePosixPath(href)
        if path.is_absolute() or ".." in path.parts or ":" in href:
            raise UserError(f"expected files inside the product in {manifest}, got {href!r}; do not trust this product")
        if called not in _ALGORITHMS:
            raise UserError(
                f"expected checksums out of {', '.join(_ALGORITHMS)} in {manifest}, got {called!r}; the manifest is "
                "damaged, fetch the product again"
            )
        stated = item.find("byteStream")
        size = (stated.get("size") or "").strip() if stated is not None else ""
        objects[path.as_posix()] = DataObject(
            identifier=item.get("ID", ""),
            representation=item.get("repID", ""),
            algorithm=_ALGORITHMS[called],
            digest=(checksum.text or "").strip().lower(),
            nbytes=int(size) if size.isdecimal() else None,
        )
    return objects


@lru_cache(maxsize=8192)
def _sha256(_content: FileIdentity, archive: Archive, name: str, listed: DataObject | None) -> str:
    if listed is not None and listed.nbytes not in (
        None,
        archive.size(name),
    ):  # said at once, before a bomb is unpacked
        raise UserError(
            f"expected {archive.file(name)} to have the {listed.nbytes} bytes of its manifest, got "
            f"{archive.size(name)}; "
            "the file is damaged, fetch the product again"
        )
    digest = hashlib.sha256()
    own = hashlib.new(listed.algorithm, usedforsecurity=False) if listed else None
    for chunk in archive.chunks(name):
        digest.update(chunk)
        if own is not None:
            own.update(chunk)
    if listed is not None and own is not None:
        _compare(archive.file(name), own.hexdigest(), listed)
    return digest.hexdigest()


def _compare(path: Path, digest: str, listed: DataObject) -> None:
    if digest != listed.digest:
        raise UserError(
            f"expected {path} to have the checksum {listed.digest[:16]}... of its manifest, got {digest[:16]}...; "
            "the file is damaged, fetch the product again"
        )

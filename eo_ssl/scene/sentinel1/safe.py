"""A Sentinel-1 product in SAFE: what its manifest says, and the files of each image.

Which annotation, calibration and noise belong to which measurement is read from the manifest (content units of the measurement data and
their ``dmdID``; SAFE for Sentinel-1, S1-RS-MDA-52-7441 section 3.4), never guessed from what happens to lie in the folder. A zip is read in
place; folder and zip of one product have one checksum.
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
from eo_ssl.scene.archive import Archive
from eo_ssl.scene.handles import stamp
from eo_ssl.scene.sentinel1.annotation import Annotation, read_annotation
from eo_ssl.scene.sentinel1.calibration import Calibration, read_calibration
from eo_ssl.scene.sentinel1.noise import Noise, read_noise

_CHUNK = 1 << 22
_ROLES = {
    "s1Level1ProductSchema": "annotation",
    "s1Level1CalibrationSchema": "calibration",
    "s1Level1NoiseSchema": "noise",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A file that the manifest lists."""

    name: str
    "within the archive"
    size: int
    md5: str


@dataclass(frozen=True, slots=True)
class SafeImage:
    """The files of one image (a swath or vignette in one polarisation), named within the archive."""

    polarisation: str
    swath: str
    number: int
    "image number: the last field of the file names"
    measurement: str
    annotation: str
    calibration: str
    noise: str | None
    "None where the manifest lists none"


@dataclass(frozen=True, slots=True)
class Safe:
    """A product as its manifest describes it. Pickles; holds no pixels."""

    archive: Archive
    manifest: str
    "name of the manifest within the archive"
    platform: str
    "S1A, S1B ...: family and letter as the manifest spells them"
    mode: str
    "IW, EW, WV, or the beam of a stripmap (S1 ... S6)"
    product_type: str
    orbit_pass: str
    "ascending or descending"
    absolute_orbit: int
    relative_orbit: int
    processor: str
    "version of the instrument processing facility, e.g. 003.31"
    start: str
    stop: str
    images: tuple[SafeImage, ...]
    "in the order of their numbers"
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        """Name of the product without suffix, the same for folder and zip."""
        return self.archive.path.name.removesuffix(".zip").removesuffix(".SAFE")

    def check_complete(self, images: tuple[SafeImage, ...]) -> None:
        """Refuse a product that lacks a file of ``images``.

        Raises:
            UserError: naming the first one, for example the measurement of a product of annotations alone.
        """
        present = set(self.archive.names())
        for image in images:
            for name in (image.measurement, image.annotation, image.calibration, image.noise):
                if name is not None and name not in present:
                    raise UserError(
                        f"expected the file {name} in {self.archive.path}, found none; the product is incomplete, fetch it again"
                    )

    def checksum(self) -> str:
        """Return a sha256 (hex) of the manifest, after every listed file that is there was compared with its MD5 in the manifest.

        A quick-look or report may be left out of a product; a file of an image may not.

        Raises:
            UserError: a file differs from the manifest, or a file of an image is absent.
        """
        self.check_complete(self.images)
        present = set(self.archive.names())
        for member in self.members:
            if member.name not in present:
                continue
            digest = hashlib.md5(usedforsecurity=False)
            for part in _chunks(self.archive, member.name):
                digest.update(part)
            if digest.hexdigest() != member.md5:
                raise UserError(
                    f"expected MD5 {member.md5} of {member.name} in {self.archive.path} as its manifest says, got {digest.hexdigest()}; "
                    "the file is damaged or was changed, fetch it again"
                )
        return hashlib.sha256(self.archive.read(self.manifest)).hexdigest()

    def annotation(self, image: SafeImage) -> Annotation:
        """Return the annotation of an image, parsed once per process.

        Raises:
            UserError: it is damaged, or contradicts the manifest in platform, polarisation, orbit, pass or start.
        """
        found = _annotation(stamp(self.archive.file(image.annotation)), self.archive, image.annotation)
        stated = {"platform": (self.platform, found.platform), "pass": (self.orbit_pass, found.orbit_pass),
                  "orbit": (self.absolute_orbit, found.absolute_orbit), "polarisation": (image.polarisation, found.polarisation),
                  "product type": (self.product_type, found.product_type)}  # fmt: skip
        for what, (listed, said) in stated.items():
            if listed != said:
                raise UserError(
                    f"expected {what} {listed} of the manifest in {image.annotation} of {self.archive.path}, got {said}; "
                    "the product is damaged or mixed from two, fetch it again"
                )
        return found

    def calibration(self, image: SafeImage) -> Calibration:
        """Return the calibration tables of an image, parsed once per process."""
        return _calibration(stamp(self.archive.file(image.calibration)), self.archive, image.calibration)

    def noise(self, image: SafeImage) -> Noise | None:
        """Return the noise of an image, parsed once per process; None where the product does not know it."""
        if image.noise is None:
            return None
        return _noise(stamp(self.archive.file(image.noise)), self.archive, image.noise)

    def files(self, images: tuple[SafeImage, ...]) -> tuple[str, ...]:
        """Return the names of all files of ``images``."""
        return tuple(
            name
            for image in images
            for name in (image.measurement, image.annotation, image.calibration, image.noise)
            if name is not None
        )


def open_safe(path: Path) -> Safe:
    """Return the product in a folder (``....SAFE``) or zip file, from its manifest; read once per process.

    Raises:
        UserError: there is not exactly one manifest, or it is damaged or lists an image without annotation or calibration.
    """
    archive = Archive(Path(path))
    manifests = [name for name in archive.names() if PurePosixPath(name).name == "manifest.safe"]
    if len(manifests) != 1:
        raise UserError(
            f"expected one manifest.safe in {path}, got {len(manifests)}; give the folder or zip of one Sentinel-1 product"
        )
    return _safe(stamp(archive.file(manifests[0])), archive, manifests[0])


@lru_cache(maxsize=256)
def _safe(content: tuple[str, int, int], archive: Archive, manifest: str) -> Safe:
    root, name = archive.xml(manifest), f"{archive.path}/{manifest}"
    mode = _text(root, "instrumentMode/mode", name)
    members = _members(root, PurePosixPath(manifest).parent, name)
    software = [item.get("version", "") for item in root.iterfind(".//{*}processing/{*}facility/{*}software")]
    if not software or not software[0]:
        raise UserError(
            f"expected the version of the processor in {name}, found none; the manifest is damaged, fetch it again"
        )
    return Safe(
        archive=archive,
        manifest=manifest,
        platform=f"S1{_text(root, 'platform/number', name)}",
        mode=_text(root, "instrumentMode/swath", name) if mode == "SM" else mode,
        product_type=_text(root, "standAloneProductInformation/productType", name),
        orbit_pass=_text(root, "orbitProperties/pass", name).lower(),
        absolute_orbit=_whole(root, "orbitNumber", name),
        relative_orbit=_whole(root, "relativeOrbitNumber", name),
        processor=software[0],  # the outermost processing step comes first
        start=_text(root, "acquisitionPeriod/startTime", name),
        stop=_text(root, "acquisitionPeriod/stopTime", name),
        images=_images(root, members, name),
        members=tuple(members.values()),
    )


def _members(root: Element, folder: PurePosixPath, name: str) -> dict[str, Member]:
    """Files by the ID of their data object."""
    found = {}
    for item in root.iterfind("dataObjectSection/dataObject"):
        href = _attribute(item, "byteStream/fileLocation", "href", name)
        path = PurePosixPath(href)
        if path.is_absolute() or ".." in path.parts or ":" in href:
            raise UserError(f"expected files inside the product in {name}, got {href!r}; do not trust this product")
        size, md5 = _attribute(item, "byteStream", "size", name), item.find("byteStream/checksum")
        if md5 is None or md5.get("checksumName") != "MD5" or not md5.text or not size.isdecimal():
            raise UserError(
                f"expected size and MD5 of {href} in {name}, got none; the manifest is damaged, fetch it again"
            )
        found[item.get("ID", "")] = Member((folder / path).as_posix(), int(size), md5.text.strip().lower())
    return found


def _images(root: Element, members: dict[str, Member], name: str) -> tuple[SafeImage, ...]:
    objects = {item.get("ID", ""): item.get("repID", "") for item in root.iterfind("dataObjectSection/dataObject")}
    described = {
        item.get("ID", ""): pointer.get("dataObjectID", "")
        for item in root.iterfind("metadataSection/metadataObject")
        if (pointer := item.find("dataObjectPointer")) is not None
    }
    images = []
    for unit in root.iterfind(".//{*}contentUnit[@repID='s1Level1MeasurementSchema']"):
        roles: dict[str, str] = {}
        for reference in unit.get("dmdID", "").split():
            target = described.get(reference, "")
            if objects.get(target) in _ROLES and target in members:
                roles[_ROLES[objects[target]]] = members[target].name
        measurement = _attribute(unit, "dataObjectPointer", "dataObjectID", name)
        if measurement not in members or not {"annotation", "calibration"} <= set(roles):
            raise UserError(
                f"expected measurement, annotation and calibration of image {measurement!r} in {name}, got {', '.join(sorted(roles)) or 'none'}; "
                "the manifest is damaged, fetch the product again"
            )
        images.append(_image(members[measurement].name, roles, name))
    if not images:
        raise UserError(f"expected images in {name}, found none; give a Level-1 product")
    return tuple(sorted(images, key=lambda image: (image.number, image.measurement)))


def _image(measurement: str, roles: dict[str, str], name: str) -> SafeImage:
    """The fields of an annotation's name: mission, swath, type, polarisation, start, stop, orbit, data take, image number."""
    fields = PurePosixPath(roles["annotation"]).stem.removesuffix("-cog").split("-")
    if len(fields) != 9 or not fields[8].isdecimal():
        raise UserError(
            f"expected an annotation name of nine fields in {name}, got {roles['annotation']}; restore the product's own file names"
        )
    return SafeImage(
        polarisation=fields[3].upper(),
        swath=fields[1].upper(),
        number=int(fields[8]),
        measurement=measurement,
        annotation=roles["annotation"],
        calibration=roles["calibration"],
        noise=roles.get("noise"),
    )


@lru_cache(maxsize=16)
def _annotation(content: tuple[str, int, int], archive: Archive, member: str) -> Annotation:
    return read_annotation(archive.xml(member), name=f"{archive.path}/{member}")


@lru_cache(maxsize=16)
def _calibration(content: tuple[str, int, int], archive: Archive, member: str) -> Calibration:
    return read_calibration(archive.xml(member), name=f"{archive.path}/{member}")


@lru_cache(maxsize=16)
def _noise(content: tuple[str, int, int], archive: Archive, member: str) -> Noise | None:
    return read_noise(archive.xml(member), name=f"{archive.path}/{member}")


def _chunks(archive: Archive, name: str) -> Iterator[bytes]:
    try:
        if not archive.is_zip:
            with archive.file(name).open("rb") as file:
                while part := file.read(_CHUNK):
                    yield part
            return
        with zipfile.ZipFile(archive.path) as container, container.open(name) as member:
            while part := member.read(_CHUNK):
                yield part
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"expected {name} in {archive.path} to be readable, got: {str(error) or type(error).__name__}; it is damaged, fetch it again"
        ) from error


def _text(root: Element, tags: str, name: str) -> str:
    found = root.findtext(".//" + "/".join(f"{{*}}{tag}" for tag in tags.split("/")), "").strip()
    if not found:
        raise UserError(
            f"expected {tags} in {name}, found none; this is no Sentinel-1 manifest or it is damaged, fetch it again"
        )
    return found


def _whole(root: Element, tag: str, name: str) -> int:
    found = _text(root, tag, name)
    if not found.isdecimal():
        raise UserError(
            f"expected a whole number as {tag} in {name}, got {found!r}; the manifest is damaged, fetch it again"
        )
    return int(found)


def _attribute(parent: Element, tag: str, key: str, name: str) -> str:
    found = parent.find(tag)
    value = "" if found is None else found.get(key, "")
    if not value:
        raise UserError(f"expected {key} of {tag} in {name}, found none; the manifest is damaged, fetch it again")
    return value

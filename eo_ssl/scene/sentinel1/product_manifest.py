"""A Sentinel-1 product in SAFE: what its manifest says, and the files of each image.

Which annotation, calibration and noise belong to which measurement is read from the manifest (content units of the
measurement data and their ``dmdID``; SAFE for Sentinel-1, S1-RS-MDA-52-7441 section 3.4), never guessed from what
happens to lie in the folder. Folder and zip of one product have one checksum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene.acquisition import Acquisition, format_iso, name_acquisition
from eo_ssl.scene.safe_container import MANIFEST, Container, DataObject
from eo_ssl.scene.sentinel1.annotation import Annotation, read_annotation
from eo_ssl.scene.sentinel1.calibration import Calibration, read_calibration
from eo_ssl.scene.sentinel1.noise import Noise, read_noise

_ROLES = {
    "s1Level1ProductSchema": "annotation",
    "s1Level1CalibrationSchema": "calibration",
    "s1Level1NoiseSchema": "noise",
}
_COG = "-cog"  # at the end of file names in the cloud-optimised form


@dataclass(frozen=True, slots=True)
class SafeImage:
    """The files of one image (a swath or vignette in one polarisation), named within the product."""

    polarisation: str
    swath: str
    number: int
    "image number: the last field of the file names"
    measurement: str
    annotation: str
    calibration: str
    noise: str | None
    "None where the manifest lists none"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all of them."""
        return tuple(name for name in (self.measurement, self.annotation, self.calibration, self.noise) if name)


@dataclass(frozen=True, slots=True)
class Safe:
    """A product as its manifest describes it. Pickles; holds no pixels."""

    container: Container
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
    data_take: str
    "identifier of the data take, empty where the manifest does not say"
    slice_number: str
    "which slice of the data take, empty for products that are none"
    images: tuple[SafeImage, ...]
    "in the order of their numbers"

    @property
    def name(self) -> str:
        """Name of the product without suffix, the same for folder and zip."""
        return self.container.name

    @property
    def is_cloud_optimised(self) -> bool:
        """Whether this is the cloud-optimised form that the Copernicus Data Space makes of a product."""
        return all(PurePosixPath(image.measurement).stem.endswith(_COG) for image in self.images)

    def name_acquisition(self, *, spacing_m: int) -> str:
        """Return the key of the acquisition; products of other ``spacing_m`` between pixels are no copies of it."""
        what = (self.platform, self.mode, self.product_type, self.absolute_orbit, self.data_take, self.slice_number)
        polarisations = "+".join(sorted({image.polarisation for image in self.images}))
        return name_acquisition([*what, polarisations, spacing_m], start=self.start, stop=self.stop)

    @property
    def acquisition(self) -> Acquisition:
        """What the manifest says of the acquisition."""
        return Acquisition(
            datetime=format_iso(self.start),
            processing_baseline=self.processor,
            orbit=self.orbit_pass,
            offset=0.0,
            platform=self.platform,
            mode=self.mode,
            relative_orbit=self.relative_orbit,
        )

    def check_complete(self, images: tuple[SafeImage, ...]) -> None:
        """Refuse a product that lacks a file of ``images``.

        Raises:
            UserError: naming the first one, for example the measurement of a product of annotations alone.
        """
        for name in (name for image in images for name in image.files if not self.container.has(name)):
            raise UserError(
                f"expected the file {name} in {self.container.file('')}, found none; the product is incomplete, fetch "
                "it again"
            )

    def digests(self, image: SafeImage) -> dict[str, str]:
        """Return the sha256 (hex) of each file of an image by its name, compared with the manifest.

        Raises:
            UserError: a file is absent or damaged.
        """
        self.check_complete((image,))
        return {name: self.container.sha256(name) for name in image.files}

    def checksum(self, *, without: tuple[SafeImage, ...] = ()) -> str:
        """Return the sha256 (hex) of the manifest, after comparing every listed file that is there with its checksum.

        A quick-look or report may be left out of a product; a file of an image may not.

        Args:
            without: images whose files are left to be compared when they are read.

        Raises:
            UserError: a file differs from the manifest, or a file of an image is absent.
        """
        later = {name for image in without for name in image.files}
        self.check_complete(tuple(image for image in self.images if image not in without))
        present = self.container.names()
        for name in self.container.objects():
            if name in present and name not in later:
                self.container.sha256(name)
        return self.container.sha256(MANIFEST)

    def annotation(self, image: SafeImage) -> Annotation:
        """Return the annotation of an image, parsed once per process.

        Raises:
            UserError: it is damaged, or contradicts the manifest in platform, polarisation, orbit, pass or start.
        """
        annotation = _annotation(identify_file(self.container.file(image.annotation)), self.container, image.annotation)
        stated = {
            "platform": (self.platform, annotation.platform),
            "pass": (self.orbit_pass, annotation.orbit_pass),
            "orbit": (self.absolute_orbit, annotation.absolute_orbit),
            "polarisation": (image.polarisation, annotation.polarisation),
            "product type": (self.product_type, annotation.product_type),
        }
        for what, (listed, said) in stated.items():
            if listed != said:
                raise UserError(
                    f"expected {what} {listed} of the manifest in {self.container.file(image.annotation)}, got {said}; "
                    "the product is damaged or mixed from two, fetch it again"
                )
        return annotation

    def calibration(self, image: SafeImage) -> Calibration:
        """Return the calibration tables of an image, parsed once per process."""
        return _calibration(identify_file(self.container.file(image.calibration)), self.container, image.calibration)

    def noise(self, image: SafeImage) -> Noise | None:
        """Return the noise of an image, parsed once per process; None where the product does not know it."""
        if image.noise is None:
            return None
        return _noise(identify_file(self.container.file(image.noise)), self.container, image.noise)


def open_safe(container: Container) -> Safe:
    """Return a product from its manifest; read once per process.

    Raises:
        UserError: the manifest is absent or damaged, or lists an image without annotation or calibration.
    """
    return _safe(identify_file(container.file(MANIFEST)), container)


@lru_cache(maxsize=256)
def _safe(_content: FileIdentity, container: Container) -> Safe:
    root, name = container.xml(MANIFEST), str(container.file(MANIFEST))
    mode = _text(root, "instrumentMode/mode", name)
    software = [item.get("version", "") for item in root.iterfind(".//{*}processing/{*}facility/{*}software")]
    if not software or not software[0]:
        raise UserError(
            f"expected the version of the processor in {name}, found none; the manifest is damaged, fetch it again"
        )
    return Safe(
        container=container,
        platform=f"S1{_text(root, 'platform/number', name)}",
        mode=_text(root, "instrumentMode/swath", name) if mode == "SM" else mode,
        product_type=_text(root, "standAloneProductInformation/productType", name),
        orbit_pass=_text(root, "orbitProperties/pass", name).lower(),
        absolute_orbit=_whole(root, "orbitNumber", name),
        relative_orbit=_whole(root, "relativeOrbitNumber", name),
        processor=software[0],  # the outermost processing step comes first
        data_take=_optional(root, "missionDataTakeID"),
        slice_number=_optional(root, "sliceNumber"),
        start=_text(root, "acquisitionPeriod/startTime", name),
        stop=_text(root, "acquisitionPeriod/stopTime", name),
        images=_images(root, container.objects(), name),
    )


def _images(root: Element, objects: dict[str, DataObject], name: str) -> tuple[SafeImage, ...]:
    listed = {item.identifier: (file, item.representation) for file, item in objects.items()}
    described = {
        item.get("ID", ""): pointer.get("dataObjectID", "")
        for item in root.iterfind("metadataSection/metadataObject")
        if (pointer := item.find("dataObjectPointer")) is not None
    }
    images = []
    for unit in root.iterfind(".//{*}contentUnit[@repID='s1Level1MeasurementSchema']"):
        roles: dict[str, str] = {}
        for reference in unit.get("dmdID", "").split():
            file, kind = listed.get(described.get(reference, ""), ("", ""))
            if kind in _ROLES:
                roles[_ROLES[kind]] = file
        pointer = unit.find("dataObjectPointer")
        measurement = "" if pointer is None else pointer.get("dataObjectID", "")
        if measurement not in listed or not {"annotation", "calibration"} <= set(roles):
            raise UserError(
                f"expected measurement, annotation and calibration of image {measurement!r} in {name}, got "
                f"{', '.join(sorted(roles)) or 'none'}; "
                "the manifest is damaged, fetch the product again"
            )
        images.append(_image(listed[measurement][0], roles, name))
    if not images:
        raise UserError(f"expected images in {name}, found none; give a Level-1 product")
    return tuple(sorted(images, key=lambda image: (image.number, image.measurement)))


def _image(measurement: str, roles: dict[str, str], name: str) -> SafeImage:
    """Fields of an annotation's name: mission, swath, type, polarisation, start, stop, orbit, data take, number."""
    fields = PurePosixPath(roles["annotation"]).stem.removesuffix(_COG).split("-")
    if len(fields) != 9 or not fields[8].isdecimal():
        raise UserError(
            f"expected an annotation name of nine fields in {name}, got {roles['annotation']}; restore the product's "
            "own file names"
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
def _annotation(_content: FileIdentity, container: Container, member: str) -> Annotation:
    return read_annotation(container.xml(member), name=str(container.file(member)))


@lru_cache(maxsize=16)
def _calibration(_content: FileIdentity, container: Container, member: str) -> Calibration:
    return read_calibration(container.xml(member), name=str(container.file(member)))


@lru_cache(maxsize=16)
def _noise(_content: FileIdentity, container: Container, member: str) -> Noise | None:
    return read_noise(container.xml(member), name=str(container.file(member)))


def _text(root: Element, tags: str, name: str) -> str:
    text = root.findtext(".//" + "/".join(f"{{*}}{tag}" for tag in tags.split("/")), "").strip()
    if not text:
        raise UserError(
            f"expected {tags} in {name}, found none; this is no Sentinel-1 manifest or it is damaged, fetch it again"
        )
    return text


def _optional(root: Element, tag: str) -> str:
    return root.findtext(f".//{{*}}{tag}", "").strip()


def _whole(root: Element, tag: str, name: str) -> int:
    text = _text(root, tag, name)
    if not text.isdecimal():
        raise UserError(
            f"expected a whole number as {tag} in {name}, got {text!r}; the manifest is damaged, fetch it again"
        )
    return int(text)

"""A SAFE product on disk: a folder filled under another name, a manifest with checksums, then a rename or a zip."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt
import rasterio

from eo_ssl.commits import explain_os_error, sync_folder
from eo_ssl.errors import expect

_ZIP_TIME = (2024, 1, 1, 0, 0, 0)  # of every member: equal products give equal zip files
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class DataObject:
    """One file as the manifest lists it."""

    identifier: str
    name: str
    "relative to the product, with / between folders"
    mime: str
    representation: str = ""
    "repID of the manifest of Sentinel-1; Sentinel-2 has none"


@dataclass(slots=True)
class Draft:
    """A product that is being written: files go below ``root``, in the order in which the manifest is to list them."""

    root: Path
    objects: list[DataObject] = field(default_factory=list)

    def add(self, name: str, data: str | bytes, *, identifier: str, mime: str, representation: str = "") -> None:
        """Write a small file and list it."""
        path = self.reserve(name, identifier=identifier, mime=mime, representation=representation)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    def reserve(self, name: str, *, identifier: str, mime: str, representation: str = "") -> Path:
        """List a file that the caller writes, and return where to."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.objects.append(DataObject(identifier, name, mime, representation))
        return path

    def list_objects(self, algorithm: str) -> list[dict[str, Any]]:
        """Return all files as the manifest lists them, with size and checksum."""
        return [
            {
                **asdict(entry),
                "size": (self.root / entry.name).stat().st_size,
                "digest": self.digest(entry.name, algorithm),
            }
            for entry in self.objects
        ]

    def digest(self, name: str, algorithm: str) -> str:
        """Return the checksum of a file in lower-case hexadecimal; ``algorithm`` as manifests spell it (SHA3-256)."""
        made = hashlib.new(algorithm.lower().replace("-", "_"), usedforsecurity=False)
        with (self.root / name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                made.update(chunk)
        return made.hexdigest()


@contextmanager
def open_draft(folder: Path, name: str, *, zipped: bool) -> Iterator[tuple[Draft, Path]]:
    """Yield a draft of ``name`` and the path where it appears, whole, when the block ends; nothing does when it raises.

    Raises:
        UserError: the product exists already, or the folder cannot be written.
    """
    final = folder / (f"{name.removesuffix('.SAFE')}.zip" if zipped else name)
    expect(not final.exists(), expected=f"no product at {final}", got="one", remedy="give another folder or remove it")
    # No search for products, however deep, takes the draft for one: nothing in it is called .SAFE or .zip.
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    root, packed = temporary / "product", temporary / "packed"
    try:
        root.mkdir(parents=True)
        yield Draft(root), final
        if zipped:
            _pack(root, packed, name)
        (packed if zipped else root).rename(final)
        sync_folder(folder)
    except OSError as error:
        raise explain_os_error(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _pack(source: Path, target: Path, name: str) -> None:
    """Zip all below ``source`` in sorted order as a folder ``name``; JPEG 2000, compressed already, is only stored."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    with zipfile.ZipFile(target, "w") as archive:
        for path in files:
            info = zipfile.ZipInfo(f"{name}/{path.relative_to(source).as_posix()}", _ZIP_TIME)
            info.compress_type = zipfile.ZIP_STORED if path.suffix == ".jp2" else zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            with path.open("rb") as data, archive.open(info, "w") as member:
                shutil.copyfileobj(data, member, _CHUNK)


def write_raster(path: Path, image: npt.NDArray[Any], **profile: Any) -> None:
    """Write ``image`` [y, x] or [band, y, x] as ``profile`` says (driver, crs, transform, creation options)."""
    bands = image if image.ndim == 3 else image[None]
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", count=count, height=height, width=width, dtype=profile.pop("dtype", bands.dtype.name), **profile
    ) as file:
        file.write(bands)
    # GDAL keeps what the format has no place for in a side file; a product has none.
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)

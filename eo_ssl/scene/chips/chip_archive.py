"""Small images in a tar file or a folder, listed by a manifest in CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from eo_ssl.cards import Card, Chips
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene.chip import UNLABELLED, Chip, ChipEntry
from eo_ssl.scene.gdal_files import (
    describe_error,
    find_unmeasured,
    is_tiff,
    list_measured,
    open_quietly,
)
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.raster_facts import check_dataset_names

_FORMATS = ("PNG", "JPEG", "TIFF", "JPEG2000", "GIF", "BMP", "PPM", "WEBP")  # others run programs, as PostScript does
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}


def _settings(card: Card) -> Chips:
    if card.chips is None:
        raise UserError(f"expected card {card.name} to have `chips`, got none; add it")
    return card.chips


def list_entries(card: Card, root: Path) -> tuple[Path, tuple[ChipEntry, ...], tuple[tuple[str, str], ...]]:
    """Return the archive, the chips sorted by path and the chips left out with the reason.

    A chip is left out when the manifest's ``exclude`` names it, when its bytes equal those of an excluded chip (the
    same image under another name would leak just as well), or when it is smaller than the crop and ``undersized`` says
    drop.

    Raises:
        UserError: archive, manifest or a column is absent, a listed chip is not in the archive, or nothing is left.
    """
    settings = _settings(card)
    archive = root / settings.archive
    content = identify_file(archive)
    members = _folder_members(archive) if archive.is_dir() else _tar_members(content)
    rows = [row for row in _rows(root / settings.manifest, settings, card) if _matches(row, settings.where)]
    excluded = _excluded(card, root)
    absent = sorted({row[settings.path_column] for row in rows} - set(members))
    if absent:
        raise UserError(
            f"expected the chip {absent[0]!r} of {settings.manifest} in {archive}, found none ({len(absent)} such); "
            "use the archive that fits"
        )
    banned = {hashlib.sha256(_bytes(archive, name, *members[name])).hexdigest() for name in excluded if name in members}
    labels = sorted({row[settings.label_column] for row in rows}) if settings.label_column else []
    kept: list[ChipEntry] = []
    dropped: list[tuple[str, str]] = []
    for row in sorted(rows, key=lambda row: row[settings.path_column]):
        name = row[settings.path_column]
        reason = _reason_to_drop(archive, name, members[name], excluded, banned, settings)
        if reason:
            dropped.append((name, reason))
            continue
        label = row[settings.label_column] if settings.label_column else ""
        split = _SPLITS.get(row[settings.split_column].lower(), "") if settings.split_column else ""
        kept.append(ChipEntry(name, *members[name], labels.index(label) if labels else UNLABELLED, label, split))
    if not kept:
        raise UserError(
            f"expected chips in {settings.manifest} after `where` and `exclude` of card {card.name}, got none; relax "
            "them"
        )
    return archive, tuple(kept), tuple(dropped)


def _reason_to_drop(
    archive: Path, name: str, member: tuple[int, int], excluded: set[str], banned: set[str], settings: Chips
) -> str:
    if name in excluded:
        return f"excluded by {settings.exclude.manifest if settings.exclude else ''}"
    if banned or settings.undersized == "drop":
        data = _bytes(archive, name, *member)
        if hashlib.sha256(data).hexdigest() in banned:
            return "same bytes as an excluded chip"
        if settings.undersized == "drop":
            width, height = _image(data, name, archive).size
            if min(width, height) < settings.crop_px:
                return f"{width} x {height} pixels, smaller than the crop of {settings.crop_px}"
    return ""


def _excluded(card: Card, root: Path) -> set[str]:
    settings = _settings(card)
    if settings.exclude is None:
        return set()
    rows = _table(root / settings.exclude.manifest, [settings.exclude.column, *settings.exclude.where], card)
    return {row[settings.exclude.column] for row in rows if _matches(row, settings.exclude.where)}


def _matches(row: dict[str, str], where: dict[str, str]) -> bool:
    return all(row[column] == value for column, value in where.items())


def _rows(path: Path, settings: Chips, card: Card) -> list[dict[str, str]]:
    columns = [settings.path_column, settings.label_column, settings.split_column, *settings.where]
    return _table(path, [column for column in columns if column], card)


def _table(path: Path, columns: list[str], card: Card) -> list[dict[str, str]]:
    identify_file(path)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        absent = [column for column in columns if column not in (reader.fieldnames or ())]
        if absent:
            present = ", ".join(reader.fieldnames or ())
            raise UserError(
                f"expected the column {absent[0]!r} in {path}, got {present}; correct `chips` of card {card.name}"
            )
        return list(reader)


def _folder_members(path: Path) -> dict[str, tuple[int, int]]:
    return {file.relative_to(path).as_posix(): (0, file.stat().st_size) for file in path.rglob("*") if file.is_file()}


@lru_cache(maxsize=4)
def _tar_members(content: FileIdentity) -> dict[str, tuple[int, int]]:
    """Index of a tar, built once per process: name -> (byte offset, size)."""
    path = Path(content[0])
    try:
        with tarfile.open(path, "r:") as archive:
            return {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"expected an uncompressed tar file in {path}, got: {error}; unpack or fetch it again"
        ) from error


def _bytes(archive: Path, name: str, start: int, size: int) -> bytes:
    folder = archive.is_dir()
    handle = os.open(archive / name if folder else archive, os.O_RDONLY)
    try:
        data = os.pread(handle, size, start)
    finally:
        os.close(handle)
    if len(data) != size:
        raise UserError(
            f"expected {size} bytes of chip {name} in {archive}, got {len(data)}; the file is truncated, fetch it again"
        )
    return data


def _image(data: bytes, name: str, archive: Path) -> Any:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(
            f"expected an image in chip {name} of {archive}, got bytes that are none; fetch the archive again"
        ) from error


def hash_chips(archive: Path, entries: tuple[ChipEntry, ...]) -> tuple[str, ...]:
    """Return the sha256 (hex) of each chip's bytes as stored."""
    return tuple(hashlib.sha256(_bytes(archive, entry.name, entry.start, entry.size)).hexdigest() for entry in entries)


def decode_chips(
    card: Card, archive: Path, *, entries: tuple[ChipEntry, ...], radiometry: Radiometry
) -> Iterator[Chip]:
    """Yield the chips of ``entries`` in order, centre-cropped, in physical units.

    Raises:
        UserError: a chip is damaged or has another number of channels than the card has bands.
    """
    crop = _settings(card).crop_px
    for entry in entries:
        data = _bytes(archive, entry.name, entry.start, entry.size)
        name = f"chip {entry.name} of {archive}"
        if is_tiff(data):
            planes, masked = _decode_tiff(data, card, radiometry, name=name)
        else:
            planes, masked = _decode_picture(_image(data, entry.name, archive), card, name=name)
        if len(planes) != len(card.bands):
            raise UserError(
                f"expected {len(card.bands)} bands in {name}, got {len(planes)}; correct `bands` of card {card.name}"
            )
        height, width = planes.shape[1:]
        row_off, col_off = (height - crop) // 2, (width - crop) // 2
        physical = radiometry.physical(planes)
        physical[np.broadcast_to(masked, physical.shape)] = np.nan
        values = _cropped(physical, row_off=row_off, col_off=col_off, size=crop)
        yield Chip(
            image=values,
            valid=np.asarray(np.isfinite(values).all(axis=0)),
            name=entry.name,
            sha256=hashlib.sha256(data).hexdigest(),
            label=entry.label,
            label_name=entry.label_name,
            split=entry.split,
            width_px=width,
            height_px=height,
            row_off=row_off,
            col_off=col_off,
        )


def _decode_picture(image: Any, card: Card, *, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return the stored numbers [band, y, x] of a picture, and which pixels [y, x] its alpha or clear colour takes out.

    An alpha channel counts as a band where the card says to ignore masks and lists as many bands.
    """
    try:
        stored = np.asarray(image)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"expected a whole image in {name}, got: {error}; fetch the archive again") from error
    if image.mode in ("P", "PA"):
        raise UserError(
            f"expected grey or colour values in {name}, got indices into a palette; convert the chips first"
        )
    planes = stored[np.newaxis] if stored.ndim == 2 else stored.transpose(2, 0, 1)
    masked = np.zeros(planes.shape[1:], dtype=bool)
    ignored, clear = card.ignores_masks, image.info.get("transparency")
    if image.mode in ("LA", "RGBA") and not (ignored and len(planes) == len(card.bands)):
        planes, masked = planes[:-1], planes[-1] == 0
    elif clear is not None and image.mode in ("L", "RGB", "I", "I;16"):
        masked = (planes == np.reshape(clear, (-1, 1, 1))).all(axis=0)
    return planes, np.zeros_like(masked) if ignored else masked


def _decode_tiff(
    data: bytes, card: Card, radiometry: Radiometry, *, name: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return the stored numbers [band, y, x] of a TIFF, and which pixels [band, y, x] its mask or nodata takes out."""
    try:
        with MemoryFile(data) as memory, open_quietly(memory.name, drivers=("GTiff",)) as file:
            expect(
                ColorInterp.palette not in file.colorinterp,
                expected=f"grey or colour values in {name}",
                got="indices into a palette",
                remedy="convert the chips first",
            )
            wanted = list_measured(file, bands=len(card.bands), ignored=card.ignores_masks)
            check_dataset_names(file, dict(zip(wanted, card.bands, strict=False)), card=card, name=name)
            if (stated := (file.scales[0], file.offsets[0])) != (1.0, 0.0):
                radiometry.check_stated(*stated, name=name)
            planes = np.asarray(file.read(wanted))
            masked = find_unmeasured(file, planes, wanted, ignored=card.ignores_masks)
    except RasterioError as error:
        raise UserError(
            f"expected a whole image in {name}, got: {describe_error(error)}; fetch the archive again"
        ) from error
    return planes, masked


def _cropped(planes: npt.NDArray[np.float32], *, row_off: int, col_off: int, size: int) -> npt.NDArray[np.float32]:
    """Centre crop [band, size, size]; what lies outside the chip is NaN."""
    out = np.full((len(planes), size, size), np.nan, dtype=np.float32)
    top, left = max(row_off, 0), max(col_off, 0)
    part = planes[:, top : row_off + size, left : col_off + size]
    out[:, top - row_off : top - row_off + part.shape[1], left - col_off : left - col_off + part.shape[2]] = part
    return out

"""Images of a benchmark: stored numbers, named and scaled by its card, and the parts that every task is made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import rasterio

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.sources import Matrix, Rows
from eo_ssl.evaluation.splits import Fold
from eo_ssl.fingerprints import fingerprint
from eo_ssl.sensors import Quantity, sensor

Stored = npt.NDArray[Any]
Masks = Callable[[Rows, Rows], None]
_NAMED = 3  # classes of a split that a sentence names
THREADS = min(8, os.cpu_count() or 1)
"""That read files at the same time."""


class Files(Protocol):
    """Stored numbers of the images of a benchmark, the bands in the order of its card."""

    def __len__(self) -> int: ...
    def stored(self, positions: Rows) -> Stored:
        """Return the images at ``positions``, [n, bands of the card, H, W], as the files hold them.

        NaN where a file itself says that there is no measurement.
        """
        ...


@dataclass(frozen=True, slots=True)
class CardSource:
    """Images whose bands and quantity a card declares, in physical units."""

    files: Files
    card: Card
    bands: tuple[str, ...]
    "those wanted, out of the card's"
    shape: tuple[int, int, int]
    "bands wanted, height, width"
    fingerprint: str

    @property
    def sensor(self) -> str:
        """Of the card."""
        return self.card.sensor

    @property
    def quantity(self) -> Quantity:
        """After the card's offset and scale."""
        return self.card.quantity

    @property
    def gsd_m(self) -> float:
        """Of the images, metres."""
        return self.card.gsd_m

    def __len__(self) -> int:
        return len(self.files)

    def read(self, positions: Rows, out: Matrix) -> None:
        """Fill ``out`` [n, C, H, W] with physical values at ``positions``, NaN where card or file say invalid."""
        stored = self.files.stored(positions)
        whole = (len(positions), len(self.card.bands), *self.shape[1:])
        if stored.shape != whole:
            raise UserError(
                f"expected images {list(whole[1:])} of the bands {', '.join(self.card.bands)} (card "
                f"{self.card.name}), got {list(stored.shape[1:])}; "
                "fetch the files of that layout or name the card that describes these"
            )
        planes = [self.card.bands.index(band) for band in self.bands]
        if planes != list(range(len(planes))):
            stored = stored[:, planes]
        elif len(planes) < stored.shape[1]:
            stored = stored[:, : len(planes)]
        np.add(stored, np.float32(self.card.offset), out=out, casting="unsafe")
        out *= np.float32(self.card.scale)
        if self.card.nodata is not None:
            out[stored == self.card.nodata] = np.nan
        if stored.dtype.kind == "f":
            out[~np.isfinite(out)] = np.nan


@dataclass(frozen=True, slots=True)
class MaskedCardSource(CardSource):
    """Images with a class for each pixel."""

    masks: Masks

    def read_masks(self, positions: Rows, out: Rows) -> None:
        """Fill ``out`` [n, H, W] int64 with the class of each pixel, -1 where there is none."""
        self.masks(positions, out)


def choose_bands(card: Card, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the bands of a task by name: all of the card's in file order, or those wanted.

    Raises:
        UserError: the card does not have one of them.
    """
    if wanted is None:
        return card.bands
    names = sensor(card.sensor).resolve_all(wanted)
    lacking = [name for name in names if name not in card.bands]
    if lacking:
        raise UserError(
            f"expected card {card.name} to list {', '.join(names)}, got none of {', '.join(lacking)}; correct `bands`"
        )
    return names


def make_card_source(
    files: Files,
    card: Card,
    *,
    size: tuple[int, int],
    content: object,
    wanted: Sequence[str] | None = None,
    masks: Masks | None = None,
) -> CardSource:
    """Return the images of ``files`` as the card declares them.

    Args:
        files: stored numbers.
        card: bands in file order, quantity, scale, offset, nodata.
        size: height and width of an image.
        content: what the fingerprint of the images is made of, besides the card and the choice of bands.
        wanted: bands of the task; None for all in file order.
        masks: fills class indices, for segmentation.
    """
    bands = choose_bands(card, wanted)
    identity = fingerprint([card.to_json(), bands, content])
    shape = (len(bands), *size)
    if masks is None:
        return CardSource(files, card, bands, shape, identity)
    return MaskedCardSource(files, card, bands, shape, identity, masks)


def make_consecutive_fold(train: int, validation: int, test: int, *, names: Sequence[object] | None) -> Fold:
    """Return the fold of images that stand split after split: train, validation, test.

    Args:
        train: number of training images, the first ones.
        validation: number of validation images.
        test: number of test images.
        names: of all images, which tell them apart; None where files number their images and name none.

    Raises:
        UserError: an image is named twice: it would be trained on and tested, or counted twice.
    """
    seen: dict[object, int] = {}
    for at, name in enumerate(names or ()):
        if seen.setdefault(name, at) != at:
            ends = ("train", train), ("validation", train + validation), ("test", train + validation + test)
            first, second = (next(split for split, end in ends if one < end) for one in (seen[name], at))
            raise UserError(
                f"expected each image in one split, got {name} in {first} and again in {second}; fetch the lists of "
                "the splits again"
            )
    parts = np.split(np.arange(train + validation + test, dtype=np.int64), [train, train + validation])
    return Fold(parts[0], parts[2], parts[1])


def number_names(names: Sequence[str]) -> Rows:
    """Return equal numbers for equal names, int64 [n]: the blocks of a bootstrap."""
    return np.unique(np.array(names, dtype=np.str_), return_inverse=True)[1].astype(np.int64)


def gather_images(read: Callable[[int], Stored], numbers: Sequence[int]) -> Stored:
    """Return what ``read`` gives for each of ``numbers`` as one array; threads read, since small files wait."""

    def one(number: int) -> Stored:
        # Or GDAL lists the folder at every open. Not EMPTY_DIR, under which it does not see the mask beside a file.
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE"):
            return read(number)

    with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="eo-ssl-images") as pool:
        return stack_images(list(pool.map(one, numbers)))


def stack_images(images: list[Stored]) -> Stored:
    """Return images of one size as one array.

    Raises:
        UserError: they differ in size.
    """
    sizes = sorted({image.shape for image in images})
    if len(sizes) > 1:
        raise UserError(
            f"expected images of one size, got {', '.join(str(list(size)) for size in sizes[:3])}; the copy is "
            "damaged, fetch it again"
        )
    return np.stack(images)


def list_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a list of files."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def check_complete(path: Path, found: int) -> None:
    """Refuse a split of which images are absent: TorchGeo leaves them out silently, which makes another test.

    Raises:
        UserError: fewer images than lines in the list.
    """
    listed = len(list_lines(path))
    if found != listed:
        raise UserError(
            f"expected the {listed} images that {path} lists, got {found}; the copy is incomplete, fetch it again"
        )


def explain_incomplete(request: Request, lists: Sequence[Path], images: Path) -> UserError:
    """Return the error that says what is missing: a list, the images, or those of a class in a split.

    Args:
        request: what is read.
        lists: files that name the images of each split, in the order of the splits.
        images: folder with one folder per class.
    """
    absent = [path.name for path in lists if not path.is_file()]
    if absent:
        return request.absent(f"no {', '.join(absent)}")
    folders = sorted(path for path in images.iterdir() if path.is_dir()) if images.is_dir() else []
    if not folders:
        return request.absent(f"no folder of a class in {images.relative_to(request.root)}")
    # Lists may name another format than the files have, so that names count without their suffix.
    there = {folder.name: {path.stem for path in folder.iterdir()} for folder in folders}
    lacking = []
    for path in lists:
        listed = {Path(line).stem for line in list_lines(path)}
        without = [name for name, stems in there.items() if not stems & listed]
        if without:
            more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
            lacking.append(f"none of {', '.join(without[:_NAMED])}{more} in {path.name}")
    if not lacking:
        return request.absent(f"images in {images.relative_to(request.root)} that cannot be read")
    return UserError(
        f"expected an image of each of the {len(folders)} classes in every split of {request.name} at {request.root}, "
        f"got {'; '.join(lacking)}; the copy is incomplete, get it from {request.origin}"
    )

"""Colour images, a folder per class: UC Merced (Yang and Newsam 2010), RESISC45 (Cheng et al. 2017).

TorchGeo's classes name the lists, the files and the classes. It brings images of UC Merced that are not 256 px to it
without a word; here the same is done within `_SLACK_PX`, and the task says to which images and by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torchgeo.datasets import RESISC45, DatasetNotFoundError, UCMerced

from eo_ssl.cards import Card
from eo_ssl.errors import UserError, expect
from eo_ssl.evaluation.benchmarks.images import (
    Stored,
    check_complete,
    explain_incomplete,
    gather_images,
    make_card_source,
    make_consecutive_fold,
)
from eo_ssl.evaluation.benchmarks.raster_images import read_planes, read_raster_shape
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.sources import Rows
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import compute_sha256

SIZE_PX = 256
_SLACK_PX = 32  # most that a side may differ: beyond it an image is none of these data sets
_LISTED = 5  # images that a note names
SPLIT = "TorchGeo's lists (Neumann et al. 2019), 60/20/20 at random; blocks are images"


@dataclass(frozen=True, slots=True)
class _Folder:
    reader: Any
    lists: str
    "file name of a list, with {}"
    images: str
    note: str
    resized: bool
    "whether images of other sizes are in the published set; TorchGeo brings them to 256 px"


_FOLDERS = {
    "ucmerced": _Folder(
        UCMerced,
        "uc_merced-{}.txt",
        UCMerced.base_dir,
        "",
        True,
    ),
    "resisc45": _Folder(
        RESISC45,
        "resisc45-{}.txt",
        RESISC45.directory,
        "from 0.2 to 30 m per pixel: the ground sampling is not one number",
        False,
    ),
}


class Rgb:
    """Bands of TorchGeo's readers of colour images: red, green, blue."""

    all_band_names = ("R", "G", "B")


@dataclass(frozen=True, slots=True)
class Pictures:
    """One file of red, green and blue per image, brought to 256 x 256 px where it has other sides."""

    paths: tuple[Path, ...]
    card: Card

    def __len__(self) -> int:
        return len(self.paths)

    def stored(self, positions: Rows) -> Stored:
        """Return the images at ``positions``, [n, 3, 256, 256], NaN where a file says that there is no measurement."""
        return gather_images(lambda at: self._picture(self.paths[at]), positions.tolist())

    def _picture(self, path: Path) -> Stored:
        planes = read_planes(path, planes=len(self.card.bands), ignored=self.card.ignores_masks)
        if planes.shape[1:] == (SIZE_PX, SIZE_PX):
            return planes
        expect(
            bool(np.isfinite(planes).all()),
            expected=f"{path} without missing pixels, since its {describe_sides(planes.shape[1:])} px are resized",
            got="some that it masks",
            remedy="fetch the file again",
        )
        image = torch.from_numpy(planes.astype(np.float32))[None]
        return functional.interpolate(image, size=(SIZE_PX, SIZE_PX), mode="bilinear", antialias=True)[0].numpy()


def describe_sides(shape: Sequence[int]) -> str:
    """Return height and width in words."""
    return f"{shape[0]} x {shape[1]}"


def check_sizes(paths: Sequence[Path], card: Card, *, resized: bool) -> str:
    """Return a note that names the images of other sides than 256 px, empty where there is none.

    Args:
        paths: of the images.
        card: of the data set.
        resized: whether the data set has such images; a few pixels more or less are brought to 256 px.

    Raises:
        UserError: an image of other sides in a data set that has none, or of far other ones.
    """
    shapes = {path: read_raster_shape(path, card)[1:] for path in paths}
    other = {path: shape for path, shape in shapes.items() if shape != (SIZE_PX, SIZE_PX)}
    slack = f", or up to {_SLACK_PX} px more or less" if resized else ""
    for path, shape in other.items():
        expect(
            resized and max(abs(side - SIZE_PX) for side in shape) <= _SLACK_PX,
            expected=f"{SIZE_PX} x {SIZE_PX} px{slack} in {path}",
            got=describe_sides(shape),
            remedy="this is no image of the data set as published, fetch it again",
        )
    if not other:
        return ""
    named = ", ".join(f"{path.name} ({describe_sides(shape)})" for path, shape in list(other.items())[:_LISTED])
    more = f" and {len(other) - _LISTED} more" if len(other) > _LISTED else ""
    return (
        f"{len(other)} of {len(paths)} images are not {SIZE_PX} x {SIZE_PX} px and are brought to it as TorchGeo does, "
        f"bilinear with antialias, each axis by itself: {named}{more}"
    )


def load(request: Request) -> Task:
    """Return UC Merced or RESISC45 with TorchGeo's train, validation and test lists.

    Raises:
        UserError: no such data set, lists that name no images, or splits of different copies.
    """
    folder = _FOLDERS[request.name.partition("-")[0]]
    lists = {split: request.root / folder.lists.format(split) for split in ("train", "val", "test")}
    datasets = []
    for split, path in lists.items():
        if not path.is_file():
            raise request.absent(f"no {path.name}")
        try:
            datasets.append(folder.reader(root=str(request.root), split=split, download=False))
        except (DatasetNotFoundError, FileNotFoundError) as error:
            raise explain_incomplete(request, list(lists.values()), request.root / folder.images) from error
        check_complete(path, len(datasets[-1]))
    names: tuple[str, ...] = tuple(datasets[0].classes)
    if any(tuple(dataset.classes) != names for dataset in datasets):
        raise UserError(
            f"expected the same classes in all splits of {request.name} at {request.root}, got different ones; the "
            "copy is incomplete, fetch it again"
        )
    paths = [Path(path) for dataset in datasets for path, _ in dataset.samples]
    labels = np.array([label for dataset in datasets for _, label in dataset.samples], dtype=np.int64)
    content = [[path.name, compute_sha256(path)] for path in paths]
    size = check_sizes(paths, request.card, resized=folder.resized)
    pictures = Pictures(tuple(paths), request.card)
    source = make_card_source(pictures, request.card, size=(SIZE_PX, SIZE_PX), content=content)
    fold = make_consecutive_fold(*(len(dataset) for dataset in datasets), names=[path.name for path in paths])
    blocks = np.arange(len(labels), dtype=np.int64)
    notes = tuple(note for note in (folder.note, size) if note)
    return Task(request.name, (source,), labels, names, blocks, (fold,), SPLIT, "accuracy", notes)

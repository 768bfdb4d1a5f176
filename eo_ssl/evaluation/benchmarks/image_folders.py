"""Colour images, a folder per class: UC Merced (Yang and Newsam 2010), RESISC45 (Cheng et al. 2017), by TorchGeo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torchgeo.datasets import RESISC45, DatasetNotFoundError, UCMerced

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import (
    TorchGeoImages,
    check_complete,
    explain_incomplete,
    make_card_source,
    make_consecutive_fold,
)
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import compute_sha256

SIZE_PX = 256
SPLIT = "TorchGeo's lists (Neumann et al. 2019), 60/20/20 at random; blocks are images"


@dataclass(frozen=True, slots=True)
class _Folder:
    reader: Any
    lists: str
    "file name of a list, with {}"
    images: str
    note: str


_FOLDERS = {
    "ucmerced": _Folder(
        UCMerced,
        "uc_merced-{}.txt",
        UCMerced.base_dir,
        "images of other sizes than 256 px are brought to it by TorchGeo, bilinear with antialias",
    ),
    "resisc45": _Folder(
        RESISC45,
        "resisc45-{}.txt",
        RESISC45.directory,
        "from 0.2 to 30 m per pixel: the ground sampling is not one number",
    ),
}


class Rgb:
    """Bands of TorchGeo's readers of colour images: red, green, blue."""

    all_band_names = ("R", "G", "B")


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
    source = make_card_source(TorchGeoImages(tuple(datasets)), request.card, size=(SIZE_PX, SIZE_PX), content=content)
    fold = make_consecutive_fold(*(len(dataset) for dataset in datasets), names=[path.name for path in paths])
    blocks = np.arange(len(labels), dtype=np.int64)
    return Task(request.name, (source,), labels, names, blocks, (fold,), SPLIT, "accuracy", (folder.note,))

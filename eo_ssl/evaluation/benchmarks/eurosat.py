"""EuroSAT (Helber et al. 2019, arXiv 1709.00029): lists, files and classes by TorchGeo, bands by the card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torchgeo.datasets import DatasetNotFoundError, EuroSAT, EuroSATSpatial

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import (
    check_complete,
    explain_incomplete,
    make_card_source,
    make_consecutive_fold,
)
from eo_ssl.evaluation.benchmarks.raster_images import Rasters, read_raster_boxes, read_raster_shape
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import compute_sha256

SIZE_PX = 64
SPLITS = ("train", "val", "test")
RGB = ("B04", "B03", "B02")
RANDOM = (
    "TorchGeo's lists (Neumann et al. 2019), 60/20/20 at random: neighbouring patches are on both sides; blocks "
    "are patches"
)
SPATIAL = (
    "TorchGeo's EuroSATSpatial, 60/20/20 by longitude: train, validation and test are separate strips; blocks are "
    "patches"
)


def load(request: Request) -> Task:
    """Return EuroSAT: `ms` and `rgb` with the random lists, `spatial` and `spatial-rgb` with the strips by longitude.

    Raises:
        UserError: no such data set, another layout, or splits of different copies.
    """
    spatial = request.variant.startswith("spatial")
    reader = EuroSATSpatial if spatial else EuroSAT
    lists = [request.root / reader.split_filenames[split] for split in SPLITS]
    datasets = []
    for split in SPLITS:
        try:
            datasets.append(reader(root=str(request.root), split=split, bands=EuroSAT.all_band_names, download=False))
        except (DatasetNotFoundError, FileNotFoundError) as error:
            raise explain_incomplete(request, lists, request.root / reader.base_dir) from error
        check_complete(request.root / reader.split_filenames[split], len(datasets[-1]))
    paths = [Path(path) for dataset in datasets for path, _ in dataset.samples]
    labels = np.array([label for dataset in datasets for _, label in dataset.samples], dtype=np.int64)
    names: tuple[str, ...] = tuple(datasets[0].classes)
    if any(tuple(dataset.classes) != names for dataset in datasets):
        raise UserError(
            f"expected the same classes in all splits of EuroSAT at {request.root}, got different ones; the copy is "
            f"incomplete, get it from {request.origin}"
        )
    _check_planes(paths[0], request.card)
    source = make_card_source(
        Rasters(tuple(paths), request.card),
        request.card,
        size=(SIZE_PX, SIZE_PX),
        content=[[path.name, compute_sha256(path)] for path in paths],
        wanted=RGB if request.variant.endswith("rgb") else None,
    )
    fold = make_consecutive_fold(*(len(dataset) for dataset in datasets), names=[path.name for path in paths])
    others = "80/20 or random" if spatial else "80/20 or spatial"
    return Task(
        request.name,
        (source,),
        labels,
        names,
        np.arange(len(labels), dtype=np.int64),
        (fold,),
        SPATIAL if spatial else RANDOM,
        "accuracy",
        (f"not comparable with {others} splits of EuroSAT",),
        places=read_raster_boxes(paths),
    )


def _check_planes(path: Path, card: Card) -> None:
    """Refuse files of the RGB release or of another size before TorchGeo picks planes that are not there."""
    found = read_raster_shape(path, card)
    if found != (len(card.bands), SIZE_PX, SIZE_PX):
        raise UserError(
            f"expected EuroSAT images {[len(card.bands), SIZE_PX, SIZE_PX]} (card {card.name}), got {list(found)} in "
            f"{path.name}; use the 13-band files (EuroSATallBands)"
        )

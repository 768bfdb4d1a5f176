"""EuroSAT-SAR (Wang et al., arXiv 2310.18653): Sentinel-1 on the patches of EuroSAT, from Copernicus-Bench."""

from __future__ import annotations

import numpy as np
from torchgeo.datasets import CopernicusBenchEuroSATS1, DatasetNotFoundError

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import (
    make_card_source,
    make_consecutive_fold,
)
from eo_ssl.evaluation.benchmarks.raster_images import Rasters, read_raster_shape
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import compute_sha256

SIZE_PX = 64
SPLIT = (
    "lists of Copernicus-Bench, those of EuroSAT, 60/20/20 at random: neighbouring patches are on both sides; "
    "blocks are patches"
)


def load(request: Request) -> Task:
    """Return EuroSAT-SAR.

    Raises:
        UserError: no such data set, files of another class, or of another number of bands.
    """
    datasets = []
    for split in ("train", "val", "test"):
        try:
            datasets.append(CopernicusBenchEuroSATS1(root=str(request.root), split=split, download=False))
        except (DatasetNotFoundError, FileNotFoundError) as error:
            raise request.absent(f"no {split} split") from error
    classes = tuple(CopernicusBenchEuroSATS1.classes)
    names = [str(name).replace(".jpg", ".tif") for dataset in datasets for name in dataset.files]
    found = [name.split("_")[0] for name in names]
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise UserError(
            f"expected classes out of {', '.join(classes)} in {request.root}, got {unknown[0]}; fetch the lists again"
        )
    folder = request.root / CopernicusBenchEuroSATS1.directory / "all_imgs"
    paths = [folder / kind / name for kind, name in zip(found, names, strict=True)]
    for path in paths:
        if not path.is_file():
            raise request.absent(f"no {path.relative_to(request.root)}")
    shape, wanted = read_raster_shape(paths[0], request.card), (len(request.card.bands), SIZE_PX, SIZE_PX)
    if shape != wanted:
        raise UserError(
            f"expected images {list(wanted)} (card {request.card.name}), got {list(shape)} in {paths[0].name}; use "
            "EuroSAT-SAR"
        )
    content = [[path.name, compute_sha256(path)] for path in paths]
    source = make_card_source(Rasters(tuple(paths), request.card), request.card, size=wanted[1:], content=content)
    labels = np.array([classes.index(kind) for kind in found], dtype=np.int64)
    fold = make_consecutive_fold(*(len(dataset) for dataset in datasets), names=names)
    return Task(
        request.name,
        (source,),
        labels,
        classes,
        np.arange(len(labels), dtype=np.int64),
        (fold,),
        SPLIT,
        "accuracy",
        ("classes are numbered in another order than those of EuroSAT",),
    )

"""Sen1Floods11 v1.1 (Bonafilia et al., CVPR-W 2020): water on hand-labelled chips of Sentinel-1 and Sentinel-2.

TorchGeo has no class for it: GeoTIFFs and the lists of the publication are read directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import (
    list_lines,
    make_card_source,
    make_consecutive_fold,
    number_names,
)
from eo_ssl.evaluation.benchmarks.raster_images import Rasters, read_planes, read_raster_shape
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.sources import Rows
from eo_ssl.evaluation.tasks import IGNORED, Task
from eo_ssl.fingerprints import compute_sha256

CLASS_NAMES = ("not water", "water")
UNLABELLED = -1
LISTS = {"train": "flood_train_data.csv", "validation": "flood_valid_data.csv", "test": "flood_test_data.csv"}
BOLIVIA = "flood_bolivia_data.csv"
SPLITS = {
    False: (
        "Sen1Floods11 v1.1 hand-labelled lists, about 60/20/20 at random over chips: every event is on all sides; "
        "blocks are flood events"
    ),
    True: (
        "Sen1Floods11 v1.1: train and validation lists of ten events, tested on the event Bolivia, which no list "
        "holds; blocks are chips"
    ),
}


@dataclass(frozen=True, slots=True)
class LabelRasters:
    """One raster of classes per chip."""

    paths: tuple[Path, ...]

    def __call__(self, positions: Rows, out: Rows) -> None:
        """Fill ``out`` [n, H, W] with 0 (not water), 1 (water) or -1 (not labelled)."""
        for target, at in zip(out, positions.tolist(), strict=True):
            stored = read_planes(self.paths[at], planes=1, ignored=False, classes=True)[0]
            if stored.dtype.kind == "f":
                stored[np.isnan(stored)] = UNLABELLED
            if stored.shape != target.shape or not np.isin(stored, (UNLABELLED, 0, 1)).all():
                raise UserError(
                    f"expected classes -1, 0 and 1 on {list(target.shape)} pixels in {self.paths[at]}, got "
                    f"{np.unique(stored)[:5].tolist()} on {list(stored.shape)}; fetch the labels of version 1.1"
                )
            target[...] = np.where(stored == UNLABELLED, IGNORED, stored)


def load(request: Request) -> Task:
    """Return the segmentation of water with Sentinel-2, Sentinel-1, or Sentinel-2 and Sentinel-1 as its partner.

    Raises:
        UserError: no such data set, lists that name absent files, or chips in another layout.
    """
    base = request.root / "v1.1" if (request.root / "v1.1").is_dir() else request.root
    bolivia = request.variant.startswith("bolivia")
    part = request.variant.removeprefix("bolivia").removeprefix("-") or "s2"
    lists = LISTS | ({"test": BOLIVIA} if bolivia else {})
    chips: list[str] = []
    counts = []
    for name in lists.values():
        path = base / "splits" / "flood_handlabeled" / name
        if not path.is_file():
            raise request.absent(f"no {name}")
        found = [line.split(",")[0].strip().removesuffix("_S1Hand.tif") for line in list_lines(path)]
        chips += found
        counts.append(len(found))
    folder = base / "data" / "flood_events" / "HandLabeled"
    labels = tuple(folder / "LabelHand" / f"{chip}_LabelHand.tif" for chip in chips)
    kinds = {"s2": ("S2Hand",), "s1": ("S1Hand",), "both": ("S2Hand", "S1Hand")}[part]
    images = [tuple(folder / kind / f"{chip}_{kind}.tif" for chip in chips) for kind in kinds]
    for path in (path for paths in (labels, *images) for path in paths):
        if not path.is_file():
            raise request.absent(f"no {path.name}, which a list names")
    masks = LabelRasters(labels)
    sources = []
    for paths, card in zip(images, request.cards, strict=True):
        content = [[path.name, compute_sha256(path)] for path in (*paths, *labels)]
        size = read_raster_shape(paths[0], card)[1:]
        files = Rasters(paths, card)
        sources.append(make_card_source(files, card, size=size, content=content, masks=masks))
    fold = make_consecutive_fold(*counts, names=chips)
    events = [chip.rpartition("_")[0] for chip in chips]
    blocks = np.arange(len(chips), dtype=np.int64) if bolivia else number_names(events)
    return Task(
        request.name,
        (sources[0],),
        np.zeros((len(chips), 0), dtype=np.int64),
        CLASS_NAMES,
        blocks,
        (fold,),
        SPLITS[bolivia],
        "miou",
        ("hand labels only; the weak labels of the publication are not used",),
        kind="segmentation",
        partners=tuple(sources[1:]),
    )

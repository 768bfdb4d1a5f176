"""TreeSatAI (Ahlswede et al. 2023, 10.5194/essd-15-681-2023): 15 tree genera, Sentinel-2 and aerial infrared.

TorchGeo's class names the lists, the files and the classes; its images are the files' numbers, which are read here one
sensor at a time. The radar images are not offered: nothing at hand says whether they are sigma0 or gamma0.
"""

from __future__ import annotations

import json

import numpy as np
from torchgeo.datasets import TreeSatAI

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import (
    list_lines,
    make_card_source,
    make_consecutive_fold,
)
from eo_ssl.evaluation.benchmarks.raster_images import Rasters, read_raster_shape
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import compute_sha256

SIZE_PX = {"s2": (6, 6), "aerial": (304, 304)}
LABELS = "labels/TreeSatBA_v9_60m_multi_labels.json"
SPLIT = (
    "TreeSatAI's own lists, 90/10; no validation; blocks are patches: the files do not say which of them "
    "neighbour each other"
)


def load(request: Request) -> Task:
    """Return TreeSatAI at 60 m with Sentinel-2 (`s2`) or aerial images (`aerial`).

    Raises:
        UserError: no such data set, labels that are absent or not one of the 15 genera, or images in another layout.
    """
    lists = {split: request.root / f"{split}_filenames.lst" for split in ("train", "test")}
    labels_path = request.root / LABELS
    for path in (*lists.values(), labels_path):
        if not path.is_file():
            raise request.absent(f"no {path.relative_to(request.root)}")
    names = {split: list_lines(path) for split, path in lists.items()}
    files = [*names["train"], *names["test"]]
    known = json.loads(labels_path.read_text(encoding="utf-8"))
    classes = tuple(TreeSatAI.classes)
    labels = np.zeros((len(files), len(classes)), dtype=np.uint8)
    for row, name in enumerate(files):
        genera = [genus for genus, _ in known.get(name, ())]
        if not genera or not set(genera) <= set(classes):
            raise UserError(
                f"expected genera out of {', '.join(classes)} for {name} in {labels_path}, got "
                f"{', '.join(genera) or 'none'}; fetch labels.zip again"
            )
        labels[row, [classes.index(genus) for genus in genera]] = 1
    folder = request.root / request.variant / "60m"
    paths = tuple(folder / name for name in files)
    absent = next((path for path in paths if not path.is_file()), None)
    if absent is not None:
        raise request.absent(f"no {absent.relative_to(request.root)}")
    shape, wanted = read_raster_shape(paths[0], request.card), (len(request.card.bands), *SIZE_PX[request.variant])
    if shape != wanted:
        raise UserError(
            f"expected images {list(wanted)} of 60 m in {folder}, got {list(shape)}; use the 60 m patches that the "
            "card describes"
        )
    content = [request.variant, files, *(compute_sha256(path) for path in (*lists.values(), labels_path))]
    source = make_card_source(Rasters(paths, request.card), request.card, size=wanted[1:], content=content)
    fold = make_consecutive_fold(len(names["train"]), 0, len(names["test"]), names=files)
    return Task(
        request.name,
        (source,),
        labels,
        classes,
        np.arange(len(files), dtype=np.int64),
        (fold,),
        SPLIT,
        "micro_ap",
        ("genera at their own share of a plot count alike: a label is present or not",),
        kind="multilabel",
    )

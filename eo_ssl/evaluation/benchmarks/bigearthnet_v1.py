"""BigEarthNet v1 with Sentinel-1 (Sumbul et al. 2021, 10.1109/MGRS.2021.3089174): the 19 labels, TorchGeo's lists.

TorchGeo's class names the lists, the folders and the classes and turns 43 labels into 19; its pixels have the two
defects of `eo_ssl.evaluation.benchmarks.bigearthnet_v2`, so bands are read as there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from torchgeo.datasets import BigEarthNet

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.bigearthnet_v2 import SIZE_PX, make_band_folders
from eo_ssl.evaluation.benchmarks.images import (
    Stored,
    list_lines,
    make_card_source,
    make_consecutive_fold,
    number_names,
)
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import compute_sha256

CLASS_NAMES = tuple(BigEarthNet.class_sets[19])
_FULL = {name: number for number, name in enumerate(BigEarthNet.class_sets[43])}
SPLIT = (
    "BigEarthNet v1: the lists of Sumbul et al. for 19 classes as TorchGeo has them, not divided by place; blocks "
    "are Sentinel-2 products"
)


def load(request: Request) -> Task:
    """Return BigEarthNet v1 with Sentinel-2, Sentinel-1, or Sentinel-2 and Sentinel-1 as its partner.

    Raises:
        UserError: no such data set, lists in another layout, or unknown labels.
    """
    lists = [request.root / BigEarthNet.splits_metadata[split]["filename"] for split in ("train", "val", "test")]
    pairs: list[list[str]] = []
    counts = []
    for path in lists:
        if not path.is_file():
            raise request.absent(f"no {path.name}")
        found = [[part.strip() for part in line.split(",")] for line in list_lines(path)]
        if not found or any(len(pair) < 2 for pair in found):
            raise UserError(
                f"expected lines 'Sentinel-2 patch,Sentinel-1 patch' in {path}, got another layout; fetch the list "
                "again"
            )
        pairs += found
        counts.append(len(found))
    kinds = {"s2": ("s2",), "s1": ("s1",), "both": ("s2", "s1")}[request.variant]
    sources, folders = [], {}
    for kind, card in zip(kinds, request.cards, strict=True):
        root = request.root / BigEarthNet.metadata[kind]["directory"]
        folders[kind] = tuple(root / pair[kind == "s1"] for pair in pairs)
        if not folders[kind][0].is_dir():
            raise request.absent(f"no {folders[kind][0].relative_to(request.root)}")
        content = [kind, *(compute_sha256(path) for path in lists)]
        sources.append(
            make_card_source(make_band_folders(folders[kind], card), card, size=(SIZE_PX, SIZE_PX), content=content)
        )
    products = [pair[0].rsplit("_", 2)[0] for pair in pairs]
    fold = make_consecutive_fold(*counts, names=[pair[0] for pair in pairs])
    return Task(
        request.name,
        (sources[0],),
        _labels(folders[kinds[0]]),
        CLASS_NAMES,
        number_names(products),
        (fold,),
        SPLIT,
        "micro_ap",
        (
            "not comparable with BigEarthNet v2, whose labels, patches and split differ",
            "20 and 60 m bands brought to 10 m by bilinear interpolation",
        ),
        kind="multilabel",
        partners=tuple(sources[1:]),
    )


def _labels(folders: tuple[Path, ...]) -> Stored:
    """Return [n, 19] uint8 from the JSON file of each patch."""
    labels = np.zeros((len(folders), len(CLASS_NAMES)), dtype=np.uint8)
    for row, folder in enumerate(folders):
        files = sorted(folder.glob("*.json"))
        if not files:
            raise UserError(f"expected a JSON file with the labels in {folder}, got none; fetch the patch again")
        names = json.loads(files[0].read_text(encoding="utf-8")).get("labels", [])
        unknown = [name for name in names if name not in _FULL]
        if unknown or not names:
            raise UserError(
                f"expected labels out of the 43 of CORINE in {files[0]}, got {unknown[0] if unknown else 'none'!r}; "
                "fetch the patch again"
            )
        merged = (BigEarthNet.label_converter.get(_FULL[name]) for name in names)
        labels[row, [number for number in merged if number is not None]] = 1
    return labels

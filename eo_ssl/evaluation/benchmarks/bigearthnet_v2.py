"""BigEarthNet v2 (reBEN, Clasen et al., arXiv 2407.03653): 19 labels on 1.2 km of Sentinel-2 L2A and Sentinel-1.

TorchGeo's class names the splits, the folders and the classes. Its pixels are not used, for two reasons that a test
shows: it reads backscatter in dB as whole numbers, and it stacks VH before VV, the alphabetical order of the files,
under documentation that says (VV, VH). Here each band is read from the file that bears its name; 20 and 60 m bands come
to 10 m by bilinear interpolation, as TorchGeo does it (GDAL), but are not rounded, and missing pixels do not bleed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pyarrow.lib import ArrowException
from torchgeo.datasets import BigEarthNetV2

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import (
    Stored,
    gather_images,
    make_card_source,
    make_consecutive_fold,
    number_names,
)
from eo_ssl.evaluation.benchmarks.raster_images import read_planes
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.sources import Rows
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import compute_sha256
from eo_ssl.sensors import sensor

SIZE_PX = 120
SPLITS = ("train", "validation", "test")
COLUMNS = ("patch_id", "s1_name", "labels", "split")
SPLIT = (
    "BigEarthNet v2: the geographical split of metadata.parquet, whose parts are apart in space within each tile; "
    "blocks are Sentinel-2 tiles"
)


@dataclass(frozen=True, slots=True)
class BandFolders:
    """One folder per patch with one file per band."""

    folders: tuple[Path, ...]
    bands: tuple[str, ...]
    times: tuple[int, ...]
    "how many times coarser than 10 m the file of each band is"
    ignored: bool
    "whether masks in the files do not count"

    def __len__(self) -> int:
        return len(self.folders)

    def stored(self, positions: Rows) -> Stored:
        """Return the patches at ``positions``, [n, bands, 120, 120], all bands at 10 m."""
        return gather_images(lambda at: self._patch(self.folders[at]), positions.tolist())

    def _patch(self, folder: Path) -> Stored:
        planes = [
            read_planes(
                folder / f"{folder.name}_{band}.tif",
                planes=1,
                ignored=self.ignored,
                size=(SIZE_PX, SIZE_PX),
                times=times,
            )[0]
            for band, times in zip(self.bands, self.times, strict=True)
        ]
        return np.stack(planes).astype(np.float32, copy=False)


def make_band_folders(folders: tuple[Path, ...], card: Card) -> BandFolders:
    """Return the patches in ``folders`` with the bands of ``card``, each at the resolution of its sensor."""
    known = sensor(card.sensor)
    times = tuple(round(known.band(name).gsd_m / card.gsd_m) for name in card.bands)
    return BandFolders(folders, card.bands, times, card.ignores_masks)


def load(request: Request) -> Task:
    """Return BigEarthNet v2 with Sentinel-2, Sentinel-1, or Sentinel-2 and Sentinel-1 as its partner.

    Raises:
        UserError: no such data set, another table, unknown labels, or a split without patches.
    """
    table = _table(request)
    names = {"s2": ("s2",), "s1": ("s1",), "both": ("s2", "s1")}[request.variant]
    class_names = tuple(BigEarthNetV2.class_set)
    sources = []
    for kind, card in zip(names, request.cards, strict=True):
        patches = table["patch_id" if kind == "s2" else "s1_name"]
        root = request.root / BigEarthNetV2.dir_file_names[kind]
        if not root.is_dir():
            raise request.absent(f"no {root.name}")
        folders = tuple(root / _product(name, kind) / name for name in patches)
        if not folders[0].is_dir():
            raise request.absent(f"no {folders[0].relative_to(request.root)}")
        content = [kind, compute_sha256(request.root / BigEarthNetV2.dir_file_names["metadata"])]
        sources.append(
            make_card_source(make_band_folders(folders, card), card, size=(SIZE_PX, SIZE_PX), content=content)
        )
    counts = [table["split"].count(split) for split in SPLITS]
    fold = make_consecutive_fold(*counts, names=table["patch_id"])
    tiles = [_tile(name) for name in table["patch_id"]]
    return Task(
        request.name,
        (sources[0],),
        _labels(table["labels"], class_names, request),
        class_names,
        number_names(tiles),
        (fold,),
        SPLIT,
        "micro_ap",
        (
            "not comparable with BigEarthNet v1, whose labels, patches and split differ",
            "20 and 60 m bands brought to 10 m by bilinear interpolation",
        ),
        kind="multilabel",
        partners=tuple(sources[1:]),
    )


def _table(request: Request) -> dict[str, list[str]]:
    """Return the columns of metadata.parquet that are needed, train first, then validation and test."""
    path = request.root / BigEarthNetV2.dir_file_names["metadata"]
    if not path.is_file():
        raise request.absent("no metadata.parquet")
    try:
        schema = pq.read_schema(path)
        lacking = [name for name in COLUMNS if name not in schema.names]
        if lacking:
            raise UserError(
                f"expected the columns {', '.join(COLUMNS)} in {path}, got none of {', '.join(lacking)}; fetch the "
                "table of version 2"
            )
        columns: dict[str, list[str]] = pq.read_table(path, columns=list(COLUMNS)).to_pydict()
    except (ArrowException, OSError) as error:
        raise UserError(
            f"expected a Parquet table at {path}, got {str(error).splitlines()[0]}; fetch it again"
        ) from error
    order = [row for split in SPLITS for row, one in enumerate(columns["split"]) if one == split]
    absent = [split for split in SPLITS if split not in columns["split"]]
    if absent:
        raise UserError(
            f"expected patches of the splits {', '.join(SPLITS)} in {path}, got none of {', '.join(absent)}; fetch "
            "the whole table"
        )
    return {name: [column[row] for row in order] for name, column in columns.items()}


def _labels(given: list[str], class_names: tuple[str, ...], request: Request) -> Stored:
    """Return [n, 19] uint8, 1 where a label holds."""
    place = {name: at for at, name in enumerate(class_names)}
    labels = np.zeros((len(given), len(class_names)), dtype=np.uint8)
    for row, names in enumerate(given):
        for name in names:
            if name not in place:
                raise UserError(
                    f"expected the 19 labels of BigEarthNet in {request.root}, got {name!r}; fetch the table of "
                    "version 2"
                )
            labels[row, place[name]] = 1
    return labels


def _product(patch: str, kind: str) -> str:
    """Return the folder of a patch: S2 without row and column, S1 without tile, row and column."""
    return "_".join(patch.split("_")[: -2 if kind == "s2" else -3])


def _tile(patch: str) -> str:
    """Return the Sentinel-2 tile of a patch, e.g. T33UUP of S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57."""
    return patch.split("_")[-3]

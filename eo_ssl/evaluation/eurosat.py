"""EuroSAT (Helber et al. 2019, arXiv 1709.00029) read by TorchGeo's own class, its bands named by the card, not by position."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torchgeo.datasets import DatasetNotFoundError, EuroSAT

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.evaluation.features import Matrix, Rows
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.manifest import file_sha256, fingerprint
from eo_ssl.sensors import Quantity

SIZE_PX = 64
SPLITS = ("train", "val", "test")
_LAYOUT = "eurosat-train.txt, eurosat-val.txt, eurosat-test.txt and ds/images/remote_sensing/otherDatasets/sentinel_2/tif/<class>/<class>_<n>.tif"
_ORIGIN = "torchgeo.datasets.EuroSAT(root, download=True), or https://hf.co/datasets/torchgeo/eurosat"


@dataclass(frozen=True, slots=True)
class EuroSatSource:
    """Images of TorchGeo's EuroSAT, all splits one after the other, in physical units."""

    splits: tuple[Any, ...]
    "one torchgeo EuroSAT each"
    card: Card
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
    def bands(self) -> tuple[str, ...]:
        """In file order, as the card says."""
        return self.card.bands

    @property
    def gsd_m(self) -> float:
        """Of the files."""
        return self.card.gsd_m

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height, width."""
        return (len(self.card.bands), SIZE_PX, SIZE_PX)

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits)

    def read(self, positions: Rows, out: Matrix) -> None:
        """Fill ``out`` [n, 13, 64, 64] with reflectance at ``positions``."""
        starts = np.cumsum([0, *(len(split) for split in self.splits)])
        for target, position in zip(out, positions.tolist(), strict=True):
            part = int(np.searchsorted(starts, position, side="right")) - 1
            stored = self.splits[part][position - int(starts[part])]["image"].numpy()
            if stored.shape != self.shape:
                raise UserError(
                    f"expected EuroSAT images {list(self.shape)}, got {list(stored.shape)}; use the 13-band files"
                )
            values = (stored + np.float32(self.card.offset)) * np.float32(self.card.scale)
            if self.card.nodata is not None:
                values[stored == self.card.nodata] = np.nan
            target[...] = values


def eurosat_task(root: Path, card: Card, *, name: str = "eurosat") -> Task:
    """Return EuroSAT with TorchGeo's train, validation and test lists.

    Args:
        root: folder in TorchGeo's layout.
        card: says what the bands of the files are, in file order, and their scale.
        name: of the task.

    Raises:
        UserError: no such data set at ``root`` (the sentence says where it comes from and the layout), or a card of another reader.
    """
    if card.reader != "torchgeo" or card.loader != "torchgeo.datasets.EuroSAT":
        raise UserError(
            f"expected a card with loader torchgeo.datasets.EuroSAT, got {card.name} ({card.loader or card.reader}); use the card eurosat"
        )
    datasets = []
    for split in SPLITS:
        try:
            datasets.append(EuroSAT(root=str(root), split=split, bands=EuroSAT.all_band_names, download=False))
        except (DatasetNotFoundError, FileNotFoundError) as error:
            raise UserError(
                f"expected EuroSAT at {root} ({_LAYOUT}), got no {split} split; fetch it with {_ORIGIN}"
            ) from error
    paths = [Path(path) for dataset in datasets for path, _ in dataset.samples]
    labels = np.array([label for dataset in datasets for _, label in dataset.samples], dtype=np.int64)
    sizes = [len(dataset) for dataset in datasets]
    bounds = np.cumsum([0, *sizes])
    train, validation, test = (np.arange(bounds[i], bounds[i + 1], dtype=np.int64) for i in range(3))
    names: tuple[str, ...] = tuple(datasets[0].classes)
    if any(tuple(dataset.classes) != names for dataset in datasets):
        raise UserError(
            f"expected the same classes in all splits of EuroSAT at {root}, got different ones; the copy is incomplete, fetch it with {_ORIGIN}"
        )
    content = fingerprint([card.to_json(), [[path.name, file_sha256(path)] for path in paths]])
    return Task(
        name, (EuroSatSource(tuple(datasets), card, content),), labels, names, np.arange(len(labels), dtype=np.int64),
        (Fold(train, test, validation),),
        "TorchGeo's lists (Neumann et al. 2019), 60/20/20 at random: neighbouring patches are on both sides; blocks are patches", "accuracy",
        ("not comparable with 80/20 or spatial splits of EuroSAT",),
    )  # fmt: skip

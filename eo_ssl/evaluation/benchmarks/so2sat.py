"""So2Sat LCZ42 (Zhu et al. 2020, 10.1109/MGRS.2020.2964708): 17 local climate zones, Sentinel-1 and Sentinel-2.

TorchGeo's class names the files and the bands. Its items are not used: each opens the file anew, reads both sensors and
has no names for the radar channels; runs of patches are read from the same arrays instead, and a test holds both
against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
from torchgeo.datasets import So2Sat

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import CardSource, Stored, make_card_source, make_consecutive_fold
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.sources import Rows, locate_rows
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import fingerprint

SIZE_PX = 32
VERSIONS = {"random": "3_random", "culture10": "3_culture_10", "block": "3_block", "v2": "2"}
SPLITS = {
    "random": (
        "So2Sat version 3 random: 80/20 at random inside each city, neighbours on both sides; no validation; "
        "blocks are patches"
    ),
    "culture10": (
        "So2Sat version 3 culture-10: 42 cities train, 10 cities of other cultural zones test; no validation; "
        "blocks are patches"
    ),
    "block": "So2Sat version 3 block: every city cut 80/20 in space; no validation; blocks are patches",
    "v2": (
        "So2Sat version 2: 42 cities train, western half of 10 other cities validation, eastern half test; blocks "
        "are patches"
    ),
}
RADAR_CHANNELS = {"VH": 4, "VV": 5}
"""Place in sen1 of what can be named as a backscatter: intensities after the refined Lee filter. Others are the real
and imaginary parts of VH and VV before the filter (0-3) and of the element off the diagonal of their covariance (6,
7)."""


class _Array:
    """One array of the files and what of its last axis is offered."""

    key: ClassVar[str]
    all_band_names: ClassVar[tuple[str, ...]]
    channels: ClassVar[tuple[int, ...]]


class Sentinel2Patches(_Array):
    """Array sen2: bands as TorchGeo names them."""

    key = "sen2"
    all_band_names = tuple(name.removeprefix("S2_") for name in So2Sat.all_s2_band_names)
    channels = tuple(range(10))


class Sentinel1Patches(_Array):
    """Array sen1: the two channels that are a backscatter."""

    key = "sen1"
    all_band_names = tuple(RADAR_CHANNELS)
    channels = tuple(RADAR_CHANNELS.values())


@dataclass(frozen=True, slots=True)
class H5Patches:
    """One array of several HDF5 files, file after file."""

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    "patches of each file"
    key: str
    channels: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.sizes)

    def stored(self, positions: Rows) -> Stored:
        """Return patches at ``positions``, [n, channels, 32, 32] float32; neighbours in a file are read together."""
        out = np.empty((len(positions), len(self.channels), SIZE_PX, SIZE_PX), dtype=np.float32)
        for number, places, own in locate_rows(self.sizes, positions):
            with h5py.File(self.paths[number], "r") as file:
                for run in np.split(np.arange(len(own)), np.flatnonzero(np.diff(own) != 1) + 1):
                    block = file[self.key][int(own[run[0]]) : int(own[run[-1]]) + 1]
                    out[places[run]] = np.moveaxis(block[..., list(self.channels)], 3, 1)
        return out


def load(request: Request) -> Task:
    """Return So2Sat in one of its splits, with Sentinel-2, Sentinel-1 or both.

    Raises:
        UserError: no such file, other arrays in it, or labels that are not one of 17.
    """
    split, _, part = request.variant.partition("-")
    files = So2Sat.filenames_by_version[VERSIONS[split]]
    paths = tuple(request.root / name for name in files.values())
    for path in paths:
        if not path.is_file():
            raise request.absent(f"no {path.relative_to(request.root)}")
    labels = [_labels(path) for path in paths]
    sizes = tuple(len(one) for one in labels)
    content = [
        [str(path.relative_to(request.root)), path.stat().st_size, one.tolist()]
        for path, one in zip(paths, labels, strict=True)
    ]
    kinds: tuple[type[_Array], ...] = {
        "": (Sentinel2Patches,),
        "s1": (Sentinel1Patches,),
        "both": (Sentinel2Patches, Sentinel1Patches),
    }[part]
    sources: list[CardSource] = []
    for kind, card in zip(kinds, request.cards, strict=True):
        images = H5Patches(paths, sizes, kind.key, kind.channels)
        sources.append(
            make_card_source(images, card, size=(SIZE_PX, SIZE_PX), content=fingerprint([kind.key, content]))
        )
    train, test = sizes[0], sizes[-1]
    fold = make_consecutive_fold(train, sizes[1] if len(sizes) == 3 else 0, test, names=None)
    every = np.concatenate(labels)
    return Task(
        request.name,
        (sources[0],),
        every,
        tuple(So2Sat.classes),
        np.arange(len(every), dtype=np.int64),
        (fold,),
        SPLITS[split],
        "accuracy",
        (
            (
                "splits of So2Sat are not comparable with one another: statistics of pixels alone reach 91 % at "
                "random and 48 % on unseen cities"
            ),
        ),
        partners=tuple(sources[1:]),
    )


def _labels(path: Path) -> Rows:
    """Return the class of each patch after checking that the file is laid out as So2Sat is."""
    try:
        with h5py.File(path, "r") as file:
            found = {key: tuple(file[key].shape) for key in file if isinstance(file[key], h5py.Dataset)}
            wanted = {"sen1": (SIZE_PX, SIZE_PX, 8), "sen2": (SIZE_PX, SIZE_PX, 10), "label": (len(So2Sat.classes),)}
            if {key: shape[1:] for key, shape in found.items() if key in wanted} != wanted or len(
                {found[key][0] for key in wanted}
            ) != 1:
                raise UserError(
                    f"expected sen1 [n, 32, 32, 8], sen2 [n, 32, 32, 10] and label [n, 17] in {path}, got "
                    f"{', '.join(f'{key} {list(shape)}' for key, shape in sorted(found.items())) or 'nothing'}; fetch "
                    "the file of So2Sat again"
                )
            onehot = np.asarray(file["label"][:])
    except OSError as error:
        raise UserError(
            f"expected an HDF5 file at {path}, got {str(error).splitlines()[0]}; fetch the file again"
        ) from error
    if not ((onehot == 1).sum(axis=1) == 1).all() or not ((onehot == 0).sum(axis=1) == onehot.shape[1] - 1).all():
        raise UserError(
            f"expected one class out of 17 for each patch in {path}, got another coding; fetch the file again"
        )
    return np.asarray(onehot.argmax(axis=1), dtype=np.int64)

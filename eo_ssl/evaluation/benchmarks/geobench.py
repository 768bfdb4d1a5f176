"""GEO-Bench 1.0 (Lacoste et al., arXiv 2306.03831) in its own layout: one HDF5 file per sample with one array per band.

The samples carry a pickled attribute, which is never opened: classes come from label_map.json. The names of the arrays
are those that the conversion gave them; where they are wrong (m-eurosat), the card says what the planes are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import Stored, make_card_source, make_consecutive_fold, stack_images
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.sources import Rows
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import compute_sha256

SIZE_PX = 64
FOLDER = "m-eurosat"
KEYS = (
    "01 - Coastal aerosol",
    "02 - Blue",
    "03 - Green",
    "04 - Red",
    "05 - Vegetation Red Edge",
    "06 - Vegetation Red Edge",
    "07 - Vegetation Red Edge",
    "08 - NIR",
    "08A - Vegetation Red Edge",
    "09 - Water vapour",
    "10 - SWIR - Cirrus",
    "11 - SWIR",
    "12 - SWIR",
)
"""Names of the arrays of a sample of 13 bands, in the order in which GEO-Bench stacks them."""
SPLIT = (
    "GEO-Bench 1.0 default_partition.json, whose rule the files do not state, so neighbours may be on both sides; "
    "blocks are patches"
)


class MEuroSat:
    """Bands of the arrays of m-eurosat in the order of their names: EuroSAT's files have B8A last."""

    all_band_names = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")


@dataclass(frozen=True, slots=True)
class GeoBenchSamples:
    """One HDF5 file per image."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def stored(self, positions: Rows) -> Stored:
        """Return the images at ``positions``, [n, 13, 64, 64], planes in the order of `KEYS`."""
        return stack_images([read_sample(self.paths[at]) for at in positions.tolist()])


def read_sample(path: Path) -> Stored:
    """Return the planes of one sample in the order of `KEYS`; a date after a name is allowed.

    Raises:
        UserError: not an HDF5 file, or other arrays in it.
    """
    try:
        with h5py.File(path, "r") as file:
            arrays = sorted(key for key in file if key != "label")
            if len(arrays) != len(KEYS) or not all(
                key.startswith(name) for key, name in zip(arrays, KEYS, strict=True)
            ):
                raise UserError(
                    f"expected the arrays {KEYS[0]!r} ... {KEYS[-1]!r} in {path}, got "
                    f"{', '.join(arrays[:4]) or 'none'} ({len(arrays)}); fetch m-eurosat of classification_v1.0"
                )
            return stack_images([np.asarray(file[key]) for key in arrays])
    except OSError as error:
        raise UserError(
            f"expected an HDF5 file at {path}, got {str(error).splitlines()[0]}; fetch the file again"
        ) from error


def load(request: Request) -> Task:
    """Return m-eurosat with the bands that its planes are, not those that they are called.

    Raises:
        UserError: no such data set, or samples without a class.
    """
    folder = next(
        (
            place
            for place in (request.root / "classification_v1.0" / FOLDER, request.root / FOLDER, request.root)
            if (place / "label_map.json").is_file()
        ),
        None,
    )
    if folder is None or not (folder / "default_partition.json").is_file():
        raise request.absent(f"no {FOLDER} with label_map.json and default_partition.json")
    classes: dict[str, list[str]] = json.loads((folder / "label_map.json").read_text(encoding="utf-8"))
    partition: dict[str, list[str]] = json.loads((folder / "default_partition.json").read_text(encoding="utf-8"))
    of = {sample: number for number, members in enumerate(classes.values()) for sample in members}
    names = [sample for split in ("train", "valid", "test") for sample in partition.get(split, [])]
    without = [sample for sample in names if sample not in of]
    if without or not names:
        raise UserError(
            f"expected a class in label_map.json for every sample of {folder}, got none for "
            f"{without[0] if without else 'any'}; fetch both files again"
        )
    paths = tuple(folder / f"{name}.hdf5" for name in names)
    absent = next((path for path in paths if not path.is_file()), None)
    if absent is not None:
        raise request.absent(f"no {absent.name}")
    labels = np.array([of[name] for name in names], dtype=np.int64)
    content = [[path.name, compute_sha256(path)] for path in paths]
    source = make_card_source(GeoBenchSamples(paths), request.card, size=(SIZE_PX, SIZE_PX), content=content)
    fold = make_consecutive_fold(*(len(partition.get(split, [])) for split in ("train", "valid", "test")), names=names)
    return Task(
        request.name,
        (source,),
        labels,
        tuple(classes),
        np.arange(len(labels), dtype=np.int64),
        (fold,),
        SPLIT,
        "accuracy",
        ("bands by what the planes are: the arrays called 08A to 12 hold B09, B10, B11, B12, B8A",),
    )

"""SAT-6 (Basu et al. 2015, 10.1145/2820783.2820816): six land covers on 28 x 28 aerial patches, a MATLAB file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import Stored, make_card_source, make_consecutive_fold
from eo_ssl.evaluation.benchmarks.request import Request
from eo_ssl.evaluation.sources import Rows, locate_rows
from eo_ssl.evaluation.tasks import Task

FILE = "sat-6-full.mat"
SIZE_PX = 28
CLASS_NAMES = ("building", "barren land", "trees", "grassland", "road", "water")
SPLIT = "SAT-6's own 80/20, whose parts come from different image tiles; no validation; blocks are patches"


class Patches:
    """Planes of the arrays train_x and test_x."""

    all_band_names = ("R", "G", "B", "NIR")


@dataclass(frozen=True, slots=True)
class Arrays:
    """Patches in memory, training first."""

    parts: tuple[npt.NDArray[np.uint8], ...]
    "each [28, 28, 4, n]"

    def __len__(self) -> int:
        return sum(part.shape[3] for part in self.parts)

    def stored(self, positions: Rows) -> Stored:
        """Return the patches at ``positions``, [n, 4, 28, 28] uint8."""
        out = np.empty((len(positions), 4, SIZE_PX, SIZE_PX), dtype=np.uint8)
        for number, places, own in locate_rows([part.shape[3] for part in self.parts], positions):
            out[places] = np.moveaxis(self.parts[number][..., own], (3, 2), (0, 1))
        return out


def load(request: Request) -> Task:
    """Return SAT-6; the arrays stay in memory, 1.3 GB of the published file.

    Raises:
        UserError: no such file, other arrays in it, or labels that are not one of six.
    """
    path = request.root / FILE
    if not path.is_file():
        raise request.absent(f"no {FILE}")
    try:
        found = {name: tuple(shape) for name, shape, _ in whosmat(str(path))}
    except (NotImplementedError, ValueError, MatReadError) as error:
        raise UserError(
            f"expected a MATLAB file (version 5) at {path}, got {str(error).splitlines()[0]}; fetch it again"
        ) from error
    for split in ("train", "test"):
        images, labels = found.get(f"{split}_x", ()), found.get(f"{split}_y", ())
        if len(images) != 4 or images[:3] != (SIZE_PX, SIZE_PX, 4) or labels != (len(CLASS_NAMES), images[3]):
            raise UserError(
                f"expected {split}_x [28, 28, 4, n] and {split}_y [6, n] in {path}, got "
                f"{', '.join(f'{name} {list(shape)}' for name, shape in sorted(found.items())) or 'nothing'}; fetch "
                "SAT-6, not SAT-4"
            )
    arrays = loadmat(str(path), variable_names=["train_x", "train_y", "test_x", "test_y"])
    onehot = np.concatenate([arrays["train_y"], arrays["test_y"]], axis=1)
    if not ((onehot == 1).sum(axis=0) == 1).all() or not ((onehot == 0).sum(axis=0) == len(CLASS_NAMES) - 1).all():
        raise UserError(f"expected one class out of six for each patch in {path}, got another coding; fetch it again")
    labels = onehot.argmax(axis=0).astype(np.int64)
    parts = (arrays["train_x"], arrays["test_x"])
    content = [path.stat().st_size, labels.tolist()]
    source = make_card_source(Arrays(parts), request.card, size=(SIZE_PX, SIZE_PX), content=content)
    fold = make_consecutive_fold(parts[0].shape[3], 0, parts[1].shape[3], names=None)
    return Task(
        request.name,
        (source,),
        labels,
        CLASS_NAMES,
        np.arange(len(labels), dtype=np.int64),
        (fold,),
        SPLIT,
        "accuracy",
        ("near its ceiling: statistics of pixels alone reach 99.6 %",),
    )

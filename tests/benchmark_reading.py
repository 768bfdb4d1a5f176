"""How tests look at a benchmark's images and at the sizes of its splits."""

from __future__ import annotations

import numpy as np

from eo_ssl.evaluation.sources import ImageSource
from eo_ssl.evaluation.tasks import Task


def images(source: ImageSource, positions: list[int] | None = None) -> np.ndarray:
    rows = np.arange(len(source)) if positions is None else np.array(positions)
    out = np.empty((len(rows), *source.shape), dtype=np.float32)
    source.read(rows.astype(np.int64), out)
    return out


def sizes(task: Task) -> tuple[int, int, int]:
    (fold,) = task.folds
    return len(fold.train), len(fold.validation), len(fold.test)

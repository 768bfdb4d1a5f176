"""What finished trainings found, kept as files: hours of training that are stopped go on from the last one."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eo_ssl.errors import UserError
from eo_ssl.evaluation.tuning.losses import Answered
from eo_ssl.manifest import commit


@dataclass(frozen=True, slots=True)
class Part:
    """What one training found."""

    score: float
    "on the samples that choose; NaN where none did"
    answers: Answered = field(default_factory=lambda: np.empty(0))
    "on the test items; empty where only the score was asked for"


def kept(folder: Path | None, name: str, make: Callable[[], Part]) -> Part:
    """Return the part ``name`` out of ``folder``, made and written first where it is not there; without a folder it is made.

    Raises:
        UserError: the file is damaged.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.npz"
    if path.is_file():
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                return Part(float(arrays["score"]), arrays["answers"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"expected a finished training in {path}, got {type(error).__name__}; remove that file and run again"
            ) from error
    part = make()
    data = io.BytesIO()
    np.savez_compressed(data, score=np.array(part.score), answers=part.answers)
    commit(path, data.getvalue())
    return part

"""Where a run keeps encoders of earlier steps: ordinary encoder folders inside its own."""

from __future__ import annotations

import re
from pathlib import Path

_KEPT = re.compile(r"at_(\d{6,})")


def locate_kept(folder: Path, step: int) -> Path:
    """Folder of the encoder that the run in `folder` keeps of `step`, such as `at_000100`."""
    return folder / f"at_{step:06d}"


def list_kept(folder: Path) -> dict[int, Path]:
    """Folders of the encoders that the run in `folder` has kept, by step, ascending."""
    found = {int(named[1]): path for path in folder.glob("at_*") if (named := _KEPT.fullmatch(path.name))}
    return dict(sorted(found.items()))

"""What a copy with one folder per class lacks, where TorchGeo's reader found no image of some class in some split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks.images import list_lines
from eo_ssl.evaluation.benchmarks.request import Request

_NAMED = 3  # classes of a split that are named


def describe_incomplete(request: Request, lists: Sequence[Path], images: Path) -> UserError:
    """Return the error that says what is missing: a list, the images, or those of a class in a split.

    Args:
        request: what is read.
        lists: files that name the images of each split, in the order of the splits.
        images: folder with one folder per class.
    """
    absent = [path.name for path in lists if not path.is_file()]
    if absent:
        return request.absent(f"no {', '.join(absent)}")
    folders = sorted(path for path in images.iterdir() if path.is_dir()) if images.is_dir() else []
    if not folders:
        return request.absent(f"no folder of a class in {images.relative_to(request.root)}")
    # Lists may name another format than the files have, so that names count without their suffix.
    there = {folder.name: {path.stem for path in folder.iterdir()} for folder in folders}
    lacking = []
    for path in lists:
        listed = {Path(line).stem for line in list_lines(path)}
        without = [name for name, stems in there.items() if not stems & listed]
        if without:
            more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
            lacking.append(f"none of {', '.join(without[:_NAMED])}{more} in {path.name}")
    if not lacking:
        return request.absent(f"images in {images.relative_to(request.root)} that cannot be read")
    return UserError(
        f"expected an image of each of the {len(folders)} classes in every split of {request.name} at {request.root}, got {'; '.join(lacking)}; "
        f"the copy is incomplete, get it from {request.origin}"
    )

"""Files of a product by the sha256 that its manifest records, compared when the product is opened."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import hash_file
from eo_ssl.manifest import MANIFEST, UNFINISHED, Manifest

KEY = "files"
"""Where the summary of a manifest holds the sha256 (hex) of each file by its path in the folder."""
_SHOWN = 3


def hash_files(folder: Path, *, without: Collection[str] = ()) -> dict[str, str]:
    """Return the sha256 of every file of the product ``folder`` by its path there, manifests and hidden files aside.

    Args:
        folder: of the product.
        without: folders of files that may go, such as checkpoints.
    """
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in (MANIFEST, UNFINISHED)
    )
    kept = [name for name in names if not any(part in without or part.startswith(".") for part in name.split("/"))]
    return {name: hash_file(folder / name) for name in kept}


def check_files(folder: Path, manifest: Manifest, *, only: Collection[str] | None = None) -> None:
    """Compare the files of a product with its manifest; earlier versions recorded none, which is no damage.

    Args:
        folder: of the product.
        manifest: of the product.
        only: files to look at; None for all.

    Raises:
        UserError: files that are absent or hold other bytes, or a manifest that does not name files.
    """
    wrong = list(_find_damage(folder, read_recorded(folder, manifest), only))
    expect(
        not wrong,
        expected=f"the files of {folder} as its manifest records them",
        got=f"{', '.join(wrong[:_SHOWN])}{f' and {len(wrong) - _SHOWN} more' if len(wrong) > _SHOWN else ''}",
        remedy="copy the folder again or make it again",
    )


def read_recorded(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return the sha256 of each file that the manifest records, by its path in the folder.

    Raises:
        UserError: it names none in a form that can be compared, or one outside the folder.
    """
    recorded = manifest.summary.get(KEY, {})
    if not isinstance(recorded, dict) or not all(isinstance(digest, str) for digest in recorded.values()):
        raise UserError(
            f"expected a sha256 for each file in the manifest of {folder}, got {str(recorded)[:60]!r}; make it again"
        )
    for name in recorded:
        path = PurePosixPath(name)
        expect(
            not path.is_absolute() and ".." not in path.parts,
            expected=f"files below {folder} in its manifest",
            got=repr(name),
            remedy="make it again",
        )
    return recorded


def _find_damage(folder: Path, recorded: dict[str, str], only: Collection[str] | None) -> Iterator[str]:
    """What is wrong with each file that is not as recorded."""
    for name, digest in recorded.items():
        if only is not None and name not in only:
            continue
        if not (folder / name).is_file():
            yield f"no {name}"
        elif hash_file(folder / name) != digest:
            yield f"other bytes in {name}"

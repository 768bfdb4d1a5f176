"""Checksums of a bundle: its files are compared with its manifest before anything of it is loaded, run or sent."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import hash_file
from eo_ssl.manifest import Manifest

_SHOWN = 3


def check_files(folder: Path, manifest: Manifest, *, only: Collection[str] | None = None) -> None:
    """Compare the files of a bundle with its manifest.

    Args:
        folder: of the bundle.
        manifest: of the bundle.
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
    recorded = manifest.summary.get("files", {})
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

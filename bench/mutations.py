"""Damage and hostility: each mutation changes one product in place, by a seeded generator, and says what it did.

Plain mutations change bytes and leave every checksum as it was. Sealed ones are those of a forger: they change a file and write its new
checksum into the manifest, so that they reach the parser and the decoder behind the checks.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import hostile_files, hostile_zips
from bench.subjects import Subject

Rng = np.random.Generator
_KINDS = {
    ".xml": "xml",
    ".safe": "xml",
    ".gml": "xml",
    ".jp2": "jp2",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".json": "json",
    ".zarray": "json",
    ".zattrs": "json",
    ".zgroup": "json",
    ".zip": "zip",
}


@dataclass(frozen=True)
class Mutation:
    """One kind of damage to one kind of file."""

    name: str
    kind: str
    "xml, jp2, tiff, json or zip"
    sealed: bool
    act: Callable[[Rng, Path], str]
    "changes a file and says how; given the archive's folder for those that pick several files"


def kind_of(path: Path) -> str:
    return _KINDS.get(path.suffix.lower() or path.name, "")


def mutations(subject: Subject) -> list[Mutation]:
    """Return what can be done to a subject, in a fixed order."""
    zipped = subject.path.is_file()
    kinds = {kind_of(Path(name)) for name in _names(subject)} - {"", "zip"}
    found = []
    for kind in sorted(kinds):
        plain = {"flip": flip, "cut": cut, "blank": blank, "junk": junk, "gone": gone, "other": other}
        found += [Mutation(name, kind, False, act) for name, act in plain.items()]
        found += [Mutation(f"sealed {name}", kind, True, act) for name, act in _SEALED[kind].items()]
    if zipped:
        found += [Mutation(name, "zip", False, act) for name, act in {"flip": flip, "cut": cut, "blank": blank}.items()]
        found += [Mutation(name, "zip", True, act) for name, act in hostile_zips.ALL.items()]
    return found


def apply(mutation: Mutation, subject: Subject, root: Path, rng: Rng) -> tuple[str, str]:
    """Damage the victim in a copy of the set at ``root``; return the damaged file's name and what was done to it."""
    victim = root / subject.victim
    if mutation.kind == "zip":
        return victim.name, mutation.act(rng, victim)
    with unpacked(victim) as folder:
        path = _choose(folder, mutation, rng)
        done = mutation.act(rng, path)
        if mutation.sealed:
            seal(path, folder)
        return path.relative_to(folder).as_posix(), done


def _names(subject: Subject) -> list[str]:
    if subject.path.is_file():
        with zipfile.ZipFile(subject.path) as archive:
            return archive.namelist()
    return [path.name for path in subject.path.rglob("*") if path.is_file()]


def _choose(folder: Path, mutation: Mutation, rng: Rng) -> Path:
    """A file of the mutation's kind; a sealed one goes to files that readers parse."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and kind_of(path) == mutation.kind)
    read = [
        path
        for path in paths
        if not re.search(r"DATASTRIP|TCI|INSPIRE|HTML|rep_info|support|preview|\.gml$", path.as_posix())
    ]
    return (read if mutation.sealed else paths)[rng.integers(len(read if mutation.sealed else paths))]


@contextmanager
def unpacked(victim: Path) -> Iterator[Path]:
    """The victim as a folder; packed again afterwards when it was a zip, with CRCs that are right."""
    if victim.is_dir():
        yield victim
        return
    folder = victim.with_name(f"{victim.name}.open")
    with zipfile.ZipFile(victim) as archive:
        stored = {info.filename: info.compress_type for info in archive.infolist() if not info.is_dir()}
        archive.extractall(folder)  # made by the generator, a moment ago
    yield folder
    with warnings.catch_warnings(), zipfile.ZipFile(victim, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            archive.write(path, name, compress_type=stored.get(name, zipfile.ZIP_DEFLATED))
    shutil.rmtree(folder)


def seal(path: Path, folder: Path) -> None:
    """Write the present checksum and size of a file where they are stated: the product's manifest, or the assets of its item."""
    for manifest in folder.rglob("manifest.safe"):
        if path.is_file() and path != manifest and path.is_relative_to(manifest.parent):
            name = re.escape(path.relative_to(manifest.parent).as_posix())

            def renew(match: re.Match[str]) -> str:
                digest = hashlib.new(match["name"].lower().replace("-", "_"), path.read_bytes()).hexdigest()
                written = digest.upper() if match["digest"].isupper() else digest
                return f'size="{path.stat().st_size}"{match["between"]}{written}'

            place = rf'<fileLocation [^>]*href="(?:\./)?{name}"\s*/>\s*<checksum checksumName="(?P<name>[^"]+)">'
            stated = rf'size="\d+"(?P<between>>\s*{place})(?P<digest>[0-9a-fA-F]+)'
            text = manifest.read_text(encoding="utf-8", errors="surrogateescape")
            manifest.write_text(re.sub(stated, renew, text), encoding="utf-8", errors="surrogateescape")
    item = folder / "item.json"
    if item.is_file() and path.is_file() and path.suffix == ".tif":
        content = json.loads(item.read_text())
        for asset in content["assets"].values():
            if asset["href"] == f"./{path.name}" and "file:checksum" in asset:
                asset["file:checksum"] = f"1220{hashlib.sha256(path.read_bytes()).hexdigest()}"
        item.write_text(json.dumps(content))


# Bytes


def flip(rng: Rng, path: Path) -> str:
    """1 to 4 bits of a file; half of the time in its first 600 bytes, where headers are."""
    data = bytearray(path.read_bytes())
    end = min(len(data), 600) if rng.random() < 0.5 else len(data)
    places = rng.integers(0, end * 8, rng.integers(1, 5))
    for place in places:
        data[place // 8] ^= 1 << (place % 8)
    path.write_bytes(data)
    return f"bits {', '.join(str(place) for place in sorted(places))}"


def cut(rng: Rng, path: Path) -> str:
    """The end of a file away; sometimes all of it."""
    data = path.read_bytes()
    left = 0 if rng.random() < 0.1 else int(rng.integers(0, len(data)))
    path.write_bytes(data[:left])
    return f"{left} of {len(data)} bytes left"


def blank(rng: Rng, path: Path) -> str:
    """A block of zeros, as a lost sector leaves it."""
    data = bytearray(path.read_bytes())
    size = min(len(data), 512)
    start = int(rng.integers(0, len(data) - size + 1))
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    return f"{size} zeros from {start}"


def junk(rng: Rng, path: Path) -> str:
    with path.open("ab") as file:
        file.write(rng.bytes(int(rng.integers(1, 400))))
    return "junk at the end"


def gone(rng: Rng, path: Path) -> str:
    path.unlink()
    return "removed"


def other(rng: Rng, path: Path) -> str:
    """The bytes of another file of the kind, as after a mix-up of names."""
    folder = path.parent
    others = sorted(item for item in folder.iterdir() if item.suffix == path.suffix and item != path)
    if not others:
        return junk(rng, path)
    chosen = others[rng.integers(len(others))]
    path.write_bytes(chosen.read_bytes())
    return f"the bytes of {chosen.name}"


_RASTER = {"flip": flip, "cut": cut, **hostile_files.RASTER}
_SEALED: dict[str, dict[str, Callable[[Rng, Path], str]]] = {
    "xml": hostile_files.XML,
    "json": hostile_files.JSON,
    "jp2": _RASTER,
    "tiff": _RASTER,
}
PICKLED = Mutation("sealed pickle codec", "json", True, hostile_files.pickled)

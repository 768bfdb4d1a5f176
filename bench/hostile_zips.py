"""Zip files that lie: names that leave the archive, bombs, sizes and methods that are not so. Each function rewrites a sound zip."""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Rng = np.random.Generator


def _add(path: Path, name: str, data: bytes = b"hostile", *, mode: int = 0o100644) -> None:
    info = zipfile.ZipInfo("x" * len(name))
    info.filename = name  # the constructor would cut a NUL off and turn backslashes around
    info.external_attr = mode << 16
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")  # of double names
        archive.writestr(info, data)


def _some(path: Path, rng: Rng) -> str:
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
    return names[rng.integers(len(names))]


def outside(rng: Rng, path: Path) -> str:
    name = ("../../escaped", "/tmp/escaped", "a\\..\\..\\escaped", "C:\\escaped", "x/../../escaped")[rng.integers(5)]
    _add(path, name)
    return name


def twice(rng: Rng, path: Path) -> str:
    name = _some(path, rng)
    _add(path, name)
    return f"two of {Path(name).name}"


def link(rng: Rng, path: Path) -> str:
    """A symbolic link to a file of the machine under the name of a member."""
    name = _some(path, rng)
    _rewrite(path, leave_out=name)
    _add(path, name, b"/etc/hostname", mode=0o120777)
    return f"{Path(name).name} as a link"


def bomb(rng: Rng, path: Path) -> str:
    """A member of 256 MB of zeros that packs to 256 kB, under a name that is read."""
    name = _some(path, rng)
    _rewrite(path, leave_out=name)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        for _ in range(16):
            member.write(bytes(1 << 24))
    return f"{Path(name).name} unpacks to 256 MB"


def _rewrite(path: Path, *, leave_out: str) -> None:
    """Write the zip again without a member."""
    old = path.with_name(f"{path.name}.old")
    path.rename(old)
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            if info.filename != leave_out:
                target.writestr(info, source.read(info))
    old.unlink()


def _patch(path: Path, rng: Rng, *, at: int, local: int, data: bytes) -> str:
    """Change a field of a member's entry in the central directory, and half of the time in its local header too."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.filename)
        info = infos[rng.integers(len(infos))]
        position = archive.start_dir
    while True:
        lengths = struct.unpack_from("<HHH", content, position + 28)
        if content[position + 46 : position + 46 + lengths[0]] == info.filename.encode():
            break
        position += 46 + sum(lengths)
    content[position + at : position + at + len(data)] = data
    if rng.random() < 0.5:
        content[info.header_offset + local : info.header_offset + local + len(data)] = data
    path.write_bytes(content)
    return Path(info.filename).name


def claimed(rng: Rng, path: Path) -> str:
    """An unpacked size of 4 GB, or of nothing."""
    size = (0xFFFFFFFE, 0, 10)[rng.integers(3)]
    return f"{_patch(path, rng, at=24, local=22, data=struct.pack('<I', size))} claims {size} bytes"


def packed(rng: Rng, path: Path) -> str:
    return f"{_patch(path, rng, at=20, local=18, data=struct.pack('<I', 0xFFFFFFF0))} claims 4 GB packed"


def locked(rng: Rng, path: Path) -> str:
    return f"{_patch(path, rng, at=8, local=6, data=bytes([1, 0]))} is marked as encrypted"


def method(rng: Rng, path: Path) -> str:
    number = int(rng.choice([0, 9, 12, 14, 99]))
    return f"{_patch(path, rng, at=10, local=8, data=struct.pack('<H', number))} by method {number}"


def moved(rng: Rng, path: Path) -> str:
    """A member that starts where another one does."""
    return f"{_patch(path, rng, at=42, local=30, data=struct.pack('<I', 0))} starts at the first one"


def crowd(rng: Rng, path: Path) -> str:
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(70_000):
            archive.writestr(zipfile.ZipInfo(f"x/{number}"), b"")
    return "70,000 further members"


def nothing(rng: Rng, path: Path) -> str:
    """No member, or no zip at all."""
    how = int(rng.integers(3))
    if how == 0:
        with zipfile.ZipFile(path, "w"):
            pass
    else:
        path.write_bytes(b"" if how == 1 else rng.bytes(3000))
    return ("no member", "no byte", "no zip")[how]


def nul(rng: Rng, path: Path) -> str:
    name = _some(path, rng)
    _add(path, f"{name}\0.txt")
    return f"{Path(name).name} with a NUL behind"


ALL: dict[str, Callable[[Rng, Path], str]] = {
    "names outside": outside,
    "double names": twice,
    "symbolic link": link,
    "bomb": bomb,
    "false size": claimed,
    "false packed size": packed,
    "encrypted": locked,
    "false method": method,
    "overlap": moved,
    "70,000 members": crowd,
    "no zip": nothing,
    "NUL in a name": nul,
}

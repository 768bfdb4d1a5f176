"""SSL4EO-S12 as its authors trained on it: LMDB with a pickled tuple per place, read without ever running a pickle.

Key ``str(index)``; value the pickle of ``(bytes, shape)``, or of three such pairs in a row (s1, s2a, s2c), arrays [4
seasons, C, 264, 264]. The type of the numbers is not recorded: one byte per number is uint8, four float32, two the
uint16 of the files, which the authors cast to int16 and which read as what they were. Places and times are not recorded
either, and the four seasons stand in the order in which the authors' file system listed them: season k of one record is
not season k of another (dataset code of zhu-xlab/SSL4EO-S12).
"""

from __future__ import annotations

import hashlib
import math
import os
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, fingerprint, identify_file
from eo_ssl.scene.acquisition import Acquisition
from eo_ssl.scene.chip import Chip, UnreadableChip
from eo_ssl.scene.product import Listing, Product
from eo_ssl.scene.product_source import ProductSource
from eo_ssl.scene.ssl4eo.sample_chips import BATCH, crop_sample, get_settings

_ORDER = {"s1": 0, "s2a": 1, "s2c": 2}  # of the pairs in a record of all modalities
_TYPES: dict[int, str] = {1: "uint8", 2: "<u2", 4: "<f4"}
_VALUES = frozenset(
    {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG"}
)  # opcodes that put a constant on the stack
_SILENT = frozenset({"PROTO", "FRAME"})


def parse_plain_tuple(data: bytes, *, name: str) -> tuple[Any, ...]:
    """Return the tuple of bytes, integers and tuples that a pickle describes, without executing it.

    Opcodes are read with ``pickletools`` and only those are followed that make constants and tuples of them; anything
    that would import, call or build an object is refused, and memo slots are kept in a dictionary, so that none can ask
    for gigabytes.

    Raises:
        UserError: the pickle is damaged, or holds anything else.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    mark = object()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            code = opcode.name
            if code in _VALUES:
                stack.append(argument)
            elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
                count = int(code[-1])
                stack[-count:] = [tuple(stack[-count:])]
            elif code == "EMPTY_TUPLE":
                stack.append(())
            elif code == "MARK":
                stack.append(mark)
            elif code == "TUPLE":
                start = len(stack) - 1 - stack[::-1].index(mark)
                stack[start:] = [tuple(stack[start + 1 :])]
            elif code in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if argument is None else int(argument)] = stack[-1]
            elif code in ("BINGET", "LONG_BINGET"):
                stack.append(memo[int(argument or 0)])
            elif code == "STOP":
                break
            elif code not in _SILENT:
                raise UserError(
                    f"expected a pickled tuple of bytes and integers in {name}, got the instruction {code}; data never "
                    "need it, do not trust this file"
                )
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise UserError(
            f"expected a pickled tuple in {name}, got damaged bytes ({error}); fetch the file again"
        ) from error
    if len(stack) != 1 or not isinstance(stack[0], tuple):
        raise UserError(f"expected one pickled tuple in {name}, got something else; this is no record of SSL4EO-S12")
    return stack[0]


def read_modality(record: tuple[Any, ...], modality: str, *, name: str) -> npt.NDArray[Any]:
    """Return the array [season, C, H, W] of one modality of a record.

    Raises:
        UserError: the record is not (bytes, shape), once or three times, or the bytes do not fill the shape.
    """
    pairs = [record[start : start + 2] for start in range(0, len(record), 2)]
    if len(record) not in (2, 6):
        raise UserError(
            f"expected (bytes, shape) once or three times in {name}, got {len(record)} values; this is no record of "
            "SSL4EO-S12"
        )
    data, shape = pairs[0] if len(pairs) == 1 else pairs[_ORDER[modality]]
    sound = isinstance(data, bytes) and isinstance(shape, tuple) and len(shape) == 4
    if not sound or not all(isinstance(side, int) and 0 < side < 2**16 for side in shape):
        raise UserError(
            f"expected bytes and a shape of four sides in {name}, got {type(data).__name__} and {shape!r}; fetch the "
            "file again"
        )
    width, rest = divmod(len(data), math.prod(shape))
    if rest or width not in _TYPES:
        raise UserError(
            f"expected 1, 2 or 4 bytes for each of {shape} numbers in {name}, got {len(data)} bytes; fetch the file "
            "again"
        )
    return np.frombuffer(data, dtype=_TYPES[width]).reshape(shape)


def list_records(card: Card, root: Path) -> Listing:
    """Return batches of 64 records of each LMDB that the card's ``files`` names.

    Raises:
        UserError: the modality is unknown or a file is no LMDB.
    """
    if get_settings(card).modality not in _ORDER:
        raise UserError(
            f"expected the modality {', '.join(_ORDER)} in card {card.name}, got {get_settings(card).modality!r}; "
            "correct it"
        )
    acquisition = Acquisition("", card.processing_baseline, card.orbit, card.offset)
    products = []
    for path in sorted(root.glob(str(card.files))):
        entries = _count(path)
        for first in range(0, entries, BATCH):
            source = LmdbRecords(card, path, first, min(BATCH, entries - first))
            name = f"{card.name}/{path.relative_to(root).as_posix()}/{first:07d}"
            products.append(Product(name, card, "chips", acquisition, source))
    return products, []


@dataclass(frozen=True, slots=True)
class LmdbRecords(ProductSource):
    """A run of records of one LMDB."""

    card: Card
    path: Path
    first: int
    count: int

    @property
    def name(self) -> str:
        """Name of the file with the first index."""
        return f"{self.path.name}/{self.first:07d}"

    @property
    def nbytes(self) -> int:
        """Bytes of the records."""
        return sum(len(value) for _, value in self._values())

    def checksum(self) -> str:
        """Sha256 over the keys and values of the run."""
        return fingerprint({key: hashlib.sha256(value).hexdigest() for key, value in self._values()})

    def open_chips(self) -> Iterator[Chip | UnreadableChip]:
        """Yield a chip per record and season.

        In place of a record that is damaged or holds anything but bytes and shapes, why.

        Raises:
            UserError: a record is absent.
        """
        wanted = get_settings(self.card)
        for key, value in self._values():
            where, name = f"record {key} of {self.path}", f"{int(key):07d}"
            try:
                seasons = read_modality(parse_plain_tuple(bytes(value), name=where), wanted.modality, name=where)
                chips = [crop_sample(seasons[k], self.card, f"{name}/{k}") for k in wanted.seasons if k < len(seasons)]
            except UserError as error:
                yield UnreadableChip(name, str(error))
                continue
            yield from chips

    def _values(self) -> Iterator[tuple[str, Any]]:
        with _environment(*_content(self.path), os.getpid()).begin(buffers=True) as transaction:
            for index in range(self.first, self.first + self.count):
                value = transaction.get(str(index).encode())
                if value is None:
                    raise UserError(
                        f"expected the record {index} in {self.path}, found none; the file is not complete, fetch it "
                        "again"
                    )
                yield str(index), value


def _content(path: Path) -> FileIdentity:
    _, modified, size = identify_file(path / "data.mdb" if path.is_dir() else path)
    return str(path), modified, size


def _count(path: Path) -> int:
    return int(_environment(*_content(path), os.getpid()).stat()["entries"])


@lru_cache(maxsize=8)
def _environment(path: str, modified: int, size: int, process: int) -> Any:
    """Open an LMDB for reading, once per process: the library forbids a handle to cross a fork."""
    try:
        import lmdb
    except ImportError as error:
        raise UserError("expected the package lmdb to read an LMDB, found none; install eo_ssl[lmdb]") from error
    try:
        return lmdb.open(path, subdir=Path(path).is_dir(), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise UserError(f"expected an LMDB in {path}, got: {error}; the file is damaged, fetch it again") from error

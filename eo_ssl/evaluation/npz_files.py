"""Computed arrays kept as npz files: read where they are there, computed and committed where they are not."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eo_ssl.commits import commit, explain_read_error
from eo_ssl.errors import UserError

_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,  # NotImplementedError: a method of compression that zips may name
    SyntaxError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""What zipfile and NumPy raise for bytes that are no npz file; each member is compared with its CRC-32 when read."""
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """One npz file of arrays by name."""

    path: Path
    names: tuple[str, ...]
    content: str
    "what it holds, in words"
    remedy: str = "remove that file and run again"
    "what to do about a damaged one"

    def read(self) -> Arrays:
        """Return the arrays.

        Raises:
            UserError: the file is absent or damaged.
        """
        try:
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in self.names}
        except OSError as error:
            raise explain_read_error(error, self.path, remedy=self.remedy) from error
        except _DAMAGE as error:
            raise UserError(
                f"expected {self.content} in {self.path}, got {type(error).__name__}; {self.remedy}"
            ) from error

    def read_or_compute(self, compute: Callable[[], Arrays], *, compress: bool = True) -> Arrays:
        """Return the arrays, computed and committed as one file first where it is not there.

        Raises:
            UserError: the file is damaged.
        """
        if self.path.is_file():
            return self.read()
        arrays = compute()
        data = io.BytesIO()
        write: Any = np.savez_compressed if compress else np.savez
        write(data, **arrays)
        commit(self.path, data.getvalue())
        return arrays

"""Parquet tables of products, read whole or refused in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.commits import explain_read_error
from eo_ssl.errors import UserError, expect


def open_parquet(path: Path, *, remedy: str) -> pq.ParquetFile:
    """Return the open Parquet file at ``path``.

    Raises:
        UserError: it is absent, cannot be read or is damaged.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, MemoryError, ValueError) as error:
        reason = str(error).partition("\n")[0][:120]
        raise UserError(f"expected a Parquet table in {path}, got {reason}; {remedy}") from error
    except OSError as error:
        if error.errno is None:  # Arrow's own, of content
            raise UserError(f"expected a Parquet table in {path}, got {str(error)[:120]}; {remedy}") from error
        raise explain_read_error(error, path, remedy=remedy) from error


def read_parquet(
    path: Path, columns: Sequence[str] | None = None, *, optional: Sequence[str] = (), remedy: str
) -> pa.Table:
    """Return a Parquet table, or some of its columns and those ``optional`` ones that it has.

    Raises:
        UserError: it is absent, damaged or lacks a column.
    """
    with open_parquet(path, remedy=remedy) as file:
        names = file.schema_arrow.names
        missing = [name for name in columns or () if name not in names]
        expect(
            not missing,
            expected=f"the columns {', '.join(columns or ())} in {path}",
            got=", ".join(names)[:200],
            remedy=remedy,
        )
        try:
            known = [name for name in optional if name in names]
            return file.read(columns=None if columns is None else [*columns, *known])
        except (pa.ArrowException, MemoryError, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0][:120]
            raise UserError(f"expected a Parquet table in {path}, got {reason}; {remedy}") from error

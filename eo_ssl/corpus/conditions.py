"""Choosing rows by conditions on the index, such as ``cloud_fraction<0.2``: parsed, never evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eo_ssl.corpus import index
from eo_ssl.errors import UserError, suggest_nearest

if TYPE_CHECKING:
    from eo_ssl.corpus.corpus_view import Corpus

_pc: Any = pc  # its functions are made at import and not typed
_OPERATORS = {
    "<=": _pc.less_equal,
    ">=": _pc.greater_equal,
    "==": _pc.equal,
    "!=": _pc.not_equal,
    "<": _pc.less,
    ">": _pc.greater,
}
_FORM = re.compile(r"\s*(\w+)\s*(<=|>=|==|!=|<|>)\s*(.*?)\s*", re.DOTALL)
_BATCH = 131_072  # rows in memory at once


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a column with a constant; a row of unknown value (null) does not meet it."""

    column: str
    operator: str
    value: float | str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Return the condition that ``text`` states: column, one of < <= > >= == !=, and a number or a word.

        Raises:
            UserError: another form, an unknown column, an order of words, or a number that is none.
        """
        match = _FORM.fullmatch(text)
        if match is None or not match[3]:
            raise UserError(
                f"expected a condition such as cloud_fraction<0.2 or orbit==ascending, got {text!r}; write column, "
                "comparison, value"
            )
        column, operator, value = match.groups()
        if column not in index.SCHEMA.names:
            raise UserError(
                f"expected a column of the index in {text!r},"
                f" got {column!r}{suggest_nearest(column, index.SCHEMA.names)}"
            )
        kind = index.SCHEMA.field(column).type
        if pa.types.is_string(kind):
            if operator not in ("==", "!="):
                raise UserError(
                    f"expected == or != with the words of {column}, got {text!r}; only numbers have an order"
                )
            return cls(column, operator, value)
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise UserError(f"expected a column of numbers or words in {text!r}, got {kind}; choose another column")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not np.isfinite(number):
            raise UserError(
                f"expected a number to compare {column} with, got {value!r}; write for example {column}{operator}0.2"
            )
        return cls(column, operator, number)

    def holds(self, column: pa.Array) -> npt.NDArray[np.bool_]:
        """Return whether it holds, bool [n].

        Values are compared as stored (float32), so that a limit equal to a value meets it.
        """
        value: Any = self.value
        if pa.types.is_float32(column.type):
            value = pa.scalar(value, pa.float32())
        return np.asarray(_OPERATORS[self.operator](column, value).fill_null(False))


def select_rows(corpus: Corpus, stream: str, conditions: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the rows of a stream that meet all ``conditions``, int64 ascending; its index is read in batches.

    Raises:
        UserError: an unknown stream, or a condition that cannot be meant.
    """
    parsed = [Condition.parse(text) for text in conditions]
    rows, first = [np.empty(0, dtype=np.int64)], 0
    columns = sorted({condition.column for condition in parsed}) or ["month"]
    for batch in corpus.dataset(stream).scanner(columns=columns, batch_size=_BATCH).to_batches():
        kept = np.ones(len(batch), dtype=bool)
        for condition in parsed:
            kept &= condition.holds(batch[condition.column])
        rows.append(first + np.flatnonzero(kept))
        first += len(batch)
    return np.concatenate(rows)

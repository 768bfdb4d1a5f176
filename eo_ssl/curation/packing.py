"""Arrays as text, so that a checkpoint holds plain values only and still costs bytes, not Python objects, per row."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_ssl.errors import UserError


def pack(array: NDArray[Any] | None) -> dict[str, Any] | None:
    """Return ``array`` (int64 or float32) as {dtype, shape, zlib: base64 of its compressed little-endian bytes}."""
    if array is None:
        return None
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return {
        "dtype": little.dtype.str,
        "shape": list(array.shape),
        "zlib": base64.b64encode(zlib.compress(little.tobytes(), 1)).decode("ascii"),
    }


def unpack(packed: Mapping[str, Any] | None) -> NDArray[Any] | None:
    """Return the array that ``pack`` packed.

    Raises:
        UserError: the text is no such array.
    """
    if packed is None:
        return None
    try:
        if packed["dtype"] not in ("<i8", "<f4"):
            raise ValueError(f"dtype {packed['dtype']}")
        raw = zlib.decompress(base64.b64decode(packed["zlib"], validate=True))
        return np.frombuffer(raw, dtype=np.dtype(packed["dtype"])).reshape(packed["shape"]).copy()
    except (KeyError, ValueError, zlib.error) as error:
        raise UserError(
            f"expected a packed array in the checkpoint, got {error}; resume from an intact checkpoint"
        ) from error

"""Tiles of several corpus streams behind one row number, bands chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from eo_ssl.errors import UserError
from eo_ssl.preprocessing import StreamLike
from eo_ssl.pretraining.sampler import Rows
from eo_ssl.sensors import Quantity, sensor


class NamedStream(StreamLike, Protocol):
    """What is needed of a corpus stream."""

    @property
    def name(self) -> str:
        """Of the stream in its corpus."""
        ...


class Reader(Protocol):
    """What is needed of the reader of a corpus stream."""

    @property
    def stream(self) -> NamedStream: ...  # noqa: D102
    def __len__(self) -> int: ...
    def read(  # noqa: D102
        self, rows: Rows, *, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]: ...


def locate_acquisitions(moments: pa.ChunkedArray, bounds: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Days since 2015-01-01, longitude and latitude (degrees) of the middle of tiles; NaN where unknown: [N, 3].

    Args:
        moments: [N] strings, ISO 8601 in UTC; empty where unknown.
        bounds: [N, 4], xmin, ymin, xmax, ymax in degrees; xmin > xmax across the antimeridian; NaN where unknown.
    """
    encoded = moments.combine_chunks().dictionary_encode()  # acquisitions are few, tiles are many
    stamps = np.char.rstrip(np.array(encoded.dictionary.to_pylist(), str), "Z").astype("datetime64[s]")  # "": no time
    days = (stamps - np.datetime64("2015-01-01")) / np.timedelta64(1, "D")
    which = encoded.indices.to_numpy()
    west, south, east, north = bounds.T
    lon = (west + np.where(west > east, east + 360, east)) / 2
    place = np.stack([np.where(lon > 180, lon - 360, lon), (south + north) / 2], axis=1)
    return np.concatenate([days[which][:, None], place], axis=1).astype(np.float32)


def tell_places(locations: Rows, bounds: npt.NDArray[np.float64]) -> Rows:
    """Numbers of the places of tiles, int64 [N], equal for those of one location on one ground, in its order.

    A location is a cell, and patches that were drawn near each other, as by SSL4EO-S12, can lie in one: a tile whose
    middle is more than half a tile away from the first of its location is of another place.

    Args:
        locations: int64 [N].
        bounds: [N, 4], as for `locate_acquisitions`; tiles without are of the first place of their location.
    """
    west, south, east, north = bounds.T
    east = np.where(west > east, east + 360, east)
    middle, size = np.stack([west + east, south + north]) / 2, np.stack([east - west, north - south])  # [2, N]
    part, waiting = np.zeros_like(locations), np.arange(len(locations))
    while len(waiting):
        _, first, which = np.unique(locations[waiting], return_index=True, return_inverse=True)
        apart = np.abs(middle[:, waiting] - middle[:, waiting[first[which]]]) > size[:, waiting] / 2
        waiting = waiting[apart.any(axis=0)]
        part[waiting] += 1
    numbers: Rows = locations * (part.max(initial=0) + 1) + part
    return numbers


class TileSource:
    """Several streams of one sensor, quantity and size behind one row number, bands chosen by name.

    Streams may differ in ground sampling distance and may hold more bands than are used.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        *,
        bands: Sequence[str] | None = None,
        acquired: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Join readers; row numbers of the second start where those of the first end.

        Args:
            readers: at least one, each with at least one tile.
            bands: the bands wanted, in that order; None for those of the first stream, which all others must hold.
            acquired: [N, 3], time and place of each tile as `locate_acquisitions` gives them; None where nothing is
                known.

        Raises:
            UserError: for no or an empty stream, for streams that do not fit together, for a band that one lacks.
        """
        if not readers:
            raise UserError("expected at least one stream of tiles, got none: name a corpus that holds one")
        first = readers[0].stream
        for reader in readers:
            stream = reader.stream
            if len(reader) == 0:
                raise UserError(f"expected tiles in stream {stream.name}, got none: ingest products or leave it out")
            for field in ("sensor", "quantity", "size_px"):
                if getattr(stream, field) != getattr(first, field):
                    raise UserError(
                        f"expected streams of one sensor, quantity and size, got {field} {getattr(first, field)} in"
                        f" {first.name} and {getattr(stream, field)} in {stream.name}: choose streams that agree"
                    )
        self.readers = tuple(readers)
        self.sensor, self.quantity, self.size_px = first.sensor, Quantity(first.quantity), first.size_px
        self.bands = tuple(first.bands) if bands is None else sensor(first.sensor).resolve_all(bands)
        self._channels = [self._find(reader.stream) for reader in readers]
        self.offsets = np.cumsum([0, *(len(reader) for reader in readers)])  # [streams + 1]
        unknown = np.broadcast_to(np.float32(np.nan), (len(self), 3))
        self.acquired: npt.NDArray[np.float32] = unknown if acquired is None else acquired
        self.gsd_m = (min(r.stream.gsd_m for r in readers), max(r.stream.gsd_m for r in readers))
        self._buffers: dict[int, npt.NDArray[np.float32]] = {}

    def __len__(self) -> int:
        """Tiles of all streams."""
        return int(self.offsets[-1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, rows and columns of a tile."""
        return len(self.bands), self.size_px, self.size_px

    def read(self, rows: Rows) -> Tensor:
        """Physical values of the tiles: [n, C, H, W] float32, NaN where invalid.

        The result is a buffer of this object that the next call with the same number of rows overwrites.
        """
        out = self._buffer(-1, len(rows), len(self.bands))
        part = np.searchsorted(self.offsets, rows, side="right") - 1  # [n], stream of each row
        for index in np.unique(part):
            reader, channels = self.readers[index], self._channels[index]
            at = np.flatnonzero(part == index)
            local = rows[at] - self.offsets[index]
            direct = len(at) == len(rows) and channels == list(range(len(reader.stream.bands)))
            if direct:
                reader.read(local, out=out)
                continue
            raw = self._buffer(int(index), len(rows), len(reader.stream.bands))[: len(at)]
            reader.read(local, out=raw)
            for channel, wanted in enumerate(channels):
                out[at, channel] = raw[:, wanted]
        return torch.from_numpy(out)

    def _buffer(self, key: int, n: int, channels: int) -> npt.NDArray[np.float32]:
        """Memory of stream `key` (-1: the result), kept between calls: fresh pages cost four times the copy."""
        shape = (n, channels, self.size_px, self.size_px)
        if key not in self._buffers or self._buffers[key].shape != shape:
            self._buffers[key] = torch.empty(shape, dtype=torch.float32).numpy()  # aligned for fast copies
        return self._buffers[key]

    def _find(self, stream: NamedStream) -> list[int]:
        have = list(stream.bands)
        absent = [band for band in self.bands if band not in have]
        if absent:
            raise UserError(
                f"expected the bands {', '.join(self.bands)} in stream {stream.name}, got none of {', '.join(absent)}:"
                " name bands that all streams hold"
            )
        return [have.index(band) for band in self.bands]

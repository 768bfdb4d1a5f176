"""Image sources of a task: rows of a corpus stream, subsets, several sources as one, read a batch ahead by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from eo_ssl.corpus import Corpus
from eo_ssl.errors import expect
from eo_ssl.fingerprints import fingerprint
from eo_ssl.image_metadata import INDEX_COLUMNS, Metadata, make_metadata, read_index_metadata
from eo_ssl.preprocessing import Tagged
from eo_ssl.sensors import Quantity, translate_bands

Rows = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]
_Item = TypeVar("_Item")
_Loaded = TypeVar("_Loaded")


class ImageSource(Tagged, Protocol):
    """Images with a tag: where features come from."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height, width of each image."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the images and their order."""
        ...

    def __len__(self) -> int: ...
    def read(self, positions: Rows, out: Matrix) -> None:
        """Fill ``out`` [n, C, H, W] float32 with the images at ``positions``, physical values, NaN where invalid."""
        ...


@runtime_checkable
class DescribedSource(ImageSource, Protocol):
    """Images of which more is known than their pixels."""

    def read_metadata(self, positions: Rows) -> Metadata:
        """Return what is known of the images at ``positions``: [n, 5] float32 (`image_metadata`), NaN where unknown."""
        ...


class StreamRows(Protocol):
    """The part of a corpus stream reader that is used here."""

    def __len__(self) -> int: ...
    def read(self, rows: Rows, *, out: Matrix | None = None) -> Matrix: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """Rows of one stream of a corpus."""

    reader: StreamRows
    rows: Rows
    "global rows of the stream, ascending"
    sensor: str
    quantity: Quantity
    bands: tuple[str, ...]
    gsd_m: float
    shape: tuple[int, int, int]
    fingerprint: str
    index: Callable[..., pa.Table] | None = None
    "called with `rows` of the stream, returns what the index says of them; None where nothing is known"

    def __len__(self) -> int:
        return len(self.rows)

    def read_metadata(self, positions: Rows) -> Metadata:
        """Return what the index says of the images at ``positions``: [n, 5] float32."""
        if self.index is None:
            return make_metadata(len(positions), gsd_m=self.gsd_m)
        return read_index_metadata(self.index(rows=self.rows[positions]))

    def read(self, positions: Rows, out: Matrix) -> None:
        """Fill ``out`` [n, C, H, W] with the images at ``positions``."""
        got = self.reader.read(self.rows[positions], out=out)
        if got is not out and not np.shares_memory(got, out):
            np.copyto(out, got)


@dataclass(frozen=True, slots=True)
class DerivedSource:
    """Images of another source under its tags."""

    source: ImageSource

    @property
    def sensor(self) -> str:
        """That of the source."""
        return self.source.sensor

    @property
    def quantity(self) -> Quantity:
        """That of the source."""
        return self.source.quantity

    @property
    def bands(self) -> tuple[str, ...]:
        """Those of the source."""
        return self.source.bands

    @property
    def gsd_m(self) -> float:
        """That of the source, metres."""
        return self.source.gsd_m

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height, width of each image."""
        return self.source.shape

    def read_metadata(self, positions: Rows) -> Metadata:
        """Return what is known of the images at ``positions``: as of the source."""
        return read_metadata(self.source, positions)


@dataclass(frozen=True, slots=True)
class SourceSubset(DerivedSource):
    """Some images of a source."""

    positions: Rows
    "in the source"

    @property
    def fingerprint(self) -> str:
        """Of the source and the positions; that of the source when every image is taken in order."""
        whole = np.array_equal(self.positions, np.arange(len(self.source)))
        return self.source.fingerprint if whole else fingerprint([self.source.fingerprint, self.positions.tolist()])

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, positions: Rows, out: Matrix) -> None:
        """Fill ``out`` [n, C, H, W] with the images at ``positions`` of this subset."""
        self.source.read(self.positions[positions], out)

    def read_metadata(self, positions: Rows) -> Metadata:
        """Return what is known of the images at ``positions`` of this subset."""
        return read_metadata(self.source, self.positions[positions])


def open_corpus_source(corpus: Corpus, stream: str, *, rows: Rows | None = None) -> CorpusSource:
    """Return the images of ``stream``; ``rows`` (ascending, each once) selects some, None takes all.

    Raises:
        UserError: no such stream, rows out of range, repeated or out of order.
    """
    reader = corpus.stream(stream)
    chosen = np.arange(len(reader), dtype=np.int64) if rows is None else np.asarray(rows, dtype=np.int64)
    expect(
        not len(chosen) or (chosen[0] >= 0 and chosen[-1] < len(reader) and (np.diff(chosen) > 0).all()),
        expected=f"ascending rows of {stream} within 0 ... {len(reader) - 1}",
        got=f"{chosen[:3]} ...",
        remedy="sort them and drop repetitions",
    )
    tag = reader.stream
    identity = {"corpus": corpus.fingerprint, "stream": stream, "rows": None if rows is None else chosen.tolist()}
    return CorpusSource(
        reader,
        chosen,
        tag.sensor,
        Quantity(tag.quantity),
        tuple(tag.bands),
        float(tag.gsd_m),
        (len(tag.bands), tag.size_px, tag.size_px),
        fingerprint(identity),
        partial(corpus.index, stream, columns=list(INDEX_COLUMNS)),
    )


def rename_bands(source: CorpusSource, *, sensor: str) -> CorpusSource:
    """Return ``source`` with its bands named as the corresponding bands of another sensor: a deliberate act.

    Raises:
        UserError: when a band has no counterpart.
    """
    bands = translate_bands(source.bands, source=source.sensor, target=sensor)
    return replace(source, sensor=sensor, bands=bands, fingerprint=fingerprint([source.fingerprint, sensor, bands]))


def locate_rows(sizes: Sequence[int], rows: Rows) -> Iterator[tuple[int, Rows, Rows]]:
    """Yield where ``rows`` of several parts that stand one after the other lie, part by part.

    Args:
        sizes: number of images of each part.
        rows: int64, positions among all images.

    Yields:
        For each part that holds some: its number, their places in ``rows``, and their positions in the part, both in
        the order of ``rows``.
    """
    starts = np.cumsum([0, *sizes])
    holder = np.searchsorted(starts, rows, side="right") - 1
    for part in np.unique(holder).tolist():
        places = np.flatnonzero(holder == part)
        yield part, places, rows[places] - starts[part]


def read_images(source: ImageSource, positions: Rows) -> Tensor:
    """Return the images at ``positions``, [n, C, H, W] float32, physical values, NaN where invalid."""
    images = torch.empty((len(positions), *source.shape), dtype=torch.float32)
    source.read(positions, images.numpy())
    return images


def read_metadata(source: ImageSource, positions: Rows) -> Metadata:
    """Return what is known of the images at ``positions`` beside their pixels, [n, 5] float32, NaN where unknown.

    Of a source that says nothing of single images the size of their pixels is known alone.
    """
    if isinstance(source, DescribedSource):
        return source.read_metadata(positions)
    return make_metadata(len(positions), gsd_m=source.gsd_m)


def read_ahead(read: Callable[[_Item], _Loaded], items: Iterable[_Item]) -> Iterator[_Loaded]:
    """Yield ``read(item)`` of each item in order; a thread reads the next one while the caller works on this one.

    At most one item is ahead, so two buffers that are filled in turn are enough.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="eo-ssl-read") as pool:
        waiting: deque[Future[_Loaded]] = deque()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

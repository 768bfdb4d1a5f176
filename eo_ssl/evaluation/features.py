"""Features of many images: one pass over a source in its own order, as fast as the bare forward pass, cached by fingerprint."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eo_ssl.corpus import Corpus
from eo_ssl.encoder import Encoder
from eo_ssl.errors import UserError
from eo_ssl.manifest import commit, fingerprint
from eo_ssl.preprocessing import Tagged
from eo_ssl.sensors import Quantity, translate_bands

Rows = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]


class Source(Tagged, Protocol):
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


class Reader(Protocol):
    """The part of a corpus stream reader that is used here."""

    def __len__(self) -> int: ...
    def read(self, rows: Rows, *, out: Matrix | None = None) -> Matrix: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """Rows of one stream of a corpus."""

    reader: Reader
    rows: Rows
    "global rows of the stream, ascending"
    sensor: str
    quantity: Quantity
    bands: tuple[str, ...]
    gsd_m: float
    shape: tuple[int, int, int]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: Rows, out: Matrix) -> None:
        """Fill ``out`` [n, C, H, W] with the images at ``positions``."""
        got = self.reader.read(self.rows[positions], out=out)
        if got is not out and not np.shares_memory(got, out):
            np.copyto(out, got)


@dataclass(frozen=True, slots=True)
class Derived:
    """Images of another source under its tags."""

    source: Source

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


@dataclass(frozen=True, slots=True)
class Part(Derived):
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
        """Fill ``out`` [n, C, H, W] with the images at ``positions`` of this part."""
        self.source.read(self.positions[positions], out)


@dataclass(frozen=True, slots=True)
class Features:
    """One vector per image of a source, in its order."""

    x: Matrix
    "[n, D] float32"
    encoder: str
    fingerprint: str
    "of encoder and source"


def open_corpus_source(corpus: Corpus, stream: str, *, rows: Rows | None = None) -> CorpusSource:
    """Return the images of ``stream``; ``rows`` (ascending, each once) selects some, None takes all.

    Raises:
        UserError: no such stream, rows out of range, repeated or out of order.
    """
    reader = corpus.stream(stream)
    chosen = np.arange(len(reader), dtype=np.int64) if rows is None else np.asarray(rows, dtype=np.int64)
    if len(chosen) and (chosen[0] < 0 or chosen[-1] >= len(reader) or (np.diff(chosen) <= 0).any()):
        raise UserError(
            f"expected ascending rows of {stream} within 0 ... {len(reader) - 1}, got {chosen[:3]} ...; sort them and drop repetitions"
        )
    about = reader.stream
    size = about.size_px
    identity = {"corpus": corpus.fingerprint, "stream": stream, "rows": None if rows is None else chosen.tolist()}
    shape = (len(about.bands), size, size)
    return CorpusSource(
        reader,
        chosen,
        about.sensor,
        Quantity(about.quantity),
        tuple(about.bands),
        float(about.gsd_m),
        shape,
        fingerprint(identity),
    )


def translated(source: CorpusSource, *, sensor: str) -> CorpusSource:
    """Return ``source`` with its bands named as the corresponding bands of another sensor: a deliberate act.

    Raises:
        UserError: when a band has no counterpart.
    """
    bands = translate_bands(source.bands, source=source.sensor, target=sensor)
    return replace(source, sensor=sensor, bands=bands, fingerprint=fingerprint([source.fingerprint, sensor, bands]))


def extract(
    encoder: Encoder,
    source: Source,
    *,
    batch_size: int = 64,
    cache: Path | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Features:
    """Return the features of every image of ``source``, in its order.

    The next batch is read by a thread into a second buffer while the encoder works; buffers are reused.

    Args:
        encoder: any encoder; its own contract is applied to the source's tag and band names.
        source: the images.
        batch_size: images per forward pass.
        cache: folder of ``<fingerprint>.npz`` files that are read instead of computing; None for none.
        device: torch device of the forward pass.
        progress: called with the number of images finished.

    Raises:
        UserError: the contract refuses the source, or the encoder gives values that are not finite.
    """
    # Contracts that do the same to images of this size share one pass.
    effective = encoder.with_preprocessing(encoder.preprocessing.effective(*source.shape[1:]))
    key = fingerprint({"encoder": effective.fingerprint, "source": source.fingerprint, "format": 3})
    kept = None if cache is None else Path(cache) / f"{key}.npz"
    if kept is not None and kept.is_file():
        found = Features(_cached(kept, len(source), encoder.dim), encoder.name, key)
        if progress is not None:
            progress(len(source))
        return found
    if isinstance(encoder, nn.Module):
        encoder.to(device)
    x = np.empty((len(source), encoder.dim), dtype=np.float32)
    done = 0
    with torch.inference_mode():
        for image in _batches(source, batch_size, device):
            prepared, valid = encoder.preprocessing(
                image, bands=source.bands, quantity=source.quantity, sensor=source.sensor
            )
            x[done : done + len(image)] = encoder.features(prepared, valid=valid).to("cpu", torch.float32).numpy()
            done += len(image)
            if progress is not None:
                progress(len(image))
    bad = int((~np.isfinite(x)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"expected finite features of {encoder.name}, got NaN or infinity in {bad} of {len(x)} images; train the encoder again"
        )
    if kept is not None:
        data = io.BytesIO()
        np.savez(data, x=x)
        commit(kept, data.getvalue())
    return Features(x, encoder.name, key)


def _cached(path: Path, count: int, dim: int) -> Matrix:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            x: Matrix = arrays["x"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"expected cached features in {path}, got {type(error).__name__}; remove the file and run again"
        ) from error
    if x.shape != (count, dim) or x.dtype != np.float32:
        raise UserError(
            f"expected float32 features [{count}, {dim}] in {path}, got {x.dtype} {list(x.shape)}; remove the file and run again"
        )
    return x


def _batches(source: Source, batch_size: int, device: str) -> Iterator[Tensor]:
    """Images in order, [b, C, H, W] float32 on ``device``; each batch is valid until the next one is asked for."""
    if batch_size < 1:
        raise UserError(f"expected a batch size of at least 1, got {batch_size}; give a positive number")
    starts = range(0, len(source), batch_size)
    size = min(batch_size, max(1, len(source)))
    # Allocated by torch: aligned, and page-locked for a copy that overlaps with the forward pass.
    buffers = [
        torch.empty((size, *source.shape), dtype=torch.float32, pin_memory=device.startswith("cuda")) for _ in range(2)
    ]

    def fill(number: int) -> Tensor:
        positions = np.arange(starts[number], min(starts[number] + batch_size, len(source)), dtype=np.int64)
        buffer = buffers[number % 2][: len(positions)]
        source.read(positions, buffer.numpy())
        return buffer

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="eo-ssl-read") as pool:
        waiting = pool.submit(fill, 0) if len(starts) else None
        for number in range(len(starts)):
            assert waiting is not None  # one was submitted for each batch
            image = waiting.result().to(device, non_blocking=True)
            # On a GPU the copy must be over before the buffer is filled again, two batches later.
            waiting = pool.submit(fill, number + 1) if number + 1 < len(starts) else None
            yield image
            if device.startswith("cuda"):
                torch.cuda.current_stream().synchronize()

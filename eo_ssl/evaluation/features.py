"""Features of many images: one pass over a source in its own order, cached by fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from eo_ssl.encoder import Encoder
from eo_ssl.errors import expect
from eo_ssl.evaluation.npz_files import ArrayFile
from eo_ssl.evaluation.sources import ImageSource, Matrix, read_ahead, read_metadata
from eo_ssl.fingerprints import fingerprint
from eo_ssl.preprocessing import describe_input

Numbers = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Features:
    """One vector per image of a source, in its order."""

    x: Matrix
    "[n, D] float32, or the array that was to be filled"
    encoder: str
    fingerprint: str
    "of encoder and source"


@dataclass(frozen=True, slots=True)
class Computing:
    """Batch size, cache, device and progress of feature extraction."""

    batch_size: int = 64
    cache: Path | None = None
    device: str = "cpu"
    progress: Callable[[int], None] | None = None
    "called with the number of images finished"

    def extract(self, encoder: Encoder, source: ImageSource) -> Matrix:
        """Return the features of ``source``, [n, D] float32."""
        return extract_features(
            encoder,
            source,
            batch_size=self.batch_size,
            cache=self.cache,
            device=self.device,
            progress=self.progress,
        ).x


ON_CPU = Computing()
"""In this process, nothing kept."""


def choose_device(name: str) -> str:
    """Return the torch device for auto, cpu or cuda; auto takes a GPU where there is one.

    Raises:
        UserError: cuda where torch finds no GPU.
    """
    there = torch.cuda.is_available()
    expect(
        name != "cuda" or there,
        expected="a GPU for --device cuda",
        got="none that torch can use",
        remedy="leave --device out",
    )
    return ("cuda" if there else "cpu") if name == "auto" else name


def extract_features(
    encoder: Encoder,
    source: ImageSource,
    *,
    batch_size: int = 64,
    cache: Path | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    out: Numbers | None = None,
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
        out: floating [n, D] to be filled and returned, such as a memory map; None: a new array in memory. Without a
            cache.

    Raises:
        UserError: the contract refuses the source, the encoder gives values that are not finite, or such as the type of
            ``out`` does not hold.
        ValueError: ``out`` of another shape, or beside a cache.
    """
    if out is not None and (cache is not None or out.shape != (len(source), encoder.dim)):
        raise ValueError(f"an array [{len(source)}, {encoder.dim}] is filled, without a cache; got {list(out.shape)}")
    # Contracts that do the same to images of this size share one pass.
    effective = encoder.with_preprocessing(encoder.preprocessing.effective(*source.shape[1:]))
    metadata = read_metadata(source, np.arange(len(source))) if encoder.preprocessing.metadata else None
    told = {} if metadata is None else {"metadata": hashlib.sha256(metadata.tobytes()).hexdigest()}
    key = fingerprint({"encoder": effective.fingerprint, "source": source.fingerprint, "format": 3} | told)
    report = progress or (lambda _: None)
    if cache is None:
        x = np.empty((len(source), encoder.dim), dtype=np.float32) if out is None else out
        _compute(encoder, source, metadata, batch_size, device, report, x)
        return Features(x, encoder.name, key)
    file = ArrayFile(Path(cache) / f"{key}.npz", ("x",), "cached features", "remove the file and run again")
    there = file.path.is_file()

    def compute() -> dict[str, Matrix]:
        fresh = np.empty((len(source), encoder.dim), dtype=np.float32)
        _compute(encoder, source, metadata, batch_size, device, report, fresh)
        return {"x": fresh}

    x = file.read_or_compute(compute, compress=False)["x"]
    expect(
        x.shape == (len(source), encoder.dim) and x.dtype == np.float32,
        expected=f"float32 features [{len(source)}, {encoder.dim}] in {file.path}",
        got=f"{x.dtype} {list(x.shape)}",
        remedy=file.remedy,
    )
    if there:
        report(len(source))
    return Features(x, encoder.name, key)


def _compute(
    encoder: Encoder,
    source: ImageSource,
    metadata: Matrix | None,
    batch_size: int,
    device: str,
    report: Callable[[int], None],
    x: Numbers,
) -> None:
    """Fill ``x`` [n, D] with features by one forward pass per batch."""
    expect(batch_size >= 1, expected="a batch size of at least 1", got=batch_size, remedy="give a positive number")
    on_gpu = device.startswith("cuda")
    starts = range(0, len(source), batch_size)
    size = (min(batch_size, max(1, len(source))), *source.shape)
    # Allocated by torch: aligned, and page-locked for a copy that overlaps with the forward pass.
    buffers = [torch.empty(size, dtype=torch.float32, pin_memory=on_gpu) for _ in range(2)]

    def fill(number: int) -> torch.Tensor:
        positions = np.arange(starts[number], min(starts[number] + batch_size, len(source)), dtype=np.int64)
        buffer = buffers[number % 2][: len(positions)]
        source.read(positions, buffer.numpy())
        return buffer

    if isinstance(encoder, nn.Module):
        encoder.to(device)
    done = bad = beyond = 0
    with torch.inference_mode():
        for buffer in read_ahead(fill, range(len(starts))):
            image = buffer.to(device, non_blocking=True)
            prepared, valid = encoder.preprocessing(
                image, bands=source.bands, quantity=source.quantity, sensor=source.sensor
            )
            known = None if metadata is None else metadata[done : done + len(image)]
            told = describe_input(encoder.preprocessing, known, side_px=source.shape[-1])
            vectors = encoder.features(prepared, valid=valid, **told)
            values = vectors.to("cpu", torch.float32).numpy()
            bad += int((~np.isfinite(values)).any(axis=1).sum())
            beyond += int((np.abs(values) > np.finfo(x.dtype).max).any(axis=1).sum())
            with np.errstate(over="ignore"):  # counted above
                x[done : done + len(image)] = values
            done += len(image)
            report(len(image))
            if on_gpu:  # the copy must be over before the buffer is filled again
                torch.cuda.current_stream().synchronize()
    expect(
        not bad,
        expected=f"finite features of {encoder.name}",
        got=f"NaN or infinity in {bad} of {len(x)} images",
        remedy="train the encoder again",
    )
    expect(
        not beyond,
        expected=f"features of {encoder.name} of at most {np.finfo(x.dtype).max:g} ({x.dtype})",
        got=f"larger ones in {beyond} of {len(x)} images",
        remedy="choose an encoder whose features are normalised",
    )

"""Features of many images: one pass over a source in its own order, cached by fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from eo_ssl.encoder import Encoder
from eo_ssl.errors import expect
from eo_ssl.evaluation.npz_files import ArrayFile
from eo_ssl.evaluation.sources import ImageSource, Matrix, read_ahead, read_metadata
from eo_ssl.fingerprints import fingerprint
from eo_ssl.preprocessing import describe_input


@dataclass(frozen=True, slots=True)
class Features:
    """One vector per image of a source, in its order."""

    x: Matrix
    "[n, D] float32"
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
    metadata = read_metadata(source, np.arange(len(source))) if encoder.preprocessing.metadata else None
    told = {} if metadata is None else {"metadata": hashlib.sha256(metadata.tobytes()).hexdigest()}
    key = fingerprint({"encoder": effective.fingerprint, "source": source.fingerprint, "format": 3} | told)
    report = progress or (lambda _: None)
    if cache is None:
        return Features(_compute(encoder, source, metadata, batch_size, device, report), encoder.name, key)
    file = ArrayFile(Path(cache) / f"{key}.npz", ("x",), "cached features", "remove the file and run again")
    there = file.path.is_file()
    made = file.read_or_compute(
        lambda: {"x": _compute(encoder, source, metadata, batch_size, device, report)}, compress=False
    )
    x = made["x"]
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
) -> Matrix:
    """Features [n, D] float32 by one forward pass per batch."""
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
    x = np.empty((len(source), encoder.dim), dtype=np.float32)
    done = 0
    with torch.inference_mode():
        for buffer in read_ahead(fill, range(len(starts))):
            image = buffer.to(device, non_blocking=True)
            prepared, valid = encoder.preprocessing(
                image, bands=source.bands, quantity=source.quantity, sensor=source.sensor
            )
            known = None if metadata is None else metadata[done : done + len(image)]
            told = describe_input(encoder.preprocessing, known, side_px=source.shape[-1])
            vectors = encoder.features(prepared, valid=valid, **told)
            x[done : done + len(image)] = vectors.to("cpu", torch.float32).numpy()
            done += len(image)
            report(len(image))
            if on_gpu:  # the copy must be over before the buffer is filled again
                torch.cuda.current_stream().synchronize()
    bad = int((~np.isfinite(x)).any(axis=1).sum())
    expect(
        not bad,
        expected=f"finite features of {encoder.name}",
        got=f"NaN or infinity in {bad} of {len(x)} images",
        remedy="train the encoder again",
    )
    return x

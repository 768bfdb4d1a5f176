"""Shuffled batches of patches from a corpus against a NumPy memmap of the same patches doing the same conversion."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from eo_ssl.corpus import Encoding, Stream, StreamReader, allocate_aligned
from eo_ssl.corpus.shards import Layout, PartWriter, pack
from eo_ssl.corpus.snapshots import FragmentEntry
from eo_ssl.sensors import Quantity, sensor
from worlds.benchmarks import make_eurosat

TILES, BATCH, PAIRS = 2048, 64, 15
STREAM = Stream("sentinel2_l1c", Quantity.TOA_REFLECTANCE, sensor("sentinel2_l1c").band_names, 10.0, 64)
ENCODING = Encoding.of(STREAM.quantity, chips=False)
MEAN, GAIN = torch.full((13, 1, 1), 0.2), torch.full((13, 1, 1), 5.0)


def textured(rng: np.random.Generator, tiles: int) -> Iterator[np.ndarray[Any, Any]]:
    """Yield tiles [13, 64, 64] int16 whose compression is that of real scenes: fractal texture and sensor noise."""
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None, :])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(size=(512, 512))) / frequency**2.2
    field = np.fft.irfft2(spectrum)
    field = (field - field.mean()) / field.std()
    gains = rng.uniform(60, 300, 13)
    for _ in range(tiles):
        row, col = rng.integers(0, 448, 2)
        scene = field[row : row + 64, col : col + 64]
        yield (1500 + gains[:, None, None] * scene + rng.normal(0, 2, (13, 64, 64))).astype(np.int16)


def written(root: Path, codec: str, patches: np.ndarray[Any, Any], *, checksum: str = "crc32c") -> StreamReader:
    """Return a reader of ``patches`` stored as a fragment, with a checksum after each chunk unless told otherwise."""
    layout = Layout(STREAM, ENCODING, codec, checksum)  # type: ignore[arg-type]
    name = codec + checksum
    folder = root / "fragments" / name
    parts = folder / "parts"
    parts.mkdir(parents=True)
    writer = PartWriter(parts, layout, planned=len(patches))
    for tile in patches:
        writer.slot()[...] = tile
        writer.keep()
    rest = len(writer.close())
    pack(folder / f"{STREAM.name}.zarr", layout, [(parts, writer.shards, rest)])
    shutil.rmtree(parts)
    entry = FragmentEntry(
        name=name,
        product_id="bench",
        kind="cube",
        card="bench",
        stream=STREAM.name,
        rows=len(patches),
        tiles_per_shard=layout.tiles_per_shard,
        codec=codec,
        encoding=ENCODING.to_json(),
        counts={},
        nbytes=0,
        chunk_checksum=layout.chunk_checksum,
    )
    return StreamReader(root, STREAM, [entry])


class Batches(Dataset[Any]):
    """Batches as a loader's worker reads them, normalised, into memory of its own: from the corpus, or from a memmap of the patches."""

    def __init__(self, reader: StreamReader | None, path: Path, batches: list[Any]) -> None:
        self.reader, self.path, self.batches = reader, path, batches
        self.patches: Any = None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> torch.Tensor:
        out = torch.empty((BATCH, 13, 64, 64))
        if self.reader is not None:
            self.reader.read(self.batches[number], out=out.numpy())
        else:
            if self.patches is None:
                self.patches = np.load(self.path, mmap_mode="r")
            for position, row in enumerate(self.batches[number]):
                ENCODING.decode(self.patches[row], out.numpy()[position])
        return out.sub_(MEAN).mul_(GAIN)


def drained(dataset: Batches, start: str) -> Callable[[], None]:
    """Return a pass over ``dataset`` with two workers, started once."""
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=start, persistent_workers=True)

    def action() -> None:
        for _ in loader:
            pass

    return action


def alternate(*actions: Callable[[], None], pairs: int = PAIRS) -> list[tuple[float, float, float]]:
    """Return of each action but the last its median seconds, those of the last, and the median of the pairs' ratios.

    They are measured in turns after a warm-up.
    """
    for action in actions:
        action()
    rounds = []
    for _ in range(pairs):
        times = []
        for action in actions:
            begun = time.perf_counter()
            action()
            times.append(time.perf_counter() - begun)
        rounds.append(times)
    *ours, reference = zip(*rounds, strict=True)
    return [
        (
            statistics.median(mine),
            statistics.median(reference),
            statistics.median(a / b for a, b in zip(mine, reference, strict=True)),
        )
        for mine in ours
    ]


def run() -> Iterator[dict[str, Any]]:
    """Yield ``load/uncompressed`` and ``load/lz4`` without and with two workers, each beside the same without checksums, and ``load/vs-geotiff``: seconds per 1,000 patches."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="eo_ssl-bench-") as home:
        root = Path(home)
        plain = np.lib.format.open_memmap(root / "patches.npy", mode="w+", dtype=np.int16, shape=(TILES, 13, 64, 64))
        for number, tile in enumerate(textured(rng, TILES)):
            plain[number] = tile
        plain.flush()
        patches = np.load(root / "patches.npy", mmap_mode="r")
        order = rng.permutation(TILES)
        batches = [order[first : first + BATCH] for first in range(0, TILES, BATCH)]
        for name, codec in (("uncompressed", "none"), ("lz4", "lz4")):
            checked, unchecked = (written(root, codec, patches, checksum=kind) for kind in ("crc32c", ""))
            size = sum(p.stat().st_size for p in (root / "fragments" / f"{codec}crc32c").rglob("*") if p.is_file())
            share = f"{size / plain.nbytes:.0%} of raw size"
            yield from one_process(name, (checked, unchecked), patches, batches, share)
            for start in ("fork", "spawn"):
                passes = [
                    drained(Batches(source, root / "patches.npy", batches), start)
                    for source in (checked, unchecked, None)
                ]
                note = f"two workers ({start}) on both sides, {share}"
                yield from lines(f"{name}-2-{start}", alternate(*passes), note)
        yield against_geotiff(root, rng)


def one_process(
    name: str, readers: tuple[StreamReader, StreamReader], patches: np.ndarray[Any, Any], batches: list[Any], share: str
) -> Iterator[dict[str, Any]]:
    """Measure reading in this process into one reused buffer."""
    out = allocate_aligned((BATCH, 13, 64, 64), np.float32)
    mean, gain = MEAN.numpy(), GAIN.numpy()

    def normalise() -> None:
        np.subtract(out, mean, out=out)
        np.multiply(out, gain, out=out)

    def memmap() -> None:
        for rows in batches:
            for position, row in enumerate(rows):
                ENCODING.decode(patches[row], out[position])
            normalise()

    def corpus(reader: StreamReader) -> None:
        for rows in batches:
            reader.read(rows, out=out)
            normalise()

    note = f"{TILES} patches 13 x 64 x 64, shuffled batches of {BATCH} to normalised float32, warm cache, {share}"
    yield from lines(name, alternate(*(partial(corpus, reader) for reader in readers), memmap), note)


def against_geotiff(root: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Measure TorchGeo's EuroSAT, one GeoTIFF per patch, against the same patches in a corpus."""
    from torchgeo.datasets import EuroSAT

    dataset = EuroSAT(str(make_eurosat(root / "eurosat", per_class=60)), split="train")
    count = len(dataset) // BATCH * BATCH
    patches = np.stack([dataset[row]["image"].numpy() for row in range(count)]).astype(np.int16)
    reader = written(root / "same", "lz4", patches)
    order = rng.permutation(count)
    out = allocate_aligned((BATCH, 13, 64, 64), np.float32)

    def corpus() -> None:
        for first in range(0, count, BATCH):
            reader.read(order[first : first + BATCH], out=out)

    def geotiff() -> None:
        for first in range(0, count, BATCH):
            torch.stack([dataset[int(row)]["image"] for row in order[first : first + BATCH]])

    note = f"{count} patches 13 x 64 x 64 of generated EuroSAT layout, lz4 here, one process"
    return line(
        "vs-geotiff",
        alternate(corpus, geotiff)[0],
        count,
        note,
        reference="TorchGeo EuroSAT, one GeoTIFF per patch",
    )


def lines(name: str, measured: list[tuple[float, float, float]], note: str) -> Iterator[dict[str, Any]]:
    """Yield the line of chunks that are compared with their checksums, and of chunks that have none."""
    for suffix, what, times in zip(("", "-unchecked"), ("", "no checksums, "), measured, strict=True):
        yield line(f"{name}{suffix}", times, TILES, what + note)


def line(
    name: str,
    measured: tuple[float, float, float],
    tiles: int,
    note: str,
    *,
    reference: str = "NumPy memmap, same conversion and normalisation",
) -> dict[str, Any]:
    """Return a line of the table."""
    ours, theirs, ratio = measured
    return {
        "name": f"load/{name}",
        "value": ours / tiles * 1000,
        "unit": "s per 1000 patches",
        "reference": reference,
        "reference_value": theirs / tiles * 1000,
        "ratio": ratio,
        "pairs": PAIRS,
        "note": note,
    }

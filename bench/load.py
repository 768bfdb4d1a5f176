"""Shuffled batches of patches from a corpus against a NumPy memmap of the same patches doing the same conversion."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.corpus import Encoding, Stream, StreamReader, aligned_empty
from eo_ssl.corpus.shards import Layout, PartWriter, pack
from eo_ssl.corpus.snapshots import Entry
from eo_ssl.sensors import Quantity, sensor

TILES, BATCH, PAIRS = 2048, 64, 15
STREAM = Stream("sentinel2_l1c", Quantity.TOA_REFLECTANCE, sensor("sentinel2_l1c").band_names, 10.0, 64)
ENCODING = Encoding.of(STREAM.quantity, chips=False)


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


def written(root: Path, codec: str, patches: np.ndarray[Any, Any]) -> StreamReader:
    """Return a reader of ``patches`` stored as a fragment."""
    layout = Layout(STREAM, ENCODING, codec)  # type: ignore[arg-type]
    folder = root / "fragments" / codec
    (folder / "parts").mkdir(parents=True)
    writer = PartWriter(folder / "parts", layout, planned=len(patches))
    for tile in patches:
        writer.slot()[...] = tile
        writer.keep()
    rest = len(writer.close())
    pack(folder / f"{STREAM.name}.zarr", layout, [(folder / "parts", writer.shards, rest)])
    entry = Entry(
        name=codec,
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
    )
    return StreamReader(root, STREAM, [entry])


def alternate(ours: Callable[[], None], theirs: Callable[[], None], pairs: int) -> tuple[float, float, float]:
    """Return the median seconds of both, measured in turns after a warm-up, and the median of the pairs' ratios."""
    for action in (ours, theirs):
        action()
    mine, reference = [], []
    for _ in range(pairs):
        for action, times in ((ours, mine), (theirs, reference)):
            begun = time.perf_counter()
            action()
            times.append(time.perf_counter() - begun)
    ratio = statistics.median(a / b for a, b in zip(mine, reference, strict=True))
    return statistics.median(mine), statistics.median(reference), ratio


def run() -> Iterator[dict[str, Any]]:
    """Yield ``load/uncompressed`` and ``load/lz4``: seconds per 1,000 patches."""
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
        out = aligned_empty((BATCH, 13, 64, 64), np.float32)
        mean, gain = rng.random((13, 1, 1), dtype=np.float32), rng.random((13, 1, 1), dtype=np.float32)

        def normalise() -> None:
            np.subtract(out, mean, out=out)
            np.multiply(out, gain, out=out)

        def memmap() -> None:
            for rows in batches:
                for position, row in enumerate(rows):
                    ENCODING.decode(patches[row], out[position])
                normalise()

        for name, codec in (("uncompressed", "none"), ("lz4", "lz4")):
            reader = written(root, codec, patches)

            def corpus(reader: StreamReader = reader) -> None:
                for rows in batches:
                    reader.read(rows, out=out)
                    normalise()

            ours, theirs, ratio = alternate(corpus, memmap, PAIRS)
            size = sum(path.stat().st_size for path in (root / "fragments" / codec).rglob("*") if path.is_file())
            yield {
                "name": f"load/{name}",
                "value": ours / TILES * 1000,
                "unit": "s per 1000 patches",
                "reference": "NumPy memmap, same conversion and normalisation",
                "reference_value": theirs / TILES * 1000,
                "ratio": ratio,
                "pairs": PAIRS,
                "note": f"{TILES} patches 13 x 64 x 64, shuffled batches of {BATCH} to normalised float32, warm cache, {size / plain.nbytes:.0%} of raw size",
            }

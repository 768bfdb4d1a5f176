"""Opening a snapshot of 10 million rows in a fresh process, and the cost of publishing the next one."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.corpus import Encoding, Stream, fragments, index, snapshots
from eo_ssl.corpus.store import LocalStore
from eo_ssl.documents import sign_json
from eo_ssl.sensors import Quantity, sensor

FRAGMENTS, ROWS, RUNS = 10_000, 1_000, 5
STREAM = Stream("sentinel2_l2a", Quantity.BOA_REFLECTANCE, sensor("sentinel2_l2a").band_names, 10.0, 64)
OPEN = """
import sys, time
from bench.memory import peak_bytes
begun = time.perf_counter()
from eo_ssl.corpus import Corpus
imported = time.perf_counter()
corpus = Corpus.open(sys.argv[1])
reader = corpus.stream(next(iter(corpus.streams)))
rows = len(reader)
opened = time.perf_counter()
print(rows, imported - begun, opened - imported, peak_bytes())
"""


def corpus(root: Path, *, fragments: int = FRAGMENTS, rows: int = ROWS) -> list[snapshots.FragmentEntry]:
    """Write the snapshot of a corpus of ``fragments`` fragments, without pixels, and return its entries."""
    encoding = Encoding.of(STREAM.quantity, chips=False).to_json()
    counts = {"planned": rows, "kept": rows, "invalid": 0, "cloudy": 0}
    entries = [
        snapshots.FragmentEntry(
            name=f"{number:032x}",
            product_id=f"archive/S2A_MSIL2A_20200715T101031_N0214_R022_T32TQM_{number:06d}",
            kind="cube",
            card="archive",
            stream=STREAM.name,
            rows=rows,
            tiles_per_shard=256,
            codec="lz4",
            encoding=encoding,
            counts=counts,
            nbytes=48 * rows,
            chunk_checksum="crc32c",
        )
        for number in range(fragments)
    ]
    snapshot = snapshots.Snapshot(
        number=1,
        fingerprint="0" * 64,
        streams={STREAM.name: STREAM.to_json()},
        statistics={STREAM.name: []},
        fragments=[asdict(entry) for entry in entries],
    )
    snapshots.write_snapshot(LocalStore(root), snapshot)
    return entries


def manifest(entry: snapshots.FragmentEntry, digests: bytes) -> fragments.FragmentManifest:
    """Return the record of a fragment that has no file but its digests, which make up its size."""
    known = {name: getattr(entry, name) for name in ("name", "product_id", "kind", "card", "rows", "tiles_per_shard")}
    known |= {name: getattr(entry, name) for name in ("encoding", "counts", "chunk_checksum")}
    files = {index.DIGESTS: {"size": len(digests), "sha256": hashlib.sha256(digests).hexdigest()}}
    config, stream = {"codec": entry.codec}, STREAM.to_json()
    return fragments.FragmentManifest(
        **known, card_fingerprint="", checksum="", config=config, stream=stream, files=files
    )


def opened(root: Path) -> tuple[int, float, float, int]:
    """Open the corpus in a fresh process; return rows, seconds of imports, seconds of opening and peak bytes."""
    answer = subprocess.run([sys.executable, "-c", OPEN, str(root)], capture_output=True, text=True, check=True).stdout
    rows, imported, seconds, peak = answer.split()
    return int(rows), float(imported), float(seconds), int(peak)


def run() -> Iterator[dict[str, Any]]:
    """Yield ``open/ten-million-rows`` and ``open/fingerprint``."""
    with tempfile.TemporaryDirectory(prefix="eo_ssl-bench-") as home:
        root = Path(home)
        entries = corpus(root)
        path = root / "snapshots" / "000001.json"
        ours, plain, imports, peaks = [], [], [], []
        for _ in range(RUNS):
            rows, imported, seconds, peak = opened(root)
            begun = time.perf_counter()
            json.loads(path.read_bytes())
            plain.append(time.perf_counter() - begun)
            ours.append(imported + seconds)
            imports.append(imported)
            peaks.append(peak)
        yield {
            "name": "open/ten-million-rows",
            "value": statistics.median(ours),
            "unit": "s to import, open and count in a fresh process",
            "reference": "parsing the snapshot's JSON alone",
            "reference_value": statistics.median(plain),
            "ratio": statistics.median(a / b for a, b in zip(ours, plain, strict=True)),
            "pairs": RUNS,
            "note": f"{rows:,} rows in {FRAGMENTS:,} fragments; imports {statistics.median(imports):.2f} s of it; "
            f"snapshot {path.stat().st_size / 1e6:.1f} MB; peak memory {max(peaks) / 1e6:.0f} MB",
        }
        rng = np.random.default_rng(0)
        for entry in entries:
            digests = index.sort_digests(rng.integers(0, 256, (ROWS, 48), np.uint8)).tobytes()
            (root / entry.folder).mkdir(parents=True)
            (root / entry.folder / index.DIGESTS).write_bytes(digests)
            (root / entry.folder / fragments.FRAGMENT).write_bytes(sign_json(asdict(manifest(entry, digests))))
        ours, plain = [], []
        for _ in range(3):
            begun = time.perf_counter()
            snapshots.compute_fingerprint(LocalStore(root), entries)
            between = time.perf_counter()
            for entry in entries:
                (root / entry.folder / index.DIGESTS).read_bytes()
            ours.append(between - begun)
            plain.append(time.perf_counter() - between)
        yield {
            "name": "open/fingerprint",
            "value": statistics.median(ours),
            "unit": "s per published snapshot",
            "reference": "reading the digests of all tiles",
            "reference_value": statistics.median(plain),
            "ratio": statistics.median(a / b for a, b in zip(ours, plain, strict=True)),
            "pairs": 3,
            "note": f"sha256 over {FRAGMENTS * ROWS:,} sorted rows of 48 bytes",
        }

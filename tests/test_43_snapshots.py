"""What a snapshot costs to open and to publish, and that the shortcuts of publishing are exact."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from eo_ssl.corpus import Corpus, Encoding, IngestConfig, Stream, index, ingest, snapshots
from eo_ssl.corpus.store import LocalStore, open_store
from eo_ssl.errors import UserError
from eo_ssl.sensors import Quantity, sensor
from fake_scenes import scenes

CONFIG = IngestConfig(size_px=16, edge="pad", min_valid=0.0)
STREAM = "s2_boa_b02b03b04_10m_16px"


def test_digests_sort_as_bytes_and_do_not_depend_on_how_they_are_split(rng: np.random.Generator) -> None:
    rows = rng.integers(0, 256, (500, 48), np.uint8)
    rows[100:200, :9] = rows[0, :9]  # equal beginnings must be told apart by the rest
    expected = hashlib.sha256(b"".join(sorted(row.tobytes() for row in rows))).hexdigest()
    assert index.sort_digests(rows).tobytes() == b"".join(sorted(row.tobytes() for row in rows))
    for order in (np.arange(500), rng.permutation(500)):
        for batch in (1000, 100, 7):
            parts = np.array_split(rows[order], 6)
            assert index.hash_digests(lambda parts=parts: parts, rows=500, batch=batch) == expected
    assert index.hash_digests(list, rows=0) == hashlib.sha256().hexdigest()


def test_publishing_reads_the_new_statistics_alone_and_gets_the_same(tmp_path: Path, rng, monkeypatch) -> None:
    products = scenes(rng, 4)
    whole = Corpus.open(
        ingest(products, out=tmp_path / "whole", config=CONFIG, client="synchronous") and tmp_path / "whole"
    )
    ingest(products[:3], out=tmp_path / "c", config=CONFIG, client="synchronous")
    read, asked = LocalStore.read, []
    monkeypatch.setattr(LocalStore, "read", lambda self, key: asked.append(key) or read(self, key))
    ingest(products, out=tmp_path / "c", config=CONFIG, client="synchronous")
    assert sum(key.endswith("statistics.json") for key in asked) == 1
    grown = Corpus.open(tmp_path / "c")
    assert grown.fingerprint == whole.fingerprint and grown.verify() == []
    for name in ("count", "mean", "std", "minimum", "maximum", "histogram"):
        ours, theirs = (getattr(corpus.statistics(STREAM), name) for corpus in (grown, whole))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def forget_digests(corpus: Path) -> None:
    """Make a corpus as an earlier version did: no digests beside the indexes, nothing signed."""
    sizes = {}
    for path in corpus.glob("fragments/*/digests.bin"):
        manifest = json.loads((path.parent / "fragment.json").read_text())
        del manifest["files"]["digests.bin"], manifest["sha256"]
        manifest["schema_version"] = 2
        (path.parent / "fragment.json").write_text(json.dumps(manifest))
        sizes[manifest["name"]] = sum(file["size"] for file in manifest["files"].values())
        path.unlink()
    (path,) = corpus.glob("snapshots/*.json")
    snapshot = json.loads(path.read_text())
    del snapshot["sha256"]
    snapshot["schema_version"] = 2
    for entry in snapshot["fragments"]:
        entry["nbytes"] = sizes[entry["name"]]
    path.write_text(json.dumps(snapshot))


def test_a_corpus_without_digests_grows_all_the_same(tmp_path: Path, rng: np.random.Generator) -> None:
    """Fragments of an earlier version have none; their index is read instead."""
    products = scenes(rng, 3)
    expected = ingest(products, out=tmp_path / "whole", config=CONFIG, client="synchronous").fingerprint
    ingest(products[:2], out=tmp_path / "c", config=CONFIG, client="synchronous")
    forget_digests(tmp_path / "c")
    assert ingest(products, out=tmp_path / "c", config=CONFIG, client="synchronous").fingerprint == expected


def test_a_newest_snapshot_that_has_gone_is_missed(tmp_path: Path, rng: np.random.Generator) -> None:
    """The one before it was read as the corpus, without a word."""
    products, place = scenes(rng, 3), tmp_path / "c"
    ingest(products[:2], out=place, config=CONFIG, client="synchronous")
    whole = ingest(products, out=place, config=CONFIG, client="synchronous").fingerprint
    (place / "snapshots" / "000002.json").unlink()
    with pytest.raises(
        UserError, match=r"expected snapshot 2 of .*/c, which its manifest describes, got 1 as the newest"
    ):
        Corpus.open(place)
    assert Corpus.open(place, snapshot=1).verify() == []
    assert ingest(products, out=place, config=CONFIG, client="synchronous").fingerprint == whole  # as it is told
    assert Corpus.open(place).snapshot == 2 and Corpus.open(place).fingerprint == whole


def test_rows_of_the_index_are_read_where_they_lie(tmp_path: Path, rng, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(scenes(rng, 4), out=tmp_path / "c", config=CONFIG, client="synchronous")
    corpus = Corpus.open(tmp_path / "c")
    whole, opened = corpus.index(STREAM), []
    dataset = Corpus._dataset
    monkeypatch.setattr(Corpus, "_dataset", lambda self, entries: opened.append(len(entries)) or dataset(self, entries))
    for rows, files in (([17, 2, 2, 40], 3), ([63], 1), (list(range(63, -1, -1)), 4)):
        assert corpus.index(STREAM, rows=np.array(rows)).equals(whole.take(rows))
        assert opened.pop() == files
    assert corpus.index(STREAM, columns=["split"], rows=np.array([], int)).num_rows == 0


def test_ten_million_rows_open_in_little_memory(tmp_path: Path) -> None:
    """10,000 fragments of 1,000 rows: what is resident is the list of fragments, not a table of rows."""
    stream = Stream("sentinel2_l2a", Quantity.BOA_REFLECTANCE, sensor("sentinel2_l2a").band_names, 10.0, 64)
    entries = [
        snapshots.FragmentEntry(
            name=f"{number:032x}",
            product_id=f"archive/product_{number:060d}",
            kind="cube",
            card="archive",
            stream=stream.name,
            rows=1000,
            tiles_per_shard=256,
            codec="lz4",
            encoding=Encoding("int16", 1e-4).to_json(),
            counts={"planned": 1000, "kept": 1000, "invalid": 0, "cloudy": 0},
            nbytes=1,
        )
        for number in range(10_000)
    ]
    snapshot = snapshots.Snapshot(
        number=1,
        fingerprint="0" * 64,
        streams={stream.name: stream.to_json()},
        statistics={stream.name: []},
        fragments=[asdict(entry) for entry in entries],
    )
    snapshots.write_snapshot(open_store(tmp_path), snapshot)
    script = (
        "import re, sys; from pathlib import Path; from eo_ssl.corpus import Corpus; corpus = Corpus.open(sys.argv[1]);"
        "status = Path('/proc/self/status').read_text();"  # ru_maxrss would count the process that started this one
        "print(sum(len(corpus.stream(name)) for name in corpus.streams), re.search(r'VmHWM:\\s+(\\d+)', status)[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    rows, peak_kb = map(int, done.stdout.split())
    assert rows == 10_000_000 and peak_kb * 1024 < 500e6

"""The fast reader against zarr-python's own reading, on every codec and stored type, and on damaged files."""

from __future__ import annotations

import json
import os
import pickle
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr

from eo_ssl.corpus import Encoding, Stream, StreamReader, allocate_aligned
from eo_ssl.corpus import shards as shards_module
from eo_ssl.corpus.reader import _runs
from eo_ssl.corpus.shards import Layout, PartWriter, pack
from eo_ssl.corpus.snapshots import FragmentEntry
from eo_ssl.errors import UserError
from eo_ssl.sensors import Quantity

STREAMS = {
    "int16": Stream("sentinel2_l2a", Quantity.BOA_REFLECTANCE, ("B02", "B03", "B04"), 10.0, 8),
    "float16": Stream("sentinel1_rtc", Quantity.GAMMA0, ("VV", "VH"), 10.0, 8),
    "uint16": Stream("sentinel2_l1c", Quantity.DN, ("B02",), 10.0, 8),
    "uint8": Stream("sar_chip", Quantity.AMPLITUDE, ("SAR",), 0.3, 8),
}
ROWS = (11, 4, 0, 9)  # tiles of the four fragments; four tiles to a shard


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "MAX_TILES", 4)


def write(root: Path, dtype: str, codec: str, checksum: str = "crc32c") -> tuple[list[FragmentEntry], np.ndarray]:
    """Write random tiles in two parts per fragment; return the entries and all tiles in global row order."""
    rng = np.random.default_rng(5)
    stream = STREAMS[dtype]
    encoding = Encoding.of(stream.quantity, chips=dtype == "uint8", scale=1 / 255)
    layout = Layout(stream, encoding, codec, checksum)
    entries, everything = [], []
    for number, rows in enumerate(ROWS):
        if dtype == "float16":
            tiles = rng.gamma(4.4, 0.02, (rows, *layout.shape)).astype(np.float16)
        else:
            tiles = rng.integers(0, 250, (rows, *layout.shape)).astype(dtype)
        tiles[rng.random(tiles.shape) < 0.02] = encoding.fill_value
        folder = root / "fragments" / f"f{number}"
        parts, order, split = [], [], rows * 2 // 3
        for part, chunk in enumerate((tiles[:split], tiles[split:])):
            place = folder / "parts" / str(part)
            place.mkdir(parents=True)
            writer = PartWriter(place, layout, planned=len(chunk))
            for tile in chunk:
                writer.slot()[...] = tile
                writer.keep()
            rest = len(writer.close())
            parts.append((place, writer.shards, rest))
            order.append((chunk[: len(chunk) - rest], chunk[len(chunk) - rest :]))
        pack(folder / f"{stream.name}.zarr", layout, parts)
        everything += [whole for whole, _ in order] + [rest for _, rest in order]
        entries.append(
            FragmentEntry(
                name=f"f{number}",
                product_id=f"p{number}",
                kind="cube",
                card="c",
                stream=stream.name,
                rows=rows,
                codec=codec,
                tiles_per_shard=layout.tiles_per_shard,
                encoding=encoding.to_json(),
                counts={},
                nbytes=0,
                chunk_checksum=checksum,
            )
        )
    return entries, np.concatenate(everything)


@pytest.mark.parametrize("checksum", ["crc32c", ""])
@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("dtype", list(STREAMS))
def test_reading_is_bit_equal_to_zarr_python(
    tmp_path: Path, rng: np.random.Generator, dtype: str, codec: str, checksum: str
) -> None:
    entries, tiles = write(tmp_path, dtype, codec, checksum)
    reader = StreamReader(tmp_path, STREAMS[dtype], entries)
    assert len(reader) == sum(ROWS) == len(tiles)
    arrays = [
        zarr.open_array(tmp_path / "fragments" / entry.name / f"{entry.stream}.zarr", mode="r") for entry in entries
    ]
    reference = np.concatenate([array[...] for array in arrays if array.shape[0]])
    assert [array.shape[0] for array in arrays] == list(ROWS)
    assert reference.tobytes() == tiles.tobytes()
    for rows in (
        np.arange(len(reader)),
        rng.permutation(len(reader)),
        np.array([5, 5, 23, 0, 5]),
        np.array([], dtype=np.int64),
    ):
        assert reader.read_stored(rows).tobytes() == reference[rows].tobytes()
        expected = np.empty((len(rows), len(STREAMS[dtype].bands), 8, 8), dtype=np.float32)
        encoding = Encoding.of(STREAMS[dtype].quantity, chips=dtype == "uint8", scale=1 / 255)
        if len(rows):
            encoding.decode(reference[rows], expected)
        found = reader.read(rows)
        assert found.dtype == np.float32 and found.tobytes() == expected.tobytes()


def test_invalid_codes_become_nan_and_units_are_physical(tmp_path: Path) -> None:
    entries, tiles = write(tmp_path, "int16", "lz4")
    image = StreamReader(tmp_path, STREAMS["int16"], entries).read(np.arange(24))
    assert (np.isnan(image) == (tiles == -32768)).all() and np.isnan(image).any()
    np.testing.assert_allclose(image[tiles != -32768], tiles[tiles != -32768] / 10000.0, rtol=1e-6)


def test_given_memory_is_filled_and_returned(tmp_path: Path) -> None:
    entries, tiles = write(tmp_path, "int16", "lz4")
    reader = StreamReader(tmp_path, STREAMS["int16"], entries)
    out = np.full((3, 3, 8, 8), 7.0, dtype=np.float32)
    assert reader.read([2, 0, 1], out=out) is out
    assert out.tobytes() == reader.read([2, 0, 1]).tobytes()
    with pytest.raises(UserError, match="expected out of float32"):
        reader.read([0], out=out)
    assert allocate_aligned((3, 5), np.float32).ctypes.data % 64 == 0
    stored = np.empty((2, 3, 8, 8), dtype=np.int16)
    assert reader.read_stored([4, 1], out=stored) is stored and stored.tobytes() == tiles[[4, 1]].tobytes()


def test_rows_out_of_range_are_refused(tmp_path: Path) -> None:
    entries, _ = write(tmp_path, "int16", "none")
    reader = StreamReader(tmp_path, STREAMS["int16"], entries)
    for rows in ([24], [-1], [0, 99]):
        with pytest.raises(UserError, match="from 0 to 23"):
            reader.read(rows)
    for rows in (np.arange(24) > 20, [0.5, 1.5]):  # used to be read as rows 0 and 1
        with pytest.raises(UserError, match=r"expected row numbers .*; use np\.flatnonzero of a mask"):
            reader.read(rows)
    assert reader.read([]).shape == (0, *reader.stored_shape)


def test_a_reader_pickles_and_serves_threads(tmp_path: Path, rng: np.random.Generator) -> None:
    entries, tiles = write(tmp_path, "float16", "lz4")
    reader = StreamReader(tmp_path, STREAMS["float16"], entries)
    reader.read([0])
    again = pickle.loads(pickle.dumps(reader))
    failures: list[str] = []

    def work(seed: int) -> None:
        chosen = np.random.default_rng(seed)
        for _ in range(30):
            rows = chosen.integers(0, len(again), 6)
            if again.read_stored(rows).tobytes() != tiles[rows].tobytes():
                failures.append(f"{seed}: {rows}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_files_stay_few_however_many_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eo_ssl.corpus.shardfiles._OPEN_FILES", 2)
    entries, tiles = write(tmp_path, "int16", "lz4")
    reader = StreamReader(tmp_path, STREAMS["int16"], entries)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        assert reader.read_stored(np.arange(24)).tobytes() == tiles.tobytes()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


@contextmanager
def room_for(more: int) -> Iterator[None]:
    """Allow this process to open so many files more than it has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir() if path.exists())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_low_limit_of_open_files_is_enough_or_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to be told as damage, with the advice to ingest again."""
    monkeypatch.setattr(f"{__name__}.ROWS", (1,) * 200)
    entries, tiles = write(tmp_path, "int16", "lz4")
    with room_for(12):
        reader = StreamReader(tmp_path, STREAMS["int16"], entries)
        assert reader.read_stored(np.arange(200)).tobytes() == tiles.tobytes()
    reader = StreamReader(tmp_path, STREAMS["int16"], entries)
    reader.read_stored(np.arange(50))  # holds more files than there will be room for
    with room_for(0):
        files = [os.open(os.devnull, os.O_RDONLY)] if free() else []
        assert reader.read_stored(np.arange(200)).tobytes() == tiles.tobytes()
        files += [os.open(os.devnull, os.O_RDONLY) for _ in range(free())]
        with pytest.raises(UserError, match=r"got too many open files; allow more with `ulimit -n 4096`") as told:
            StreamReader(tmp_path, STREAMS["int16"], entries).read([0])
        assert "ingest" not in str(told.value)
        for handle in files:
            os.close(handle)


def free() -> int:
    """How many files this process may open still."""
    handles: list[int] = []
    try:
        while True:
            handles.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return len(handles)
    finally:
        for handle in handles:
            os.close(handle)


def test_a_cold_file_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, tiles = write(tmp_path, "int16", "none")
    reader = StreamReader(tmp_path, STREAMS["int16"], entries)
    real, refused, advice = os.preadv, [], []

    def cold(handle: int, buffers: list, offset: int, flags: int = 0) -> int:
        if flags:
            refused.append(offset)
            raise BlockingIOError
        return real(handle, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", cold)
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, start, size, kind: advice.append((start, size)))
    rows = np.array([20, 3, 10, 6])
    assert reader.read_stored(rows).tobytes() == tiles[rows].tobytes()
    assert len(refused) == 1 and len(advice) == 4  # one look at the cache, then everything asked for at once


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, tiles = write(tmp_path, "int16", "lz4")
    reader = StreamReader(tmp_path, STREAMS["int16"], entries)
    real = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda handle, buffers, offset, flags=0: real(handle, [buffers[0][:7]], offset, flags)
    )
    assert reader.read_stored([7, 8, 1]).tobytes() == tiles[[7, 8, 1]].tobytes()


def test_neighbours_are_read_together() -> None:
    assert _runs([0, 0, 0, 1], [0, 10, 30, 40], [10, 10, 10, 10]) == [(0, 2), (2, 3), (3, 4)]
    assert _runs([], [], []) == []
    assert _runs([0, 0, 0], [0, 6_000_000, 12_000_000], [6_000_000] * 3) == [(0, 1), (1, 2), (2, 3)]


def shard(root: Path) -> Path:
    return root / "fragments" / "f0" / f"{STREAMS['int16'].name}.zarr" / "c.0.0.0.0"


@pytest.mark.parametrize("damage", ["table", "truncated", "absent"])
def test_damage_is_told_not_read(tmp_path: Path, damage: str) -> None:
    entries, _ = write(tmp_path, "int16", "none")
    path = shard(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "table":
        content[-10] ^= 1
        path.write_bytes(content)
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"(damaged bytes|No such file).*ingest"):
        StreamReader(tmp_path, STREAMS["int16"], entries).read([0])


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_a_flipped_bit_never_becomes_another_pixel(tmp_path: Path, rng: np.random.Generator, codec: str) -> None:
    """Any bit of a shard: most used to become other pixels. zarr-python, the oracle, refuses the same bits."""
    entries, tiles = write(tmp_path, "int16", codec)
    path = shard(tmp_path)
    content = path.read_bytes()
    for place in rng.integers(0, len(content) * 8, 60).tolist():
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        wrong = []
        for row in range(ROWS[0]):
            try:
                found = StreamReader(tmp_path, STREAMS["int16"], entries).read_stored([row])
                assert found.tobytes() == tiles[[row]].tobytes()
            except UserError as error:
                wrong.append(row)
                assert "run the same ingest again" in str(error) and str(path) in str(error)
        assert wrong, f"bit {place} was not noticed"
        with pytest.raises(ValueError, match=r"(?i)checksum"):
            zarr.open_array(path.parent, mode="r")[:4]  # of the first shard


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_chunks_of_version_0_1_are_refused_where_they_cannot_be_decoded(tmp_path: Path, codec: str) -> None:
    """They have no checksum: a broken header is a sentence, and never memory that was left as it was."""
    entries, tiles = write(tmp_path, "int16", codec, "")
    path = shard(tmp_path)
    content = path.read_bytes()
    refused = 0
    for place in range(16 * 8):  # the header of a chunk
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            found = StreamReader(tmp_path, STREAMS["int16"], entries).read_stored([0])
        except UserError:
            refused += 1
        else:
            assert found.shape == tiles[:1].shape
    assert refused >= 32  # at least every bit of the size that it says


def test_tiles_equal_to_the_fill_value_are_stored_too(tmp_path: Path) -> None:
    layout = Layout(STREAMS["int16"], Encoding("int16", 1e-4), "lz4")
    place = tmp_path / "fragments" / "f0" / "parts"
    place.mkdir(parents=True)
    writer = PartWriter(place, layout, planned=3)
    for _ in range(3):
        writer.slot()[...] = -32768
        writer.keep()
    writer.close()
    pack(tmp_path / "fragments" / "f0" / f"{layout.stream.name}.zarr", layout, [(place, [], 3)])
    entry = FragmentEntry(
        name="f0",
        product_id="p",
        kind="cube",
        card="c",
        stream=layout.stream.name,
        rows=3,
        codec="lz4",
        tiles_per_shard=4,
        encoding=layout.encoding.to_json(),
        counts={},
        nbytes=0,
    )
    assert np.isnan(StreamReader(tmp_path, layout.stream, [entry]).read([0, 1, 2])).all()


def test_the_array_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path, "uint8", "lz4")
    text = (tmp_path / "fragments" / "f0" / f"{STREAMS['uint8'].name}.zarr" / "zarr.json").read_text()
    attributes = json.loads(text)["attributes"]
    assert attributes["channels"] == ["SAR", "valid"]
    assert Stream.from_json(attributes["stream"]) == STREAMS["uint8"]
    assert json.loads(text)["dimension_names"] == ["tile", "band", "y", "x"]


def test_mixed_stored_types_are_refused(tmp_path: Path) -> None:
    entries, _ = write(tmp_path, "int16", "none")
    other = FragmentEntry(
        **{
            **{name: getattr(entries[0], name) for name in FragmentEntry.__dataclass_fields__},
            "encoding": Encoding("float16").to_json(),
        }
    )
    with pytest.raises(UserError, match="one stored type"):
        StreamReader(tmp_path, STREAMS["int16"], [entries[0], other])

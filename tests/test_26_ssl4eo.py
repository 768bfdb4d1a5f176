"""SSL4EO-S12 in its three layouts: miniatures written as published, read back equal; seasons in order of time; offsets once; hostile records refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.transform import Affine
from zarr.storage import ZipStore

from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus, IngestConfig, ingest, plan_ingest
from eo_ssl.errors import UserError
from eo_ssl.scene import UnreadableChip, list_products
from eo_ssl.scene.ssl4eo.lmdb_records import parse_plain_tuple, read_modality

SCENES = {  # in alphabetical order the autumn of 2020 comes last, in time it comes first
    "20210620T100031_20210620T100031_T32TQM": 7,
    "20210101T100031_20210101T100031_T32TQM": 3,
    "20201005T100031_20201005T100031_T32TQM": 1,
    "20210321T100031_20210321T100031_T32TQM": 5,
}


def small(name: str, **samples: Any) -> Any:
    card = load_card(name)
    return replace(card, samples=replace(card.samples, **{"crop_px": 24, **samples}))


def write_folders(root: Path, ids: tuple[str, ...]) -> None:
    for place in ids:
        for scene, base in SCENES.items():
            folder = root / "s2c" / place / scene
            folder.mkdir(parents=True)
            for number, band in enumerate(
                ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
            ):
                factor = {"B1": 6, "B9": 6, "B10": 6, "B5": 2, "B6": 2, "B7": 2, "B8A": 2, "B11": 2, "B12": 2}.get(
                    band, 1
                )
                side = 24 // factor
                values = np.full((1, side, side), 1000 * base + 10 * number + int(place), dtype=np.uint16)
                with rasterio.open(
                    folder / f"{band}.tif",
                    "w",
                    driver="GTiff",
                    height=side,
                    width=side,
                    count=1,
                    dtype="uint16",
                    crs="EPSG:32632",
                    transform=Affine(10 * factor, 0, 500000, 0, -10 * factor, 5000000),
                ) as file:
                    file.write(values)


def test_folders_of_bands_come_back_in_order_of_time_with_their_place(tmp_path: Path) -> None:
    write_folders(tmp_path, ("0000003", "0000065"))
    found = list_products(small("ssl4eo_v10_s2c"), tmp_path).products
    assert [product.product_id for product in found] == ["ssl4eo_v10_s2c/0000000", "ssl4eo_v10_s2c/0000064"]
    chips = list(found[1].open_chips())
    assert [chip.datetime for chip in chips] == [
        "2020-10-05T10:00:31Z",
        "2021-01-01T10:00:31Z",
        "2021-03-21T10:00:31Z",
        "2021-06-20T10:00:31Z",
    ]
    for chip, base in zip(chips, (1, 3, 5, 7), strict=True):
        for number in range(13):
            np.testing.assert_allclose(chip.image[number], (1000 * base + 10 * number + 65) * 1e-4, rtol=1e-6)
    west, north = chips[0].footprint[0]
    assert west == pytest.approx(9.0, abs=1e-9)  # easting 500,000 is the middle of zone 32: 9 degrees east
    assert north == pytest.approx(45.1535, abs=1e-3)  # 5,000,000 m on the ellipsoid, scale 0.9996
    winter = [
        chip.datetime
        for chip in list_products(small("ssl4eo_v10_s2c", seasons=(1,)), tmp_path).products[0].open_chips()
    ]
    assert winter == ["2021-01-01T10:00:31Z"]


def test_void_ids_are_left_out_with_the_reason(tmp_path: Path) -> None:
    write_folders(tmp_path, ("0000003", "0000004"))
    (tmp_path / "void_ids.csv").write_text("id\n4\n")
    listed = list_products(small("ssl4eo_v10_s2c", void_ids="void_ids.csv"), tmp_path)
    assert listed.dropped == (("ssl4eo_v10_s2c/0000004", "listed in void_ids"),)
    assert {chip.name.split("/")[0] for chip in listed.products[0].open_chips()} == {"0000003"}


def write_stack(
    path: Path,
    *,
    bands: tuple[str, ...],
    values: np.ndarray,
    cloud: np.ndarray | None = None,
    step: tuple[float, float] = (10.0, -10.0),
    attributes: dict[str, float] | None = None,
) -> None:
    """A zarr.zip as release 1.1 publishes it: Zarr version 2, times chunked apart, metadata beside the samples."""
    count, times = values.shape[:2]
    x = 500000 + step[0] * (0.5 + np.arange(values.shape[-1]))
    y = 5000000 + step[1] * (0.5 + np.arange(values.shape[-2]))
    names = np.array([f"{k:07d}" for k in range(count)])
    stamps = np.array(
        ["2020-11-16T02:30:01", "2020-02-01T02:30:01", "2020-05-01T02:30:01", "2020-08-01T02:30:01"],
        dtype="datetime64[ns]",
    )
    variables: dict[str, Any] = {
        "bands": (("sample", "time", "band", "y", "x"), values, attributes or {}),
        "crs": ("sample", np.full(count, 32632)),
        "time_": (("sample", "time"), np.tile(stamps[:times], (count, 1))),
        "file_id": (("sample", "time"), np.full((count, times), "20201116T023001_20201116T022955_T51TYH")),
        "x_": (("sample", "x"), np.tile(x, (count, 1))),
        "y_": (("sample", "y"), np.tile(y, (count, 1))),
    }
    if cloud is not None:
        variables["cloud_mask"] = (("sample", "time", "y", "x"), cloud)
    stack = xr.Dataset(variables, coords={"band": list(bands), "sample": names, "time": np.arange(times)})
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = (count, 1, *values.shape[2:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the writer, about version 2
        store = ZipStore(path, mode="w")
        stack.to_zarr(
            store, zarr_format=2, consolidated=False, encoding={"bands": {"chunks": chunks, "_FillValue": None}}
        )
        store.close()


S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


def test_release_1_1_loses_its_offset_once_and_keeps_dark_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(900, 6000, (3, 4, 12, 24, 24)).astype(np.int16)
    values[0, 0, :, 0, 0] = 0  # no data
    values[0, 0, :, 0, 1] = 1  # the darkest measurement there can be
    cloud = np.zeros((3, 4, 24, 24), dtype=np.uint8)
    cloud[1, 1, :12] = 4
    cloud[1, 1, 12:15] = 5
    cloud[2, 2, 5, 5] = 6
    write_stack(
        tmp_path / "train" / "S2L2A" / "ssl4eos12_train_seasonal_data_000001.zarr.zip",
        bands=S2,
        values=values,
        cloud=cloud,
    )
    (product,) = list_products(small("ssl4eo_v11_s2l2a"), tmp_path).products
    assert product.product_id == "ssl4eo_v11_s2l2a/train/S2L2A/ssl4eos12_train_seasonal_data_000001"
    chips = {chip.name: chip for chip in product.open_chips()}
    assert len(chips) == 12
    for name, chip in chips.items():
        sample, time = (int(part) for part in name.split("/"))
        expected = (values[sample, time].astype(np.float64) - 1000) / 10000
        seen = chip.valid
        np.testing.assert_allclose(chip.image[:, seen], expected[:, seen], atol=1e-7)
        assert np.count_nonzero(~seen) == {"0000000/0": 1, "0000002/2": 1}.get(name, 0)
    assert chips["0000000/0"].image[0, 0, 1] == pytest.approx(-0.0999)
    assert chips["0000001/1"].masks["cloud"].sum() == 12 * 24
    assert chips["0000001/1"].masks["shadow"].sum() == 3 * 24
    assert chips["0000000/1"].datetime == "2020-02-01T02:30:01Z"
    spring = {
        chip.name for chip in list_products(small("ssl4eo_v11_s2l2a", seasons=(1,)), tmp_path).products[0].open_chips()
    }
    assert spring == {"0000000/2", "0000001/2", "0000002/2"}  # position in time, not in the file


def test_a_corpus_of_release_1_1_holds_the_same_integers_and_says_where_and_when(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(1000, 6000, (2, 4, 12, 24, 24)).astype(np.int16)
    cloud = np.zeros((2, 4, 24, 24), dtype=np.uint8)
    cloud[0, 3, :6] = 3
    write_stack(tmp_path / "S2L2A" / "a.zarr.zip", bands=S2, values=values, cloud=cloud)
    found = list_products(small("ssl4eo_v11_s2l2a"), tmp_path).products
    ingest(found, out=tmp_path / "corpus", config=IngestConfig(size_px=24), client="synchronous")
    corpus = Corpus.open(tmp_path / "corpus")
    (name,) = corpus.streams
    index = corpus.index(
        name, columns=["source", "cloud_fraction", "month", "xmin", "location_id", "split"]
    ).to_pylist()
    stored = corpus.stream(name).read_stored(np.arange(8))
    for row, numbers in zip(index, stored, strict=True):
        sample, time = (int(part) for part in row["source"].split("/"))
        np.testing.assert_array_equal(numbers, values[sample, time] - 1000)
        assert row["month"] == (11, 2, 5, 8)[time]
        assert row["cloud_fraction"] == (0.25 if (sample, time) == (0, 3) else 0.0)
        assert row["xmin"] == pytest.approx(9.0, abs=1e-3)
    assert len({row["location_id"] for row in index}) == 1  # both miniatures lie on one cell: one split
    assert len({row["split"] for row in index}) == 1


def test_radar_of_release_1_1_is_decibel_and_band_names_decide_the_order(tmp_path: Path) -> None:
    values = np.stack([np.full((24, 24), -10.0), np.full((24, 24), -20.0)]).astype(np.float16)[None, None]
    write_stack(tmp_path / "S1GRD" / "a.zarr.zip", bands=("vh", "vv"), values=values)
    (chip,) = list_products(small("ssl4eo_v11_s1grd"), tmp_path).products[0].open_chips()
    assert chip.image[0, 0, 0] == -20.0  # VV first, as the card says
    with pytest.raises(UserError, match="expected a band of sentinel2_l2a"):
        list(
            list_products(replace(small("ssl4eo_v11_s2l2a"), files="S1GRD/*.zarr.zip"), tmp_path)
            .products[0]
            .open_chips()
        )


def test_a_damaged_file_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "S2L2A" / "a.zarr.zip"
    write_stack(path, bands=S2, values=np.full((1, 4, 12, 24, 24), 2000, dtype=np.int16))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match=r"a\.zarr\.zip, got BadZipFile"):
        list(list_products(small("ssl4eo_v11_s2l2a"), tmp_path).products[0].open_chips())


def test_a_dry_run_counts_chips_that_only_reading_can_count(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        values = np.random.default_rng(2).integers(1000, 6000, (2, 4, 12, 24, 24)).astype(np.int16)
        write_stack(tmp_path / "S2L2A" / f"{name}.zarr.zip", bands=S2, values=values)
    found = list_products(small("ssl4eo_v11_s2l2a"), tmp_path).products
    config = IngestConfig(size_px=24)
    expected = plan_ingest(found, config=config, client="synchronous", sample=True).estimate
    made = ingest(found, out=tmp_path / "corpus", config=config, client="synchronous")
    assert expected.tiles == made.tiles == 24
    assert expected.raw_bytes == 24 * 12 * 24 * 24 * 2


@pytest.mark.parametrize(("array", "key"), [("bands", "shape"), ("bands", "chunks"), ("sample", "shape")])
def test_an_array_that_would_fill_the_memory_is_refused_unread(array: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "S2L2A" / "a.zarr.zip"
    write_stack(path, bands=S2, values=np.full((1, 4, 12, 24, 24), 2000, dtype=np.int16))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    stated = json.loads(members[f"{array}/.zarray"])
    stated[key][0] = 10**12
    members[f"{array}/.zarray"] = json.dumps(stated).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(
        UserError, match=rf"expected at most 4,294,967,296 bytes per array in .*, got .* in {array}/\.zarray"
    ):
        list(list_products(small("ssl4eo_v11_s2l2a"), tmp_path).products[0].open_chips())


def write_records(path: Path, records: list[bytes]) -> None:
    import lmdb

    with (
        lmdb.open(str(path), subdir=False, map_size=2**26) as environment,
        environment.begin(write=True) as transaction,
    ):
        for number, record in enumerate(records):
            transaction.put(str(number).encode(), record)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_records_come_back_alone_and_as_one_of_three(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(2)
    s1, s2a, s2c = (rng.integers(0, 9000, (4, bands, 24, 24)).astype(np.int16) for bands in (2, 12, 13))
    alone = pickle.dumps((s2c.tobytes(), s2c.shape), protocol=protocol)
    three = pickle.dumps(
        (s1.tobytes(), s1.shape, s2a.tobytes(), s2a.shape, s2c.tobytes(), s2c.shape), protocol=protocol
    )
    write_records(tmp_path / "a.lmdb", [alone, three])
    (product,) = list_products(small("ssl4eo_lmdb_s2c"), tmp_path).products
    chips = list(product.open_chips())
    assert [chip.name for chip in chips] == [f"{record:07d}/{season}" for record in (0, 1) for season in range(4)]
    for chip, season in zip(chips, [*range(4), *range(4)], strict=True):
        seen = s2c[season] != 0
        np.testing.assert_allclose(chip.image[seen], s2c[season][seen] * 1e-4, rtol=1e-6)
    for name, array in (("s1", s1), ("s2a", s2a)):
        np.testing.assert_array_equal(read_modality(parse_plain_tuple(three, name="r"), name, name="r"), array)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/eo_ssl_must_not_exist",)


HOSTILE = {
    "a call": pickle.dumps((_Bomb(), (1, 2))),
    "a call under an old protocol": pickle.dumps(_Bomb(), protocol=0),
    "an import alone": b"cos\nsystem\n.",
    "bytes of protocol 2, which need a call": pickle.dumps((b"ab", (1,)), protocol=2),
    "a memo slot of four gigabytes": b"\x80\x04K\x01r\xff\xff\xff\xf0.",
    "a list": pickle.dumps([b"a", (1,)]),
    "cut short": pickle.dumps((b"a" * 99, (1, 1, 9, 11)))[:-20],
    "a length beyond the end": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",
    "nothing": b"",
}


@pytest.mark.parametrize("record", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_record_runs_nothing_and_is_refused(record: bytes, tmp_path: Path) -> None:
    good = np.full((4, 13, 24, 24), 700, dtype=np.int16)
    write_records(tmp_path / "a.lmdb", [pickle.dumps((good.tobytes(), good.shape)), record or b"\x00"])
    (product,) = list_products(small("ssl4eo_lmdb_s2c"), tmp_path).products
    *chips, refused = product.open_chips()
    assert [chip.name for chip in chips] == [f"0000000/{season}" for season in range(4)]
    assert isinstance(refused, UnreadableChip)
    assert refused.name == "0000001"
    assert re.search(r"record 1 of .*a\.lmdb", refused.reason)
    assert not Path("/tmp/eo_ssl_must_not_exist").exists()


@pytest.mark.parametrize("client", ["synchronous", "threads"])
def test_a_corpus_leaves_out_a_hostile_record_alone_and_says_so(tmp_path: Path, client: str) -> None:
    good = [np.full((4, 13, 24, 24), 700 + number, dtype=np.int16) for number in range(2)]
    records = [pickle.dumps((array.tobytes(), array.shape)) for array in good]
    write_records(tmp_path / "a.lmdb", [records[0], HOSTILE["a call"], records[1]])
    found = list_products(small("ssl4eo_lmdb_s2c"), tmp_path).products
    report = ingest(found, out=tmp_path / "made", config=IngestConfig(size_px=24), client=client)
    assert (report.tiles, report.counts["damaged"], report.quarantined) == (8, 1, ())
    corpus = Corpus.open(tmp_path / "made")
    (entry,) = corpus.quarantine()
    assert (entry["product_id"], entry["chip"]) == (found[0].product_id, "0000001")
    assert "record 1 of" in entry["reason"]
    assert corpus.verify() == []
    (name,) = corpus.streams
    tiles = corpus.stream(name).read(np.arange(8))
    np.testing.assert_allclose([tile.mean() for tile in tiles], [0.07] * 4 + [0.0701] * 4, rtol=1e-5)


@pytest.mark.parametrize(
    "record",
    [
        (b"abcd", (1, 1, 2)),
        (b"abc", (1, 1, 1, 2)),
        (b"abcd", (1, 1, -2, -2)),
        (b"abcd", (1, 1, 1.0, 4)),
        (b"a" * 32, (1, 1, 2, 2)),
        (b"abcd",),
    ],
)
def test_a_record_whose_bytes_do_not_fill_its_shape_is_refused(record: tuple[Any, ...]) -> None:
    with pytest.raises(UserError, match="in here"):
        read_modality(record, "s2c", name="here")


def test_a_bright_number_is_reflectance_above_one_and_not_wrapped(tmp_path: Path) -> None:
    """The published training code casts DN / 10000 * 255 to eight bits, where 12,000 becomes 50."""
    bright = np.full((4, 13, 24, 24), 12000, dtype=np.int16)
    write_records(tmp_path / "a.lmdb", [pickle.dumps((bright.tobytes(), bright.shape))])
    chip = next(list_products(small("ssl4eo_lmdb_s2c"), tmp_path).products[0].open_chips())
    np.testing.assert_allclose(chip.image, 1.2, rtol=1e-6)


def test_a_number_beyond_int16_comes_back_from_the_authors_cast(tmp_path: Path) -> None:
    """The published code casts uint16 to int16: 40,000 is stored as -25,536, the same sixteen bits."""
    bright = np.full((4, 13, 24, 24), 40000, dtype=np.uint16).astype(np.int16)
    assert bright.max() == -25536
    write_records(tmp_path / "a.lmdb", [pickle.dumps((bright.tobytes(), bright.shape))])
    chip = next(list_products(small("ssl4eo_lmdb_s2c"), tmp_path).products[0].open_chips())
    np.testing.assert_allclose(chip.image, 4.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": (10.0, 10.0)}, r"steps of -10 m in y_ of sample 0 in .*, got 10 to 10 m"),  # upside down
        ({"step": (-10.0, -10.0)}, r"steps of 10 m in x_ of sample 0 in .*, got -10 to -10 m"),
        ({"step": (20.0, -20.0)}, r"steps of 10 m in x_ of sample 0 in .*, got 20 to 20 m"),
        ({"attributes": {"scale_factor": 1e-3}}, r"the card's scale 0.0001 .* in bands of .* got scale_factor 0.001"),
    ],
)
def test_stacks_that_lie_or_count_otherwise_than_the_release_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    values = np.full((1, 4, 12, 24, 24), 1700, dtype=np.int16)
    write_stack(tmp_path / "S2L2A" / "a.zarr.zip", bands=S2, values=values, **changes)
    with pytest.raises(UserError, match=words):
        list(list_products(small("ssl4eo_v11_s2l2a"), tmp_path).products[0].open_chips())


def test_a_file_of_the_later_release_without_offset_is_refused_by_name(tmp_path: Path) -> None:
    """The WebDataset release of v1.1 has one place per file and no offset; the card would subtract 1000 from it."""
    path = tmp_path / "S2L2A" / "0000001.zarr.zip"
    write_stack(path, bands=S2, values=np.full((1, 4, 12, 24, 24), 700, dtype=np.int16))
    with xr.open_zarr(ZipStore(path, mode="r"), consolidated=False, mask_and_scale=False) as stack:
        alone = stack.isel(sample=0).drop_vars("sample").load()
    path.unlink()
    for variable in alone.variables.values():
        variable.encoding = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = ZipStore(path, mode="w")
        alone.to_zarr(store, zarr_format=2, consolidated=False)
        store.close()
    with pytest.raises(UserError, match=r"64 places per file .* got one place; .* WebDataset release"):
        list(list_products(small("ssl4eo_v11_s2l2a"), tmp_path).products[0].open_chips())

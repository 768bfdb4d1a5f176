"""BigEarthNet v2 and Sen1Floods11, of two sensors: bands by name, the physical quantity, the split; against TorchGeo's own classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from benchmark_reading import images, sizes
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import load_benchmark
from eo_ssl.evaluation.tasks import MaskedSource
from eo_ssl.sensors import Quantity
from worlds.benchmarks import make_bigearthnet_v2, make_sen1floods11


@pytest.fixture(scope="module")
def bigearthnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bigearthnet_v2(tmp_path_factory.mktemp("benchmarks") / "ben", seed=3, patches=10)


@pytest.fixture(scope="module")
def floods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sen1floods11(tmp_path_factory.mktemp("benchmarks") / "floods", seed=3, per_event=5, size_px=32)


# BigEarthNet v2


def test_bigearthnet_v2_gives_torchgeos_optical_pixels_and_labels(bigearthnet: Path) -> None:
    from torchgeo.datasets import BigEarthNetV2

    task = load_benchmark("bigearthnet_v2", bigearthnet)
    assert (
        task.kind == "multilabel" and task.metric == "micro_ap" and task.class_names == tuple(BigEarthNetV2.class_set)
    )
    assert sizes(task) == (6, 2, 2) and task.labels.sum(axis=1).tolist() == [2] * 10
    source = task.sources[0]
    assert source.bands == ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    ours, position = images(source), 0
    fine = [source.bands.index(band) for band in ("B02", "B03", "B04", "B08")]
    for split in ("train", "val", "test"):
        dataset = BigEarthNetV2(str(bigearthnet), split=split, bands="s2")
        for item in range(len(dataset)):
            sample = dataset[item]
            stored = ours[position] * 10_000
            np.testing.assert_allclose(stored[fine], sample["image"].numpy()[fine], rtol=1e-6)
            # 20 and 60 m bands: the same interpolation, which TorchGeo rounds to whole numbers.
            np.testing.assert_allclose(stored, sample["image"].numpy(), atol=0.51)
            assert task.labels[position].tolist() == sample["label"].tolist()
            position += 1


def test_bigearthnet_v2_backscatter_is_not_rounded_nor_exchanged(bigearthnet: Path) -> None:
    from torchgeo.datasets import BigEarthNetV2

    task = load_benchmark("bigearthnet_v2", bigearthnet, variant="s1")
    source = task.sources[0]
    assert source.bands == ("VV", "VH") and source.quantity is Quantity.SIGMA0_DB
    ours = images(source, [0])[0]
    row = BigEarthNetV2(str(bigearthnet), split="train", bands="s1").metadata_df.loc[0, "s1_name"]
    for band, found in zip(source.bands, ours, strict=True):
        (path,) = bigearthnet.glob(f"BigEarthNet-S1/*/{row}/{row}_{band}.tif")
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(found, file.read(1))
    # The defects: TorchGeo's own image holds whole numbers, and VH in the place where its documentation has VV.
    theirs = BigEarthNetV2(str(bigearthnet), split="train", bands="s1")[0]["image"].numpy()
    assert np.array_equal(theirs, np.rint(theirs)) and not np.array_equal(ours, np.rint(ours))
    assert np.abs(theirs[0] - ours[1]).max() <= 1.0 and np.abs(theirs[1] - ours[0]).max() <= 1.0
    assert ours[0].mean() - ours[1].mean() > 5


def test_bigearthnet_v2_both_pairs_the_same_ground_in_blocks_of_tiles(bigearthnet: Path) -> None:
    both = load_benchmark("bigearthnet_v2", bigearthnet, variant="both")
    s1, s2 = (load_benchmark("bigearthnet_v2", bigearthnet, variant=variant) for variant in ("s1", "s2"))
    assert both.sources[0].fingerprint == s2.sources[0].fingerprint
    assert [source.fingerprint for source in both.partners] == [s1.sources[0].fingerprint]
    table = pq.read_table(bigearthnet / "metadata.parquet").to_pydict()
    folders = [folder.name for folder in both.sources[0].files.folders]  # type: ignore[attr-defined]
    radar = [folder.name for folder in both.partners[0].files.folders]  # type: ignore[attr-defined]
    assert dict(zip(folders, radar, strict=True)) == dict(zip(table["patch_id"], table["s1_name"], strict=True))
    tiles = [name.split("_")[5] for name in folders]
    assert len(set(tiles)) == len(np.unique(both.blocks)) == 3
    assert all(
        (a == b) == (s == t)
        for a, s in zip(tiles, both.blocks, strict=True)
        for b, t in zip(tiles, both.blocks, strict=True)
    )


def test_bigearthnet_v2_in_another_layout_is_refused(bigearthnet: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"metadata\.parquet, BigEarthNet-S2/.*got no metadata\.parquet; get it from torchgeo"
    ):
        load_benchmark("bigearthnet_v2", tmp_path)
    table = pq.read_table(bigearthnet / "metadata.parquet")
    pq.write_table(table.drop_columns(["s1_name"]), tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match="got none of s1_name"):
        load_benchmark("bigearthnet_v2", tmp_path)
    pq.write_table(table, tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match="got no BigEarthNet-S2"):
        load_benchmark("bigearthnet_v2", tmp_path)
    names = pa.array([["Arable land"], *([["Ploughed land"]] * (len(table) - 1))])
    pq.write_table(
        table.set_column(table.schema.get_field_index("labels"), "labels", names), tmp_path / "metadata.parquet"
    )
    for name in ("BigEarthNet-S2", "BigEarthNet-S1"):
        (tmp_path / name).symlink_to(bigearthnet / name)
    with pytest.raises(UserError, match=r"expected the 19 labels of BigEarthNet.*'Ploughed land'"):
        load_benchmark("bigearthnet_v2", tmp_path)
    pq.write_table(table.filter(pa.compute.not_equal(table["split"], "test")), tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match="got none of test"):
        load_benchmark("bigearthnet_v2", tmp_path)


def test_bigearthnet_v2_bands_of_another_resolution_are_refused(bigearthnet: Path, tmp_path: Path) -> None:
    shutil.copytree(bigearthnet, tmp_path / "copy")
    for band, source, says in (
        ("B02", "B05", r"\[120, 120\] pixels in .*_B02\.tif, got \[60, 60\]"),
        ("B05", "B01", r"\[60, 60\] pixels"),
    ):
        for path in (tmp_path / "copy").rglob(f"*_{band}.tif"):
            path.write_bytes(path.with_name(path.name.replace(band, source)).read_bytes())
        task = load_benchmark("bigearthnet_v2", tmp_path / "copy")
        with pytest.raises(UserError, match=says):
            images(task.sources[0], [0])
        shutil.rmtree(tmp_path / "copy")
        shutil.copytree(bigearthnet, tmp_path / "copy")
    next(iter((tmp_path / "copy").rglob("*_B8A.tif"))).unlink()
    with pytest.raises(UserError, match=r"expected the file .*_B8A\.tif"):
        images(load_benchmark("bigearthnet_v2", tmp_path / "copy").sources[0])


# Sen1Floods11


def stored_flood(root: Path, chip: str, kind: str) -> np.ndarray:
    with rasterio.open(root / "v1.1/data/flood_events/HandLabeled" / kind / f"{chip}_{kind}.tif") as file:
        return file.read()


@pytest.mark.parametrize("variant", ["both", "bolivia-both"])
def test_sen1floods11_gives_images_and_masks_of_the_lists(floods: Path, variant: str) -> None:
    task = load_benchmark("sen1floods11", floods, variant=variant)
    lists = ["train", "valid", "bolivia" if "bolivia" in variant else "test"]
    chips = [
        line.split("_S1Hand")[0]
        for name in lists
        for line in (floods / f"v1.1/splits/flood_handlabeled/flood_{name}_data.csv").read_text().splitlines()
    ]
    assert sizes(task) == (12, 4, 2 if "bolivia" in variant else 4) and len(chips) == len(task.labels)
    optical, radar = task.sources[0], task.partners[0]
    assert isinstance(optical, MaskedSource) and task.kind == "segmentation" and task.metric == "miou"
    assert optical.quantity is Quantity.TOA_REFLECTANCE and radar.quantity is Quantity.SIGMA0_DB
    masks = np.empty((len(chips), 32, 32), dtype=np.int64)
    optical.read_masks(np.arange(len(chips)), masks)
    for position, chip in enumerate(chips):
        codes = stored_flood(floods, chip, "S2Hand").astype(np.float64)
        expected = np.where(codes == 0, np.nan, codes / 10_000)
        np.testing.assert_allclose(images(optical, [position])[0], expected, rtol=1e-6)
        np.testing.assert_array_equal(images(radar, [position])[0], stored_flood(floods, chip, "S1Hand"))
        np.testing.assert_array_equal(masks[position], stored_flood(floods, chip, "LabelHand")[0])
    assert set(np.unique(masks)) == {-1, 0, 1} and (masks[:, :2] == -1).all()
    # Radar and label tell of the same water.
    vv = images(radar)[:, 0]
    assert np.nanmean(vv[masks == 0]) - np.nanmean(vv[masks == 1]) > 5


def test_sen1floods11_blocks_are_events_and_bolivia_is_apart(floods: Path) -> None:
    shared, apart = (load_benchmark("sen1floods11", floods, variant=variant) for variant in ("s1", "bolivia-s1"))
    assert len(np.unique(shared.blocks)) == 4 and "every event is on all sides" in shared.split
    assert len(np.unique(apart.blocks)) == len(apart.blocks) and "Bolivia" in apart.split
    assert shared.fingerprint != apart.fingerprint


def test_sen1floods11_in_another_layout_is_refused(floods: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"flood_\{train,valid,test,bolivia\}_data.csv.*got no flood_train_data.csv; get it from github"
    ):
        load_benchmark("sen1floods11", tmp_path)
    shutil.copytree(floods, tmp_path / "copy")
    (mask,) = (tmp_path / "copy").rglob("Ghana_1000_LabelHand.tif")
    with rasterio.open(mask, "r+") as file:
        file.write(np.full((1, 32, 32), 255, np.int16))
    task = load_benchmark("sen1floods11", tmp_path / "copy")
    with pytest.raises(UserError, match=r"expected classes -1, 0 and 1.*got \[255\]"):
        task.sources[0].read_masks(np.arange(16), np.empty((16, 32, 32), np.int64))  # type: ignore[attr-defined]
    mask.unlink()
    with pytest.raises(UserError, match=r"no Ghana_1000_LabelHand\.tif, which a list names"):
        load_benchmark("sen1floods11", tmp_path / "copy")

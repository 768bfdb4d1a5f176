"""EuroSAT, So2Sat, BigEarthNet v2 and Sen1Floods11: bands by name, the physical quantity, the split; against TorchGeo's own classes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from eo_ssl.cards import load_card
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import BENCHMARKS, benchmark_task
from eo_ssl.evaluation.features import Source
from eo_ssl.evaluation.tasks import MaskedSource, Task
from eo_ssl.sensors import Quantity
from eo_ssl.synthetic import EUROSAT_BANDS, make_eurosat
from eo_ssl.synthetic.benchmarks import add_spatial_lists, make_bigearthnet_v2, make_sen1floods11, make_so2sat


def images(source: Source, positions: list[int] | None = None) -> np.ndarray:
    rows = np.arange(len(source)) if positions is None else np.array(positions)
    out = np.empty((len(rows), *source.shape), dtype=np.float32)
    source.read(rows.astype(np.int64), out)
    return out


def plane(source: Source, band: str, position: int) -> np.ndarray:
    return images(source, [position])[0, source.bands.index(band)]


def sizes(task: Task) -> tuple[int, int, int]:
    (fold,) = task.folds
    return len(fold.train), len(fold.validation), len(fold.test)


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_spatial_lists(make_eurosat(tmp_path_factory.mktemp("benchmarks") / "eurosat", seed=3, per_class=5))


@pytest.fixture(scope="module")
def so2sat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_so2sat(tmp_path_factory.mktemp("benchmarks") / "so2sat", seed=3, per_class=3)


@pytest.fixture(scope="module")
def bigearthnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bigearthnet_v2(tmp_path_factory.mktemp("benchmarks") / "ben", seed=3, patches=10)


@pytest.fixture(scope="module")
def floods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sen1floods11(tmp_path_factory.mktemp("benchmarks") / "floods", seed=3, per_event=5, size_px=32)


# EuroSAT


@pytest.mark.parametrize("variant", ["ms", "spatial"])
def test_eurosat_gives_torchgeos_pixels_under_their_names(eurosat: Path, variant: str) -> None:
    from torchgeo.datasets import EuroSAT, EuroSATSpatial

    task = benchmark_task("eurosat", eurosat, variant=variant)
    reader = EuroSAT if variant == "ms" else EuroSATSpatial
    theirs = [reader(str(eurosat), split=split) for split in ("train", "val", "test")]
    assert sizes(task) == tuple(map(len, theirs)) == (30, 10, 10)
    (source,) = task.sources
    assert source.bands == EUROSAT_BANDS and source.quantity is Quantity.TOA_REFLECTANCE and source.gsd_m == 10.0
    ours, position = images(source), 0
    for dataset in theirs:
        assert tuple(dataset.classes) == task.class_names
        for item in range(len(dataset)):
            sample = dataset[item]
            np.testing.assert_allclose(ours[position], sample["image"].numpy() / 10_000, rtol=1e-6)
            assert task.labels[position] == int(sample["label"])
            position += 1
    assert np.array_equal(task.blocks, np.arange(50))


def test_eurosat_splits_differ_and_say_so(eurosat: Path) -> None:
    random, spatial = (benchmark_task("eurosat", eurosat, variant=one) for one in ("ms", "spatial"))
    assert random.name == "eurosat-ms" and spatial.name == "eurosat-spatial"
    assert "at random" in random.split and "longitude" in spatial.split and random.fingerprint != spatial.fingerprint
    names = [
        [Path(path).name for path, _ in source.files.splits[2].samples]  # type: ignore[attr-defined]
        for source in (random.sources[0], spatial.sources[0])
    ]
    assert set(names[0]) != set(names[1])
    # The test strip lies west of everything that teaches, class by class.
    places: dict[tuple[int, str], list[float]] = {}
    for split, dataset in zip(("train", "val", "test"), spatial.sources[0].files.splits, strict=True):  # type: ignore[attr-defined]
        for path, label in dataset.samples:
            with rasterio.open(path) as file:
                places.setdefault((label, split), []).append(file.lnglat()[0])
    assert all(max(places[label, "test"]) < min(places[label, "train"]) for label in range(10))


def test_eurosat_rgb_is_red_green_blue_by_name(eurosat: Path) -> None:
    from torchgeo.datasets import EuroSAT

    (source,) = benchmark_task("eurosat", eurosat, variant="rgb").sources
    assert source.bands == ("B04", "B03", "B02") == EuroSAT.rgb_bands
    sample = EuroSAT(str(eurosat), split="train", bands=EuroSAT.rgb_bands)[7]["image"].numpy()
    np.testing.assert_allclose(images(source, [7])[0], sample / 10_000, rtol=1e-6)


def test_eurosat_b8a_stands_last_and_a_card_in_spectral_order_is_wrong_on_these_files(eurosat: Path) -> None:
    card = load_card("eurosat")
    assert card.bands[-1] == "B8A"
    right = benchmark_task("eurosat", eurosat).sources[0]
    spectral = (*EUROSAT_BANDS[:8], "B8A", *EUROSAT_BANDS[8:12])
    wrong = benchmark_task("eurosat", eurosat, card=replace(card, bands=spectral)).sources[0]
    assert right.fingerprint != wrong.fingerprint
    np.testing.assert_array_equal(plane(wrong, "B8A", 0), plane(right, "B09", 0))  # what a reader by position gets
    assert not np.allclose(plane(right, "B8A", 0), plane(right, "B09", 0))
    bright = images(right)[:, [right.bands.index(band) for band in ("B08", "B8A", "B10")]].mean(axis=(0, 2, 3))
    assert abs(bright[1] / bright[0] - 1) < 0.15 and bright[2] < 0.004  # B8A is as B08, the cirrus band is black


def test_eurosat_incomplete_or_of_three_bands_is_refused(eurosat: Path, tmp_path: Path) -> None:
    shutil.copytree(eurosat, tmp_path / "rgb")
    (gone,) = (tmp_path / "rgb").rglob("Forest_2.tif")
    kept = gone.read_bytes()
    gone.unlink()  # TorchGeo leaves it out without a word
    with pytest.raises(UserError, match=r"expected the 30 images that .*eurosat-train\.txt lists, got 29"):
        benchmark_task("eurosat", tmp_path / "rgb")
    gone.write_bytes(kept)
    for path in (tmp_path / "rgb").rglob("*.tif"):
        with rasterio.open(path) as file:
            profile, pixels = file.profile, file.read([4, 3, 2])
        with rasterio.open(path, "w", **{**profile, "count": 3}) as file:
            file.write(pixels)
    with pytest.raises(UserError, match=r"expected EuroSAT images \[13, 64, 64\].*got \[3, 64, 64\].*13-band files"):
        benchmark_task("eurosat", tmp_path / "rgb")


# So2Sat


@pytest.mark.parametrize(
    ("variant", "version", "expected"),
    [("random", "3_random", (34, 0, 17)), ("block", "3_block", (34, 0, 17)), ("culture10", "3_culture_10", (34, 0, 17)), ("v2", "2", (17, 17, 17))],
)  # fmt: skip
def test_so2sat_gives_torchgeos_pixels_and_never_divides(
    so2sat: Path, variant: str, version: str, expected: tuple[int, int, int]
) -> None:
    from torchgeo.datasets import So2Sat

    task = benchmark_task("so2sat", so2sat, variant=variant)
    splits = ("train", "validation", "test") if version == "2" else ("train", "test")
    theirs = [So2Sat(str(so2sat), version=version, split=split, bands=So2Sat.BAND_SETS["s2"]) for split in splits]
    assert sizes(task) == expected and task.class_names == So2Sat.classes
    source = task.sources[0]
    assert tuple(f"S2_{band}" for band in source.bands) == So2Sat.BAND_SETS["s2"]
    ours, position = images(source), 0
    for dataset in theirs:
        for item in range(len(dataset)):
            sample = dataset[item]
            np.testing.assert_array_equal(ours[position], sample["image"].numpy())  # reflectance as it stands
            assert task.labels[position] == int(sample["label"])
            position += 1
    assert position == len(source) and 0.005 < np.median(ours) < 1.0 and source.quantity is Quantity.TOA_REFLECTANCE


def test_so2sat_versions_are_tasks_of_their_own(so2sat: Path) -> None:
    tasks = [benchmark_task("so2sat", so2sat, variant=variant) for variant in ("random", "block", "culture10", "v2")]
    assert len({task.fingerprint for task in tasks}) == len({task.split for task in tasks}) == 4
    assert not len(tasks[0].folds[0].validation) and len(tasks[3].folds[0].validation)
    assert all("not comparable" in task.notes[0] for task in tasks)


def test_so2sat_radar_is_named_by_polarisation(so2sat: Path) -> None:
    from torchgeo.datasets import So2Sat

    task = benchmark_task("so2sat", so2sat, variant="random-both")
    (radar,) = task.partners
    assert radar.bands == ("VH", "VV") and radar.quantity is Quantity.SIGMA0 and len(radar) == len(task.sources[0])
    theirs = So2Sat(str(so2sat), version="3_random", split="train", bands=So2Sat.BAND_SETS["s1"])
    sample = theirs[3]["image"].numpy()  # S1_B1 ... S1_B8
    np.testing.assert_array_equal(images(radar, [3])[0], sample[[4, 5]])
    decibel = 10 * np.log10(images(radar))
    gap = decibel[:, 1].mean() - decibel[:, 0].mean()
    assert 5 < gap < 10  # VV is the brighter one
    # The intensity is that of the complex numbers of the same polarisation before the filter.
    vh = np.array([(theirs[i]["image"].numpy()[:2] ** 2).sum(0).mean() for i in range(len(theirs))])
    assert np.corrcoef(np.log(vh), np.log(images(radar)[: len(theirs), 0].mean(axis=(1, 2))))[0, 1] > 0.9
    alone = benchmark_task("so2sat", so2sat, variant="random-s1")
    assert alone.sources[0].fingerprint == radar.fingerprint and alone.sources[0].sensor == "sentinel1_grd"


def test_so2sat_reads_any_positions(so2sat: Path) -> None:
    source = benchmark_task("so2sat", so2sat, variant="v2").sources[0]
    every = images(source)
    for positions in ([0, 1, 2], [16, 17, 18, 33, 34, 35], [50, 3, 4, 3], []):
        np.testing.assert_array_equal(images(source, positions), every[positions])


def test_so2sat_in_another_layout_is_refused(so2sat: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"so2sat-block at .*sen1, sen2, label.*no block/training\.h5; get it from mediatum"
    ):
        benchmark_task("so2sat", tmp_path, variant="block")
    (tmp_path / "random").mkdir()
    for name in ("training.h5", "testing.h5"):
        with h5py.File(so2sat / "random" / name) as good, h5py.File(tmp_path / "random" / name, "w") as bad:
            bad["sen2"] = good["sen2"][:, :, :, :3]
            bad["label"] = good["label"][:]
    with pytest.raises(
        UserError, match=r"expected sen1 \[n, 32, 32, 8\].*got label \[34, 17\], sen2 \[34, 32, 32, 3\]"
    ):
        benchmark_task("so2sat", tmp_path, variant="random")
    (tmp_path / "random" / "training.h5").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="expected an HDF5 file"):
        benchmark_task("so2sat", tmp_path, variant="random")
    (tmp_path / "random" / "training.h5").unlink()
    with (
        h5py.File(tmp_path / "random" / "training.h5", "w") as bad,
        h5py.File(so2sat / "random" / "training.h5") as good,
    ):
        bad["sen1"], bad["sen2"], bad["label"] = good["sen1"][:], good["sen2"][:], np.full((34, 17), 0.5)
    with pytest.raises(UserError, match="expected one class out of 17 for each patch"):
        benchmark_task("so2sat", tmp_path, variant="random")


# BigEarthNet v2


def test_bigearthnet_v2_gives_torchgeos_optical_pixels_and_labels(bigearthnet: Path) -> None:
    from torchgeo.datasets import BigEarthNetV2

    task = benchmark_task("bigearthnet_v2", bigearthnet)
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

    task = benchmark_task("bigearthnet_v2", bigearthnet, variant="s1")
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
    both = benchmark_task("bigearthnet_v2", bigearthnet, variant="both")
    s1, s2 = (benchmark_task("bigearthnet_v2", bigearthnet, variant=variant) for variant in ("s1", "s2"))
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
        benchmark_task("bigearthnet_v2", tmp_path)
    table = pq.read_table(bigearthnet / "metadata.parquet")
    pq.write_table(table.drop_columns(["s1_name"]), tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match="got none of s1_name"):
        benchmark_task("bigearthnet_v2", tmp_path)
    pq.write_table(table, tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match="got no BigEarthNet-S2"):
        benchmark_task("bigearthnet_v2", tmp_path)
    names = pa.array([["Arable land"], *([["Ploughed land"]] * (len(table) - 1))])
    pq.write_table(
        table.set_column(table.schema.get_field_index("labels"), "labels", names), tmp_path / "metadata.parquet"
    )
    for name in ("BigEarthNet-S2", "BigEarthNet-S1"):
        (tmp_path / name).symlink_to(bigearthnet / name)
    with pytest.raises(UserError, match=r"expected the 19 labels of BigEarthNet.*'Ploughed land'"):
        benchmark_task("bigearthnet_v2", tmp_path)
    pq.write_table(table.filter(pa.compute.not_equal(table["split"], "test")), tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match="got none of test"):
        benchmark_task("bigearthnet_v2", tmp_path)


def test_bigearthnet_v2_bands_of_another_resolution_are_refused(bigearthnet: Path, tmp_path: Path) -> None:
    shutil.copytree(bigearthnet, tmp_path / "copy")
    for band, source, says in (
        ("B02", "B05", r"\[120, 120\] pixels in .*_B02\.tif, got \[60, 60\]"),
        ("B05", "B01", r"\[60, 60\] pixels"),
    ):
        for path in (tmp_path / "copy").rglob(f"*_{band}.tif"):
            path.write_bytes(path.with_name(path.name.replace(band, source)).read_bytes())
        task = benchmark_task("bigearthnet_v2", tmp_path / "copy")
        with pytest.raises(UserError, match=says):
            images(task.sources[0], [0])
        shutil.rmtree(tmp_path / "copy")
        shutil.copytree(bigearthnet, tmp_path / "copy")
    next(iter((tmp_path / "copy").rglob("*_B8A.tif"))).unlink()
    with pytest.raises(UserError, match=r"expected a readable raster at .*_B8A\.tif"):
        images(benchmark_task("bigearthnet_v2", tmp_path / "copy").sources[0])


# Sen1Floods11


def stored_flood(root: Path, chip: str, kind: str) -> np.ndarray:
    with rasterio.open(root / "v1.1/data/flood_events/HandLabeled" / kind / f"{chip}_{kind}.tif") as file:
        return file.read()


@pytest.mark.parametrize("variant", ["both", "bolivia-both"])
def test_sen1floods11_gives_images_and_masks_of_the_lists(floods: Path, variant: str) -> None:
    task = benchmark_task("sen1floods11", floods, variant=variant)
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
    shared, apart = (benchmark_task("sen1floods11", floods, variant=variant) for variant in ("s1", "bolivia-s1"))
    assert len(np.unique(shared.blocks)) == 4 and "every event is on all sides" in shared.split
    assert len(np.unique(apart.blocks)) == len(apart.blocks) and "Bolivia" in apart.split
    assert shared.fingerprint != apart.fingerprint


def test_sen1floods11_in_another_layout_is_refused(floods: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"flood_\{train,valid,test,bolivia\}_data.csv.*got no flood_train_data.csv; get it from github"
    ):
        benchmark_task("sen1floods11", tmp_path)
    shutil.copytree(floods, tmp_path / "copy")
    (mask,) = (tmp_path / "copy").rglob("Ghana_1000_LabelHand.tif")
    with rasterio.open(mask, "r+") as file:
        file.write(np.full((1, 32, 32), 255, np.int16))
    task = benchmark_task("sen1floods11", tmp_path / "copy")
    with pytest.raises(UserError, match=r"expected classes -1, 0 and 1.*got \[255\]"):
        task.sources[0].read_masks(np.arange(16), np.empty((16, 32, 32), np.int64))  # type: ignore[attr-defined]
    mask.unlink()
    with pytest.raises(UserError, match=r"no Ghana_1000_LabelHand\.tif, which a list names"):
        benchmark_task("sen1floods11", tmp_path / "copy")


# All


def test_unknown_names_and_foreign_cards_are_refused(eurosat: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'eurosat'"):
        benchmark_task("eurosta", eurosat)
    with pytest.raises(
        UserError, match=r"expected a variant of eurosat out of ms, rgb, spatial.*did you mean 'spatial'"
    ):
        benchmark_task("eurosat", eurosat, variant="spatail")
    with pytest.raises(UserError, match="use the card eurosat"):
        benchmark_task("eurosat", eurosat, card=load_card("mstar_soc"))
    with pytest.raises(UserError, match="use the card so2sat_s2"):
        benchmark_task("so2sat", eurosat, card=load_card("eurosat"))


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_an_absent_benchmark_says_where_it_is_to_be_had_and_how_it_is_laid_out(name: str, tmp_path: Path) -> None:
    known = BENCHMARKS[name]
    for variant in known.variants:
        with pytest.raises(UserError) as caught:
            benchmark_task(name, tmp_path / "none", variant=variant)
        assert known.layout in str(caught.value) and known.origin in str(caught.value)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_variant_has_cards_that_say_they_saw_no_real_file(name: str) -> None:
    for cards in BENCHMARKS[name].cards.values():
        for card in map(load_card, cards):
            assert card.splits and card.citation and card.attribution and card.source
            assert "untested: no real file seen" in card.pitfalls
    assert BENCHMARKS[name].card == BENCHMARKS[name].cards[BENCHMARKS[name].variants[0]][0]

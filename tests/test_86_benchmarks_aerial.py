"""TreeSatAI, SAT-6, RESISC45 and UC Merced: bands by name, numbers as stored, against TorchGeo's classes or the file itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from benchmark_reading import images, sizes
from eo_ssl.cards import load_card
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import load_benchmark
from eo_ssl.sensors import Quantity, translate_bands
from worlds.benchmarks import make_resisc45, make_sat6, make_treesatai, make_ucmerced
from worlds.benchmarks.aerial import SAT6_CLASSES


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_treesatai(tmp_path_factory.mktemp("trees") / "treesatai", seed=4, plots=12)


@pytest.fixture(scope="module")
def sat6(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sat6(tmp_path_factory.mktemp("sat6") / "sat6", seed=4, per_class=5)


@pytest.mark.parametrize("variant", ["s2", "aerial"])
def test_treesatai_gives_torchgeos_numbers_under_torchgeos_names(trees: Path, variant: str) -> None:
    from torchgeo.datasets import TreeSatAI

    task = load_benchmark("treesatai", trees, variant=variant)
    (source,) = task.sources
    by_sensor = getattr(TreeSatAI, "all_bands_dict", TreeSatAI.all_bands)  # renamed in TorchGeo 0.10
    spelled = ["NIR" if name == "IR" else name for name in by_sensor[variant]]
    assert list(source.bands) == spelled and sizes(task) == (11, 0, 1) and task.kind == "multilabel"
    scale, shape = (1e-4, (12, 6, 6)) if variant == "s2" else (1.0, (4, 304, 304))
    assert source.shape == shape and task.class_names == tuple(TreeSatAI.classes)
    ours, position = images(source), 0
    for split in ("train", "test"):
        dataset = TreeSatAI(str(trees), split=split, sensors=[variant])
        for item in range(len(dataset)):
            sample = dataset[item]
            np.testing.assert_allclose(ours[position], sample[f"image_{variant}"].numpy() * scale, rtol=1e-6)
            assert task.labels[position].tolist() == sample["label"].tolist()
            position += 1
    assert position == 12 and (task.labels.sum(axis=1) == 2).all()


def test_treesatai_bands_stand_by_resolution(trees: Path) -> None:
    source = load_benchmark("treesatai", trees).sources[0]
    mean = dict(zip(source.bands, images(source).mean(axis=(0, 2, 3)), strict=True))
    assert source.bands[-2:] == ("B01", "B09") and source.quantity is Quantity.BOA_REFLECTANCE
    assert mean["B01"] < 0.1 < 0.15 < min(mean["B08"], mean["B8A"], mean["B09"])  # leaves
    aerial = load_benchmark("treesatai", trees, variant="aerial").sources[0]
    bright = dict(zip(aerial.bands, images(aerial).mean(axis=(0, 2, 3)), strict=True))
    assert bright["NIR"] > 1.5 * max(bright["R"], bright["G"], bright["B"]) and aerial.quantity is Quantity.DN
    assert translate_bands(["R", "G", "B", "NIR"], source="aerial_rgb", target="sentinel2_l2a") == (
        "B04",
        "B03",
        "B02",
        "B08",
    )


def test_treesatai_statistics_are_torchgeos_by_name() -> None:
    from torchgeo.datamodules import treesatai as theirs

    for sensor in ("s2", "aerial"):
        card = load_card(f"treesatai_{sensor}")
        assert card.statistics is not None and card.statistics.unit == "dn"
        np.testing.assert_allclose(card.statistics.mean, theirs.means[sensor])
        np.testing.assert_allclose(card.statistics.std, theirs.stds[sensor])


def test_treesatai_in_another_layout_is_refused(trees: Path, tmp_path: Path) -> None:
    for name in ("train_filenames.lst", "test_filenames.lst"):
        (tmp_path / name).write_text((trees / name).read_text())
    with pytest.raises(UserError, match=r"no labels/TreeSatBA_v9_60m_multi_labels\.json; get it from torchgeo"):
        load_benchmark("treesatai", tmp_path)
    labels = json.loads((trees / "labels/TreeSatBA_v9_60m_multi_labels.json").read_text())
    (tmp_path / "labels").mkdir()
    file = tmp_path / "labels/TreeSatBA_v9_60m_multi_labels.json"
    file.write_text(json.dumps({name: [["Bambusa", 1.0]] for name in labels}))
    with pytest.raises(UserError, match=r"expected genera out of Abies.*got Bambusa"):
        load_benchmark("treesatai", tmp_path)
    file.write_text(json.dumps(labels))
    (tmp_path / "s2" / "60m").parent.mkdir()
    (tmp_path / "s2" / "60m").symlink_to(trees / "aerial" / "60m")
    with pytest.raises(UserError, match=r"expected images \[12, 6, 6\] of 60 m.*got \[3, 304, 304\]"):
        load_benchmark("treesatai", tmp_path)


def test_sat6_keeps_band_class_and_patch_together(sat6: Path) -> None:
    task = load_benchmark("sat6", sat6)
    (source,) = task.sources
    assert sizes(task) == (24, 0, 6) and source.bands == ("R", "G", "B", "NIR") and task.class_names == SAT6_CLASSES
    arrays = loadmat(str(sat6 / "sat-6-full.mat"))
    ours = images(source)
    for position in range(30):
        split, at = ("train", position) if position < 24 else ("test", position - 24)
        patch = arrays[f"{split}_x"][:, :, :, at]  # row, column, band
        np.testing.assert_array_equal(ours[position], patch.transpose(2, 0, 1))
        assert arrays[f"{split}_y"][task.labels[position], at] == 1
    np.testing.assert_array_equal(images(source, [25, 3, 24]), ours[[25, 3, 24]])
    red, near = (ours[:, source.bands.index(band)].mean(axis=(1, 2)) for band in ("R", "NIR"))
    leaves, water = task.labels == SAT6_CLASSES.index("trees"), task.labels == SAT6_CLASSES.index("water")
    assert (near[leaves] > 2 * red[leaves]).all() and (near[water] < red[water]).all()


def test_sat6_in_another_layout_is_refused(sat6: Path, tmp_path: Path) -> None:
    arrays = loadmat(str(sat6 / "sat-6-full.mat"))
    four = {name: arrays[name] for name in ("train_x", "test_x")} | {
        f"{split}_y": arrays[f"{split}_y"][:4] for split in ("train", "test")
    }
    savemat(tmp_path / "sat-6-full.mat", four)
    with pytest.raises(UserError, match=r"got .*train_y \[4, 24\]; fetch SAT-6, not SAT-4"):
        load_benchmark("sat6", tmp_path)
    (tmp_path / "sat-6-full.mat").write_bytes(b"MATLAB 7.3 MAT-file")
    with pytest.raises(UserError, match="expected a MATLAB file"):
        load_benchmark("sat6", tmp_path)
    savemat(
        tmp_path / "sat-6-full.mat",
        {name: arrays[name] for name in ("train_x", "test_x", "test_y")} | {"train_y": arrays["train_y"] * 2},
    )
    with pytest.raises(UserError, match="expected one class out of six"):
        load_benchmark("sat6", tmp_path)


@pytest.mark.parametrize(
    ("name", "make", "reader"), [("resisc45", make_resisc45, "RESISC45"), ("ucmerced", make_ucmerced, "UCMerced")]
)
def test_colour_images_are_torchgeos(name: str, make: object, reader: str, tmp_path: Path) -> None:
    import torchgeo.datasets

    root = make(tmp_path / name, seed=4, per_class=5)  # type: ignore[operator]
    task = load_benchmark(name, root)
    (source,) = task.sources
    assert sizes(task) == (9, 3, 3) and source.bands == ("R", "G", "B") and source.quantity is Quantity.DN
    ours, position = images(source), 0
    for split in ("train", "val", "test"):
        dataset = getattr(torchgeo.datasets, reader)(str(root), split=split)
        assert tuple(dataset.classes) == task.class_names
        for item in range(len(dataset)):
            sample = dataset[item]
            # GDAL and Pillow decode JPEG alike but for a few pixels in ten thousand.
            np.testing.assert_allclose(ours[position], sample["image"].numpy(), atol=2 if name == "resisc45" else 1e-3)
            assert task.labels[position] == int(sample["label"])
            position += 1
    assert ours.min() >= 0 and 50 < ours.max() <= 255 and "60/20/20" in task.split  # eight bits, not 0 to 1


def test_a_list_of_images_that_are_not_there_is_refused(tmp_path: Path) -> None:
    root = make_resisc45(tmp_path / "resisc45", seed=4, per_class=5)
    (root / "NWPU-RESISC45" / "airport" / "airport_001.jpg").unlink()
    with pytest.raises(UserError, match=r"expected the 9 images that .*resisc45-train\.txt lists, got 8"):
        load_benchmark("resisc45", root)
    for path in (root / "NWPU-RESISC45" / "airport").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"got none of airport in resisc45-train\.txt; none of airport in resisc45-val"):
        load_benchmark("resisc45", root)


def test_a_card_of_another_band_set_is_refused(sat6: Path) -> None:
    with pytest.raises(UserError, match=r"expected a card of sat6-all .*use the card sat6"):
        load_benchmark("sat6", sat6, card=replace(load_card("sat6"), bands=("R", "G", "B")))

"""What the files of a benchmark call no measurement (nodata, masks, alpha) is missing in its images, band by band; sizes that differ are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp

from benchmark_reading import images
from eo_ssl.cards import Mask, load_card
from eo_ssl.diagnosis.sampled_windows import list_products
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import load_benchmark
from worlds import benchmarks as made
from worlds.benchmarks import make_eurosat

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
Change = Callable[[Path, np.ndarray], None]


def mask_inside(path: Path, valid: np.ndarray) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(valid)


def mask_beside(path: Path, valid: np.ndarray) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(valid)
    assert path.with_name(path.name + ".msk").exists()


def add_alpha(path: Path, valid: np.ndarray) -> None:
    with rasterio.open(path) as file:
        planes, profile = file.read(), file.profile
    profile.update(count=len(planes) + 1, photometric="MINISBLACK")
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.concatenate([planes, valid[None].astype(planes.dtype) * 255]))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = (*file.colorinterp[:-1], ColorInterp.alpha)


def declare_nodata(path: Path, valid: np.ndarray) -> None:
    """Missing pixels hold 7, which the file says and the card does not."""
    with rasterio.open(path) as file:
        planes, profile = file.read(), file.profile
    planes[planes == 7] = 8
    planes[:, ~valid] = 7
    with rasterio.open(path, "w", **profile | {"nodata": 7}) as file:
        file.write(planes)


WAYS: dict[str, Change] = {
    "mask inside": mask_inside,
    "mask beside": mask_beside,
    "alpha": add_alpha,
    "nodata": declare_nodata,
}
SETS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "eurosat": (lambda root: make_eurosat(root, seed=9, per_class=5), "ms"),
    "eurosat_sar": (lambda root: made.make_eurosat_sar(root, seed=9, per_class=5), "s1"),
    "treesatai": (lambda root: made.make_treesatai(root, seed=9, plots=10), "s2"),
    "sen1floods11": (
        lambda root: made.make_sen1floods11(root, seed=9, per_event=3, size_px=32),
        "s2",
    ),
    "ucmerced": (lambda root: made.make_ucmerced(root, seed=9, per_class=5), "rgb"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SETS)
def test_what_a_file_takes_out_is_missing_in_all_bands_and_nothing_else_is(
    tmp_path: Path, rng: np.random.Generator, name: str, way: str
) -> None:
    make, variant = SETS[name]
    root = make(tmp_path / name)
    source = load_benchmark(name, root, variant=variant).sources[0]
    before = images(source)
    taken = np.zeros_like(before, dtype=bool)
    for row in (0, 2, 5, len(before) - 1):
        path = source.files.paths[row]  # type: ignore[attr-defined]
        with rasterio.open(path) as file:
            if file.shape != before.shape[2:]:
                continue  # those that are resized have no missing pixels, as below
        valid = rng.random(before.shape[2:]) > 0.3
        WAYS[way](path, valid)
        taken[row] = ~valid
    after = images(load_benchmark(name, root, variant=variant).sources[0])
    assert taken.any(axis=(1, 2, 3)).sum() >= 3
    np.testing.assert_array_equal(np.isnan(after) & ~np.isnan(before), taken & ~np.isnan(before))
    if way != "nodata":  # which changed the numbers that were 7
        np.testing.assert_array_equal(after[~taken], before[~taken])


def test_a_card_may_say_why_masks_do_not_count(tmp_path: Path) -> None:
    root = make_eurosat(tmp_path / "eurosat", seed=9, per_class=5)
    before = images(load_benchmark("eurosat", root).sources[0])
    for path in root.rglob("*.tif"):
        mask_inside(path, np.zeros((64, 64), dtype=bool))
    assert np.isnan(images(load_benchmark("eurosat", root).sources[0])).all()
    card = replace(load_card("eurosat"), mask=Mask(ignore="a converter masked everything"))
    np.testing.assert_array_equal(images(load_benchmark("eurosat", root, card=card).sources[0]), before)


def test_masked_labels_are_unknown_and_a_nodata_value_of_labels_is_a_class(tmp_path: Path) -> None:
    root = made.make_sen1floods11(tmp_path / "floods", seed=9, per_event=3, size_px=32)
    task = load_benchmark("sen1floods11", root)
    path = task.sources[0].masks.paths[0]  # type: ignore[attr-defined]
    with rasterio.open(path, "r+") as file:
        file.nodata = 0
        stored = file.read(1)
    before = np.empty((1, 32, 32), dtype=np.int64)
    task.sources[0].read_masks(np.array([0]), before)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(before[0], np.where(stored == -1, -1, stored))
    valid = np.arange(1024).reshape(32, 32) % 5 > 0
    mask_inside(path, valid)
    after = np.empty_like(before)
    load_benchmark("sen1floods11", root).sources[0].read_masks(np.array([0]), after)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(after[0], np.where(valid, before[0], -1))


@pytest.mark.parametrize("masked", [False, True])
def test_coarser_bands_of_bigearthnet_are_those_of_a_corpus(
    tmp_path: Path, rng: np.random.Generator, masked: bool
) -> None:
    """GDAL would round what it interpolates to the file's whole numbers; a masked pixel of 60,000 never bleeds."""
    root = made.make_bigearthnet_v2(tmp_path / "ben", seed=9, patches=5)
    folder = load_benchmark("bigearthnet_v2", root).sources[0].files.folders[0]  # type: ignore[attr-defined]
    taken = {}
    for band in ("B05", "B09") if masked else ():
        path = folder / f"{folder.name}_{band}.tif"
        with rasterio.open(path, "r+") as file:
            plane = file.read(1)
            taken[band] = rng.random(plane.shape) < 0.1
            plane[taken[band]] = 60_000
            file.write(plane, 1)
        mask_inside(path, ~taken[band])
    source = load_benchmark("bigearthnet_v2", root).sources[0]
    ours = images(source, [0])[0]
    (product,) = [
        item for item in list_products(load_card("bigearthnet_v2_s2"), root) if item.product_id.endswith(folder.name)
    ]
    cube = product.open(plausible=False)["image"].values
    for band in ("B01", "B05", "B09", "B12", "B02"):
        found = ours[source.bands.index(band)]
        np.testing.assert_allclose(found, cube[product.bands.index(band)], rtol=1e-5, err_msg=band)
        holes = taken.get(band, np.zeros((1, 1), dtype=bool))
        wanted = np.kron(holes, np.ones((120 // len(holes), 120 // len(holes)), dtype=bool))
        np.testing.assert_array_equal(np.isnan(found), wanted)
        assert np.nanmax(found) < 2
    assert np.abs(ours[1] * 10_000 - np.rint(ours[1] * 10_000)).max() < 1e-2  # stored numbers
    fine = ours[source.bands.index("B05")] * 10_000
    assert (np.abs(fine - np.rint(fine)) > 0.1).mean() > 0.3  # a quarter and three quarters of whole numbers


# Sizes


def test_images_of_other_sizes_are_named_and_are_torchgeos(tmp_path: Path) -> None:
    from torchgeo.datasets import UCMerced

    root = made.make_ucmerced(tmp_path / "ucmerced", seed=9, per_class=5)
    odd = {}
    for path in sorted(root.rglob("*.tif")):
        with Image.open(path) as picture:
            if picture.size != (256, 256):
                odd[path.name] = picture.size
    assert odd  # the generator writes them as the published set has them
    task = load_benchmark("ucmerced", root)
    (note,) = task.notes
    assert note.startswith(f"{len(odd)} of 15 images are not 256 x 256 px and are brought to it as TorchGeo does")
    for name, (width, height) in odd.items():
        assert f"{name} ({height} x {width})" in note
    ours, position = images(task.sources[0]), 0
    for split in ("train", "val", "test"):
        dataset = UCMerced(str(root), split=split)
        for item in range(len(dataset)):
            np.testing.assert_allclose(ours[position], dataset[item]["image"].numpy(), atol=1e-3)
            position += 1


def test_an_image_far_from_square_is_refused_never_squeezed(tmp_path: Path) -> None:
    root = made.make_ucmerced(tmp_path / "ucmerced", seed=9, per_class=5)
    path = sorted(root.rglob("*.tif"))[3]
    with Image.open(path) as picture:
        picture.resize((256, 128)).save(path)
    with pytest.raises(UserError, match=rf"expected 256 x 256 px, or up to 32 .* in .*{path.name}, got 128 x 256"):
        load_benchmark("ucmerced", root)


def test_resisc45_has_no_image_of_another_size(tmp_path: Path) -> None:
    root = made.make_resisc45(tmp_path / "resisc45", seed=9, per_class=5)
    assert load_benchmark("resisc45", root).notes == (
        "from 0.2 to 30 m per pixel: the ground sampling is not one number",
    )
    path = sorted(root.rglob("*.jpg"))[3]
    with Image.open(path) as picture:
        picture.resize((256, 250)).save(path)
    with pytest.raises(UserError, match=rf"expected 256 x 256 px in .*{path.name}, got 250 x 256"):
        load_benchmark("resisc45", root)


def test_an_image_that_is_resized_has_no_missing_pixels(tmp_path: Path) -> None:
    root = made.make_ucmerced(tmp_path / "ucmerced", seed=9, per_class=5)
    task = load_benchmark("ucmerced", root)
    paths = task.sources[0].files.paths  # type: ignore[attr-defined]
    for row, path in enumerate(paths):
        with rasterio.open(path) as file:
            shape = file.shape
        if shape != (256, 256):
            mask_inside(path, np.arange(shape[0] * shape[1]).reshape(shape) % 3 > 0)
            with pytest.raises(UserError, match=r"without missing pixels, since its .* px are resized"):
                images(task.sources[0], [row])
            return
    pytest.fail("no image of another size")

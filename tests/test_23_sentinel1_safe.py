"""The SAFE container of Sentinel-1: facts of the manifest, files of each image, checksums; xarray-sentinel reads the same."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from xarray_sentinel import open_sentinel1_dataset

from eo_ssl.errors import UserError
from eo_ssl.scene.safe_container import MANIFEST, list_containers
from safe_products import radar_safe, relisted
from worlds.safe import S1GrdSpec, make_s1_grd_safe

OLD = "S1A_IW_GRDH_1SDV_20150222T170725_20150222T170750_004739_005DD8_CEAB"
NEW = "S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201_043ED0_8255"
SMALL = S1GrdSpec(lines=96, samples=128, border_px=4)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A small product as a folder."""
    return make_s1_grd_safe(tmp_path, SMALL).path


def _zipped(folder: Path) -> Path:
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder.parent))
    return target


def test_real_manifests_say_what_was_read_in_them_by_eye(real_data: Path) -> None:
    new = radar_safe(real_data / "s1_grd_annotations" / f"{NEW}.zip")
    assert (new.name, new.platform, new.mode, new.product_type, new.orbit_pass) == (
        NEW,
        "S1A",
        "IW",
        "GRD",
        "descending",
    )
    assert (new.absolute_orbit, new.relative_orbit, new.processor) == (36201, 79, "003.31")
    assert (new.start, new.stop) == ("2021-01-19T03:16:53.799379", "2021-01-19T03:17:18.797132")
    vv = new.container.objects()["measurement/s1a-iw-grd-vv-20210119t031653-20210119t031718-036201-043ed0-001.tiff"]
    assert (vv.representation, vv.algorithm) == ("s1Level1MeasurementSchema", "md5")
    assert vv.digest == "34a59ee04cb4f5f4ba724009cad61465"
    old = radar_safe(real_data / "s1_grd_annotations" / f"{OLD}.zip")
    assert (old.absolute_orbit, old.relative_orbit, old.processor, old.orbit_pass) == (4739, 117, "002.36", "ascending")
    assert pickle.loads(pickle.dumps(old)) == old


def test_real_annotation_says_what_was_read_in_it_by_eye(real_data: Path) -> None:
    safe = radar_safe(real_data / "s1_grd_annotations" / f"{NEW}.zip")
    about = safe.annotation(safe.images[0])
    assert (about.lines, about.samples, about.range_spacing_m, about.azimuth_spacing_m) == (16854, 25931, 10.0, 10.0)
    assert (about.slant_range_time_s, about.line_interval_s) == (5.344541803118290e-03, 1.483282101543731e-03)
    assert (about.detected, about.noise_removed, about.incidence_mid_deg) == (True, False, 38.73366490135589)
    grid = about.grid
    assert grid.latitude.shape == (10, 21)
    assert (grid.latitude[0, 0], grid.longitude[0, 0]) == (-17.69892962456625, 34.98272513645960)
    assert (grid.lines[-1], grid.pixels[-1], grid.height[-1, -1]) == (16853, 25930, 1249.052919590846)
    assert (grid.incidence_deg[0, 1], grid.pixels[1]) == (31.22919043737419, 1297)
    assert about.orbit.time[0] == np.datetime64("2021-01-19T03:15:45.964807")
    assert about.orbit.position_m[0].tolist() == [5312904.280621, 4342256.350623, -1740546.843818]
    assert len(about.conversions) == 28
    assert about.conversions[0].ground_to_slant[:2].tolist() == [8.011266620198271e05, 5.047005964074793e-01]


@pytest.mark.parametrize("name", [OLD, NEW])
def test_xarray_sentinel_reads_the_same_tables_grid_and_orbit(real_data: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(real_data / "s1_grd_annotations" / f"{name}.zip") as archive:
        archive.extractall(tmp_path)
    (folder,) = tmp_path.glob("*.SAFE")
    safe = radar_safe(folder)
    for image in safe.images:
        about, tables = safe.annotation(image), safe.calibration(image)
        group = f"IW/{image.polarisation}"
        theirs = open_sentinel1_dataset(folder, group=f"{group}/calibration")
        for ours, key in ((tables.sigma0, "sigmaNought"), (tables.beta0, "betaNought"), (tables.gamma0, "gamma")):
            np.testing.assert_array_equal(
                np.array([vector.values for vector in ours.vectors], dtype=np.float32), theirs[key].values
            )
            np.testing.assert_array_equal(ours.lines, theirs.line.values)
        points = open_sentinel1_dataset(folder, group=f"{group}/gcp")
        np.testing.assert_array_equal(about.grid.latitude, points.latitude.values)
        np.testing.assert_array_equal(about.grid.longitude, points.longitude.values)
        np.testing.assert_array_equal(about.grid.incidence_deg, points.incidenceAngle.values)
        orbit = open_sentinel1_dataset(folder, group=f"{group}/orbit")
        np.testing.assert_array_equal(about.orbit.position_m, orbit.position.transpose("azimuth_time", "axis").values)
        np.testing.assert_array_equal(about.orbit.time, orbit.azimuth_time.values)


def test_a_product_of_annotations_alone_is_refused(real_data: Path) -> None:
    safe = radar_safe(real_data / "s1_grd_annotations" / f"{NEW}.zip")
    with pytest.raises(UserError, match=r"expected the file .*measurement/.*-001\.tiff in .*SAFE, found none"):
        safe.checksum()


def test_folder_and_zip_have_one_name_and_checksum(product: Path) -> None:
    folder, zipped = radar_safe(product), radar_safe(_zipped(product))
    assert folder.name == zipped.name == product.stem
    assert folder.checksum() == zipped.checksum()
    assert [image.polarisation for image in folder.images] == ["VV", "VH"]


def test_every_flip_in_a_listed_file_is_named(product: Path, rng: np.random.Generator) -> None:
    safe = radar_safe(product)
    safe.checksum()
    for name in safe.container.objects():
        path = product / name
        good = path.read_bytes()
        data = bytearray(good)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(UserError, match=path.name):
            radar_safe(product).checksum()
        path.write_bytes(good)
    assert radar_safe(product).checksum() == safe.checksum()


def test_a_quick_look_may_be_left_out_but_no_file_of_an_image(product: Path) -> None:
    before = radar_safe(product).checksum()
    for path in product.glob("preview/*"):
        path.unlink()
    assert radar_safe(product).checksum() == before
    (product / radar_safe(product).images[1].noise).unlink()  # type: ignore[arg-type]
    with pytest.raises(UserError, match="found none; the product is incomplete"):
        radar_safe(product).checksum()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('repID="s1Level1CalibrationSchema">\n', 'repID="other">\n', "annotation and calibration"),
        ("./measurement/", "../measurement/", "files inside the product"),
        ("./measurement/", "/measurement/", "files inside the product"),
        ('checksumName="MD5"', 'checksumName="SHA3"', "expected checksums out of MD5"),
        ("DESCENDING", "", "expected orbitProperties/pass"),
        (
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]>',
            "document type",
        ),
    ],
)
def test_damaged_and_hostile_manifests_are_refused(product: Path, old: str, new: str, words: str) -> None:
    manifest = product / "manifest.safe"
    text = manifest.read_text()
    if old not in text:
        pytest.fail(f"the generated manifest holds no {old!r}")
    manifest.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=words):
        radar_safe(product)


def test_an_annotation_of_another_product_is_refused(product: Path) -> None:
    safe = radar_safe(product)
    vv, vh = safe.images
    shutil.copy(product / vh.annotation, product / vv.annotation)
    with pytest.raises(UserError, match=r"checksum .* of its manifest"):
        radar_safe(product).annotation(vv)
    relisted(product, product / vv.annotation)
    with pytest.raises(UserError, match="expected polarisation VV of the manifest"):
        radar_safe(product).annotation(vv)
    path = product / vh.annotation
    path.write_text(path.read_text().replace("<missionId>S1A", "<missionId>S1B"))
    relisted(product, path)
    with pytest.raises(UserError, match="expected platform S1A of the manifest"):
        radar_safe(product).annotation(vh)


def test_anything_else_than_a_product_is_none_and_a_copy_inside_one_is_no_part_of_it(product: Path) -> None:
    assert list_containers(product / "annotation", mark=MANIFEST) == []
    before = radar_safe(product).checksum()
    shutil.copytree(product, product / "copy.SAFE")
    assert radar_safe(product).checksum() == before
    assert radar_safe(product.parent).checksum() == before

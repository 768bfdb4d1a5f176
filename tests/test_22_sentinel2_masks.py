"""Quality masks of Sentinel-2 products: scene classification, cloud probability, polygons and rasters of Level-1C, and their absence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio import features
from rasterio.transform import Affine

from eo_ssl.errors import UserError
from eo_ssl.scene.sentinel2 import cloudless, masks
from safe_products import card_of, edit, only, unlisted
from worlds.safe import S2SafeSpec, S2SafeTruth, make_s2_safe

SIZE = 120
BAND = {"bands": ["B02"]}
HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n{doctype}<eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0" '
    'xmlns:gml="http://www.opengis.net/gml/3.2"><gml:name>MSK_CLOUDS pixels mask</gml:name>'
)
FEATURE = "<eop:MaskFeature><eop:maskType>{kind}</eop:maskType><eop:extentOf><gml:Polygon>{rings}</gml:Polygon></eop:extentOf></eop:MaskFeature>"


def ring(side: str, points: list[tuple[float, float]], dimension: int = 2) -> str:
    numbers = " ".join(f"{x} {y}" + " 7.5" * (dimension - 2) for x, y in points)
    return f'<gml:{side}><gml:LinearRing><gml:posList srsDimension="{dimension}">{numbers}</gml:posList></gml:LinearRing></gml:{side}>'


def gml(*members: str, doctype: str = "", crs: str = "32632") -> str:
    envelope = f'<gml:boundedBy><gml:Envelope srsName="urn:ogc:def:crs:EPSG:8.7:{crs}"/></gml:boundedBy>'
    return f"{HEAD.format(doctype=doctype)}{envelope}<eop:maskMembers>{''.join(members)}</eop:maskMembers></eop:Mask>"


def repeated(values: np.ndarray, factor: int) -> np.ndarray:
    return np.repeat(np.repeat(values, factor, 0), factor, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], S2SafeTruth]:
    root = tmp_path_factory.mktemp("masks")
    specs = [
        S2SafeSpec(level=level, baseline=baseline, size_px=SIZE, seed=3, cloud_cover=0.3)
        for level, baseline in (("L1C", "02.04"), ("L1C", "05.09"), ("L2A", "02.12"), ("L2A", "05.09"))
    ]
    return {(spec.level, spec.baseline): make_s2_safe(root / spec.level / spec.baseline, spec) for spec in specs}


def cube(truth: S2SafeTruth, **changes: Any) -> Any:
    return only(card_of(truth.spec.level, **(BAND | changes)), truth.path.parent).open()


@pytest.mark.parametrize("baseline", ["02.12", "05.09"])
def test_scene_classes_become_flags(made: dict[tuple[str, str], S2SafeTruth], baseline: str) -> None:
    truth = made["L2A", baseline]
    scene, found = repeated(truth.scl, 2), cube(truth)
    np.testing.assert_array_equal(found["cloud"].values, np.isin(scene, (8, 9, 10)))
    np.testing.assert_array_equal(found["shadow"].values, scene == 3)
    np.testing.assert_array_equal(found["snow"].values, scene == 11)
    stored = truth.dn("B02") == 65535
    np.testing.assert_array_equal(found["saturated"].values, (scene == 1) | stored)
    assert found["cloud"].values.any()
    assert stored.any()
    assert np.isnan(found["image"].values[0][scene == 0]).all()
    percent = repeated(truth.cloud_probability, 2).astype(np.float32)
    expected = np.where(scene == 0, np.nan, percent / 100)
    np.testing.assert_allclose(found["cloud_probability"].values, expected, atol=1e-7)
    assert np.nanmax(expected) > 0.5


def test_polygons_and_raster_of_level_1c_say_the_same(made: dict[tuple[str, str], S2SafeTruth]) -> None:
    old, new = (cube(made["L1C", baseline]) for baseline in ("02.04", "05.09"))
    expected = repeated(made["L1C", "02.04"].cloud, 6)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(old["cloud"].values, expected)
    np.testing.assert_array_equal(new["cloud"].values, expected)
    assert "snow" not in old, "the polygons know no snow"
    assert "snow" in new
    assert "cloud_probability" not in new


def test_snow_is_the_third_layer_of_the_raster(made: dict[tuple[str, str], S2SafeTruth], tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L1C", baseline="05.09", size_px=SIZE))
    unlisted(truth.path)
    (path,) = truth.path.glob("GRANULE/*/QI_DATA/MSK_CLASSI_B00.jp2")
    layers = np.zeros((3, SIZE // 6, SIZE // 6), dtype=np.uint8)
    layers[0, 2, 3], layers[1, 4, 5], layers[2, 6, 7] = 1, 1, 1
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG",
        width=20,
        height=20,
        count=3,
        dtype="uint8",
        crs="EPSG:32632",
        transform=truth.spec.transform(60),
        QUALITY="100",
        REVERSIBLE="YES",
        YCBCR420="NO",
        YCC="NO",
    ) as file:
        file.write(layers)
    found = cube(truth)
    np.testing.assert_array_equal(found["cloud"].values, repeated((layers[0] | layers[1]).astype(bool), 6))
    np.testing.assert_array_equal(found["snow"].values, repeated(layers[2].astype(bool), 6))
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG",
        width=20,
        height=20,
        count=1,
        dtype="uint8",
        crs="EPSG:32632",
        transform=truth.spec.transform(60),
        QUALITY="100",
        REVERSIBLE="YES",
    ) as file:
        file.write(layers[:1])
    with pytest.raises(UserError, match=r"expected 3 layers \(opaque cloud, cirrus, snow\).* got 1"):
        cube(truth)


def with_polygons(folder: Path, text: str | None) -> S2SafeTruth:
    truth = make_s2_safe(folder, S2SafeSpec(level="L1C", baseline="02.04", size_px=SIZE, edge=False))
    unlisted(truth.path)
    (path,) = truth.path.glob("GRANULE/*/QI_DATA/MSK_CLOUDS_B00.gml")
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    return truth


def test_polygons_of_any_shape_do_not_depend_on_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges at 45 degrees pass through the centres of pixels, the hardest case; a hole stays free, heights are ignored."""
    monkeypatch.setattr(masks, "_STRIP", 32)
    place = S2SafeSpec(tile="32TQM").transform(10)
    west, north = place.c, place.f
    square = [
        (west + 100, north - 100),
        (west + 1000, north - 200),
        (west + 900, north - 1100),
        (west + 200, north - 900),
        (west + 100, north - 100),
    ]
    hole = [(west + 405, north - 305), (west + 705, north - 605), (west + 405, north - 905), (west + 405, north - 305)]
    lone = [
        (west + 1005, north - 1005),
        (west + 1195, north - 1005),
        (west + 1195, north - 1195),
        (west + 1005, north - 1005),
    ]
    one = FEATURE.format(kind="OPAQUE", rings=ring("exterior", square) + ring("interior", hole))
    two = FEATURE.format(kind="CIRRUS", rings=ring("exterior", lone, 3))
    truth = with_polygons(tmp_path, gml(one, two))
    found = cube(truth)["cloud"]
    whole = found.values
    shapes = [{"type": "Polygon", "coordinates": [square, hole]}, {"type": "Polygon", "coordinates": [lone]}]
    apart = features.rasterize(shapes, out_shape=(SIZE, SIZE), transform=Affine(*place[:6])).astype(bool)
    assert (whole != apart).mean() < 0.002  # drawn at once, ties at centres may fall otherwise; nothing else may
    assert whole[50, 25]  # 255 m, 505 m: inside the outline
    assert not whole[60, 50]  # 505 m, 605 m: in the hole
    assert whole[110, 115]
    assert not whole[2, 2]
    for top in range(0, SIZE - 40, 7):
        for left in (0, 13, 61):
            part = found.isel(y=slice(top, top + 37), x=slice(left, left + 41)).values
            np.testing.assert_array_equal(part, whole[top : top + 37, left : left + 41])


def test_no_polygon_is_a_clear_sky_and_no_file_is_no_mask(tmp_path: Path) -> None:
    empty = with_polygons(tmp_path / "empty", HEAD.format(doctype="") + "</eop:Mask>")
    assert not cube(empty)["cloud"].values.any()
    absent = with_polygons(tmp_path / "absent", None)
    assert "cloud" not in cube(absent)
    assert "saturated" in cube(absent)


def test_a_level_2a_product_without_masks_has_no_flags(tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L2A", baseline="05.09", size_px=SIZE))
    unlisted(truth.path)
    for path in [
        *truth.path.glob("GRANULE/*/IMG_DATA/*/*_SCL_*"),
        *truth.path.glob("GRANULE/*/QI_DATA/MSK_CLDPRB_20m*"),
    ]:
        path.unlink()
    found = cube(truth)
    assert not {"cloud", "shadow", "snow"} & set(found.data_vars)
    with rasterio.open(next(truth.path.glob("GRANULE/*/QI_DATA/MSK_CLDPRB_60m.jp2"))) as file:
        expected = repeated(file.read(1), 6) / 100  # the coarser copy is taken
    np.testing.assert_allclose(found["cloud_probability"].values, expected, atol=1e-7)


BOMB = '<!DOCTYPE bomb [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
SQUARE = [(700_000.0, 4_700_000.0), (700_500.0, 4_700_000.0), (700_500.0, 4_699_500.0), (700_000.0, 4_700_000.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (gml(doctype=BOMB), "document type or entities"),
        (gml(FEATURE.format(kind="OPAQUE", rings=ring("exterior", SQUARE)), crs="32633"), "polygons in EPSG:32632"),
        (gml(FEATURE.format(kind="SHADOW", rings=ring("exterior", SQUARE))), "OPAQUE or CIRRUS in .*, got SHADOW"),
        (gml(FEATURE.format(kind="OPAQUE", rings=ring("exterior", SQUARE[:3]))), "at least four points"),
        (
            gml(FEATURE.format(kind="OPAQUE", rings=ring("exterior", [(float("nan"), 1.0), *SQUARE]))),
            "finite coordinates",
        ),
        (
            gml(FEATURE.format(kind="OPAQUE", rings=ring("exterior", SQUARE).replace("700000.0", "70000O.0"))),
            "finite coordinates",
        ),
        (gml(FEATURE.format(kind="OPAQUE", rings="")), "one outline per polygon"),
        ("<eop:Mask>", "expected XML"),
    ],
)
def test_hostile_and_damaged_polygons_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cube(with_polygons(tmp_path, text))


def test_a_mask_of_another_tile_is_refused(tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path / "mine", S2SafeSpec(level="L2A", baseline="05.09", size_px=SIZE))
    unlisted(truth.path)
    other = make_s2_safe(tmp_path / "other", S2SafeSpec(level="L2A", baseline="05.09", size_px=SIZE, tile="32TPM"))
    (mine,), (its,) = (list(item.path.glob("GRANULE/*/IMG_DATA/R20m/*_SCL_20m.jp2")) for item in (truth, other))
    mine.write_bytes(its.read_bytes())
    with pytest.raises(UserError, match=r"SCL_20m.jp2 on a grid of its tile .* the file is of another tile"):
        cube(truth)


def test_images_must_lie_where_the_metadata_say(tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L1C", baseline="05.09", size_px=SIZE))
    unlisted(truth.path)
    (tile,) = truth.path.glob("GRANULE/*/MTD_TL.xml")
    edit(tile, (("<ULX>699960<", "<ULX>699970<"),))
    with pytest.raises(UserError, match=r"B02.jp2 on a grid of its tile"):
        cube(truth)


def test_s2cloudless_sees_the_means_of_60_m(made: dict[tuple[str, str], S2SafeTruth], rng: np.random.Generator) -> None:
    """Against the package itself, on block means of the stored numbers."""
    s2cloudless = pytest.importorskip("s2cloudless")
    truth = made["L1C", "05.09"]
    bands = ("B01", "B02", "B04", "B05", "B08", "B8A", "B09", "B10", "B11", "B12")
    cells = []
    for band in bands:
        stored = truth.dn(band).astype(np.float64)
        step = 6 * stored.shape[0] // SIZE
        reflectance = np.where(np.isin(stored, (0, 65535)), np.nan, (stored - 1000) / 10000)
        blocks = reflectance.reshape(SIZE // 6, step, SIZE // 6, step)
        cells.append(np.where(np.isnan(blocks).any(axis=(1, 3)), np.nan, blocks.mean(axis=(1, 3))))
    pixels = np.stack(cells, axis=-1).astype(np.float32)
    whole = np.isfinite(pixels).all(axis=-1)
    expected = s2cloudless.S2PixelCloudDetector().get_cloud_probability_maps(np.nan_to_num(pixels)[np.newaxis])[0]
    found = cube(truth, cloud_model="s2cloudless")
    got = found["cloud_probability"].values
    assert whole.mean() > 0.5
    close = np.abs(got[::6, ::6] - expected)[whole] < 1e-3
    assert close.mean() > 0.99  # a mean that differs in the last bit may fall on the other side of a split of the trees
    np.testing.assert_array_equal(got, repeated(got[::6, ::6], 6))
    assert np.isnan(got[truth.nodata(10)]).mean() > 0.8
    for _ in range(6):
        top, left = (int(value) for value in rng.integers(0, SIZE - 20, 2))
        part = found["cloud_probability"].isel(y=slice(top, top + 17), x=slice(left, left + 19)).values
        np.testing.assert_array_equal(part, got[top : top + 17, left : left + 19])


def test_a_cloud_model_is_for_level_1c_products_alone() -> None:
    with pytest.raises(
        UserError, match="expected cloud_model of card s2_safe_l2a with reader sentinel2_safe and sensor sentinel2_l1c"
    ):
        card_of("L2A", cloud_model="s2cloudless")


def test_a_missing_cloud_model_is_told_when_the_product_opens(
    made: dict[tuple[str, str], S2SafeTruth], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudless.load_detector.cache_clear()
    monkeypatch.setitem(sys.modules, "s2cloudless.cloud_detector", None)
    with pytest.raises(UserError, match=r"install eo-ssl\[cloud-masks\]"):
        cube(made["L1C", "05.09"], cloud_model="s2cloudless")
    cloudless.load_detector.cache_clear()
